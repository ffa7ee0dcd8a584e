"""Stored weights of every kind with awkward numbers in them, for the tests of the kernels."""

from dataclasses import dataclass

import numpy as np

from hubconv.formats.nvfp4 import E2M1, E4M3_VALUES
from hubconv.formats.stored import StoredWeight, Window, window

FLAVOURS = ("gaussian", "sparse", "ties", "zeros", "outlier", "wide", "extreme")


@dataclass(frozen=True)
class Stored:
    """A weight, its bytes, and the bytes of its scales."""

    weight: StoredWeight
    data: bytes
    scales: bytes

    def window(self, first=0, last=None) -> Window:
        last = self.weight.rows if last is None else last
        data = self.data[first * self.weight.row_bytes : last * self.weight.row_bytes]
        rows = self.weight.scale_rows(first, last - first)
        width = self.weight.scale_row_bytes
        return window(self.weight, first, data, self.scales[rows.start * width : rows.stop * width])


def floats(rng, rows, cols, flavour):
    """[rows, cols] float32 of one flavour."""
    values = rng.standard_normal((rows, cols)).astype(np.float32)
    if flavour == "sparse":
        values *= rng.random((rows, cols)) < 0.1
    if flavour == "ties":  # boundaries and values of E2M1, and -0
        grid = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, -0.0]
        values = rng.choice(np.array(grid, np.float32), (rows, cols)) * np.sign(values)
    if flavour == "zeros":
        values *= 0
    if flavour == "outlier":
        values[rng.integers(rows), rng.integers(cols)] = 1e6
    if flavour == "wide":
        values *= np.exp2(rng.integers(-40, 20, (rows, cols))).astype(np.float32)
    if flavour == "extreme":
        values = (values / np.abs(values).max() * np.float32(3.3e38)).astype(np.float32)
    return values


def plain(rng, dtype, rows, cols, flavour, exponent=0):
    """BF16, F16 or F32 weights, times 2^exponent."""
    with np.errstate(over="ignore", under="ignore"):
        values = np.ldexp(floats(rng, rows, cols, flavour), exponent)
        if dtype == "F16":
            half = np.nan_to_num(values.astype(np.float16), posinf=65504, neginf=-65504)
            return Stored(StoredWeight("plain", dtype, rows, cols), half.tobytes(), b"")
    bits = np.nan_to_num(values.astype(np.float32)).view(np.uint32)
    raw = (bits >> 16).astype(np.uint16).tobytes() if dtype == "BF16" else bits.tobytes()
    return Stored(StoredWeight("plain", dtype, rows, cols), raw, b"")


def fp8(rng, rows, cols, block, scale_dtype, flavour, exponent=0):
    """Any E4M3 codes but NaN, under scales around 2^exponent."""
    codes = rng.integers(0, 256, (rows, cols)).astype(np.uint8)
    if flavour == "gaussian":
        codes = (codes & 0x80) | rng.integers(0x28, 0x60, codes.shape).astype(np.uint8)
    if flavour == "sparse":
        codes = np.where(rng.random(codes.shape) < 0.1, codes, codes & 0x80)
    if flavour == "ties":
        codes = (codes & 0x80) | rng.choice(np.array([0x20, 0x30, 0x38, 0x3C, 0x44], np.uint8))
    if flavour == "zeros":
        codes = codes & np.uint8(0x80)
    codes = np.where(codes & 0x7F == 0x7F, codes & np.uint8(0xFE), codes).astype(np.uint8)
    weight = StoredWeight("fp8", "F8_E4M3", rows, cols, scale_dtype, block)
    scales = scale_bytes(rng, weight.scale_shape, scale_dtype, exponent)
    return Stored(weight, codes.tobytes(), scales)


