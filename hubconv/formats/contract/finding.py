"""What the loader contract reports."""

from dataclasses import dataclass
from typing import Final, Literal

Engine = Literal["vllm", "sglang", "trtllm", "compressed-tensors"]
Severity = Literal["error", "warning"]

EVERY: Final[tuple[Engine, ...]] = ("vllm", "sglang", "trtllm", "compressed-tensors")


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of a loader's rule.

    Attributes:
        rule: Its short name, such as `part.missing`.
        where: The module, tensor, file or configuration entry.
        what: One sentence: what is there and what should be.
        engines: Which loaders care.
        severity: An error does not load or loads wrong numbers; a warning is a risk.
    """

    rule: str
    where: str
    what: str
    engines: tuple[Engine, ...] = EVERY
    severity: Severity = "error"


class MixedPartsError(ValueError):
    """Raised when a loader finds parts of one fused module treated differently."""


class NoSchemeError(ValueError):
    """Raised when a loader demands an entry for a module and finds none."""
