"""The largest magnitude of stored weights: integer work on their codes or bits."""

from typing import Any

import numpy as np
from numba import types

from hubconv.formats.stored import INT4_ZERO
from hubconv.kernels.cpu import jit
from hubconv.kernels.cpu.arguments import E2M1_PAIRS, INT4_PAIRS, SHAPE
from hubconv.kernels.cpu.jit import inlined


@inlined
def _top(codes: Any) -> Any:
    """Largest magnitude of E4M3 codes."""
    top = np.uint8(0)
    for at in range(len(codes)):
        code = np.uint8(codes[at] & 0x7F)
        top = code if code > top else top
    return top


@inlined
def _top_of_pairs(pairs: Any) -> Any:
    """Largest magnitude of E2M1 codes, two in a byte."""
    top = np.uint8(0)
    for at in range(len(pairs)):
        low, high = np.uint8(pairs[at] & 0x07), np.uint8((pairs[at] >> 4) & 0x07)
        code = low if low > high else high
        top = code if code > top else top
    return top


@inlined
def _top_of_integers(pairs: Any) -> Any:
    """Largest magnitude of integers stored as 0 to 15, two in a byte."""
    most, least = np.uint8(INT4_ZERO), np.uint8(INT4_ZERO)
    for at in range(len(pairs)):
        low, high = np.uint8(pairs[at] & 0x0F), np.uint8(pairs[at] >> 4)
        upper, lower = (low, high) if low > high else (high, low)
        most = upper if upper > most else most
        least = lower if lower < least else least
    return np.uint8(max(most - INT4_ZERO, INT4_ZERO - least))


@jit.compiled(types.float32(jit.BYTES, jit.FLOATS, SHAPE, jit.FLOATS, jit.BYTES_OUT))
def coded(data: Any, scales: Any, shape: Any, values: Any, tops: Any) -> Any:
    """Largest magnitude of rows of coded weights; NaN or infinite if one of them is.

    Args:
        data: [rows * row bytes] uint8; E4M3 codes, or pairs of E2M1 codes or of integers.
        scales: [scale rows * scale columns] float32.
        shape: Where the rows lie among the scales.
        values: [n] float32, what a magnitude code means.
        tops: [scale columns] uint8, overwritten.
    """
    per_row = len(tops)
    largest = np.float32(0)
    first = 0
    while first < shape.rows:
        band = (first + shape.before) // shape.scale_rows
        last = min(shape.rows, (band + 1) * shape.scale_rows - shape.before)
        tops[:] = 0
        for row in range(first, last):
            for column in range(per_row):
                left = row * shape.cols + column * shape.scale_cols
                right = row * shape.cols + min(shape.cols, (column + 1) * shape.scale_cols)
                if shape.packing == E2M1_PAIRS:
                    top = _top_of_pairs(data[left >> 1 : right >> 1])
                elif shape.packing == INT4_PAIRS:
                    top = _top_of_integers(data[left >> 1 : right >> 1])
                else:
                    top = _top(data[left:right])
                tops[column] = max(tops[column], top)
        for column in range(per_row):
            size = abs(values[tops[column]] * scales[band * per_row + column])
            if not np.isfinite(size):
                return size
            largest = max(largest, size)
        first = last
    return largest


@jit.compiled(
    types.uint32(jit.HALVES, types.uint32), types.uint32(jit.WORDS, types.uint32)
)  # fmt: skip
def plain(data: Any, mask: Any) -> Any:
    """Largest of numbers under a mask that takes off their signs; magnitudes order like bits."""
    top = np.uint32(0)
    for at in range(len(data)):
        bits = np.uint32(data[at]) & mask
        top = bits if bits > top else top
    return top
