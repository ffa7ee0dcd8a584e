"""Every way to run the units of a plan, each by the real command: one suite holds for all."""

import importlib.util
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from engines.faults import PATIENCE_S

QUICK = ("--device", "cpu")
HERE = Path(__file__).parent
HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(
    not HAS_RAY, reason="Ray is not installed (pip install hubconv[ray])"
)


class Ended:
    """How the processes of a run ended."""

    def __init__(self, processes):
        self.processes = processes
        told = [process.communicate(timeout=PATIENCE_S * 2) for process in processes]
        self.codes = [process.returncode for process in processes]
        self.said = "".join(out + err for out, err in told)

    @property
    def code(self):
        """The first that is not 0."""
        return next((code for code in self.codes if code), 0)


class Executor:
    """One command that does it all, with an engine.

    Attributes:
        replaces: Whether a worker that is lost is replaced within the run.
        apart: Whether workers are other processes than the one that was started.
    """

    replaces = apart = True

    def __init__(self, studio, faults, words, address=""):
        self.studio, self.faults = studio, faults
        self.words = [*words, *(["--address", address] if address else [])]

    def begin(self, source, target, folder):
        """Start what makes the units; the processes that a user would see."""
        del folder
        words = (source, target, "--scales", "amax", *QUICK, *self.words, "--json")
        return [self.start(*words)]

    def start(self, *words):
        env = self.faults.environment | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": None}
        return self.studio.start(*words, env=env, lines=GROUPS_OF_ONE)

    def end(self, processes, folder):
        """Wait for it, and publish where that is an act of its own."""
        del folder
        return Ended(processes)

    def run(self, source, target, folder):
        """From begin to end."""
        return self.end(self.begin(source, target, folder), folder)


GROUPS_OF_ONE = ("from hubconv.hub import staging", "staging.GROUP_UNITS = 1")


class Threads(Executor):
    """Everything in one process."""

    replaces = apart = False


class Slices(Executor):
    """Two slices at the same time, then a publish."""

    replaces = apart = False

    def begin(self, source, target, folder):
        path = folder / f"{target.replace('/', '-')}.json"
        words = ("plan", source, target, "--scales", "amax", "-o", path, "-q")
        done = self.studio.command(*words, env=self.faults.environment)
        assert done.code == 0, done.said
        self.path = path
        return [self.start("work", path, "--slice", f"{n}/2", *QUICK, *self.words) for n in (1, 2)]

    def end(self, processes, folder):
        worked = Ended(processes)
        return worked if worked.code else Ended([self.start("publish", self.path, "--json")])


EXECUTORS = {
    "threads": (Threads, ("--engine", "threads", "--workers", "2")),
    "processes": (Executor, ("--engine", "processes", "--workers", "5")),
    "slices": (Slices, ("--workers", "1")),
    "ray": (Executor, ("--engine", "ray")),
}
_MARKS = {"ray": NEEDS_RAY, "threads": pytest.mark.thorough, "slices": pytest.mark.thorough}
"""What kills do to threads and slices is tested elsewhere too, and these take minutes."""

NAMES = [pytest.param(name, marks=_MARKS.get(name, ())) for name in EXECUTORS]


class Nodes:
    """A Ray cluster of fake nodes; see `ray_cluster.py`."""

    def __init__(self, process):
        self._process = process
        self.address, self.folder = process.stdout.readline().split()

    def order(self, *words):
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def nodes(environment, *cpus):
    """A cluster whose machines have such an environment."""
    command = [sys.executable, str(HERE / "ray_cluster.py"), *map(str, cpus)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            yield Nodes(process)
        finally:
            process.stdin.close()
            process.wait(timeout=60)
