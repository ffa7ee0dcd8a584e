"""The Ray engine around its tasks: what is asked of a cluster, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engines.executors import NEEDS_RAY, nodes
from engines.faults import Faults, kill, lives, wait_until
from profiles.walks import source_folder

from hubconv.engines import cluster as clusters
from hubconv.engines.cluster import Cluster
from hubconv.engines.cluster_shift import room
from hubconv.engines.cluster_task import Desk, Line, Place
from hubconv.errors import ResourceError, StoppedError, UsageError
from hubconv.pipeline import Recipe, Request, convert
from hubconv.pipeline.hands import begun

V4 = "deepseek_v4_sgl_fp8"
LOCAL = {"RAY_AUTH_MODE": "disabled"}


def cluster(device="auto", *, on_gpu=3, on_machine=3):
    return Cluster("", device, on_gpu, on_machine, 0, "")


# ── what a task is lent ──────────────────────────────────────────────────────────────────────


def placed(monkeypatch, machines, **asked):
    monkeypatch.setattr(clusters, "alive", lambda: machines)
    place = cluster(**asked)._place()
    return place.device, place.cpus, round(place.gpus, 3), room(machines, place)


def test_tasks_share_gpus_where_there_are_some(monkeypatch):
    machines = [{"CPU": 32.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert placed(monkeypatch, machines) == ("cuda", 0, 0.333, 9)
    assert placed(monkeypatch, machines, device="cuda", on_gpu=4) == ("cuda", 0, 0.25, 12)
    assert placed(monkeypatch, machines, device="cpu", on_machine=0) == ("cpu", 1, 0.0, 37)


def test_machines_without_gpus_make_a_few_units_each(monkeypatch):
    machines = [{"CPU": 16.0}, {"CPU": 16.0}, {"memory": 1e9}]
    assert placed(monkeypatch, machines) == ("cpu", 5, 0.0, 6)
    assert placed(monkeypatch, machines, on_machine=0) == ("cpu", 1, 0.0, 32)
    assert placed(monkeypatch, [{"CPU": 1.0}]) == ("cpu", 1, 0.0, 1)


def test_a_cluster_that_has_not_what_is_asked_for(monkeypatch):
    with pytest.raises(ResourceError, match="No machine of the cluster has a GPU"):
        placed(monkeypatch, [{"CPU": 4.0}], device="cuda")
    with pytest.raises(ResourceError, match="lends a processor"):
        placed(monkeypatch, [{"memory": 1e9}])


def test_a_machine_knows_how_many_units_it_may_make(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert Place("cpu", 5, 0.0).on_machine == 3
    assert Place("cpu", 1, 0.0).on_machine == 16
    assert Place("cuda", 0, 1 / 3).on_machine == 3


# ── what cannot be ───────────────────────────────────────────────────────────────────────────


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match="Ray, which is not installed") as missing,
        begun(Request("/a", "/b", engine="ray")),
    ):
        raise AssertionError("there was a cluster")
    assert "hubconv[ray]" in missing.value.next_step
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "ray", "device": "cuda:1"}, "Ray hands out devices by itself"),
        ({"engine": "ray", "address": "ray://head:10001"}, "for clients outside a cluster"),
        ({"engine": "threads", "address": "auto"}, "--address is for --engine ray"),
        ({"address": "auto"}, "this run's engine is threads"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, said):
    request = Request("/a", "/b", **asked)
    with pytest.raises(UsageError, match=said), begun(request):
        raise AssertionError("it was let in")


# ── the desk ─────────────────────────────────────────────────────────────────────────────────


def test_the_desk_keeps_what_is_told_until_it_is_fetched():
    desk = Desk()
    assert desk.tell([("begun", "a")])
    assert desk.tell([("converted", "a", 5)])
    assert desk.fetch() == [("begun", "a"), ("converted", "a", 5)]
    assert desk.fetch() == []
    desk.end()
    assert not desk.tell([])


def test_a_line_adds_up_what_is_converted_and_hears_the_end():
    line = Line(None)
    line.check()
    for told in (("begun", "a"), ("converted", "a", 5), ("converted", "a", 6), ("log", 1)):
        line.say(*told)
    assert line._waiting == [("begun", "a"), ("converted", "a", 11), ("log", 1)]
    line._over.set()
    with pytest.raises(StoppedError):
        line.check()


# ── a cluster of this machine alone ──────────────────────────────────────────────────────────


def command(target, work, *words):
    return [
        sys.executable, "-m", "hubconv", str(source_folder(V4)), str(target), "--engine", "ray",
        "--device", "cpu", "--scales", "amax", "--work-dir", str(work), *words,
    ]  # fmt: skip


def shards(target):
    return {path.name: path.read_bytes() for path in Path(target).glob("*.safetensors")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    target = tmp_path_factory.mktemp("threads") / "target"
    recipe = Recipe(scales="amax")
    convert(Request(str(source_folder(V4)), str(target), recipe=recipe, device="cpu"))
    return shards(target)


@pytest.mark.slow
@NEEDS_RAY
def test_a_local_cluster_comes_and_goes_with_the_run(tmp_path, expected):
    home, target, work = tmp_path / "home", tmp_path / "target", tmp_path / "work"
    home.mkdir()
    before = {path for path in Path("/tmp").iterdir() if path.name.startswith(("ray", "hubconv-r"))}
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Compiled kernels stay where they are.
    env |= {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")}
    done = subprocess.run(
        command(target, work, "--json", "-v"), env=env | {"HOME": str(home)}, text=True,
        capture_output=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shards_made"] == len(expected)
    assert shards(target) == expected
    assert list(work.iterdir()) == []
    assert list(home.rglob("*ray*")) == []
    after = {path for path in Path("/tmp").iterdir() if path.name.startswith(("ray", "hubconv-r"))}
    assert after <= before
    assert "ray" not in done.stderr.lower()  # nothing of its own is on the terminal


@pytest.mark.slow
@NEEDS_RAY
def test_a_local_cluster_goes_with_a_driver_that_is_killed(tmp_path, expected):
    faults, target, work = Faults(tmp_path / "faults"), tmp_path / "target", tmp_path / "work"
    faults.order("hang")
    env = {**os.environ, **faults.environment}
    process = subprocess.Popen(
        command(target, work), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: faults.struck, process)
    kill(process)
    wait_until(lambda: not any(lives(pid) for pid, _ in faults.seen), seconds=20)
    faults.go()
    again = [*command(target, work)]
    again[again.index("ray")] = "threads"
    assert subprocess.run(again, env=env, check=False, capture_output=True).returncode == 0
    assert shards(target) == expected


@pytest.mark.slow
@NEEDS_RAY
def test_no_cluster_at_the_address(tmp_path):
    words = ("--address", "127.0.0.1:1", "--json")
    done = subprocess.run(
        command(tmp_path / "t", tmp_path / "w", *words), env=os.environ | LOCAL, text=True,
        capture_output=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 8, done.stdout + done.stderr
    assert "no Ray cluster at 127.0.0.1:1" in json.loads(done.stdout)["what"]
    assert "ray start" in json.loads(done.stdout)["next"]


@pytest.mark.slow
@NEEDS_RAY
def test_gpus_of_several_machines(tmp_path, expected):
    """Two fake nodes with a GPU each: tasks see the one they are lent, and share it."""
    faults, target = Faults(tmp_path / "faults"), tmp_path / "target"
    env = os.environ | LOCAL | faults.environment | {"HUBCONV_FAKE_GPUS": "1"}
    words = command(target, tmp_path / "work")
    words[words.index("cpu")] = "cuda"
    with nodes(env, "1:1", "1:1") as two:
        faults.order("hang")
        process = subprocess.Popen(
            [*words, "--address", two.address], env=env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(lambda: len(faults.seen) == len(expected), process)  # at the same time
        faults.go()
        _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    noted = (faults.folder / "devices").read_text().splitlines()
    assert len(noted) == len(expected)  # more tasks than GPUs, each in a process of its own
    assert {tuple(line.split()[1:]) for line in noted} == {("cuda", "0")}
    assert shards(target) == expected


@pytest.mark.slow
@NEEDS_RAY
def test_the_time_limit_ends_a_run_on_a_cluster_in_order(tmp_path, expected):
    faults, target, work = Faults(tmp_path / "faults"), tmp_path / "target", tmp_path / "work"
    faults.order("hang")
    env = {**os.environ, **faults.environment}
    process = subprocess.Popen(
        command(target, work, "--workers", "1", "--time-limit", "25", "--json"), env=env,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: faults.struck, process)
    signal.sigtimedwait([], 26)
    faults.go()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 10, out + err
    assert "1 of 3 shards are staged" in json.loads(out)["what"]
