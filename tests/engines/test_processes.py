"""Units in processes: whatever becomes of them, the bytes are those of one process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from engines.faults import FAULTY, ROOT, Faults, kill, lives, wait_until
from installed import INSTALLED
from profiles.walks import source_folder

from hubconv import devices
from hubconv.engines.process_worker import Gone
from hubconv.errors import StoppedError
from hubconv.pipeline import Recipe, Request, convert, hands
from hubconv.steps.machine import hub_workers
from hubconv.steps.schedule import longest_first

V4 = "deepseek_v4_sgl_fp8"
QUICK = ("--device", "cpu", "--scales", "amax")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Bytes of every shard as threads make them."""
    target = tmp_path_factory.mktemp("threads") / "target"
    request = Request(
        str(source_folder(V4)), str(target), recipe=Recipe(scales="amax"), device="cpu",
        engine="threads",
    )  # fmt: skip
    units = longest_first(convert(request).plan.units)
    made = shards(target)
    return {unit.shard: made[unit.shard] for unit in units}  # in the order of their beginning


def first(expected):
    """The shard that is begun first."""
    return next(iter(expected))


def last(expected):
    """The shard that is begun last."""
    return list(expected)[-1]


def shards(target):
    return {path.name: path.read_bytes() for path in target.glob("*.safetensors")}


