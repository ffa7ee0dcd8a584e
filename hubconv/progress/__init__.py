"""What a person sees while the work goes on: one owner of the terminal, told what happens."""

import os
from typing import TextIO

from hubconv.progress.lines import LineProgress
from hubconv.progress.tally import NOTHING, Extent
from hubconv.progress.terminal import TerminalProgress, text_bar
from hubconv.progress.told import Progress, SilentProgress, printable

__all__ = [
    "NOTHING",
    "Extent",
    "LineProgress",
    "Progress",
    "SilentProgress",
    "TerminalProgress",
    "choose_progress",
    "printable",
    "text_bar",
]


def choose_progress(stream: TextIO, *, quiet: bool = False, json: bool = False) -> Progress:
    """What fits the stream: a status line on a terminal, lines elsewhere, nothing if so asked."""
    if quiet or json:
        return SilentProgress()
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        progress = TerminalProgress(stream)
        progress.take_logs()
        return progress
    return LineProgress(stream, actions=os.environ.get("GITHUB_ACTIONS") == "true")
