"""Stored bytes to the 16 weights of a block, in a lane of a CUDA device.

No device type of 8 bits is needed: E4M3 and E2M1 bits are shifted to where float32 has its sign,
the end of its exponent and the start of its mantissa, and an exact product corrects the exponent.
What is subnormal is a subnormal number at first, and right by the same product.
"""

# Triton turns these bodies into code for the device: there, tuples grow by `+` alone, and neither
# its names nor its decorator have types.
# ruff: noqa: RUF005
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, assignment, misc"

import triton
import triton.language as tl

from hubconv.formats.stored import INT4_ZERO

magnitude = tl.constexpr(0x7FFFFFFF)  # the bits of a float32 number but its sign
infinity = tl.constexpr(0x7F800000)
nan_code = tl.constexpr(0x7F << 20)  # of E4M3, in `bits_of`
_counted = tl.constexpr(0x4B000000)  # 2^23: the lowest bits of such numbers are integers
_zero_counted = tl.constexpr(2.0**23 + INT4_ZERO)


@triton.jit
def load(
    data: tl.tensor,
    scales: tl.tensor,
    block: tl.tensor,
    where: tl.tuple,
    form: tl.constexpr,
    mixed: tl.constexpr,
) -> tl.tuple:
    """16 float32 weights, and the bits of their largest magnitude.

    Those are the bits of an infinity or NaN, above those of every finite number, if a weight, a
    scale or a product is one.

    Args:
        data: The stored bytes, in int64 words.
        scales: The scales, float32.
        block: [lanes] int32, the block of each lane.
        where: What `Geometry.sizes` says of sizes.
        form: fp8, mxfp4, int4, BF16, F16 or F32.
        mixed: Whether the 16 may lie under several scales.
    """
    valid = block < where[0]
    bits = bits_of(data, block, valid, form)
    numbers = ()
    for i in tl.static_range(16):
        numbers = numbers + (bits[i].to(tl.float32, bitcast=True),)
    if form != "fp8" and form != "mxfp4" and form != "int4":
        return numbers, max_of_16(bits)

    factor: tl.constexpr = 2.0**120 if form == "fp8" else 2.0**126 if form == "mxfp4" else 1.0
    first, col = band_of(scales, block, where)
    weights = ()
    largest = tl.abs(numbers[0])
    for i in tl.static_range(1, 16):
        largest = tl.maximum(largest, tl.abs(numbers[i]))
    # Under one scale the largest number is the largest product, and NaN or an infinity as a scale
    # makes it one. The E4M3 codes that mean NaN have been taken for 480.
    if mixed:
        top = tl.zeros_like(block)
        for i in tl.static_range(16):
            place = first + _divided(col * 16 + i, where[7], where[8])
            scale = tl.load(place, mask=valid, other=0.0)
            weight = numbers[i] * factor * scale
            weights = weights + (weight,)
            top = tl.maximum(top, weight.to(tl.int32, bitcast=True) & magnitude)
    else:
        scale = scale_of(first, col, valid, where)
        for i in tl.static_range(16):
            weights = weights + (numbers[i] * factor * scale,)
        top = (largest * factor * scale).to(tl.int32, bitcast=True) & magnitude
    if form == "fp8":
        top = tl.where(largest.to(tl.int32, bitcast=True) == nan_code, magnitude, top)
    return weights, top


@triton.jit
def bits_of(data: tl.tensor, block: tl.tensor, valid: tl.tensor, form: tl.constexpr) -> tl.tuple:
    """Bits of the 16 numbers of a block as float32, before any scale.

    Those of fp8 are 2^120 too small, those of mxfp4 2^126.
    """
    return _bits(_words(data, block, valid, form), form)


@triton.jit
def band_of(scales: tl.tensor, block: tl.tensor, where: tl.tuple) -> tl.tuple:
    """Where the row of scales of each block begins, and the block's number within its own row."""
    row = _divided(block, where[2], where[3])
    first = scales + _divided(row + where[4], where[5], where[6]) * where[9]
    return first, block - row * where[1]


@triton.jit
def scale_of(first: tl.tensor, col: tl.tensor, valid: tl.tensor, where: tl.tuple) -> tl.tensor:
    """The one scale of each block, float32; from `band_of`."""
    return tl.load(first + _divided(col, where[7], where[8]), mask=valid, other=0.0)


@triton.jit
def _divided(numbers: tl.tensor, factor: tl.tensor, shift: tl.tensor) -> tl.tensor:
    # By a divisor that `variants` has turned into a factor of 32 bits and a shift.
    wide = tl.full(numbers.shape, factor, tl.int32).to(tl.uint32, bitcast=True)
    halves = tl.umulhi(numbers.to(tl.uint32, bitcast=True) * 2, wide)
    return halves.to(tl.int32, bitcast=True) >> shift


@triton.jit
def _words(data: tl.tensor, block: tl.tensor, valid: tl.tensor, form: tl.constexpr) -> tl.tuple:
    # int32 words of a block, loaded in pairs: one pair for mxfp4 and int4, two for fp8, four, eight
    # for F32.
    few: tl.constexpr = 2 if form == "fp8" else 1
    coded: tl.constexpr = form == "fp8" or form == "mxfp4" or form == "int4"
    pairs: tl.constexpr = few if coded else 8 if form == "F32" else 4
    words = ()
    for i in tl.static_range(pairs):
        pair = tl.load(data + block * pairs + i, mask=valid, other=0)
        words = words + (pair.to(tl.int32), (pair >> 32).to(tl.int32))
    return words


@triton.jit
def _bits(words: tl.tuple, form: tl.constexpr) -> tl.tuple:
    # Bits of 16 float32 numbers, 2^120 or 2^126 too small where the form is fp8 or mxfp4.
    values = ()
    for i in tl.static_range(16):
        if form == "fp8":
            value = ((words[i // 4] << (24 - 8 * (i % 4))) >> 4) & -0x78100000
        elif form == "mxfp4":
            value = ((words[i // 8] << (28 - 4 * (i % 8))) >> 6) & -0x7E400000
        elif form == "int4":
            count = ((words[i // 8] >> (4 * (i % 8))) & 15) | _counted
            count = count.to(tl.float32, bitcast=True) - _zero_counted  # zero comes out as +0
            value = count.to(tl.int32, bitcast=True)
        elif form == "BF16":
            value = (words[i // 2] << 16) if i % 2 == 0 else words[i // 2] & -0x10000
        elif form == "F16":
            half = (words[i // 2] >> (16 * (i % 2))).to(tl.int16).to(tl.float16, bitcast=True)
            value = half.to(tl.float32).to(tl.int32, bitcast=True)
        else:
            value = words[i]
        values = values + (value,)
    return values


@triton.jit
def max_of_16(bits: tl.tuple) -> tl.tensor:
    """Bits of the largest of 16 magnitudes."""
    top = bits[0] & magnitude
    for i in tl.static_range(1, 16):
        top = tl.maximum(top, bits[i] & magnitude)
    return top
