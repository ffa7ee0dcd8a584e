"""What is found out about one NVFP4 weight while its rows pass, in whatever order and thread."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hubconv.audit.counterparts import Stored
from hubconv.audit.packed import Packed
from hubconv.audit.reading import Bytes2D, decode, dequantize, steps
from hubconv.errors import SourceError
from hubconv.formats import stored
from hubconv.formats.contract import Finding
from hubconv.formats.fidelity import Fidelity, ScaleFaults, scale_faults
from hubconv.formats.nvfp4 import Quality
from hubconv.steps.verify import fidelity_findings

MANY_FLUSHED: Final = 1e-3
"""Share of blocks flushed to zero from which a weight is worth a warning."""

SAME: Final = 1e-6
"""Relative difference of two sums of the same squares that their order may make."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came out for one weight.

    Attributes:
        module: Its name.
        role: Its role.
        rows: Rows that were decoded.
        quality: How far they are from the source's; None where they were not compared.
        findings: What is wrong with it.
    """

    module: str
    role: str
    rows: int
    quality: Quality | None
    findings: tuple[Finding, ...]


class Account:
    """Sums over a weight; any thread may add rows to it.

    Args:
        weight: The weight.
        role: Its role.
        factor: What its values are multiplied with; a positive number.
        origin: The source's weight; None to decode it alone.
        recorded: What hubconv noted when it made it, from the details beside the manifest.
        is_ours: Whether hubconv made it.
    """

    def __init__(
        self,
        weight: Packed,
        role: str,
        factor: float,
        origin: Stored | None,
        recorded: Mapping[str, Any] | None,
        *,
        is_ours: bool,
    ) -> None:
        self.weight = weight
        self.origin = origin if origin and origin.shape == (weight.rows, weight.cols) else None
        self._misshapen = origin if self.origin is None else None
        self._role = role
        self._factor = factor
        self._recorded = recorded
        self._is_ours = is_ours
        self._lock = threading.Lock()
        self._faults = ScaleFaults()
        self._fidelity: Fidelity | None = None
        self._rows = 0
        self._source_fault = ""
        self._looked: Looked | None = None

    def add(self, codes: Bytes2D, scales: Bytes2D, window: stored.Window | None) -> None:
        """Some rows of it.

        Args:
            codes: Their codes.
            scales: Their block scales.
            window: The same rows of the source; None where there is none to compare with.
        """
        faults = scale_faults(scales)
        if window is not None:
            self._compare(codes, scales, window)
        with self._lock:
            self._faults += faults
            self._rows += len(codes)
            is_whole = self._rows == self.weight.rows
        if is_whole:
            self.close()

    def _compare(self, codes: Bytes2D, scales: Bytes2D, window: stored.Window) -> None:
        for first, last in steps(len(codes), self.weight.cols):
            decoded = decode(codes[first:last], scales[first:last], self._factor)
            try:
                wanted = dequantize(window.part(first, last))
            except SourceError as error:
                self._source_fault = error.what
                return
            with self._lock:
                if self._fidelity is None:
                    self._fidelity = Fidelity(self.weight.cols)
                self._fidelity.add(decoded, wanted, scales[first:last], self._factor)

    def close(self) -> Looked:
        """What came out. After the last rows the sums are let go of: a shard has many weights."""
        with self._lock:
            if self._looked is None:
                quality = self._fidelity.quality if self._fidelity is not None else None
                findings = (*self._scale_findings(), *self._compared())
                self._looked = Looked(self.weight.module, self._role, self._rows, quality, findings)
                self._fidelity = None
            return self._looked

    def _scale_findings(self) -> Iterator[Finding]:
        faults, where = self._faults, self.weight.scales.name
        if faults.nan or faults.negative:
            told = f"{faults.nan} of {faults.blocks} block scales are NaN"
            told += f", {faults.negative} are below zero."
            yield Finding("scale.block", where, told)
        if faults.low:
            told = f"{faults.low} of {faults.blocks} block scales are below 2^-6."
            yield Finding("scale.low", where, told, ("vllm",), "warning")

    def _compared(self) -> Iterator[Finding]:
        module = self.weight.module
        if self._misshapen is not None:
            here, there = [self.weight.rows, self.weight.cols], list(self._misshapen.shape)
            yield Finding("source.shape", module, f"It is {here}, the source's is {there}.")
        if self._source_fault:
            what = f"The source's weight cannot be compared: {self._source_fault}"
            yield Finding("source.unreadable", module, what, severity="warning")
        fidelity = self._fidelity
        if fidelity is None or self._faults.nan:
            return
        is_whole = fidelity.rows == self.weight.rows
        what = "Its rows" if is_whole else f"{fidelity.rows} of its rows"
        found = list(fidelity_findings(fidelity, module, what, is_ours=self._is_ours))
        yield from found
        quality = fidelity.quality
        if not found and quality.flushed_blocks > MANY_FLUSHED * quality.blocks:
            told = (
                f"{quality.flushed_blocks} of {quality.blocks} blocks decode to zero and are not."
            )
            yield Finding("decoded.flushed", module, told, severity="warning")
        if is_whole and self._recorded is not None and not self._source_fault:
            yield from _against(self._recorded, quality, module)


def _against(recorded: Mapping[str, Any], quality: Quality, module: str) -> Iterator[Finding]:
    """What hubconv measured when it made the weight must come out again."""
    for name in ("blocks", "exact_blocks", "flushed_blocks", "error_sq", "weight_sq"):
        told, seen = recorded.get(name), getattr(quality, name)
        if not isinstance(told, int | float):
            continue
        if abs(seen - told) > SAME * max(abs(told), abs(seen)):
            what = f"Its {name} is {seen:.9g} now; {told:.9g} was recorded when it was made."
            yield Finding("decoded.recorded", module, what)
