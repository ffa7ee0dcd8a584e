"""The kernel for CPUs: numba, on threads of its own. The bytes are those of the reference."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from hubconv import allowance
from hubconv.formats import recodes
from hubconv.formats.nvfp4 import BLOCK, E2M1_VALUES, E4M3_VALUES, Encoded, Quality, Scales
from hubconv.formats.stored import (
    INT4_ZERO,
    NonFiniteError,
    StoredWeight,
    Window,
    dequantize,
)
from hubconv.kernels import Prompt

P = TypeVar("P")
T = TypeVar("T")
Figures = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

_PART_ELEMENTS = 1 << 19  # what a thread takes at a time; sums do not depend on their number
_WORTH_TABLES = 1 << 12  # elements under one scale from which tables cost less than arithmetic
_REPORTED_ELEMENTS = 1 << 18
_INTEGERS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
_MAGNITUDES = {
    "fp8": E4M3_VALUES[:128],
    "mxfp4": E2M1_VALUES[:8],
    "int4": np.arange(INT4_ZERO + 1, dtype=np.float32),
}
# How many bits of a scale's exponent and of its fraction choose its tables. Those of INT4 are BF16
# numbers, most of them of a tensor within four binades: tables for each take 13 MB a thread.
_SLOT_BITS = {"fp8": (4, 0), "int4": (2, 7)}


class CpuKernel(Prompt):
    """Turns windows of stored weights into NVFP4. Threads may share an instance.

    Everything is compiled, or loaded as it was compiled before, when the first one is made.

    Args:
        workers: Threads that will share it; the CPU's cores are divided among them.
    """

    def __init__(self, workers: int = 1) -> None:
        # Here, because these take seconds to import where they are new.
        from hubconv.kernels.cpu import arguments, coded, exact, floats, largest, tables

        self._exact = exact
        self._coded, self._floats, self._largest = coded, floats, largest
        self._arguments, self._tables = arguments, tables
        cores = allowance.cores()
        self._threads = max(1, cores // max(1, workers))
        self._pool = ThreadPoolExecutor(cores, "hubconv-cpu") if self._threads > 1 else None
        self._room = threading.local()

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        return "numba (cpu)"

    def stage(self, nbytes: int) -> Bytes:
        """[nbytes] uint8 to read a window's bytes into: plain memory."""
        return np.empty(nbytes, np.uint8)

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's dequantised weights, as an exact float32 number.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        found = self._each(self._amax, _parts(window))
        if not all(math.isfinite(largest) for largest in found):
            _refuse(window)
        return max(found, default=0.0)

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4 under a given global scale, and measure the distance.

        Args:
            window: Rows of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            scales: `search` tries nine block scales; `amax` is ModelOpt's rule.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        cols = window.weight.cols
        codes = np.empty((window.rows, cols // 2), np.uint8)
        block_scales = np.empty((window.rows, cols // BLOCK), np.uint8)
        unit = np.float32(global_scale)
        rule = self._arguments.Rule(unit, np.float32(1) / unit, scales == "search")

        def encode_part(part: Window) -> Figures:
            first = part.first_row - window.first_row
            rows = slice(first, first + part.rows)
            return self._encode(part, rule, codes[rows], block_scales[rows])

        measured = self._each(encode_part, _parts(window))
        if any(figures[6] for figures in measured):
            _refuse(window)
        quality = Quality(elements=window.rows * cols, blocks=block_scales.size)
        return Encoded(codes, block_scales, sum(map(_quality, measured), quality))

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes, Bytes]:
        """`formats.recodes.fp8_to_mxfp4`, with its errors."""
        weight, group = window.weight, self._exact.GROUP
        if weight.kind != "fp8" or (weight.block[1] % group and weight.scale_shape[1] > 1):
            return recodes.fp8_to_mxfp4(window)
        pairs = np.empty((window.rows, weight.cols // 2), np.uint8)
        exponents = np.empty((window.rows, weight.cols // group), np.uint8)

        def recode(part: Window) -> int:
            first = part.first_row - window.first_row
            rows = slice(first, first + part.rows)
            data, scales = part.data.reshape(-1), part.scales.reshape(-1)
            written = (pairs[rows].reshape(-1), exponents[rows].reshape(-1))
            return int(self._exact.fp8_to_mxfp4(data, scales, self._shape(part), *written))

        if any(self._each(recode, _parts(window))):
            return recodes.fp8_to_mxfp4(window)  # says what is wrong, and where
        return pairs, exponents

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes, Bytes]:
        """`formats.recodes.bf16_to_fp8_block`, with its errors."""
        if window.weight.kind != "plain" or window.weight.dtype != "BF16":
            return recodes.bf16_to_fp8_block(window, block)
        cols = window.weight.cols
        codes = np.empty((window.rows, cols), np.uint8)
        scales = np.empty((-(-window.rows // block[0]), -(-cols // block[1])), np.uint8)

        def recode(first: int) -> int:
            rows = slice(first, min(first + block[0], window.rows))
            data = window.data[rows].reshape(-1).view(np.uint16)
            written = (codes[rows].reshape(-1), scales[first // block[0]])
            shape = (rows.stop - first, cols, *block)
            return int(self._exact.bf16_to_fp8_block(data, *shape, *written))

        if any(self._each(recode, range(0, window.rows, block[0]))):
            return recodes.bf16_to_fp8_block(window, block)
        return codes, scales

    def _each(self, do: Callable[[P], T], parts: Sequence[P]) -> list[T]:
        """Do something with every part, on several threads if there are several."""
        if self._pool is None or len(parts) < 2:
            return [do(part) for part in parts]
        return list(self._pool.map(do, parts))

    def _amax(self, part: Window) -> float:
        weight = part.weight
        if weight.kind == "plain":
            bits = part.data.reshape(-1).view(_INTEGERS[weight.dtype])
            magnitude = np.iinfo(bits.dtype).max >> 1
            top = np.uint32(self._largest.plain(bits, np.uint32(magnitude)))
            if weight.dtype == "F16":
                return float(np.uint16(top).view(np.float16))
            return float((top << np.uint32(16) if weight.dtype == "BF16" else top).view(np.float32))
        tops = np.empty(weight.scale_shape[1], np.uint8)
        scales, values = part.scales.reshape(-1), _MAGNITUDES[weight.kind]
        return float(
            self._largest.coded(part.data.reshape(-1), scales, self._shape(part), values, tops)
        )

    def _encode(self, part: Window, rule: Any, codes: Bytes, block_scales: Bytes) -> Figures:
        """Fill the rows of a part; returns the figures of `arguments.count`."""
        figures = np.zeros(self._arguments.FIGURES)
        out = self._arguments.Output(codes.reshape(-1), block_scales.reshape(-1), figures)
        data, scales, shape = part.data.reshape(-1), part.scales.reshape(-1), self._shape(part)
        weight = part.weight
        if _is_tabled(weight):
            self._coded.encode(data, scales, shape, rule, self._tables_for(weight.kind, rule), out)
        else:
            name = weight.dtype if weight.kind == "plain" else weight.kind.upper()
            kind = getattr(self._floats, name)
            self._floats.encode(data, kind, scales, shape, rule, self._lanes(), out)
        return figures

    def _shape(self, part: Window) -> Any:
        weight = part.weight
        scale_rows, scale_cols = weight.block if weight.kind != "plain" else (1, weight.cols)
        names = {"mxfp4": "E2M1_PAIRS", "int4": "INT4_PAIRS"}
        packing = getattr(self._arguments, names.get(weight.kind, "ALONE"))
        before = part.first_row % scale_rows
        return self._arguments.Shape(
            part.rows, weight.cols, scale_rows, scale_cols, before, packing
        )

    def _lanes(self) -> Any:
        """This thread's room for arithmetic."""
        held = self._room.__dict__
        if "lanes" not in held:
            held["lanes"] = self._floats.empty_lanes()
        return held["lanes"]

    def _tables_for(self, kind: str, rule: Any) -> Any:
        """This thread's tables; what they hold already is good under the same rule."""
        held = self._room.__dict__
        kind = "fp8" if kind == "mxfp4" else kind  # unpacked to its codes
        if kind not in held:
            empty = self._tables.empty_tables(_MAGNITUDES[kind], *_SLOT_BITS[kind])
            held[kind] = [rule, empty]
        if held[kind][0] != rule:
            self._tables.clear(held[kind][1])
            held[kind][0] = rule
        return held[kind][1]


def _parts(window: Window) -> list[Window]:
    """Cut a window into runs of rows; where scales span rows, along their borders if they are near.

    Borders depend on the window alone, so that the sums do not tell how many threads there were.
    """
    rows = max(1, _PART_ELEMENTS // window.weight.cols)
    of_scale = window.weight.block[0]
    if 1 < of_scale <= rows:
        rows -= rows % of_scale
    elif rows < of_scale <= 4 * rows:
        rows = of_scale
    behind = window.first_row % of_scale if of_scale > 1 and rows % of_scale == 0 else 0
    cuts = [0, *range(rows - behind, window.rows, rows), window.rows]
    return [window.part(first, last) for first, last in pairwise(cuts) if first < last]


def _is_tabled(weight: StoredWeight) -> bool:
    """Whether tables of codes serve a weight better than arithmetic on its numbers."""
    if weight.kind == "plain" or weight.block[1] % BLOCK:
        return False
    shared = min(weight.block[0], weight.rows) * min(weight.block[1], weight.cols)
    # A small group pays for its tables only where many groups share its scale, as they do where
    # scales are of few bits.
    few = weight.scale_dtype == ("BF16" if weight.kind == "int4" else "F8_E8M0")
    return few or weight.kind == "mxfp4" or shared >= _WORTH_TABLES


def _quality(figures: Figures) -> Quality:
    exact, flushed, low, error_sq, weight_sq, worst, _ = figures.tolist()
    return Quality(
        exact_blocks=int(exact),
        flushed_blocks=int(flushed),
        low_scales=int(low),
        error_sq=error_sq,
        weight_sq=weight_sq,
        worst_block=math.sqrt(worst),
    )


def _refuse(window: Window) -> NoReturn:
    """Raise NonFiniteError for a window that holds numbers that are not finite."""
    found: list[NonFiniteError] = []
    rows = max(1, _REPORTED_ELEMENTS // window.weight.cols)
    for first in range(0, window.rows, rows):
        try:
            dequantize(window.part(first, first + rows))
        except NonFiniteError as error:
            found.append(error)
    raise NonFiniteError(sum(error.count for error in found), found[0].row, found[0].col)
