"""Every way a run can end early, each with its exit code.

    HubconvError
    ├── UsageError            2  the command line asks for something that cannot be
    ├── SourceError           3  the source cannot be converted as it is
    │   ├── HeaderError          a safetensors header or an index is not valid
    │   ├── ScaleError           a quantized weight without a proven scale
    │   └── UnknownTensorError   a tensor no rule explains
    ├── NotAllowedError       4  no right, gated, private, or a licence in the way
    ├── TemporaryError        5  the Hub or the line failed; work is saved, run again
    │   └── BrokenLineError      a shard's bytes were lost on their way; it is made again
    ├── ConflictError         6  the target holds or received something else
    ├── IntegrityError        7  bytes, numbers or results that are not what they must be
    │   └── DamagedError         a source file arrived with another hash; done again once
    ├── ResourceError         8  disk, memory or device of this machine
    └── StoppedError         10  stopped in order at the time limit; run again to go on

A message says what, where, and what to do next; `saved` says what is not lost.
"""

import errno
from typing import ClassVar, Final


class HubconvError(Exception):
    """Raised for every failure that hubconv explains; never for a bug.

    Args:
        what: One sentence: what went wrong, and where.
        next_step: One sentence: what to do now. Empty where the first sentence says it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what} {self.next_step}".strip()


class UsageError(HubconvError):
    """Raised when the command line contradicts itself or names something impossible."""

    exit_code = 2


class SourceError(HubconvError):
    """Raised when the source cannot be converted as it stands."""

    exit_code = 3


class HeaderError(SourceError):
    """Raised when a safetensors header or an index is malformed or contradicts the files."""


class ScaleError(SourceError):
    """Raised when a quantized weight has no scale, or one of the wrong shape or type."""


class UnknownTensorError(SourceError):
    """Raised when a tensor's name matches no role of the profile."""


class NotAllowedError(HubconvError):
    """Raised when the Hub denies access, or publishing would break privacy or a licence."""

    exit_code = 4


class TemporaryError(HubconvError):
    """Raised when the Hub or the network failed for longer than our patience."""

    exit_code = 5


class BrokenLineError(TemporaryError):
    """Raised when a shard that is kept nowhere broke off on its way to the Hub."""


class ConflictError(HubconvError):
    """Raised when the target holds, or received meanwhile, something that is not ours."""

    exit_code = 6


class IntegrityError(HubconvError):
    """Raised when bytes, numbers or results are not what they must be."""

    exit_code = 7


class DamagedError(IntegrityError):
    """Raised when a file arrived with another hash than its source names."""


class ResourceError(HubconvError):
    """Raised when this machine's disk, memory or device does not suffice."""

    exit_code = 8


class StoppedError(HubconvError):
    """Raised when a run stopped in order before it was done.

    Attributes:
        made: Output shards that the run has finished and noted.
        staged: Output shards of the plan that are staged, by this run and earlier ones.
        of: Output shards of the plan; 0 where the run did not come so far.
        seconds_left: What the rest takes at this run's rate; 0 where that cannot be told.
    """

    exit_code = 10
    made: int = 0
    staged: int = 0
    of: int = 0
    seconds_left: float = 0.0


def unforeseen(error: BaseException) -> HubconvError:
    """What is said of a failure that no step explained: it is a fault of ours."""
    return HubconvError(
        f"hubconv failed in a way it does not know: {type(error).__name__}: {error}",
        "Finished shards are kept. Please report this with the lines above.",
    )


_DISK: Final = frozenset((
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
    errno.ENXIO,
    errno.ESTALE,
))
_TORCH_FULL: Final = "OutOfMemoryError"  # torch is not imported to ask
_PROCESS: Final = frozenset((errno.ENOMEM, errno.EMFILE, errno.ENFILE))


def of_this_machine(error: BaseException) -> ResourceError | None:
    """What an error says of this machine's disk or memory; None where it is about another thing.

    Args:
        error: As the system or a library raised it.
    """
    if isinstance(error, MemoryError) or _no_thread(error):
        return ResourceError(
            f"This machine's memory does not suffice: {str(error) or type(error).__name__}.",
            "Say --workers 1, end other programs, or take a machine with more of it; then run the "
            "same command again: finished shards are kept.",
        )
    if type(error).__name__ == _TORCH_FULL:
        return ResourceError(
            "The device's memory does not suffice.",
            "End what else uses it, or say --device cpu, which gives the same bytes; then run the "
            "same command again: finished shards are kept.",
        )
    if not isinstance(error, OSError):
        return None
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in _DISK:
        return ResourceError(
            f"A disk of this machine failed{where}: {error.strerror}.",
            "Make room or name another folder with --work-dir, then run the same command again: "
            "finished shards are kept.",
        )
    if error.errno in _PROCESS:
        return ResourceError(
            f"This machine gives the process no more{where}: {error.strerror}.",
            "Say --workers 1 or raise the limit (ulimit), then run the same command again: "
            "finished shards are kept.",
        )
    return None


def _no_thread(error: BaseException) -> bool:
    """Whether the system had no memory for a thread: Python has no class of its own for that."""
    return type(error) is RuntimeError and error.args == ("can't start new thread",)
