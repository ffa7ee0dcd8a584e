"""The arithmetic of numerics on a CUDA device, in Triton: one lane, one block of 16 weights.

A lane loads the stored bytes of its block, and everything up to the packed codes happens in its
registers. Figures are summed by lane, then by program, then by whoever calls.
"""

# Triton turns these bodies into code for the device: there, tuples grow by `+` alone, and neither
# its names nor its decorator have types.
# ruff: noqa: RUF005
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, assignment, misc"

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import triton
import triton.language as tl
from torch import Tensor

from hubconv.formats.nvfp4 import BLOCK, Quality, Scales
from hubconv.formats.stored import Window
from hubconv.kernels import cuda_rounding, cuda_weights

_LANES: Final = 128
_TILES: Final = 8
_OPTIONS: Final[Mapping[str, object]] = {
    "lanes": _LANES,
    "tiles": _TILES,
    "num_warps": _LANES // 32,
    "enable_fp_fusion": False,
}
FIGURES: Final = 4
"""Numbers that each program of `encode` leaves for `quality`."""

_COUNTS: Final = "<u2"  # four in the place of one figure: no program has so many blocks
_infinity = tl.constexpr(cuda_weights.infinity.value)
_least_scale = tl.constexpr(cuda_rounding.least_scale.value)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How stored bytes lie, for whoever computes on a device.

    Attributes:
        form: fp8, mxfp4, int4, BF16, F16 or F32.
        blocks: Blocks of 16 weights.
        blocks_per_row: Of them in a row.
        first_in_band: Rows between the start of the first row of scales and the first row.
        block_rows: Rows that share a scale.
        block_cols: Columns that share a scale.
        scale_cols: Scales in a row of them.
    """

    form: str
    blocks: int
    blocks_per_row: int
    first_in_band: int = 0
    block_rows: int = 1
    block_cols: int = BLOCK
    scale_cols: int = 0

    @property
    def mixed(self) -> bool:
        """Whether a block of 16 can lie under several scales."""
        return self.block_cols % BLOCK != 0 and self.scale_cols > 1

    @property
    def programs(self) -> int:
        """How many programs a launch has."""
        return -(-self.blocks // (_LANES * _TILES))

    def launch(self) -> tuple[int | str | bool, ...]:
        """What every kernel here takes: sizes, divisors as factors and shifts, the form."""
        across = self.block_cols if self.mixed else max(self.block_cols // BLOCK, 1)
        if self.scale_cols <= 1:
            across = self.blocks_per_row
        return (
            self.blocks,
            self.blocks_per_row,
            *_divisor(self.blocks_per_row),
            self.first_in_band,
            *_divisor(self.block_rows),
            *_divisor(across),
            self.scale_cols,
            self.form,
            self.mixed,
        )


def _divisor(number: int) -> tuple[int, int]:
    """A factor of 32 bits, taken for a signed number, and a shift that divide 31 bits exactly."""
    shift = (number - 1).bit_length()
    return -(-(2 ** (31 + shift)) // number) - 2**32, shift


def geometry(window: Window) -> Geometry:
    """How the bytes of a window lie; columns a multiple of 16."""
    weight = window.weight
    per_row = weight.cols // BLOCK
    if weight.kind == "plain":
        return Geometry(weight.dtype, window.rows * per_row, per_row)
    block_rows, block_cols = weight.block
    return Geometry(
        weight.kind,
        window.rows * per_row,
        per_row,
        window.first_row % block_rows,
        block_rows,
        block_cols,
        weight.scale_shape[1],
    )


def amax(data: Tensor, scales: Tensor, tops: Tensor, layout: Geometry) -> None:
    """Find largest magnitudes; all tensors on one device.

    Args:
        data: [8-byte words] int64, stored bytes of whole rows.
        scales: [scale rows, scale columns] float32; anything for plain weights.
        tops: [programs] int32, written: the bits of each program's largest magnitude; those of an
            infinity or NaN or more where something is not finite.
        layout: How they lie.
    """
    _amax[layout.programs,](data, scales, tops, *layout.launch(), **_OPTIONS)


def encode(
    data: Tensor,
    scales: Tensor,
    codes: Tensor,
    block_scales: Tensor,
    figures: Tensor,
    layout: Geometry,
    global_scale: float,
    rule: Scales,
) -> None:
    """Round to NVFP4 and measure the distance; all tensors on one device.

    Args:
        data: [8-byte words] int64, stored bytes of whole rows.
        scales: [scale rows, scale columns] float32; anything for plain weights.
        codes: [blocks] int64, written: 16 codes each.
        block_scales: [blocks] uint8, written.
        figures: [programs, FIGURES] float64, written.
        layout: How they lie.
        global_scale: Above zero; a power of two with a normal reciprocal for `search`.
        rule: `search` or `amax`.
    """
    outputs = (codes, block_scales, figures)
    extreme = rule == "amax" and not 2.0**-50 <= global_scale <= 2.0**-9
    extreme = rule == "amax" and not 2.0**-50 <= global_scale <= 2.0**-9
    extreme = rule == "amax" and not 2.0**-50 <= global_scale <= 2.0**-9
    extreme = rule == "amax" and not 2.0**-50 <= global_scale <= 2.0**-9
    _encode[layout.programs,](
        data,
        scales,
        *outputs,
        global_scale,
        1 / global_scale,
        *layout.launch(),
        rule,
        extreme,
        **_OPTIONS,
    )


def quality(figures: npt.NDArray[np.float64], blocks: int) -> tuple[Quality, int]:
    """What the figures of some programs say, and how many blocks hold something not finite.

    Args:
        figures: [programs, FIGURES] float64.
        blocks: Blocks that they have seen.
    """
    columns = np.ascontiguousarray(figures.T)
    counts = columns[3].view(_COUNTS).reshape(-1, 4).sum(0, np.int64)
    exact, flushed, low, bad = counts.tolist()
    found = Quality(
        elements=blocks * BLOCK,
        blocks=blocks,
        exact_blocks=exact,
        flushed_blocks=flushed,
        low_scales=low,
        error_sq=float(columns[0].sum()),
        weight_sq=float(columns[1].sum()),
        worst_block=math.sqrt(columns[2].max()),
    )
    return found, bad


_sizes = [
    "blocks",
    "per_row",
    "row_factor",
    "row_shift",
    "first_in_band",
    "band_factor",
    "band_shift",
    "col_factor",
    "col_shift",
    "scale_cols",
]


@triton.jit(do_not_specialize=_sizes)
def _amax(
    data: tl.tensor,
    scales: tl.tensor,
    tops: tl.tensor,
    blocks: tl.tensor,
    per_row: tl.tensor,
    row_factor: tl.tensor,
    row_shift: tl.tensor,
    first_in_band: tl.tensor,
    band_factor: tl.tensor,
    band_shift: tl.tensor,
    col_factor: tl.tensor,
    col_shift: tl.tensor,
    scale_cols: tl.tensor,
    form: tl.constexpr,
    mixed: tl.constexpr,
    lanes: tl.constexpr,
    tiles: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    rows = (blocks, per_row, row_factor, row_shift, first_in_band)
    where = rows + (band_factor, band_shift, col_factor, col_shift, scale_cols)
    top = tl.zeros([lanes], tl.int32)
    for tile in range(tiles):
        block = (program * tiles + tile) * lanes + tl.arange(0, lanes)
        top = tl.maximum(top, cuda_weights.load(data, scales, block, where, form, mixed)[1])
    tl.store(tops + program, tl.max(top, 0))


@triton.jit(do_not_specialize=_sizes)
def _encode(
    data: tl.tensor,
    scales: tl.tensor,
    codes: tl.tensor,
    block_scales: tl.tensor,
    figures: tl.tensor,
    unit: tl.tensor,
    reciprocal: tl.tensor,
    blocks: tl.tensor,
    per_row: tl.tensor,
    row_factor: tl.tensor,
    row_shift: tl.tensor,
    first_in_band: tl.tensor,
    band_factor: tl.tensor,
    band_shift: tl.tensor,
    col_factor: tl.tensor,
    col_shift: tl.tensor,
    scale_cols: tl.tensor,
    form: tl.constexpr,
    mixed: tl.constexpr,
    rule: tl.constexpr,
    extreme: tl.constexpr,
    lanes: tl.constexpr,
    tiles: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    rows = (blocks, per_row, row_factor, row_shift, first_in_band)
    where = rows + (band_factor, band_shift, col_factor, col_shift, scale_cols)
    error_sq, weight_sq = tl.zeros([lanes], tl.float64), tl.zeros([lanes], tl.float64)
    worst_error, worst_weight = error_sq, tl.full([lanes], 1.0, tl.float64)
    counts, more_counts = tl.zeros([lanes], tl.int32), tl.zeros([lanes], tl.int32)
    for tile in range(tiles):
        block = (program * tiles + tile) * lanes + tl.arange(0, lanes)
        valid = block < blocks
        weights, top = cuda_weights.load(data, scales, block, where, form, mixed)
        if rule == "search":
            code, rounded, packed = cuda_rounding.search(weights, top, reciprocal)
        else:
            code, rounded, packed = cuda_rounding.plain(weights, top, unit, extreme)
        tl.store(codes + block, packed, mask=valid)
        tl.store(block_scales + block, code.to(tl.uint8), mask=valid)

        scale = cuda_rounding.e4m3(code)
        errors, squares = _distance(weights, rounded, scale.to(tl.float64) * unit)
        error_sq += errors
        weight_sq += squares
        # Which quotient is larger, without dividing; products of such squares are normal numbers.
        worse = errors * worst_weight > worst_error * squares
        worst_error = tl.where(worse, errors, worst_error)
        worst_weight = tl.where(worse, squares, worst_weight)
        flushed = (top > 0) & ((packed & 0x7777777777777777) == 0)
        counts += (valid & (errors == 0)).to(tl.int32) | (flushed.to(tl.int32) << 16)
        low, bad = scale < _least_scale, top >= _infinity
        more_counts += low.to(tl.int32) | (bad.to(tl.int32) << 16)
    mine = figures + program * 4
    tl.store(mine, tl.sum(error_sq, 0))
    tl.store(mine + 1, tl.sum(weight_sq, 0))
    tl.store(mine + 2, tl.max(worst_error / worst_weight, 0))
    both = counts.to(tl.int64) | (more_counts.to(tl.int64) << 32)
    tl.store(mine + 3, tl.sum(both, 0).to(tl.float64, bitcast=True))


@triton.jit
def _distance(weights: tl.tuple, rounded: tl.tuple, unit: tl.tensor) -> tl.tuple:
    # Float64 sums of squared errors and of squared weights; a magnitude times a unit is exact.
    opposite = 0.0 - unit
    errors, squares = tl.zeros_like(unit), tl.zeros_like(unit)
    for i in tl.static_range(16):
        size = tl.abs(weights[i]).to(tl.float64)
        difference = tl.fma(rounded[i].to(tl.float64), opposite, size)
        errors = tl.fma(difference, difference, errors)
        squares = tl.fma(size, size, squares)
    return errors, squares
