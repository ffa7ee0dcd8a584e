"""Bytes spelled another way without changing a single value: proven, or refused.

A repacked checkpoint is brought back to the spelling that engines expect. Every function here ends
in a proof that the new bytes mean the same numbers, and raises IntegrityError where they would not.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from hubconv.errors import IntegrityError
from hubconv.formats.nvfp4 import E2M1, E4M3_MAX
from hubconv.formats.stored import MXFP4_GROUP, Bytes2D, Floats2D, Window, dequantize, scale_values

_E8M0_BIAS: Final = 127
_NO_CODE: Final = 255
_CHUNK: Final = 1 << 17  # weights at a time, so that temporaries stay in the cache

# E2M1 codes by twice the magnitude: 0, 1, 2, 3, 4, 6, 8 and 12 have one, of all below 16.
_CODE_OF_DOUBLE: Final = np.full(16, _NO_CODE, np.uint8)
_CODE_OF_DOUBLE[[int(2 * magnitude) for magnitude in E2M1]] = range(8)


def fp8_to_mxfp4(window: Window) -> tuple[Bytes2D, Bytes2D]:
    """MXFP4 of weights that were born as MXFP4 and repacked to FP8.

    The exponent of a group is that of its largest magnitude less 2, so that this one becomes 4 or
    6. It is the smallest exponent under which the largest magnitude fits, and a smaller exponent
    loses nothing at the lower end, so where any exponent is exact, this one is. It need not be the
    one the weights were born with: equal values have several spellings. A group of zeros gets 2^0.

    Args:
        window: Rows of a weight; columns a multiple of 32.

    Returns:
        E2M1 pairs [rows, cols / 2] uint8 (even column in the low nibble; I8 in DeepSeek's files)
        and E8M0 exponents [rows, cols / 32] uint8.

    Raises:
        IntegrityError: A group of 32 weights is not E2M1 times one power of two.
        NonFiniteError: A weight is NaN or infinite.
    """
    cols = window.weight.cols
    pairs = np.empty((window.rows, cols // 2), np.uint8)
    scales = np.empty((window.rows, cols // MXFP4_GROUP), np.uint8)
    wrong = np.empty(scales.shape, np.bool_)
    step = max(1, _CHUNK // cols)
    for row in range(0, window.rows, step):
        at = slice(row, row + step)
        weights = dequantize(window.part(row, row + step))
        pairs[at], scales[at], wrong[at] = _to_mxfp4(weights)
    _refuse(wrong, window, (1, MXFP4_GROUP), "E2M1 codes times one power of two")
    return pairs, scales


def bf16_to_fp8_block(window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
    """FP8 of weights that were FP8 and were dequantised to BF16.

    The scale of a block is DeepSeek's, 2^ceil(log2(amax / 448)). It is the smallest power of two
    under which the block fits, and a smaller scale loses nothing at the lower end, so where any
    power of two is exact, this one is. A block of zeros gets 1.

    Args:
        window: Rows of a weight, beginning at a multiple of the block's rows.
        block: (rows, columns) that shall share one scale; the last ones may be partial.

    Returns:
        E4M3 [rows, cols] uint8 and E8M0 scales [ceil(rows / block rows), ceil(cols / block
        columns)] uint8.

    Raises:
        IntegrityError: A block is not E4M3 times one power of two.
        NonFiniteError: A weight is NaN or infinite.
    """
    blocks = (math.ceil(window.rows / block[0]), math.ceil(window.weight.cols / block[1]))
    codes = np.empty((window.rows, window.weight.cols), np.uint8)
    scales = np.empty(blocks, np.uint8)
    wrong = np.empty(blocks, np.bool_)
    for band in range(blocks[0]):
        row = band * block[0]
        weights = dequantize(window.part(row, row + block[0]))
        codes[row : row + block[0]], scales[band], wrong[band] = _to_e4m3(weights, block[1])
    _refuse(wrong, window, block, "E4M3 codes times one power of two")
    return codes, scales


def pow2_to_e8m0(scales: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """E8M0 bytes of scales that are powers of two from 2^-127 to 2^127.

    Args:
        scales: float32 of any shape, as `scale_values` reads them.

    Raises:
        IntegrityError: A scale is not such a power of two.
    """
    found = (np.ascontiguousarray(scales).view(np.uint32) >> 23).astype(np.uint8)
    meant = scale_values(found.tobytes(), "F8_E8M0", (1, found.size)).reshape(scales.shape)
    wrong = meant != scales
    if wrong.any():
        first = tuple(int(at) for at in np.argwhere(wrong)[0])
        raise IntegrityError(
            f"{int(wrong.sum())} of {scales.size} scales are not powers of two that E8M0 holds, "
            f"the first at {list(first)}: {float(scales[first])!r}.",
            "Keep the scales as they are stored.",
        )
    return found


def widen_to_f32(raw: bytes | bytearray | memoryview, dtype: str) -> bytes:
    """The same numbers as float32.

    Args:
        raw: Bytes of BF16, F16 or F32 numbers.
        dtype: Which of them.

    Raises:
        ScaleError: The element type is another one.
    """
    return scale_values(raw, dtype, (1, -1)).tobytes()


def _to_mxfp4(weights: Floats2D) -> tuple[Bytes2D, Bytes2D, npt.NDArray[np.bool_]]:
    """Pairs, exponents, and the groups of which they are not true."""
    groups = weights.reshape(len(weights), -1, MXFP4_GROUP)
    exponents = _exponents(np.abs(groups).max(2), at_top=2)
    doubles = np.abs(groups) * np.ldexp(1.0, 1 - exponents)[:, :, None]  # float64: never rounded
    whole = doubles.astype(np.uint8)
    codes = _CODE_OF_DOUBLE[whole]
    wrong = ((whole != doubles) | (codes == _NO_CODE)).any(2)
    codes |= np.signbit(groups).view(np.uint8) << np.uint8(3)
    flat = codes.reshape(len(weights), -1)
    pairs: Bytes2D = flat[:, 0::2] | flat[:, 1::2] << np.uint8(4)
    return pairs, (exponents + _E8M0_BIAS).astype(np.uint8), wrong


def _to_e4m3(weights: Floats2D, block_cols: int) -> tuple[Bytes2D, Bytes2D, npt.NDArray[np.bool_]]:
    """Codes and scales of one row of blocks, and the blocks of which they are not true."""
    starts = np.arange(0, weights.shape[1], block_cols)
    amax = np.maximum.reduceat(np.abs(weights).max(0), starts)
    exponents = _exponents(amax, at_top=8)
    exponents += np.ldexp(amax.astype(np.float64), -exponents) > E4M3_MAX
    # An E4M3 code shifted by seven bits and taken for float16 means 2^-8 of it.
    factors = np.repeat(np.ldexp(1.0, -8 - exponents), block_cols)[: weights.shape[1]]
    scaled = weights * factors  # float64: never rounded
    halves = scaled.astype(np.float16)
    bits = halves.view(np.uint16)
    wrong = ((halves != scaled) | (bits & 0x7F != 0)).any(0)
    codes = (bits >> 7 & 0x7F | bits >> 8 & 0x80).astype(np.uint8)
    scales = (exponents + _E8M0_BIAS).astype(np.uint8)
    return codes, scales, np.logical_or.reduceat(wrong, starts)


def _exponents(amax: npt.NDArray[np.float32], at_top: int) -> npt.NDArray[np.int32]:
    """Exponents of E8M0 scales under which `amax` lies in the binade of 2^`at_top`; 0 for zeros."""
    exponents = np.maximum(np.frexp(amax)[1] - 1 - at_top, -_E8M0_BIAS)
    return np.where(amax == 0, 0, exponents).astype(np.int32)


def _refuse(
    wrong: npt.NDArray[np.bool_], window: Window, block: tuple[int, int], what: str
) -> None:
    """Raise if a block, [block rows, block columns] bool, is wrong."""
    if not wrong.any():
        return
    row, col = np.argwhere(wrong)[0]
    raise IntegrityError(
        f"{int(wrong.sum())} of {wrong.size} blocks of {block[0]}x{block[1]} weights are not "
        f"{what}, the first at row {window.first_row + int(row) * block[0]}, "
        f"column {int(col) * block[1]}.",
        "Keep the tensor as it is stored.",
    )