def born_as_mxfp4(rng, rows, cols, block, exponent=0):
    """E4M3 codes of E2M1 codes under one power of two for each 32, under scales around 2^exponent.

    The block holds whole groups of 32 columns, or all columns.
    """
    shape = (rows, cols // 32, 32)
    sizes = rng.choice(E2M1, shape) * np.exp2(rng.integers(-8, 7, (*shape[:2], 1)))
    sizes[rng.random(shape[:2]) < 0.1] = 0
    codes = np.searchsorted(E4M3_VALUES[:127], sizes).astype(np.uint8).reshape(rows, cols)
    codes |= rng.integers(0, 2, codes.shape).astype(np.uint8) << np.uint8(7)
    weight = StoredWeight("fp8", "F8_E4M3", rows, cols, "F32", block)
    scales = np.exp2(rng.integers(-20, 20, weight.scale_shape) + exponent).astype(np.float32)
    return Stored(weight, codes.tobytes(), scales.tobytes())


def mxfp4(rng, rows, cols, flavour, exponent=0):
    """Any E2M1 codes under exponents within 14 of each other, all around `exponent`."""
    codes = rng.integers(0, 256, (rows, cols // 2)).astype(np.uint8)
    if flavour == "zeros":
        codes &= 0x88
    if flavour == "sparse":
        codes &= np.where(rng.random(codes.shape) < 0.1, 0xFF, 0x88).astype(np.uint8)
    weight = StoredWeight("mxfp4", "I8", rows, cols, "F8_E8M0", (1, 32))
    exponents = rng.integers(-7, 8, weight.scale_shape) + exponent + 127
    return Stored(weight, codes.tobytes(), exponents.clip(0, 252).astype(np.uint8).tobytes())


def int4(rng, rows, cols, group, scale_dtype, flavour, exponent=0):
    """Any integers of four bits, eight in a word, under scales around 2^exponent."""
    stored = rng.integers(0, 16, (rows, cols))
    if flavour == "gaussian":
        stored = np.rint(8 + 2.5 * rng.standard_normal((rows, cols))).clip(0, 15)
    if flavour == "sparse":
        stored = np.where(rng.random((rows, cols)) < 0.1, stored, 8)
    if flavour == "ties":  # under scales that are powers of two many candidates are equally good
        stored = 8 + rng.choice([-8, -7, -5, -3, -1, 0, 0, 1, 3, 5, 7], (rows, cols))
    if flavour == "zeros":
        stored = np.full((rows, cols), 8)
    if flavour == "extreme":
        stored = rng.choice([0, 15], (rows, cols))
    weight = StoredWeight("int4", "I32", rows, cols, scale_dtype, (1, group))
    scales = int4_scales(rng, weight.scale_shape, scale_dtype, flavour, exponent)
    return Stored(weight, int4_words(stored), scales)


def int4_words(stored):
    """Bytes of [rows, cols] integers 0 to 15, shifted into words as the format says."""
    rows, cols = stored.shape
    shifted = stored.reshape(rows, cols // 8, 8).astype(np.uint32) << np.arange(0, 32, 4)
    return shifted.sum(2, dtype=np.uint32).astype("<u4").tobytes()


def int4_scales(rng, shape, dtype, flavour, exponent):
    values = np.float64(2.0) ** max(min(exponent, 110), -140) * (rng.random(shape) + 0.5)
    if flavour == "ties":
        values = np.exp2(np.floor(np.log2(values)))
    if flavour == "wide":  # many of them subnormal where the exponent is low
        values = values * np.exp2(rng.integers(-40, 12, shape))
    if flavour == "outlier":
        values.flat[rng.integers(values.size)] *= 1e5
    if flavour == "extreme":  # the largest under which -8 is finite
        values = np.full(shape, {"F16": 65504.0}.get(dtype, 2.0**125 - 2.0**117))
    if dtype == "F16":
        return values.clip(0, 65504).astype(np.float16).tobytes()
    bits = values.clip(0, 4e37).astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16).tobytes() if dtype == "BF16" else bits.tobytes()


def scale_bytes(rng, shape, dtype, exponent):
    if dtype == "F8_E8M0":
        near = rng.integers(-3, 4, shape) + exponent + 127
        return near.clip(0, 240).astype(np.uint8).tobytes()
    values = (rng.random(shape) + 0.5) * 2.0 ** max(min(exponent, 110), -140)
    if dtype == "F16":
        return values.clip(6e-8, 100).astype(np.float16).tobytes()
    bits = values.astype(np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16).tobytes() if dtype == "BF16" else bits.tobytes()
