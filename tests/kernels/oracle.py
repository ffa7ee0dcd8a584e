"""NVFP4 by the book: one block at a time in plain Python, sharing no code with the package.

Python floats are float64. Every number that is compared here (a float32, or a product of an E2M1
boundary, an E4M3 scale and a power of two) fits into one exactly; where the book asks for a
float32 rounding, `f32` makes it.
"""

import math
import struct

import numpy as np

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
OFFSETS = (0, -1, 1, -2, 2, 3, 4, 5, 6)


def f32(number):
    """A float rounded to float32, to nearest with ties to even."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


def e4m3(code):
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3 = [e4m3(code) for code in range(127)]


def e4m3_code(number):
    """The code of the nearest E4M3 number, ties to the even code, at most 448."""
    above = next((code for code in range(127) if E4M3[code] >= number), 126)
    if above == 0 or number >= 448:
        return above
    low, high = number - E4M3[above - 1], E4M3[above] - number
    return above if high < low or (high == low and above % 2 == 0) else above - 1


def e2m1_code(size, unit):
    """The code of a magnitude, by comparison with the boundaries of numerics section 3."""
    boundaries = [(0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False)]
    boundaries += [(3.5, True), (5.0, False)]
    code = 0
    for boundary, at_border in boundaries:
        code += size >= boundary * unit if at_border else size > boundary * unit
    return code


def squared_error(sizes, codes, scale):
    """Sum of squares in units of the global scale, float32, by adjacent pairs."""
    terms = []
    for size, code in zip(sizes, codes, strict=True):
        difference = f32(f32(E2M1[code] * scale) - size)
        terms.append(f32(difference * difference))
    while len(terms) > 1:
        terms = [f32(terms[at] + terms[at + 1]) for at in range(0, len(terms), 2)]
    return terms[0]


def search_block(block, global_scale):
    """(codes of 16 floats, code of the block scale) by the nine-code search."""
    sizes = [abs(weight) for weight in block]
    top = max(sizes)
    if top == 0:
        return [0] * 16, e4m3_code(1.0)
    base = e4m3_code(f32(top / (6 * global_scale)))
    best = None
    for offset in OFFSETS:
        scale_code = min(max(base + offset, 8), 126)
        scale = E4M3[scale_code]
        codes = [e2m1_code(size, scale * global_scale) for size in sizes]
        in_units = [f32(size / global_scale) for size in sizes]
        error = squared_error(in_units, codes, scale)
        if best is None or error < best[0]:
            best = (error, codes, scale_code)
    codes = [code + 8 * (weight < 0) for code, weight in zip(best[1], block, strict=True)]
    return codes, best[2]


def plain_block(block, global_scale):
    """(codes, block scale code) by amax / 6, with every rounding that float32 arithmetic makes."""
    top = max(abs(weight) for weight in block)
    wanted = f32(top / f32(6 * global_scale))
    scale_code = e4m3_code(max(1.0 if wanted == 0 else wanted, 2.0**-9))
    unit = f32(E4M3[scale_code] * global_scale)
    scaled = [f32(weight / unit) for weight in block]
    return [e2m1_code(abs(weight), 1.0) + 8 * (weight < 0) for weight in scaled], scale_code


def encode(weights, global_scale, rule):
    """Codes [rows, cols / 2] and scales [rows, cols / 16], uint8, of [rows, cols] numbers."""
    blocks = [[float(weight) for weight in block] for block in np.reshape(weights, (-1, 16))]
    rounded = [
        (search_block if rule == "search" else plain_block)(block, global_scale) for block in blocks
    ]
    codes = np.array([codes for codes, _ in rounded], np.uint8).reshape(len(weights), -1)
    scales = np.array([scale for _, scale in rounded], np.uint8).reshape(len(weights), -1)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales


def number(raw, dtype):
    """One stored number from its bytes."""
    if dtype == "BF16":
        return struct.unpack("<f", b"\0\0" + raw)[0]
    if dtype == "F8_E8M0":
        return math.nan if raw[0] == 255 else 2.0 ** (raw[0] - 127)
    return struct.unpack({"F16": "<e", "F32": "<f"}[dtype], raw)[0]


def numbers(raw, dtype, shape):
    size = {"BF16": 2, "F16": 2, "F32": 4, "F8_E8M0": 1}[dtype]
    raw = bytes(raw)
    values = [number(raw[at : at + size], dtype) for at in range(0, len(raw), size)]
    return np.array(values, np.float64).reshape(shape)


def dequantize(weight, data, scales):
    """[rows, cols] float64 holding the float32 numbers that stored bytes mean."""
    if weight.kind == "plain":
        return numbers(data, weight.dtype, (-1, weight.cols))
    codes = np.frombuffer(data, np.uint8)
    if weight.kind == "int4":
        words = [word for (word,) in struct.iter_unpack("<I", bytes(data))]
        unscaled = np.array([(word >> 4 * at) % 16 - 8.0 for word in words for at in range(8)])
    elif weight.kind == "mxfp4":
        codes = np.stack([codes & 15, codes >> 4], -1)
        unscaled = np.array([
            (-1.0 if code > 7 else 1.0) * E2M1[code & 7] for code in codes.ravel()
        ])
    else:
        unscaled = np.array([e4m3(int(code)) for code in codes])
    unscaled = unscaled.reshape(-1, weight.cols)
    factors = numbers(scales, weight.scale_dtype, (-1, -(-weight.cols // weight.block[1])))
    values = np.empty(unscaled.shape)
    for row, col in np.ndindex(*values.shape):
        product = unscaled[row, col] * factors[row // weight.block[0], col // weight.block[1]]
        values[row, col] = f32(product)
    return values
