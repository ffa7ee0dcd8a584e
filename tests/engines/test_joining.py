"""Workers open both ends themselves: what they may do there, and what they bring along."""

import pickle
import platform
import shutil
from dataclasses import replace

import pytest
from profiles.walks import plan_of, source_folder

from hubconv.ends import TargetOptions
from hubconv.engines import post as posts
from hubconv.engines.post import Post, as_told, at_post, make, order_of, without_tensors
from hubconv.errors import ConflictError, DamagedError, ResourceError
from hubconv.folder import FolderTarget
from hubconv.hub.target import HubTarget
from hubconv.kernels import choose
from hubconv.pipeline import Recipe, plan
from hubconv.progress import tally

V4 = "deepseek_v4_sgl_fp8"
PLAN = "0123456789abcdef"


# ── a folder ─────────────────────────────────────────────────────────────────────────────────


def test_a_worker_makes_no_journal_in_a_folder(tmp_path):
    with pytest.raises(ConflictError, match="holds no journal of plan") as gone:
        FolderTarget(tmp_path / "target").join(PLAN)
    assert "one file system" in gone.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_worker_sweeps_nothing_and_notes_its_machine(tmp_path, monkeypatch):
    target = FolderTarget(tmp_path)
    target.stage(PLAN).records()
    torso = tmp_path / ".hubconv" / PLAN / "shards" / "x.safetensors.00.partial"
    torso.write_bytes(b"half")  # of a worker on a machine whose locks are not seen here
    machines = tmp_path / ".hubconv" / PLAN / "machines"
    before = {path.name: path.stat().st_mtime_ns for path in machines.iterdir()}
    target.join(PLAN)
    assert torso.exists()
    assert {path.name: path.stat().st_mtime_ns for path in machines.iterdir()} == before
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    target.join(PLAN)
    assert {path.name for path in machines.iterdir()} == {*before, "elsewhere"}


# ── a repository ─────────────────────────────────────────────────────────────────────────────


def hub_target(studio, repo, tmp_path):
    return HubTarget(studio.client(), repo, TargetOptions(), tmp_path)


def test_a_worker_joins_a_journal_with_reads_alone(studio, tmp_path):
    repo = studio.name()
    studio.api.create_repo(repo)
    hub_target(studio, repo, tmp_path).stage(PLAN)
    before = studio.tree(repo, f"hubconv/{PLAN}"), studio.log(repo)
    studio.hub.requests.clear()
    hub_target(studio, repo, tmp_path).join(PLAN)
    assert {each.method for each in studio.hub.requests.all()} <= {"GET", "HEAD"}
    assert len(studio.hub.requests.all()) <= 5
    assert (studio.tree(repo, f"hubconv/{PLAN}"), studio.log(repo)) == before


def test_a_worker_makes_neither_branch_nor_repository(studio, tmp_path):
    repo = studio.name()
    studio.api.create_repo(repo)
    with pytest.raises(ConflictError, match="another run has published this plan"):
        hub_target(studio, repo, tmp_path).join(PLAN)
    assert studio.staging(repo) == set()


# ── the post ─────────────────────────────────────────────────────────────────────────────────


def post_for(target, **more):
    made = plan_of(V4)
    return Post(without_tensors(made), str(source_folder(V4)), str(target), 10, 5, **more)


def test_a_unit_is_made_from_what_travels(tmp_path):
    made, target = plan_of(V4), tmp_path / "target"
    staging = FolderTarget(target).stage(made.plan_id)
    post, order = pickle.loads(
        pickle.dumps((post_for(target, work_dir=str(tmp_path)), order_of(made, made.units[1])))
    )
    told = []
    with at_post(post, lambda: choose("cpu"), lambda: None) as bench:
        record = make(bench, order, told.append)
    staging.adopt(record)
    assert list(staging.records()) == [made.units[1].shard]
    assert sum(told) == sum(
        tensor.nbytes for job in (*order.unit.jobs, *order.unit.tail) for tensor in job.reads
    )
    assert [path.name for path in tmp_path.iterdir()] == ["target"]  # no work folder is left


def test_what_comes_and_goes_by_a_workers_line_is_told(studio, tmp_path, monkeypatch):
    monkeypatch.setattr(tally, "LUMP_BYTES", 1)
    source, repo = studio.source(V4), studio.name()
    made = plan(source, Recipe(scales="amax"))
    studio.api.create_repo(repo)
    hub_target(studio, repo, tmp_path).stage(made.plan_id)
    post = Post(without_tensors(made), f"hf://{source}", f"hf://{repo}", 10, 5)
    told = {"fetch": 0, "upload": 0}

    def passed(stage, nbytes):
        told[stage] += nbytes

    unit = max(made.units, key=lambda each: each.nbytes)
    with at_post(post, lambda: choose("cpu"), lambda: None, passed) as bench:
        make(bench, order_of(made, unit))

    assert told["upload"] == unit.nbytes
    assert told["fetch"] > unit.nbytes / 2


