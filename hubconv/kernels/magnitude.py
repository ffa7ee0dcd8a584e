"""The largest magnitude of stored weights, as integer work on their bytes.

Under one scale magnitudes order like their codes, so a maximum of codes and one product per scale
block suffice. numpy on any device: the bytes need no copy to find it.
"""

import numpy as np
import numpy.typing as npt

from hubconv.formats.nvfp4 import E2M1_VALUES, E4M3_VALUES
from hubconv.formats.stored import INT4_ZERO, Window, dequantize

Codes2D = npt.NDArray[np.unsignedinteger]

_CHUNK_BYTES = 1 << 18  # temporaries stay in the cache of one core
_INTEGERS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
_VALUES = {
    "fp8": E4M3_VALUES[:128],
    "mxfp4": E2M1_VALUES[:8],
    "int4": np.arange(INT4_ZERO + 1, dtype=np.float32),
}
_INT4_SIZES = np.abs(np.arange(16) - INT4_ZERO)
_INT4_TOPS = np.maximum(_INT4_SIZES[:, None], _INT4_SIZES).astype(np.uint8).reshape(256)
"""By the byte that holds two int4 elements: the larger magnitude."""


def largest(window: Window) -> float:
    """Largest magnitude of a window's dequantised weights, an exact float32 number.

    Raises:
        NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
    """
    kind = window.weight.kind
    found = _plain(window) if kind == "plain" else _scaled(window)
    if not np.isfinite(found):
        dequantize(window)  # raises, and says how many and where
    return float(found)


def _plain(window: Window) -> np.float32:
    numbers = window.data.view(_INTEGERS[window.weight.dtype])
    magnitude = numbers.dtype.type(np.iinfo(numbers.dtype).max // 2)
    step = max(1, _CHUNK_BYTES // max(1, window.weight.row_bytes))
    top = max(
        (
            int((numbers[row : row + step] & magnitude).max())
            for row in range(0, len(numbers), step)
        ),
        default=0,
    )
    if window.weight.dtype == "F16":
        return np.float32(np.uint16(top).view(np.float16))
    return np.uint32(top << 16 if window.weight.dtype == "BF16" else top).view(np.float32)


def _scaled(window: Window) -> np.float32:
    weight = window.weight
    tops = np.zeros(window.scales.shape, np.uint8)
    step = max(1, _CHUNK_BYTES // max(1, weight.row_bytes))
    for row in range(0, window.rows, step):
        data = window.data[row : row + step]
        bands = (np.arange(row, row + len(data)) + window.first_row) // weight.block[0]
        bands -= window.first_row // weight.block[0]
        of_chunk = tops[bands[0] : bands[-1] + 1]
        starts = np.flatnonzero(np.diff(bands, prepend=-1))
        np.maximum(of_chunk, _tops(window, data, starts), out=of_chunk)
    values = _VALUES[weight.kind][tops]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return np.float32(np.abs(values * window.scales).max(initial=0))


def _tops(
    window: Window, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint8]:
    """The largest magnitude code under each scale.

    Args:
        window: Says how the weight is stored.
        data: [rows, row bytes] uint8, some rows of the window.
        starts: The rows of `data` at which a row of scales begins.

    Returns:
        [starts, scale columns] uint8.
    """
    weight = window.weight
    bytes_per_scale = weight.block[1] // 2 if weight.is_paired else weight.block[1]
    if weight.kind == "mxfp4":
        codes = np.maximum(data & 7, data >> 4 & 7)
    elif weight.kind == "int4":
        codes = _INT4_TOPS[data]
    else:
        codes = data & 0x7F
    if len(starts) < len(codes):
        codes = np.maximum.reduceat(codes, starts, axis=0)
    columns = np.arange(0, weight.row_bytes, bytes_per_scale)
    return np.maximum.reduceat(codes, columns, axis=1)
