"""Exact re-spellings, compiled: what `formats.recodes` defines and proves, at the speed of a line.

Each function counts what is not exact, numbers that are not finite among it, and leaves the report
to the slow definition.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types

from hubconv.formats.nvfp4 import E2M1, E4M3_VALUES
from hubconv.kernels.cpu import born, jit, numbers, vectors
from hubconv.kernels.cpu.arguments import SHAPE
from hubconv.kernels.cpu.jit import inlined

GROUP: Final = 32
_BIAS: Final = 127
_NAN: Final = 0x7F
_NORMAL: Final = 0x08
_INFINITE: Final = 0x7F80
_SIGNED_ZEROS: Final = 0xFF

_WRONG: Final = 16
"""Set in an entry of `_NIBBLES` that stands for nothing."""


def _nibbles() -> npt.NDArray[np.uint8]:
    """[largest code of a group, code] uint8: the E2M1 code that means what an E4M3 code means.

    Both lie under one power of two, the scale, which drops out.
    """
    values = E4M3_VALUES[:_NAN].astype(np.float64)
    table = np.full((128, 128), _WRONG, np.uint8)
    for top in range(_NAN):
        exponent = np.frexp(values[top])[1] - 3
        for code, magnitude in enumerate(E2M1):
            table[top, :_NAN][np.ldexp(magnitude, exponent) == values] = code
    table[:, 0] = 0
    return table.reshape(-1)


_NIBBLES: Final = _nibbles()
_EXPONENTS: Final = (np.frexp(E4M3_VALUES[:_NAN])[1] - 3).astype(np.int64)
"""[127] int64, exponent of a group by its largest code, under a scale of 1."""


@inlined
def _exponent(size: Any) -> Any:
    """Exponent of a float64 that holds a float32 above zero: none of those is subnormal in it."""
    return np.int64((np.float64(size).view(np.int64) >> 52) & 0x7FF) - 1023


@inlined
def _power(exponent: Any) -> Any:
    """float64 2^exponent, for exponents of normal numbers."""
    return np.int64((exponent + 1023) << 52).view(np.float64)


@inlined
def _born(data: Any, at: Any, top: Any, pairs: Any) -> Any:
    """Write the pairs of a group without its table, where that can be done."""
    if not (born.may_be(vectors.words(data, at)) and born.may_be(vectors.words(data, at + 16))):
        return False
    first = vectors.pack_born(data, at, top, 0, _SIGNED_ZEROS, pairs, at >> 1)
    return first >= 0 and (
        vectors.pack_born(data, at + 16, top, 0, _SIGNED_ZEROS, pairs, (at >> 1) + 8) >= 0
    )


@jit.compiled(types.int64(jit.BYTES, jit.FLOATS, SHAPE, jit.BYTES_OUT, jit.BYTES_OUT))
def fp8_to_mxfp4(data: Any, scales: Any, shape: Any, pairs: Any, exponents: Any) -> Any:
    """E2M1 pairs and E8M0 exponents of E4M3 numbers; how many groups of 32 are not exact.

    Args:
        data: [rows * columns] uint8.
        scales: [scale rows * scale columns] float32; no group lies under two of them.
        shape: Where the rows lie among the scales.
        pairs: [rows * columns / 2] uint8, written.
        exponents: [rows * columns / 32] uint8, written.
    """
    per_row = -(-shape.cols // shape.scale_cols)
    wrong = 0
    for row in range(shape.rows):
        band = (row + shape.before) // shape.scale_rows
        for left in range(0, shape.cols, GROUP):
            scale = np.float64(scales[band * per_row + left // shape.scale_cols])
            at = row * shape.cols + left
            top = max(vectors.largest_code(data, at), vectors.largest_code(data, at + 16))
            whole = _exponent(scale)
            exponent = np.int64(whole + _EXPONENTS[top] if top else 0)
            # Other scales may be exact too; they are rare, and the slow definition tells.
            if top == _NAN or scale != _power(whole) or abs(exponent) > _BIAS:
                wrong += 1
                continue
            exponents[at // GROUP] = np.uint8(exponent + _BIAS)
            if _born(data, at, top, pairs):
                continue
            bad = np.uint8(0)
            for pair in range(GROUP // 2):
                first, second = data[at + 2 * pair], data[at + 2 * pair + 1]
                low = _NIBBLES[top * 128 + (first & 0x7F)]
                high = _NIBBLES[top * 128 + (second & 0x7F)]
                bad |= low | high
                signs = ((first >> 4) & 0x08) | (second & 0x80)
                pairs[(at >> 1) + pair] = np.uint8(low | ((high & 7) << 4) | signs)
            wrong += int(bad >= _WRONG)
    return wrong


@jit.compiled(
    types.int64(jit.HALVES, jit.INT, jit.INT, jit.INT, jit.INT, jit.BYTES_OUT, jit.BYTES_OUT)
)
def bf16_to_fp8_block(
    data: Any, rows: Any, cols: Any, block_rows: Any, block_cols: Any, codes: Any, scales: Any
) -> Any:
    """E4M3 codes and E8M0 scales of BF16 numbers; how many blocks are not exact.

    Args:
        data: [rows * columns] uint16.
        rows: Rows, from the first of a block on.
        cols: Columns.
        block_rows: Rows that shall share a scale.
        block_cols: Columns that shall share it.
        codes: [rows * columns] uint8, written.
        scales: [blocks] uint8, written.
    """
    across = -(-cols // block_cols)
    wrong = 0
    for block in range(-(-rows // block_rows) * across):
        first, left = block // across * block_rows, block % across * block_cols
        last, right = min(rows, first + block_rows), min(cols, left + block_cols)
        top = np.uint16(0)
        for row in range(first, last):
            for at in range(row * cols + left, row * cols + right):
                magnitude = np.uint16(data[at] & 0x7FFF)
                top = magnitude if magnitude > top else top
        size = np.float64(np.uint32(np.uint32(top) << 16).view(np.float32))
        if top >= _INFINITE:
            wrong += 1
            continue
        exponent = max(_exponent(size) - 8, -_BIAS) if size > 0 else 0
        exponent += size * _power(-exponent) > 448
        factor, offset = _power(-exponent), (exponent + 120) << 3
        bad = np.int64(0)
        for row in range(first, last):
            for at in range(row * cols + left, row * cols + right):
                bits = np.int64(data[at])
                # The exponent fields differ by a constant, and three of seven bits are left.
                code = ((bits & 0x7FFF) >> 4) - offset
                if code < _NORMAL or bits & 0x7F80 == 0:
                    number = np.float64(np.uint32((bits & 0x7FFF) << 16).view(np.float32))
                    scaled = number * factor  # never rounded
                    code = np.int64(numbers.e4m3_code(np.float32(scaled)))
                    bad |= np.int64(np.float64(numbers.e4m3_value(code)) != scaled)
                else:
                    bad |= bits & 0x0F
                codes[at] = np.uint8(code | ((bits >> 8) & 0x80))
        scales[block] = np.uint8(exponent + _BIAS)
        wrong += bad != 0
    return wrong
