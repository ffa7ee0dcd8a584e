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

from typing import ClassVar


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
    """

    exit_code = 10
    made: int = 0
