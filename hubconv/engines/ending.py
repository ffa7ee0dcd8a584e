"""However a run of units ends, what is finished is in the journal."""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager

from hubconv.ends import Staging
from hubconv.errors import HubconvError, StoppedError
from hubconv.journal import ending_of
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


def counted(ended: BaseException, finished: Sized) -> BaseException:
    """Have a run that was stopped tell how much of it is done."""
    if isinstance(ended, StoppedError):
        ended.made = len(finished)
    return ended
