"""What a person sees while the work goes on: one owner of the terminal, told what happens.

Also the one place where bytes, times and rates are put into words.
"""

import os
import shutil
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TextIO

REDRAW_SECONDS: Final = 0.1
SUMMARY_SECONDS: Final = 30.0
RATE_SECONDS: Final = 60.0
"""The rate shown is that of the last minute: a line that slowed down shows at once."""

_BAR_WIDTH: Final = 24
_NARROWEST: Final = 20
_YELLOW: Final = "\x1b[33m"
_PLAIN: Final = "\x1b[0m"


class Progress:
    """Told what happens, from any thread; this one keeps it to itself."""

    def phase(self, name: str) -> None:
        """A new phase of the run begins."""

    def plan(
        self, total_units: int, total_source_bytes: int, done_units: int, done_bytes: int = 0
    ) -> None:
        """How much there is to do, and how much of it an earlier run has done."""

    def unit_started(self, shard: str) -> None:
        """Work on an output shard begins."""

    def converted(self, source_bytes: int) -> None:
        """So many more source bytes are dealt with."""

    def unit_finished(self, shard: str, size: int, seconds: float) -> None:
        """An output shard of `size` bytes is staged."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


SilentProgress = Progress


@dataclass(slots=True)
class Tally:
    """Counts what is done, and how fast. Not thread safe: its owner holds a lock.

    The rate counts only what is done from now on, not what an earlier run did.
    """

    clock: Callable[[], float]
    total_units: int = 0
    total_bytes: int = 0
    done_units: int = 0
    done_bytes: int = 0
    _here_bytes: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._samples.append((self.clock(), 0))

    def converted(self, source_bytes: int) -> None:
        """Count source bytes; a unit made twice does not take the count past its end."""
        self._here_bytes += source_bytes
        self.done_bytes = min(self.done_bytes + source_bytes, self.total_bytes)
        now = self.clock()
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, self._here_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Source bytes a second over the last minute; 0 where nothing is known yet."""
        began, before = self._samples[0]
        seconds = self.clock() - began
        return (self._here_bytes - before) / seconds if seconds > 0 else 0.0

    def words(self) -> list[str]:
        """Units, bytes, rate and time left, the most important first."""
        rate = self.rate
        words = [
            f"{self.done_units}/{self.total_units} shards",
            f"{human_bytes(self.done_bytes)} of {human_bytes(self.total_bytes)}",
        ]
        if rate > 0:
            left = (self.total_bytes - self.done_bytes) / rate
            words += [f"{human_time(left)} left", human_rate(rate)]
        return words


class _Counting(Progress):
    """Keeps the count for those who show it."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.RLock()
        self._tally = Tally(clock)

    def plan(
        self, total_units: int, total_source_bytes: int, done_units: int, done_bytes: int = 0
    ) -> None:
        """Begin the count."""
        with self._lock:
            self._tally = Tally(
                self._clock, total_units, total_source_bytes, done_units, done_bytes
            )
            self._moved(now=True)

    def converted(self, source_bytes: int) -> None:
        """Count source bytes."""
        with self._lock:
            self._tally.converted(source_bytes)
            self._moved()

    def unit_finished(self, shard: str, size: int, seconds: float) -> None:
        """Count an output shard."""
        with self._lock:
            self._tally.done_units += 1
            self._moved(now=True)

    def _moved(self, *, now: bool = False) -> None:
        """The count changed; `now` if it should show at once."""


class TerminalProgress(_Counting):
    """One status line, redrawn in place; everything else is printed above it.

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
        self._drawn = 0
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
        if self._drawn:
            self._stream.write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _moved(self, *, now: bool = False) -> None:
        time_now = self._clock()
        if not now and time_now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = time_now
        line = self._line(max(self._width() - 1, _NARROWEST))
        # Spaces wipe the rest of the last line on every terminal, escape codes only on most.
        self._stream.write("\r" + line.ljust(self._drawn) + "\r" * (len(line) < self._drawn))
        self._drawn = len(line)
        self._stream.flush()

    def _line(self, width: int) -> str:
        if not self._tally.total_units:
            return self._phase[:width]
        line = f"{self._phase} " if self._phase else ""
        words = self._tally.words()
        room = width - len(line) - len("  ".join(words[:2])) - 2
        if room >= 5:
            share = self._tally.done_bytes / max(self._tally.total_bytes, 1)
            line += text_bar(share, min(room, _BAR_WIDTH), *self._bar) + "  "
        line += words[0]
        for word in words[1:]:
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
        self, total_units: int, total_source_bytes: int, done_units: int, done_bytes: int = 0
    ) -> None:
        """A line."""
        done = f", {done_units} done already" if done_units else ""
        self._line(f"{total_units} shards from {human_bytes(total_source_bytes)}{done}")
        super().plan(total_units, total_source_bytes, done_units, done_bytes)

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
            self._line("  ".join(self._tally.words()))

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


def human_bytes(count: float) -> str:
    """`865 GB`: decimal units and three digits, as the Hub writes sizes."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while power < len(units) - 1 and abs(count) >= (999.5 if power else 1000):
        count /= 1000
        power += 1
    if not power:
        return f"{count:.0f} B"
    digits = 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {units[power]}"


def human_time(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `1 h 05 min`, `2 d 03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 or whole == seconds else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def human_rate(bytes_per_second: float) -> str:
    """`1.20 GB/s`."""
    return f"{human_bytes(bytes_per_second)}/s"
