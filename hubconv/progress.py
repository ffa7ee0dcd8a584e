"""What a person sees while the work goes on: one owner of the terminal, told what happens."""

import os
import shutil
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from typing import Final, TextIO

from hubconv.quantities import human_bytes, human_time
from hubconv.tally import STAGES, Stage, Tally

REDRAW_SECONDS: Final = 0.1
SUMMARY_SECONDS: Final = 30.0
_BAR_WIDTH: Final = 24
_SHORTEST_BAR: Final = 5
_NARROWEST: Final = 16
_YELLOW: Final = "\x1b[33m"
_PLAIN: Final = "\x1b[0m"
_UP: Final = "\x1b[A"
_ERASE: Final = "\x1b[J"
"""From the cursor to the end of the screen."""


class Progress:
    """Told what happens, from any thread; this one keeps it to itself."""

    def phase(self, name: str) -> None:
        """A new phase of the run begins."""

    def plan(
        self,
        total_units: int,
        total_source_bytes: int,
        done_units: int,
        done_bytes: int = 0,
        target: tuple[int, int] = (0, 0),
    ) -> None:
        """How much there is to do, and how much of it an earlier run has done.

        Args:
            total_units: Output shards.
            total_source_bytes: What is read for them.
            done_units: Output shards that are there already.
            done_bytes: What was read for those.
            target: Bytes of all output shards, and of those that are there already.
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


class _Counting(Progress):
    """Keeps the count for those who show it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.RLock()
        self._tally = Tally(clock)

    def plan(
        self,
        total_units: int,
        total_source_bytes: int,
        done_units: int,
        done_bytes: int = 0,
        target: tuple[int, int] = (0, 0),
    ) -> None:
        """Begin the count."""
        with self._lock:
            source = (total_source_bytes, done_bytes)
            self._tally = Tally(self._clock, total_units, source, target, done_units)
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


class TerminalProgress(_Counting):
    """A status line, or a bar for each stage, redrawn in place; all else is printed above it.

    Args:
        stream: A terminal.
        clock: Seconds that never go back.
        width: Columns of the terminal, asked at every redraw.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(stream, clock)
        self._width = width or (lambda: shutil.get_terminal_size().columns)
        self._colour = not os.environ.get("NO_COLOR")
        blocks = "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()
        self._bar = ("█", "░") if blocks else ("#", ".")
        self._phase = ""
        self._drawn: list[str] = []
        self._drawn_at = -REDRAW_SECONDS

    def phase(self, name: str) -> None:
        """Name the phase in the status line."""
        with self._lock:
            self._phase = printable(name)
            self._moved(now=True)

    def note(self, text: str) -> None:
        """Print a line above the status line."""
        self._above(printable(text))

    def warn(self, text: str) -> None:
        """Print a line above the status line, coloured unless NO_COLOR is set."""
        line = f"Warning: {printable(text)}"
        self._above(f"{_YELLOW}{line}{_PLAIN}" if self._colour else line)

    def close(self) -> None:
        """Take the status line away."""
        with self._lock:
            self._wipe()
            self._phase, self._tally = "", Tally(self._clock)
            self._stream.flush()

    def _above(self, line: str) -> None:
        with self._lock:
            self._wipe()
            self._stream.write(line + "\n")
            self._moved(now=True)

    def _wipe(self) -> None:
        if len(self._drawn) > 1:
            self._stream.write(self._home())
        elif self._drawn:
            self._stream.write("\r" + " " * len(self._drawn[0]) + "\r")
        self._drawn = []

    def _home(self) -> str:
        """To the beginning of what is drawn, and away with it."""
        return "\r" + _UP * (len(self._drawn) - 1) + _ERASE

    def _moved(self, *, now: bool = False) -> None:
        time_now = self._clock()
        if not now and time_now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = time_now
        lines = self._lines(max(self._width() - 1, _NARROWEST))
        if len(lines) == 1 and len(self._drawn) < 2:
            # Spaces wipe the rest of the last line on every terminal, escape codes only on most.
            before = len(self._drawn[0]) if self._drawn else 0
            rest = "\r" * (len(lines[0]) < before)
            self._stream.write("\r" + lines[0].ljust(before) + rest)
        else:
            self._stream.write(self._home() + "\n".join(lines))
        self._drawn = lines
        self._stream.flush()

    def _lines(self, width: int) -> list[str]:
        tally = self._tally
        if not tally.total_units:
            return [self._phase[:width]]
        if not tally.streams:
            return [self._status(f"{self._phase} " if self._phase else "", width)]
        head = f"{self._phase}  {tally.shards}" if self._phase else tally.shards
        return [head[:width], *(self._stage(stage, width) for stage in STAGES)]

    def _status(self, line: str, width: int) -> str:
        words = self._tally.words()
        room = width - len(line) - len("  ".join(words[:2])) - 2
        if room >= _SHORTEST_BAR:
            bar = text_bar(self._tally.convert.share, min(room, _BAR_WIDTH), *self._bar)
            line += f"{bar}  "
        return _as_many(line + words[0], words[1:], width)

    def _stage(self, stage: Stage, width: int) -> str:
        flow = self._tally.flows[stage]
        words = flow.words()
        line = f"{stage:7} "
        room = width - len(line) - len(words[0]) - 2
        if room >= _SHORTEST_BAR:
            line += f"{text_bar(flow.share, min(room, _BAR_WIDTH), *self._bar)}  "
        return _as_many(line + words[0], words[1:], width)


def _as_many(line: str, words: Iterable[str], width: int) -> str:
    """A line and as many more words as go on it."""
    for word in words:
        if len(line) + 2 + len(word) > width:
            break
        line += "  " + word
    return line[:width]


class LineProgress(_Counting):
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

    def plan(
        self,
        total_units: int,
        total_source_bytes: int,
        done_units: int,
        done_bytes: int = 0,
        target: tuple[int, int] = (0, 0),
    ) -> None:
        """A line."""
        done = f", {done_units} done already" if done_units else ""
        self._line(f"{total_units} shards from {human_bytes(total_source_bytes)}{done}")
        super().plan(total_units, total_source_bytes, done_units, done_bytes, target)

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


def choose_progress(stream: TextIO, *, quiet: bool = False, json: bool = False) -> Progress:
    """What fits the stream: a status line on a terminal, lines elsewhere, nothing if so asked."""
    if quiet or json:
        return SilentProgress()
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalProgress(stream)
    return LineProgress(stream, actions=os.environ.get("GITHUB_ACTIONS") == "true")


def printable(text: str) -> str:
    """Text on one line, without anything that steers a terminal or turns the reading order."""
    return "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)


def text_bar(share: float, width: int, full: str = "█", empty: str = "") -> str:
    """A bar of whole characters; any share above zero shows."""
    share = min(max(share, 0.0), 1.0)
    filled = max(round(share * width), int(share > 0))
    return full * filled + empty * (width - filled)
