"""What a run tells while it works, and the count that is kept of it."""

import threading
import unicodedata
from collections.abc import Callable, Iterable
from typing import TextIO

from hubconv.progress.tally import NOTHING, Extent, Stage, Tally


class Progress:
    """Told what happens, from any thread; this one keeps it to itself."""

    def phase(self, name: str) -> None:
        """A new phase of the run begins."""

    def plan(self, whole: Extent, done: Extent = NOTHING) -> None:
        """How much there is to do, and how much of it an earlier run has done.

        Args:
            whole: All output shards and their bytes.
            done: Of them, those that are there already.
        """

    def unit_started(self, shard: str) -> None:
        """Work on an output shard begins."""

    def converted(self, source_bytes: int) -> None:
        """So many more source bytes are dealt with."""

    def passed(self, stage: Stage, nbytes: int) -> None:
        """So many more bytes came, or went, by a line; fewer where some did so in vain."""

    def unit_finished(self, shard: str, size: int, seconds: float) -> None:
        """An output shard of `size` bytes is staged."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def table(self, lines: Callable[[], Iterable[str]]) -> None:
        """Several lines that belong together; not even made where nobody sees them."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


SilentProgress = Progress


class Counting(Progress):
    """Keeps the count for those who show it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.RLock()
        self._tally = Tally(clock)

    def plan(self, whole: Extent, done: Extent = NOTHING) -> None:
        """Begin the count."""
        with self._lock:
            self._tally = Tally(self._clock, whole, done)
            self._moved(now=True)

    def converted(self, source_bytes: int) -> None:
        """Count source bytes."""
        self.passed("convert", source_bytes)

    def passed(self, stage: Stage, nbytes: int) -> None:
        """Count bytes of a stage."""
        with self._lock:
            self._tally.flows[stage].passed(nbytes)
            self._moved()

    def unit_finished(self, shard: str, size: int, seconds: float) -> None:
        """Count an output shard."""
        with self._lock:
            self._tally.done_units += 1
            self._moved(now=True)

    def table(self, lines: Callable[[], Iterable[str]]) -> None:
        """Each is a note."""
        for line in lines():
            self.note(line)

    def _moved(self, *, now: bool = False) -> None:
        """The count changed; `now` if it should show at once."""


def printable(text: str) -> str:
    """Text on one line, without anything that steers a terminal or turns the reading order."""
    return "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
