"""One suite for every executor: whatever happens to workers, the tree is that of an easy run.

In every case the target ends with exactly one publish commit, and every file that does not tell of
the run itself has the bytes that one undisturbed run gives.
"""

import signal
import time
from pathlib import Path

import pytest
from engines.executors import EXECUTORS, NAMES, NEEDS_RAY, Ended, nodes
from engines.faults import Faults, kill, lives, wait_until

from hubconv.embedded import DEMO_TOKEN

V4 = "deepseek_v4_sgl_fp8"
SHARDS = tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Orders for every process of this module; a cluster's processes outlive a test."""
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def cluster(studios, faults, tmp_path_factory):
    """Two fake nodes of one processor each; begun when it is first asked for."""
    with nodes(studios("lfs").environment(**faults.environment), 1, 1) as made:
        yield made


@pytest.fixture
def executor(request, lfs_studio, faults):
    """The executor that a test is run with."""
    faults.clear()
    kind, words = EXECUTORS[request.param]
    address = request.getfixturevalue("cluster").address if request.param == "ray" else ""
    yield kind(lfs_studio, faults, words, address)
    faults.go()


every_executor = pytest.mark.parametrize("executor", NAMES, indirect=True)


@pytest.fixture(scope="module")
def easy(studios, tmp_path_factory):
    """What one undisturbed run gives."""
    studio = studios("lfs")
    target = studio.name()
    done = studio.command(studio.source(V4), target, "--scales", "amax", "--device", "cpu", "-q")
    assert done.code == 0, done.said
    return told_apart(studio, target)


def told_apart(studio, repo):
    """What a target holds, card and manifest apart: they tell of the run."""
    apart = {"README.md", "hubconv.json", "hubconv-tensors.jsonl.gz"}
    return {path: sha for path, sha in studio.tree(repo).items() if path not in apart}


def is_whole(studio, target, easy):
    assert told_apart(studio, target) == easy
    assert len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()
    assert not any(path.startswith(".hubconv") for path in studio.tree(target))


def untouched(studio, target):
    tree = studio.tree(target) if studio.api.repo_exists(target) else {}
    return not any(path.endswith((".safetensors", "hubconv.json")) for path in tree)


@every_executor
def test_a_worker_that_is_killed_in_mid_unit(executor, easy, tmp_path):
    studio, target = executor.studio, executor.studio.name()
    executor.faults.order("kill", SHARDS[1])
    done = executor.run(studio.source(V4), target, tmp_path)
    assert len(executor.faults.struck) == 1
    if executor.replaces:
        assert done.code == 0, done.said
    else:
        assert done.code == -signal.SIGKILL, done.said
        assert untouched(studio, target)
        done = executor.run(studio.source(V4), target, tmp_path)
        assert done.code == 0, done.said
    is_whole(studio, target, easy)


@every_executor
def test_two_results_for_each_unit(executor, easy, tmp_path):
    """The whole run twice at the same time: each unit is made, told and staged by both."""
    studio, target = executor.studio, executor.studio.name()
    studio.api.create_repo(target)
    runs = [executor.begin(studio.source(V4), target, tmp_path) for _ in (1, 2)]
    ended = [executor.end(run, tmp_path) for run in runs]
    # The one that comes second finds the plan published, or its journal gone with that.
    assert 0 in {each.code for each in ended}, [each.said for each in ended]
    assert {each.code for each in ended} <= {0, 6}, [each.said for each in ended]
    is_whole(studio, target, easy)


@every_executor
def test_a_unit_that_kills_whoever_makes_it(executor, easy, tmp_path):
    studio, target, faults = executor.studio, executor.studio.name(), executor.faults
    faults.poison(SHARDS[2])
    done = executor.run(studio.source(V4), target, tmp_path)
    if executor.replaces:
        assert done.code == 7, done.said
        assert f"{SHARDS[2]} was in the hands of 3 workers that were lost" in done.said
    else:
        assert done.code == -signal.SIGKILL, done.said
    deaths = [shard for _, shard in faults.struck]
    assert deaths == [SHARDS[2]] * (3 if executor.replaces else 1)
    assert untouched(studio, target)
    faults.clear()
    done = executor.run(studio.source(V4), target, tmp_path)
    assert done.code == 0, done.said
    is_whole(studio, target, easy)