class Room:
    """A target folder, a work folder, faults, and the real command with processes."""

    def __init__(self, folder):
        self.target, self.work = folder / "target", folder / "work"
        self.faults = Faults(folder / "faults")

    def start(self, *words, workers=2, source=None, engine="processes", quick=QUICK):
        command = [
            sys.executable, "-m", "hubconv", str(source or source_folder(V4)), str(self.target),
            "--engine", engine, "--workers", str(workers), "--work-dir", str(self.work),
            *quick, *words,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env={**os.environ, **self.faults.environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words, **how):
        with self.start(*words, **how) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    @property
    def left(self):
        """What should not outlive a run."""
        torsos = list(self.target.rglob("*.partial"))
        return torsos + (list(self.work.iterdir()) if self.work.exists() else [])


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_processes_make_the_bytes_of_threads(room, expected, workers):
    code, out, err = room.run("--json", workers=workers)
    assert code == 0, out + err
    assert json.loads(out)["shards_made"] == len(expected)
    assert shards(room.target) == expected
    assert room.left == []
    makers = {pid for pid, _ in room.faults.seen}
    assert len(makers) == min(-(-workers // hands.THREADS), len(expected))


def test_a_killed_worker_is_replaced_and_its_unit_made_again(room, expected):
    killed = first(expected)
    room.faults.order("kill", killed)
    code, out, err = room.run()
    assert code == 0, out + err
    assert "ended by signal 9" in err
    assert [shard for _, shard in room.faults.seen].count(killed) == 2
    assert shards(room.target) == expected
    assert room.left == []


def test_a_poison_unit_stops_the_run_after_three_workers(room, expected):
    poison = last(expected)
    room.faults.poison(poison)
    code, out, err = room.run("--json", workers=1)
    assert code == 7, out + err
    assert f"{poison} was in the hands of 3 workers" in json.loads(out)["what"]
    assert [shard for _, shard in room.faults.struck] == [poison] * 3
    assert not (room.target / "hubconv.json").exists()
    room.faults.clear()
    code, out, err = room.run("--json")
    assert code == 0, out + err
    assert json.loads(out)["shards_found"] == len(expected) - 1  # nothing done was lost
    assert shards(room.target) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_in_order(room, expected, number, code):
    room.faults.order("hang", last(expected))
    with room.start("--json") as process:
        wait_until(lambda: room.faults.struck, process)
        wait_until(lambda: len(list(room.target.rglob("*.safetensors"))) >= 1, process)
        began = time.monotonic()
        process.send_signal(number)
        time.sleep(0.5)
        room.faults.go()
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert time.monotonic() - began < 10
    assert "run the same command again" in err
    assert not any(lives(pid) for pid, _ in room.faults.seen)
    assert room.left == []
    again = room.run("--json")
    assert again[0] == 0, again
    assert json.loads(again[1])["shards_found"] >= 1
    assert shards(room.target) == expected


def test_a_worker_that_does_not_hear_is_killed(room, expected):
    room.faults.order("hang", first(expected))
    with room.start() as process:
        wait_until(lambda: room.faults.struck, process)
        began = time.monotonic()
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    assert time.monotonic() - began < 10
    assert not any(lives(pid) for pid, _ in room.faults.seen)
    assert list(room.work.iterdir()) == []  # its work folder went too
    room.faults.go()
    assert room.run()[0] == 0
    assert shards(room.target) == expected
    assert room.left == []


def test_workers_end_with_a_parent_that_is_killed(room, expected):
    room.faults.order("hang")
    with room.start() as process:
        wait_until(lambda: room.faults.struck, process)
        kill(process)
    wait_until(lambda: not any(lives(pid) for pid, _ in room.faults.seen), seconds=10)
    room.faults.go()
    assert room.run()[0] == 0
    assert shards(room.target) == expected
    assert room.left == []


def test_the_time_limit_ends_a_run_in_order(room, expected):
    room.faults.order("hang", first(expected))
    with room.start("--time-limit", "3", "--json", workers=1) as process:
        wait_until(lambda: room.faults.struck, process)
        time.sleep(3.2)
        room.faults.go()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 10, out + err
    assert "1 of 3 shards are staged" in json.loads(out)["what"]  # what was begun is ended
    assert room.run("--json")[0] == 0
    assert shards(room.target) == expected


def test_a_fault_in_a_worker_shows_where_it_happened(room, expected):
    room.faults.order("bug", first(expected))
    code, out, err = room.run()
    assert code == 1, out + err
    assert "ZeroDivisionError: a fault in the program" in err
    assert "sitecustomize.py" in err  # the worker's own traceback
    assert room.left == []
    assert room.run()[0] == 0
    assert shards(room.target) == expected


def test_a_weight_that_is_no_number_stops_the_run(room, tmp_path):
    from checkpoints import broken

    folder = tmp_path / "source"
    broken_source(folder, broken)
    code, out, err = room.run("--json", source=folder)
    assert code == 7, out + err
    assert json.loads(out)["error"] == "IntegrityError"
    assert "NaN" in json.loads(out)["what"]
    assert room.left == []


def broken_source(folder, broken):
    """A checkpoint with one weight that is NaN."""
    import shutil

    shutil.copytree(source_folder("llama_bf16"), folder)
    path = max(folder.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    tensor = next(each for each in broken.read(path) if each.name.endswith("down_proj.weight"))
    place = data.find(bytes(tensor.data))
    assert place > 0
    data[place : place + 2] = b"\xc0\x7f"
    path.write_bytes(data)


def test_what_workers_log_is_shown(room):
    code, _, err = room.run("-v", workers=1, quick=("--device", "cpu"))
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith(("INFO", "WARNING"))]
    assert all("hubconv" in line for line in lines)


def test_what_workers_log_goes_through_the_parents_handlers(caplog):
    from hubconv.engines import forward

    told = []
    handler = forward.Forward(lambda *what: told.append(what))
    import logging

    logger = logging.getLogger("hubconv.somewhere")
    logger.addHandler(handler)
    try:
        with caplog.at_level("INFO", "hubconv"):
            logger.info("a %s", "line")
            logger.debug("not this")
            assert forward.levels()["hubconv"] == logging.INFO
    finally:
        logger.removeHandler(handler)
    assert told == [("hubconv.somewhere", logging.INFO, "a line")]
    with caplog.at_level("WARNING", "hubconv"):
        forward.show("hubconv.there", logging.INFO, "too quiet")
        forward.show("hubconv.there", logging.WARNING, "100 % heard")
    assert "100 % heard" in caplog.text
    assert "too quiet" not in caplog.text


SCRIPT = """
    import sys
    from pathlib import Path
    import hubconv
    Path(sys.argv[3]).open("a").write("begun\\n")
    request = hubconv.Request(
        sys.argv[1], sys.argv[2], device="cpu", engine="processes", workers=2,
        recipe=hubconv.Recipe(scales="amax"),
    )
    print(hubconv.convert(request).units_made)
"""


def test_a_script_without_a_main_guard_may_convert(tmp_path, expected):
    script, count = tmp_path / "script.py", tmp_path / "count"
    script.write_text(textwrap.dedent(SCRIPT))
    target = tmp_path / "target"
    done = subprocess.run(
        [sys.executable, script, source_folder(V4), target, count], text=True, check=False,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(INSTALLED)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(expected))]
    assert count.read_text() == "begun\n"
    assert shards(target) == expected


def test_a_module_in_the_working_folder_does_not_stand_in_for_another(tmp_path, room, expected):
    (tmp_path / "pickle.py").write_text("raise SystemExit('run by mistake')\n")
    command = [
        sys.executable, "-P", "-m", "hubconv", str(source_folder(V4)), str(room.target), "--engine",
        "processes", *QUICK,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(INSTALLED)},
        text=True, check=False, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shards(room.target) == expected


def test_the_wish_to_end_is_heard_in_every_wait():
    gone = Gone()
    gone.check()
    gone.set()
    with pytest.raises(StoppedError):
        gone.check()


# ── who computes where ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "capabilities", lambda: ((9, 0), (9, 0)))


def test_processes_are_spread_over_the_gpus(two_gpus):
    ask = Request("/a", "/b", workers=12)
    assert hands.manned(ask) == (["cuda:0", "cuda:1", "cuda:0"], 4)
    assert hands.manned(Request("/a", "/b", workers=1)) == (["cuda:0", "cuda:1"], 1)
    assert hands.manned(Request("/a", "/b", device="cuda:1", workers=8)) == (["cuda:1"] * 2, 4)
    assert hands.manned(Request("/a", "/b", device="cpu", workers=8)) == (["cpu"] * 2, 4)


@pytest.mark.parametrize(
    ("cores", "streaming", "whole"), [(2, 3, 3), (4, 3, 3), (5, 4, 5), (16, 4, 5)]
)
def test_more_than_a_few_cores_make_more_shards_at_a_time(
    two_gpus, monkeypatch, cores, streaming, whole
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))

    assert hub_workers(cores, streams=True) == streaming
    assert hub_workers(cores, streams=False) == whole
    request = Request("a/b", "c/d", device="cuda")
    assert hands.manned(request) == (["cuda:0", "cuda:1"], streaming)


def test_folders_on_two_gpus_are_worth_processes(two_gpus, monkeypatch):
    monkeypatch.setattr(hands, "_bytes_of", lambda _: hands.WORTH_PROCESSES_BYTES)
    assert hands._suits(Request("/a", "/b", workers=2)) == "processes"
    assert hands._suits(Request("/a", "/b", device="cuda:0", workers=2)) == "threads"
    assert hands._suits(Request("a/b", "/b", workers=16)) == "threads"


def test_two_gpus_both_have_processes(room, expected):
    env = room.faults.environment | {"HUBCONV_FAKE_GPUS": "2"}
    command = [
        sys.executable, "-m", "hubconv", str(source_folder(V4)), str(room.target), "--engine",
        "processes", "--workers", "2", "--scales", "amax",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, **env}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    noted = (room.faults.folder / "devices").read_text().splitlines()
    assert sorted(line.split()[1] for line in noted) == ["cuda:0", "cuda:1"]
    assert len({line.split()[0] for line in noted}) == 2
    assert shards(room.target) == expected


def test_the_faults_of_these_tests_are_no_part_of_the_product():
    assert FAULTY.is_relative_to(ROOT / "tests")
