"""Blocks of 16 weights to E2M1 codes and E4M3 scales, in a lane of a CUDA device.

The same decisions as `rounding`, and so the same bytes. The compiler must not fuse
(`enable_fp_fusion=False`): where a multiplication and an addition are one step here it is written
out, because the product is exact anyway or the remainder must be.
"""

# Triton turns these bodies into code for the device: there, tuples grow by `+` alone, and neither
# its names nor its decorator have types.
# ruff: noqa: RUF005
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, assignment, misc"

import triton
import triton.language as tl

from hubconv.formats.nvfp4 import E2M1_MAX, E4M3_MAX, MIN_SEARCHED_SCALE, SEARCH_ORDER
from hubconv.kernels.cuda.weights import infinity

least_scale = tl.constexpr(MIN_SEARCHED_SCALE)
_infinity = tl.constexpr(infinity.value)
_offsets = tl.constexpr(SEARCH_ORDER)
_tries = tl.constexpr(len(SEARCH_ORDER))
e2m1_max = tl.constexpr(E2M1_MAX)
_e4m3_max = tl.constexpr(E4M3_MAX)
_lowest_searched = tl.constexpr(0x08)  # E4M3 of 2^-6
_highest = tl.constexpr(0x7E)  # E4M3 of 448
_one = tl.constexpr(0x38)  # E4M3 of 1
_lowest_modelopt = tl.constexpr(2.0**-9)


@triton.jit
def search(weights: tl.tuple, top: tl.tensor, reciprocal: tl.tensor) -> tl.tuple:
    """Round under the best of nine block scales around the plain one.

    Args:
        weights: 16 of [lanes] float32.
        top: [lanes] int32, the bits of their largest magnitude.
        reciprocal: Of the global scale.

    Returns:
        [lanes] int32 scale codes, 16 of [lanes] float32 magnitudes, [lanes] int64 packed codes.
    """
    # In units of the global scale; zeros and signs are read from the weights.
    sizes = ()
    for i in tl.static_range(16):
        sizes = sizes + (tl.abs(weights[i]) * reciprocal,)
    highest = top.to(tl.float32, bitcast=True) * reciprocal
    base = _e4m3_bits(tl.math.div_rn(highest, e2m1_max))
    best = tl.zeros_like(top)
    least = tl.full(top.shape, float("inf"), tl.float32)
    for k in tl.static_range(_tries):
        code = tl.minimum(tl.maximum(base + _offsets[k], _lowest_searched), _highest)
        error = _error(sizes, e4m3(code))
        better = error < least
        best = tl.where(better, code, best)
        least = tl.where(better, error, least)
    code = tl.where(top == 0, _one, best)
    high, low = _inverse(e4m3(code))
    rounded, codes, negative = (), (), ()
    for i in tl.static_range(16):
        size, bits = nearest(tl.minimum(_times(sizes[i], high, low), e2m1_max))
        rounded = rounded + (size,)
        codes = codes + (bits,)
        negative = negative + (weights[i] < 0,)
    return code, rounded, pack(codes, negative)


@triton.jit
def plain(weights: tl.tuple, top: tl.tensor, unit: tl.tensor, extreme: tl.constexpr) -> tl.tuple:
    """Round under amax / 6, with the clamps and the roundings of ModelOpt.

    Args:
        weights: 16 of [lanes] float32.
        top: [lanes] int32, the bits of their largest magnitude.
        unit: The global scale.
        extreme: Whether it is outside of 2^-50 to 2^-9, where products can vanish or overflow.

    Returns:
        [lanes] int32 scale codes, 16 of [lanes] float32 magnitudes, [lanes] int64 packed codes.
    """
    wanted = tl.math.div_rn(top.to(tl.float32, bitcast=True), unit * e2m1_max)
    wanted = tl.where(wanted == 0, 1.0, wanted)
    code = _e4m3_bits(tl.maximum(wanted, _lowest_modelopt))
    scale = e4m3(code) * unit
    vanishing = tl.zeros_like(scale)
    if extreme:
        vanishing = 0.0 - _vanishing(scale)
        # Both sides of the division move by one power of two; a weight that loses bits by it is
        # one that becomes zero.
        power = tl.where(scale < 2.0**-60, 2.0**80, tl.where(scale > 2.0**60, 2.0**-80, 1.0))
        scale *= power
    most = scale * e2m1_max
    high = tl.math.div_rn(1.0, scale)
    opposite = 0.0 - scale
    low = tl.fma(high, opposite, 1.0) * high
    rounded, codes, negative = (), (), ()
    for i in tl.static_range(16):
        size = tl.abs(weights[i])
        if extreme:
            size *= power
        size = tl.minimum(size, most)
        # Markstein: one exact remainder turns a quotient within one unit in the last place into
        # the IEEE quotient, where the reciprocal is IEEE's.
        quotient = _times(size, high, low)
        quotient = tl.fma(tl.fma(quotient, opposite, size), high, quotient)
        size, bits = nearest(quotient)
        rounded = rounded + (size,)
        codes = codes + (bits,)
        negative = negative + (weights[i] < vanishing,)
    return code, rounded, pack(codes, negative)


