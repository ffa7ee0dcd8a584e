"""Real processes, killed at every moment that matters and at any other, until one reaches its end.

What a killed process leaves is all the next one has. Main is old or whole each time, and a shard
that was finished and committed is never made again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubconv.embedded.faults import Rule

V4 = "deepseek_v4_sgl_fp8"
SHARDS = 3
QUICK = ("--device", "cpu", "--scales", "amax", "--workers", "1")
KILLED = -9
MOST = 60
"""Processes until one must have reached its end."""

LANDMARKS = 200
ZYGOTE = Path(__file__).parent / "zygote.py"

TELLING = ("README.md", "hubconv.json")
THOROUGH = (pytest.mark.thorough, pytest.mark.timeout(1800))
COUNTS = [
    pytest.param((5, 10), id="some"),
    pytest.param(range(1, LANDMARKS), id="each", marks=THOROUGH),
]
ROUNDS = [
    pytest.param(mode, seed, marks=() if (mode, seed) == ("lfs", 0) else THOROUGH)
    for mode in ("lfs", "xet")
    for seed in range(6)
]


@dataclass
class Zygote:
    """Where processes come from, and what they noted."""

    process: subprocess.Popen
    folder: Path
    started: int = 0

    def start(self, *words, kill_at=None):
        """Begin a process; its id."""
        self.started += 1
        self.notes = self.folder / f"notes-{self.started}"
        self.out = self.folder / f"out-{self.started}"
        self.notes.touch()
        order = {
            "words": [str(word) for word in words],
            "kill_at": kill_at,
            "notes": str(self.notes),
            "out": str(self.out),
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        return self._number()

    def end(self):
        """Wait for its end; how it ended."""
        return self._number()

    def run(self, *words, kill_at=None):
        self.start(*words, kill_at=kill_at)
        return self.end()

    def _number(self):
        line = self.process.stdout.readline()
        assert line, "the zygote is gone"
        return int(line)

    @property
    def made(self):
        """Shards that the last process began to make."""
        lines = self.notes.read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("make ")]

    @property
    def landmarks(self):
        return sum(line.startswith("landmark ") for line in self.notes.read_text().splitlines())

    @property
    def said(self):
        return self.out.read_text()


@contextmanager
def zygote_for(environment, folder):
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, str(ZYGOTE)],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield Zygote(process, folder)
        process.stdin.close()


@pytest.fixture(scope="module")
def zygotes(studios, tmp_path_factory):
    """One for each kind of Hub."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        made = {}

        def zygote(mode):
            if mode not in made:
                folder = tmp_path_factory.mktemp(f"zygote-{mode}")
                environment = studios(mode).environment()
                made[mode] = stack.enter_context(zygote_for(environment, folder))
            return made[mode]

        yield zygote


class Watch:
    """The target of one test: what it shows must be what it was, or a whole publish."""

    def __init__(self, studio, target):
        self.studio, self.target = studio, target
        self.there = studio.api.repo_exists(target)
        self.old = studio.tree(target) if self.there else None

    def staged(self):
        """Shards that are finished and committed."""
        found = set()
        if not self.studio.api.repo_exists(self.target):
            return found
        for branch in self.studio.staging(self.target):
            tree = self.studio.tree(self.target, branch)
            for path in tree:
                if "/units/" in path:
                    record = json.loads(self.studio.read(self.target, path, branch))
                    if tree.get(record["shard"]) == record["sha256"]:
                        found.add(record["shard"])
        return found

    def check(self):
        """Main is old or whole."""
        if not self.studio.api.repo_exists(self.target):
            return
        tree = self.studio.tree(self.target)
        if "hubconv.json" in tree and tree != self.old:
            manifest = json.loads(self.studio.read(self.target, "hubconv.json"))
            shown = {path: tree.get(path) for path in manifest["files"]}
            assert None not in shown.values()
            for path, told in manifest["files"].items():
                if path.endswith(".safetensors"):
                    assert shown[path] == told["sha256"]
            assert len([path for path in tree if path.endswith(".safetensors")]) == SHARDS
        elif self.there:
            assert tree == self.old
        else:
            assert set(tree) == {".gitattributes"}

    def ended_well(self, publishes=1):
        self.check()
        assert "hubconv.json" in self.studio.tree(self.target)
        assert len(self.studio.publishes(self.target)) == publishes
        assert len(self.studio.tags(self.target)) == publishes
        assert self.studio.staging(self.target) == set()


def run_watched(zygote, watch, words, kill=None, kill_at=None, faults=()):
    """One process; how it ended. `kill` is told its id and may end it."""
    staged = watch.staged()
    for fault in faults:
        watch.studio.hub.faults.add(fault)
    pid = zygote.start(*words, kill_at=kill_at)
    if kill is not None:
        kill(pid)
    code = zygote.end()
    watch.studio.hub.faults.clear()
    again = staged & set(zygote.made)
    assert not again, f"{again} was finished and is made again"
    watch.check()
    return code


