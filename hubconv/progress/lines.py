"""A log: whole lines, for each shard its begin and end, and a summary now and then."""

import time
from collections.abc import Callable
from typing import Final, TextIO

from hubconv.progress.tally import NOTHING, Extent
from hubconv.progress.told import Counting, printable
from hubconv.quantities import human_bytes, human_time

SUMMARY_SECONDS: Final = 30.0


class LineProgress(Counting):
    """Whole lines, for logs: each shard's begin and end, and a summary now and then.

    Args:
        stream: A file or pipe.
        clock: Seconds that never go back.
        actions: Write warnings the way GitHub Actions shows beside a run.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        *,
        actions: bool = False,
    ) -> None:
        super().__init__(stream, clock)
        self._actions = actions
        self._summed_at = clock()

    def phase(self, name: str) -> None:
        """A line."""
        self._line(name)

    def plan(self, whole: Extent, done: Extent = NOTHING) -> None:
        """A line."""
        before = f", {done.units} done already" if done.units else ""
        self._line(f"{whole.units} shards from {human_bytes(whole.source_bytes)}{before}")
        super().plan(whole, done)

    def unit_started(self, shard: str) -> None:
        """A line."""
        self._line(f"{shard} ...")

    def unit_finished(self, shard: str, size: int, seconds: float) -> None:
        """A line."""
        with self._lock:
            super().unit_finished(shard, size, seconds)
            count = f"{self._tally.done_units}/{self._tally.total_units}"
            self._line(f"{shard} done: {human_bytes(size)} in {human_time(seconds)} ({count})")

    def note(self, text: str) -> None:
        """A line."""
        self._line(text)

    def warn(self, text: str) -> None:
        """A line, or in Actions an annotation."""
        if self._actions:
            self._raw(f"::warning::{printable(text).replace('%', '%25')}")
        else:
            self._line(f"Warning: {text}")

    def _moved(self, *, now: bool = False) -> None:
        if not now and self._clock() - self._summed_at >= SUMMARY_SECONDS:
            self._summed_at = self._clock()
            self._line(self._tally.summary())

    def _line(self, text: str) -> None:
        line = printable(text)
        if self._actions:
            # A name out of a checkpoint must not give orders to the runner that reads this log.
            line = line.replace("::", ": :").replace("##[", "## [")
        self._raw(line)

    def _raw(self, line: str) -> None:
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
