"""Faults in the middle of a unit, in whatever process makes it, without a hook in the product."""

import os
import signal
import time
from pathlib import Path

from installed import INSTALLED

FAULTY = Path(__file__).parent / "faulty"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 90


class Faults:
    """Orders for `faulty/sitecustomize.py`, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._count = 0

    @property
    def environment(self):
        paths = f"{FAULTY}{os.pathsep}{INSTALLED}"
        return {"HUBCONV_FAULTS": str(self.folder), "PYTHONPATH": paths}

    def order(self, kind, shard=""):
        """`kill`, `hang` or `bug` in the middle of a unit; of any, where none is named. Once."""
        self._count += 1
        (self.folder / f"{kind}.{self._count}").write_text(shard)

    def poison(self, shard):
        """Kill whoever makes a unit, every time."""
        (self.folder / "poison").write_text(shard)

    def go(self):
        """Let what hangs go on."""
        (self.folder / "go").touch()

    def clear(self):
        for path in self.folder.iterdir():
            path.unlink()

    @property
    def struck(self):
        """(process, shard) of each kill and hang so far."""
        return self._lines("struck")

    @property
    def seen(self):
        """(process, shard) of each unit that was begun so far."""
        return self._lines("seen")

    def _lines(self, name):
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(pid), shard) for pid, shard in (line.split(maxsplit=1) for line in lines)]


def wait_until(condition, process=None, seconds=PATIENCE_S):
    """Wait for something, as long as a process lives."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"it ended with {process.returncode}: {out}{err}")
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def lives(pid):
    """Whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
