"""What is due, converted here: one target after the other, whatever becomes of each."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from hubconv.errors import HubconvError, SourceError, StoppedError, of_this_machine, unforeseen
from hubconv.watch.look import Look, in_order

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome
    from hubconv.pipeline.request import Engine
    from hubconv.progress import Progress

LOG: Final = logging.getLogger(__name__)

Status = Literal["published", "up-to-date", "stopped", "refused", "failed", "not begun"]

_STOPPED: Final = StoppedError.exit_code
_SIGNALLED: Final = 128
_WORST_FIRST: Final = (1, 7, 6, 4, 3, 2, 8, 5, _STOPPED, 0)
"""What needs a person stands above what passes by itself."""


@dataclass(frozen=True, slots=True)
class Running:
    """How targets are made.

    Attributes:
        command_of: The command line that makes a target, for its card and for whoever goes on.
        progress_of: Who is told how a target goes.
        time_limit_s: Stop in order after this time, all targets together; 0 for no limit.
        device: auto, cpu or cuda:N.
        workers: Output shards made at the same time; 0 for what suits.
        engine: What runs them; auto for what suits.
        work_dir: Folder for shards on their way.
        max_disk: Bytes that they may take there, where an entry says nothing.
    """

    command_of: Callable[[Look], str]
    progress_of: Callable[[Look], "Progress"]
    time_limit_s: float = 0.0
    device: str = "auto"
    workers: int = 0
    engine: "Engine" = "auto"
    work_dir: str = ""
    max_disk: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one target ended.

    Attributes:
        look: The target.
        status: What became of it.
        exit_code: As that of `hubconv SOURCE TARGET`; 0 where a refusal is no failure.
        what: What went wrong; empty where nothing did.
        next_step: What to do about it.
        outcome: How it ended well.
        staged: Shards that are staged, where it was stopped.
        of: Shards of its plan.
        seconds_left: What the rest takes at this run's rate; 0 where that cannot be told.
    """

    look: Look
    status: Status
    exit_code: int = 0
    what: str = ""
    next_step: str = ""
    outcome: "Outcome | None" = None
    staged: int = 0
    of: int = 0
    seconds_left: float = 0.0


def run(
    looked: Sequence[Look],
    running: Running,
    tell: Callable[[Ended], None] = lambda _: None,
) -> list[Ended]:
    """Convert what is due, in order; a failure of one target is no failure of the next.

    Args:
        looked: What was looked at.
        running: How targets are made.
        tell: Told of each target as it ends.
    """
    deadline = time.monotonic() + running.time_limit_s if running.time_limit_s else 0.0
    ended: list[Ended] = []
    stop: Ended | None = None
    for found in in_order(looked):
        left = deadline - time.monotonic() if deadline else 0.0
        if stop is not None or (deadline and left <= 0):
            code = stop.exit_code if stop else _STOPPED
            why = "The run was stopped before its turn."
            now = Ended(found, "not begun", code, why, "Run the same command again.")
        else:
            now = _convert(found, running, left)
        if now.status == "stopped":
            stop = now
        ended.append(now)
        tell(now)
    return ended


def worst(looked: Sequence[Look], ended: Sequence[Ended]) -> int:
    """The exit code of a whole run: a signal's, else the worst of any target."""
    codes = [each.exit_code for each in ended]
    codes += [each.exit_code for each in looked if each.counts]
    signals = [code for code in codes if code > _SIGNALLED]
    return signals[0] if signals else min(codes, key=_WORST_FIRST.index, default=0)


def _convert(found: Look, running: Running, time_limit_s: float) -> Ended:
    from hubconv.pipeline import Request, convert

    wish = found.wish
    request = Request(
        # A folder of this name on this machine is not what a watch list means.
        source=f"hf://{found.source}",
        target=f"hf://{found.target}",
        revision=wish.revision,
        recipe=wish.recipe,
        device=running.device,
        workers=running.workers,
        engine=running.engine,
        work_dir=running.work_dir,
        max_disk=wish.max_disk or running.max_disk,
        private=wish.private,
        time_limit_s=time_limit_s,
        command=running.command_of(found),
    )
    progress = running.progress_of(found)
    try:
        outcome = convert(request, progress)
    except StoppedError as stopped:
        return Ended(
            found, "stopped", stopped.exit_code, stopped.what, stopped.next_step, None,
            stopped.staged, stopped.of, stopped.seconds_left,
        )  # fmt: skip
    except HubconvError as error:
        if isinstance(error, SourceError) and wish.is_pattern:
            return Ended(found, "refused", 0, error.what, error.next_step)
        return Ended(found, "failed", error.exit_code, error.what, error.next_step)
    except Exception as error:  # a fault of ours ends one target, not the night
        LOG.exception("%s", found.target)
        told = of_this_machine(error) or unforeseen(error)
        return Ended(found, "failed", told.exit_code, told.what, told.next_step)
    finally:
        progress.close()
    return Ended(found, outcome.status, outcome=outcome)
