"""A terminal: a status line or a bar for each stage, redrawn in place, and one owner of it all."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

from hubconv.progress.tally import STAGES, Stage, Tally
from hubconv.progress.told import Counting, printable

REDRAW_SECONDS: Final = 0.1

_BAR_WIDTH: Final = 24
_SHORTEST_BAR: Final = 5
_NARROWEST: Final = 16
_YELLOW: Final = "\x1b[33m"
_PLAIN: Final = "\x1b[0m"
_UP: Final = "\x1b[A"
_ERASE: Final = "\x1b[J"
"""From the cursor to the end of the screen."""


class TerminalProgress(Counting):
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
        self._taken: list[logging.StreamHandler[Any]] = []

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

    def take_logs(self) -> None:
        """Have what is logged to this terminal stand above what is drawn, until `close`."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream:
                handler.setStream(_Above(self.note))
                self._taken.append(handler)

    def close(self) -> None:
        """Take away what is drawn, and give back what was taken."""
        for handler in self._taken:
            handler.setStream(self._stream)
        self._taken = []
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


class _Above:
    """A stream for others: each line that they write is shown as a note."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def write(self, text: str) -> None:
        """Show whole lines."""
        for line in text.splitlines():
            self._note(line)

    def flush(self) -> None:
        """Nothing is kept back."""


def _as_many(line: str, words: Iterable[str], width: int) -> str:
    """A line and as many more words as go on it."""
    for word in words:
        if len(line) + 2 + len(word) > width:
            break
        line += "  " + word
    return line[:width]


def text_bar(share: float, width: int, full: str = "█", empty: str = "") -> str:
    """A bar of whole characters; any share above zero shows."""
    share = min(max(share, 0.0), 1.0)
    filled = max(round(share * width), int(share > 0))
    return full * filled + empty * (width - filled)