@triton.jit
def e4m3(code: tl.tensor) -> tl.tensor:
    """[...] float32 from [...] int32 E4M3 codes without signs."""
    return (code << 20).to(tl.float32, bitcast=True) * (2.0**120)


@triton.jit
def _e4m3_bits(number: tl.tensor) -> tl.tensor:
    # Round to nearest, ties to even: the step is 2^-9 below 2^-6, and above it the 20 mantissa bits
    # that E4M3 lacks are rounded away by a carry. Neither sees the number that the other is for.
    number = tl.minimum(number, _e4m3_max)
    bits = number.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 8 * 120
    subnormal = (number + (2.0**14)).to(tl.int32, bitcast=True) & 0xFF
    return tl.where(number < least_scale, subnormal, normal)


@triton.jit
def _error(sizes: tl.tuple, scale: tl.tensor) -> tl.tensor:
    high, low = _inverse(scale)
    opposite = 0.0 - scale
    squares = ()
    for i in tl.static_range(16):
        size = tl.minimum(_times(sizes[i], high, low), e2m1_max)
        binade = tl.maximum(size, 1.0).to(tl.int32, bitcast=True) & _infinity
        shift = binade.to(tl.float32, bitcast=True) * (2.0**22)
        difference = tl.fma((size + shift) - shift, opposite, sizes[i])
        squares = squares + (difference * difference,)
    return _sum_of_16(squares)


@triton.jit
def _inverse(scale: tl.tensor) -> tl.tuple:
    # 1 / scale in two parts. A product with both, rounded once, is off by far less than the gap
    # between a boundary of E2M1 and the nearest quotient that is not on it (rounding.nearest says
    # why there is one), so it falls where the IEEE quotient does.
    high = 1.0 / scale
    return high, tl.fma(high, 0.0 - scale, 1.0) * high


@triton.jit
def _times(number: tl.tensor, high: tl.tensor, low: tl.tensor) -> tl.tensor:
    return tl.fma(number, high, number * low)


@triton.jit
def _vanishing(divisor: tl.tensor) -> tl.tensor:
    # The largest float32 number whose quotient vanishes: divisor * 2^-150, rounded down.
    bound = divisor.to(tl.float64) * (2.0**-150)
    near = bound.to(tl.float32)
    above = (near.to(tl.float64) > bound).to(tl.int32)
    return (near.to(tl.int32, bitcast=True) - above).to(tl.float32, bitcast=True)


@triton.jit
def nearest(size: tl.tensor) -> tl.tuple:
    """The E2M1 magnitude nearest to one of at most 6, as rounding.nearest finds it; its code."""
    # The number that pushes out the digits is 2^22, 2^23 or 2^24 plus two steps for each doubling:
    # the steps in the sum are then the code, and ties are as even as before.
    binade = tl.maximum(size, 1.0).to(tl.int32, bitcast=True) & _infinity
    shift = (binade + (binade >> 22) + ((22 << 23) - 254)).to(tl.float32, bitcast=True)
    moved = size + shift
    return moved - shift, moved.to(tl.int32, bitcast=True) & 7


@triton.jit
def pack(codes: tl.tuple, negative: tl.tuple) -> tl.tensor:
    """[lanes] int64: 16 codes of [lanes] int32 magnitudes and [lanes] bool signs."""
    low, high = _pack_8(codes[0:8], negative[0:8]), _pack_8(codes[8:16], negative[8:16])
    return (low.to(tl.int64) & 0xFFFFFFFF) | (high.to(tl.int64) << 32)


@triton.jit
def _pack_8(codes: tl.tuple, negative: tl.tuple) -> tl.tensor:
    packed = tl.zeros_like(codes[0])
    for i in tl.static_range(8):
        packed |= (codes[i] << (4 * i)) | (tl.where(negative[i], 1, 0) << (4 * i + 3))
    return packed


@triton.jit
def _sum_of_16(x: tl.tuple) -> tl.tensor:
    # By adjacent pairs, the order that every kernel keeps.
    first = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
    return first + (((x[8] + x[9]) + (x[10] + x[11])) + ((x[12] + x[13]) + (x[14] + x[15])))