@pytest.mark.parametrize("counts", COUNTS)
def test_a_run_killed_at_a_landmark_is_finished_by_the_next(studio, zygotes, counts):
    zygote, source = zygotes(studio.mode), studio.source(V4)
    for count in counts:
        watch = Watch(studio, studio.name())
        words = (source, watch.target, *QUICK)
        code = run_watched(zygote, watch, words, kill_at=count)
        if code == 0:
            break
        assert code == KILLED, zygote.said
        assert run_watched(zygote, watch, words) == 0, zygote.said
        watch.ended_well()
    assert count in {counts[-1], zygote.landmarks + 1}


@pytest.mark.parametrize("counts", COUNTS)
def test_a_folder_killed_at_a_landmark_is_finished_by_the_next(
    checkpoints, zygotes, tmp_path, counts
):
    zygote, source = zygotes("lfs"), checkpoints(V4)
    assert zygote.run(source, tmp_path / "whole", *QUICK) == 0, zygote.said
    whole = content_of(tmp_path / "whole")
    for count in counts:
        folder = tmp_path / str(count)
        code = zygote.run(source, folder, *QUICK, kill_at=count)
        if code == 0:
            break
        assert code == KILLED, zygote.said
        # The manifest comes last: with it, everything is there.
        assert not (folder / "hubconv.json").exists() or content_of(folder) == whole
        noted = {path.name.removesuffix(".json") for path in folder.glob(".hubconv/*/units/*")}
        assert zygote.run(source, folder, *QUICK) == 0, zygote.said
        assert not noted & set(zygote.made)
        assert content_of(folder) == whole
        assert not (folder / ".hubconv").exists()
    assert count in {counts[-1], zygote.landmarks + 1}


def content_of(folder):
    """Every file of a published folder; of those that tell of the run, only that they are there."""
    return {
        path.relative_to(folder).as_posix(): b"" if path.name in TELLING else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".hubconv" not in path.parts
    }


FAULTS = (
    {"action": "answer", "status": 500},
    {"action": "answer", "status": 504},
    {"action": "reset"},
)


def storm(rng):
    """A few faults at requests of any kind, before or after they did what was asked."""
    for _ in range(rng.randrange(4)):
        method, path = rng.choice([
            ("GET", "/api/"),
            ("POST", "/commit/"),
            ("POST", "/branch/"),
            ("PUT", ""),
            ("*", ""),
        ])
        fault, after = rng.choice(FAULTS), rng.random() < 0.5
        yield Rule(method=method, path=path, skip=rng.randrange(6), after=after, **fault)


@pytest.mark.parametrize(("studio", "seed"), ROUNDS, indirect=["studio"])
def test_a_run_killed_again_and_again_reaches_its_end(studio, zygotes, seed):
    zygote, rng = zygotes(studio.mode), random.Random(seed)
    source, target = studio.own_source(V4), studio.name()
    changes = (b'{"top_k": 1}', b'{"top_k": 2}')
    for publishes, change in enumerate(changes, 1):  # once for the new, once for the update
        studio.write(source, "generation_config.json", change)
        watch, kills, longest = Watch(studio, target), 0, 0.3
        for _ in range(MOST):
            moment = rng.uniform(0.0, longest)
            longest += 0.3

            def kill(pid, moment=moment):
                time.sleep(moment)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

            words = (source, target, *QUICK)
            code = run_watched(zygote, watch, words, kill=kill, faults=storm(rng))
            kills += code == KILLED
            if code == 0:
                break
            assert code == KILLED, zygote.said
        # Killed at the last moment it may have left its branch: whoever comes next tidies up.
        assert run_watched(zygote, watch, (source, target, *QUICK)) == 0, zygote.said
        assert zygote.made == []
        assert kills > 0
        watch.ended_well(publishes)


def test_another_machine_goes_on_with_nothing_but_the_hub(studio, tmp_path):
    source, watch = studio.source(V4), Watch(studio, studio.name())
    # One shard a commit: the first is committed, the second is on its way.
    rule = {"method": "POST", "path": f"{watch.target}/commit/hubconv%2F"}
    armed = studio.hub.faults.hang(**rule, seconds=60, skip=2)
    with machine_of(studio, tmp_path / "first", source, watch.target) as process:
        deadline = time.monotonic() + 120
        while not studio.hub.faults.struck(armed) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=30)
    studio.hub.faults.clear()
    watch.check()
    staged = watch.staged()
    assert len(staged) == 1
    with machine_of(studio, tmp_path / "last", source, watch.target, "--json") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert (told["shards_found"], told["shards_made"]) == (len(staged), SHARDS - len(staged))
    watch.ended_well()


def machine_of(studio, folder, *words):
    """The command on a machine that has never seen it."""
    folder.mkdir()
    # Compiled kernels may be there: they are the program's, and nothing of the work.
    compiled = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "TMPDIR": str(folder)}
    home["XDG_CACHE_HOME"] = compiled
    return studio.start(*words, *QUICK, "--work-dir", folder / "work", env=home, group=1)
