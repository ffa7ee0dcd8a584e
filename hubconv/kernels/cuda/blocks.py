"""The arithmetic of numerics on a CUDA device, in Triton: one lane, one block of 16 weights.

A lane loads the stored bytes of its block, and everything up to the packed codes happens in its
registers. Figures are summed by lane, then by program, then by whoever calls.
"""

# Triton turns these bodies into code for the device: there, tuples grow by `+` alone, and neither
# its names nor its decorator have types.
# ruff: noqa: RUF005
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, assignment, misc"

import triton
import triton.language as tl

from hubconv.kernels.cuda import rounding, weights

_infinity = tl.constexpr(weights.infinity.value)
_least_scale = tl.constexpr(rounding.least_scale.value)


@triton.jit
def amax(
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
    """Find largest magnitudes.

    Args:
        data: [8-byte words] int64, stored bytes of whole rows.
        scales: [scale rows, scale columns] float32; anything for plain weights.
        tops: [programs] int32, written: the bits of each program's largest magnitude; those of an
            infinity or NaN or more where something is not finite.
        blocks: This and what follows: `variants.Geometry.sizes`.
        per_row: See there.
        row_factor: See there.
        row_shift: See there.
        first_in_band: See there.
        band_factor: See there.
        band_shift: See there.
        col_factor: See there.
        col_shift: See there.
        scale_cols: See there.
        form: How weights are stored.
        mixed: A block of 16 can lie under several scales.
        lanes: Blocks that a program works on at a time.
        tiles: How often it does.
    """
    program = tl.program_id(0)
    rows = (blocks, per_row, row_factor, row_shift, first_in_band)
    where = rows + (band_factor, band_shift, col_factor, col_shift, scale_cols)
    top = tl.zeros([lanes], tl.int32)
    for tile in range(tiles):
        block = (program * tiles + tile) * lanes + tl.arange(0, lanes)
        top = tl.maximum(top, weights.load(data, scales, block, where, form, mixed)[1])
    tl.store(tops + program, tl.max(top, 0))


@triton.jit
def encode(
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
    """Round to NVFP4 and measure the distance.

    Args:
        data: [8-byte words] int64, stored bytes of whole rows.
        scales: [scale rows, scale columns] float32; anything for plain weights.
        codes: [blocks] int64, written: 16 codes each.
        block_scales: [blocks] uint8, written.
        figures: [programs, FIGURES] float64, written; see `variants.quality`.
        unit: The global scale; a power of two with a normal reciprocal for `search`.
        reciprocal: Of it.
        blocks: This and what follows: `variants.Geometry.sizes`.
        per_row: See there.
        row_factor: See there.
        row_shift: See there.
        first_in_band: See there.
        band_factor: See there.
        band_shift: See there.
        col_factor: See there.
        col_shift: See there.
        scale_cols: See there.
        form: How weights are stored.
        mixed: A block of 16 can lie under several scales.
        rule: `search` or `amax`.
        extreme: The global scale is far from those of common weights.
        lanes: Blocks that a program works on at a time.
        tiles: How often it does.
    """
    program = tl.program_id(0)
    rows = (blocks, per_row, row_factor, row_shift, first_in_band)
    where = rows + (band_factor, band_shift, col_factor, col_shift, scale_cols)
    error_sq, weight_sq = tl.zeros([lanes], tl.float64), tl.zeros([lanes], tl.float64)
    worst_error, worst_weight = error_sq, tl.full([lanes], 1.0, tl.float64)
    counts, more_counts = tl.zeros([lanes], tl.int32), tl.zeros([lanes], tl.int32)
    for tile in range(tiles):
        block = (program * tiles + tile) * lanes + tl.arange(0, lanes)
        valid = block < blocks
        numbers, top = weights.load(data, scales, block, where, form, mixed)
        if rule == "search":
            code, rounded, packed = rounding.search(numbers, top, reciprocal)
        else:
            code, rounded, packed = rounding.plain(numbers, top, unit, extreme)
        tl.store(codes + block, packed, mask=valid)
        tl.store(block_scales + block, code.to(tl.uint8), mask=valid)

        scale = rounding.e4m3(code)
        errors, squares = _distance(numbers, rounded, scale.to(tl.float64) * unit)
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
def _distance(numbers: tl.tuple, rounded: tl.tuple, unit: tl.tensor) -> tl.tuple:
    # Float64 sums of squared errors and of squared weights; a magnitude times a unit is exact.
    opposite = 0.0 - unit
    errors, squares = tl.zeros_like(unit), tl.zeros_like(unit)
    for i in tl.static_range(16):
        size = tl.abs(numbers[i]).to(tl.float64)
        difference = tl.fma(rounded[i].to(tl.float64), opposite, size)
        errors = tl.fma(difference, difference, errors)
        squares = tl.fma(size, size, squares)
    return errors, squares
