"""However a run of units ends, what is finished is in the journal."""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

from hubconv.ends import Staging
from hubconv.engines.stop import Stop
from hubconv.errors import HubconvError, StoppedError
from hubconv.journal import Ending, ending_of
from hubconv.progress import Progress


@contextmanager
def saving(staging: Staging, progress: Progress, finished: Callable[[], Sized]) -> Iterator[None]:
    """Note what is finished where something ends the work inside, and go on with that.

    Args:
        staging: The journal.
        progress: Told where even that fails: a second failure must not hide the first.
        finished: Gives the units that this run has finished.
    """
    try:
        yield
    except BaseException as ended:
        try:
            staging.flush(ending_of(ended))
        except HubconvError as error:
            progress.warn(f"Finished shards could not be noted: {error}")
        counted(ended, finished())
        raise


def ended_well(
    staging: Staging, stop: Stop, ending: Ending | None, finished: Sized, *, is_done: bool
) -> None:
    """Note the end of a run that nothing broke off.

    Args:
        staging: The journal.
        stop: Knows whether it was stopped.
        ending: How the run ends, where it does with these units.
        finished: The units that this run has finished.
        is_done: Whether those are all; a wish to stop that came after the last one is none.

    Raises:
        HubconvError: The run was stopped in order.
    """
    reason = None if is_done else stop.reason()
    staging.flush(ending if reason is None else ending_of(reason))
    if reason is not None:
        raise counted(reason, finished)


def counted(ended: BaseException, finished: Sized) -> BaseException:
    """Have a run that was stopped tell how much of it is done."""
    if isinstance(ended, StoppedError):
        ended.made = len(finished)
    return ended