def test_what_travels_is_small_and_holds_no_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_canarycanarycanary")
    made = plan_of(V4)
    travels = pickle.dumps(post_for(tmp_path))
    orders = [pickle.dumps(order_of(made, unit)) for unit in made.units]
    assert len(travels) < 20_000
    assert sum(map(len, orders)) < 2 * len(pickle.dumps(made))
    assert not any(b"canary" in data for data in [travels, *orders])


def test_a_worker_of_another_version_is_refused(tmp_path):
    post = replace(post_for(tmp_path), version="0.0.0")
    with (
        pytest.raises(ResourceError, match=r"the run is hubconv 0\.0\.0"),
        at_post(post, lambda: choose("cpu"), lambda: None),
    ):
        raise AssertionError("it was let in")


def test_disk_is_shared_by_all_workers_of_a_machine(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(posts, "disk_usage", lambda _: usage._replace(free=8000))

    class Staging:
        def disk_bytes(self, largest, room):
            assert (largest, room) == (5, expected)
            return 100

    for limit, expected in ((0, 4000), (2000, 1000), (100_000, 4000)):
        post = post_for(tmp_path, threads=2, workers=4, max_disk=limit)
        assert posts._lent(post, Staging(), tmp_path) == expected - 100


def test_memory_is_shared_by_all_workers_of_a_machine(tmp_path):
    held = {n: post_for(tmp_path, workers=n, held_bytes=12_000).limits.held_bytes for n in (1, 3)}
    assert held == {1: 12_000, 3: 4000}


def test_errors_travel_with_where_they_happened():
    def fail(error):
        raise error

    def travelled(error):
        with pytest.raises(type(error)) as caught:
            fail(error)
        return pickle.loads(pickle.dumps(as_told(caught.value)))

    known = travelled(DamagedError("a shard is damaged", "Fetch it again."))
    assert (type(known), known.exit_code) == (DamagedError, 7)
    assert (known.what, known.next_step) == ("a shard is damaged", "Fetch it again.")
    assert "in fail" in known.__notes__[0]
    assert type(travelled(MemoryError())) is ResourceError
    bug = travelled(KeyError("x"))
    assert type(bug) is RuntimeError
    assert "KeyError: 'x'" in str(bug)


# ── Hub to Hub ───────────────────────────────────────────────────────────────────────────────


def whole(studio, target):
    apart = {"README.md", "hubconv.json", "hubconv-tensors.jsonl.gz"}
    return {path: sha for path, sha in studio.tree(target).items() if path not in apart}


@pytest.mark.slow
def test_processes_convert_from_hub_to_hub(studio):
    source, target, alone = studio.source(V4), studio.name(), studio.name()
    words = ("--device", "cpu", "--scales", "amax", "--engine", "processes", "--workers", "5")
    done = studio.command(source, target, *words, "-v", "--json")
    assert done.code == 0, done.said
    assert done.json["shards_made"] == 3
    assert len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()
    assert not studio.is_private(target)
    studio.convert(source, alone)
    assert whole(studio, target) == whole(studio, alone)
    from hubconv.embedded import DEMO_TOKEN

    assert DEMO_TOKEN not in done.said


@pytest.mark.slow
def test_workers_use_the_token_that_the_command_uses(lfs_studio):
    """A source that not everybody sees: the token comes from the environment alone."""
    studio = lfs_studio
    source = studio.own_source(V4, private=True)
    target = studio.name()
    words = (source, target, "--device", "cpu", "--scales", "amax", "--engine", "processes")
    refused = studio.command(*words, env={"HF_TOKEN": "hf_nobody"})
    assert refused.code in {3, 4}, refused.said
    done = studio.command(*words, "--json")
    assert done.code == 0, done.said
    assert studio.is_private(target)


def test_a_plan_of_the_same_source_is_what_workers_open(lfs_studio):
    """The post names the commit: a source that moves on is not opened anew."""
    studio = lfs_studio
    source = studio.own_source("llama_bf16")
    made = plan(source, Recipe(scales="amax"))
    studio.write(source, "generation_config.json", b'{"top_k": 2}')
    assert without_tensors(made).commit == made.commit
    assert plan(source, Recipe(scales="amax")).commit != made.commit
