"""FP8 that was born as MXFP4, spelled as MXFP4 again, in Triton: one lane, one group of 32 weights.

What `formats.recodes.fp8_to_mxfp4` defines, for scales that are powers of two. A group of which
that is not true, or that the definition treats in another way, is counted and left to it.
"""

# Triton turns these bodies into code for the device: there, tuples grow by `+` alone, and neither
# its names nor its decorator have types.
# ruff: noqa: RUF005
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, assignment, misc"

import triton
import triton.language as tl

from hubconv.kernels.cuda import rounding, weights

_magnitude = tl.constexpr(weights.magnitude.value)
_infinity = tl.constexpr(weights.infinity.value)
_nan_code = tl.constexpr(weights.nan_code.value)
_e2m1_max = tl.constexpr(rounding.e2m1_max.value)
_fraction = tl.constexpr(~weights.infinity.value)  # and the sign
_bias = tl.constexpr(127)  # of float32 and of E8M0
_most = tl.constexpr(254)  # of E8M0: 255 is NaN
_unshifted = tl.constexpr(2.0**120)
_top = tl.constexpr(2)  # exponent of 4 and 6, the largest codes


@triton.jit
def mxfp4(
    data: tl.tensor,
    scales: tl.tensor,
    pairs: tl.tensor,
    exponents: tl.tensor,
    wrongs: tl.tensor,
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
    lanes: tl.constexpr,
    tiles: tl.constexpr,
) -> None:
    """Spell groups as E2M1 codes times a power of two.

    Args:
        data: [8-byte words] int64, E4M3 codes of whole rows; columns a multiple of 32.
        scales: [scale rows, scale columns] float32; no group lies under two of them.
        pairs: [blocks] int64, written: 16 codes each.
        exponents: [blocks / 2] uint8 E8M0, written.
        wrongs: [programs] int32, written: groups that are to be left to the definition.
        blocks: Blocks of 16, two in a group; this and what follows: `variants.Geometry.sizes`.
        per_row: See there.
        row_factor: See there.
        row_shift: See there.
        first_in_band: See there.
        band_factor: See there.
        band_shift: See there.
        col_factor: See there.
        col_shift: See there.
        scale_cols: See there.
        lanes: Groups that a program works on at a time.
        tiles: How often it does.
    """
    program = tl.program_id(0)
    rows = (blocks, per_row, row_factor, row_shift, first_in_band)
    where = rows + (band_factor, band_shift, col_factor, col_shift, scale_cols)
    wrong = tl.zeros([lanes], tl.int32)
    for tile in range(tiles):
        group = (program * tiles + tile) * lanes + tl.arange(0, lanes)
        block = 2 * group
        valid = block < blocks
        low = weights.bits_of(data, block, valid, "fp8")
        high = weights.bits_of(data, block + 1, valid, "fp8")
        top = tl.maximum(weights.max_of_16(low), weights.max_of_16(high))
        # An exponent field of float32, as far above that of a number as its scale is above 1.
        field = (top.to(tl.float32, bitcast=True) * _unshifted).to(tl.int32, bitcast=True) >> 23
        field = tl.where(top == 0, _bias + _top, field) - _top
        # To numbers in which the largest of the group is 4 to below 8.
        power = ((-field + 2 * _bias) << 23).to(tl.float32, bitcast=True)
        low_pairs, low_bad = _spelled(low, power)
        high_pairs, high_bad = _spelled(high, power)

        first, col = weights.band_of(scales, block, where)
        scale = weights.scale_of(first, col, valid, where).to(tl.int32, bitcast=True)
        exponent = tl.where(top == 0, _bias, field + (scale >> 23) - _bias)
        # Subnormal scales are powers of two too; they are rare, and the definition tells.
        odd = ((scale & _fraction) != 0) | (scale == 0) | (scale == _infinity)
        outside = (exponent < 0) | (exponent > _most)
        bad = low_bad | high_bad | odd | outside | (top == _nan_code)
        wrong += (valid & bad).to(tl.int32)
        tl.store(pairs + block, low_pairs, mask=valid)
        tl.store(pairs + block + 1, high_pairs, mask=valid)
        tl.store(exponents + group, exponent.to(tl.uint8), mask=valid)
    tl.store(wrongs + program, tl.sum(wrong, 0))


@triton.jit
def _spelled(bits: tl.tuple, power: tl.tensor) -> tl.tuple:
    # 16 codes, and whether one of them is not exact. The sign of a zero is kept.
    codes, negative = (), ()
    bad = power < 0
    for i in tl.static_range(16):
        # Both products are exact.
        size = (bits[i] & _magnitude).to(tl.float32, bitcast=True) * _unshifted * power
        rounded, code = rounding.nearest(tl.minimum(size, _e2m1_max))
        bad |= rounded != size
        codes = codes + (code,)
        negative = negative + (bits[i] < 0,)
    return rounding.pack(codes, negative), bad