@every_executor
def test_a_driver_that_is_killed_and_started_again(executor, easy, tmp_path):
    studio, target, faults = executor.studio, executor.studio.name(), executor.faults
    faults.order("hang", SHARDS[2])
    processes = executor.begin(studio.source(V4), target, tmp_path)
    wait_until(lambda: faults.struck)
    for process in processes:
        kill(process)
    wait_until(lambda: not any(lives(pid) for pid, _ in faults.seen), seconds=20)
    assert untouched(studio, target)
    faults.clear()
    done = executor.run(studio.source(V4), target, tmp_path)
    assert done.code == 0, done.said
    is_whole(studio, target, easy)


@every_executor
def test_a_result_that_comes_after_the_publish(executor, easy, tmp_path):
    """One run is held up in a unit; another makes all and publishes; then the first goes on."""
    studio, target, faults = executor.studio, executor.studio.name(), executor.faults
    faults.order("hang", SHARDS[1])
    processes = executor.begin(studio.source(V4), target, tmp_path)
    wait_until(lambda: faults.struck)
    other = studio.command(studio.source(V4), target, "--scales", "amax", "--device", "cpu", "-q")
    assert other.code == 0, other.said
    is_whole(studio, target, easy)
    before = studio.tree(target)
    faults.go()
    late = Ended(processes)
    assert set(late.codes) <= {0, 6}, late.said
    assert studio.tree(target) == before
    is_whole(studio, target, easy)
    faults.clear()
    again = executor.run(studio.source(V4), target, tmp_path)
    assert again.code == 0, again.said
    assert studio.tree(target) == before


@pytest.mark.parametrize("executor", [pytest.param("ray", marks=NEEDS_RAY)], indirect=True)
def test_a_machine_that_is_lost(executor, easy, tmp_path, cluster):
    """Of two nodes one is killed with what it was at; the other makes everything."""
    studio, target, faults = executor.studio, executor.studio.name(), executor.faults
    faults.order("hang")
    faults.order("hang")
    processes = executor.begin(studio.source(V4), target, tmp_path)
    wait_until(lambda: len(faults.struck) == 2)
    cluster.order("kill", 1)
    wait_until(lambda: sum(lives(pid) for pid, _ in faults.struck) == 1)
    faults.go()
    done = executor.end(processes, tmp_path)
    cluster.order("add", 1)  # for the tests after this one
    assert done.code == 0, done.said
    # What the lost machine was at was begun once more; it may just have begun another unit too.
    assert len(SHARDS) < len(faults.seen) <= len(SHARDS) + 2
    is_whole(studio, target, easy)


@pytest.mark.parametrize("executor", [pytest.param("ray", marks=NEEDS_RAY)], indirect=True)
def test_a_signal_ends_a_run_on_a_cluster_in_order(executor, easy, tmp_path):
    studio, target, faults = executor.studio, executor.studio.name(), executor.faults
    faults.order("hang", SHARDS[2])
    (process,) = executor.begin(studio.source(V4), target, tmp_path)
    wait_until(lambda: faults.struck, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    faults.go()
    done = Ended([process])
    assert done.code == 143, done.said
    assert time.monotonic() - began < 10
    assert untouched(studio, target)
    faults.clear()
    done = executor.run(studio.source(V4), target, tmp_path)
    assert done.code == 0, done.said
    is_whole(studio, target, easy)


@pytest.mark.parametrize("executor", [pytest.param("ray", marks=NEEDS_RAY)], indirect=True)
def test_no_token_travels_to_a_cluster_or_stays_there(executor, tmp_path, cluster):
    studio, target = executor.studio, executor.studio.name()
    done = executor.run(studio.source(V4), target, tmp_path)
    assert done.code == 0, done.said
    written = [path for path in Path(cluster.folder).rglob("*") if path.is_file()]
    assert written
    for path in written:
        assert DEMO_TOKEN.encode() not in path.read_bytes(), path
