"""How a source stores a weight, and what numbers its bytes mean.

The dequantised weight is a float32 number by definition of its format: `code * scale`, rounded
once. `dequantize` here is the slow, obvious reading that checks everything else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hubconv.errors import IntegrityError, ScaleError
from hubconv.formats.dtypes import BITS
from hubconv.formats.nvfp4 import E2M1_VALUES, E4M3_VALUES

Kind = Literal["plain", "fp8", "mxfp4", "int4"]
Bytes2D = npt.NDArray[np.uint8]
Floats2D = npt.NDArray[np.float32]

MXFP4_GROUP: Final = 32
"""Elements that share one E8M0 exponent (OCP Microscaling v1.0, section 5.3)."""

INT4_WORD: Final = 8
"""Elements in one 32-bit word of compressed-tensors' pack-quantized; they follow one another along
a row, the first in the lowest bits."""

INT4_ZERO: Final = 8
"""What is added to an element of pack-quantized before it is stored, so that it has no sign."""


@dataclass(frozen=True, slots=True)
class Turned:
    """Where in a stored matrix the transpose of a weight stands.

    Attributes:
        first: The column that is the weight's first row.
        columns: Columns of the stored matrix; its rows are the weight's columns.
    """

    first: int
    columns: int


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight matrix as the source stores it.

    Attributes:
        kind: plain (BF16, F16, F32), fp8 (E4M3 with scales), mxfp4 (E2M1 pairs with exponents),
            int4 (words of eight integers -8 to 7 with scales).
        dtype: Element type of the data tensor, by its safetensors name.
        rows: Rows of the matrix.
        cols: Columns of the matrix, in elements (for mxfp4 twice the stored bytes); whole words
            for int4.
        scale_dtype: Element type of the scales; empty for plain weights.
        block: (rows, columns) of elements that share one scale; (1, cols) is one per row,
            (rows, cols) one per tensor. An even number of columns for mxfp4 and int4.
        turned: Where in a matrix [inputs, outputs] its transpose stands; None where it is stored
            row by row, as everything here that speaks of rows and bytes takes it to be.
    """

    kind: Kind
    dtype: str
    rows: int
    cols: int
    scale_dtype: str = ""
    block: tuple[int, int] = (0, 0)
    turned: "Turned | None" = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the data tensor."""
        return self.cols // 2 if self.is_paired else self.cols * BITS[self.dtype] // 8

    @property
    def is_paired(self) -> bool:
        """Whether a byte holds two elements, the one of the even column in the low nibble."""
        return self.kind in {"mxfp4", "int4"}

    @property
    def scale_shape(self) -> tuple[int, int]:
        """(rows, columns) of the scale tensor; (0, 0) for plain weights."""
        if self.kind == "plain":
            return (0, 0)
        return (math.ceil(self.rows / self.block[0]), math.ceil(self.cols / self.block[1]))

    @property
    def scale_row_bytes(self) -> int:
        """Bytes of one row of the scale tensor."""
        return self.scale_shape[1] * BITS[self.scale_dtype] // 8 if self.scale_dtype else 0

    def scale_rows(self, first_row: int, rows: int) -> range:
        """The rows of the scale tensor that `rows` rows from `first_row` on need."""
        if self.kind == "plain" or rows == 0:
            return range(0)
        return range(first_row // self.block[0], (first_row + rows - 1) // self.block[0] + 1)


@dataclass(frozen=True, slots=True)
class Window:
    """Some whole rows of a stored weight, with the scales they need.

    Attributes:
        weight: What the bytes are.
        first_row: Row of the weight at which the window begins.
        data: [rows, row_bytes] uint8, the stored bytes.
        scales: [scale rows, scale columns] float32, the rows that `weight.scale_rows` names;
            empty for plain weights.
    """

    weight: StoredWeight
    first_row: int
    data: Bytes2D
    scales: Floats2D

    @property
    def rows(self) -> int:
        """Rows in this window."""
        return int(self.data.shape[0])

    def part(self, first: int, last: int) -> "Window":
        """The rows from `first` to before `last`, counted within this window; nothing is copied."""
        begin = self.first_row + first
        data = self.data[first:last]
        needed = self.weight.scale_rows(begin, len(data))
        skipped = self.weight.scale_rows(self.first_row, 1)
        offset = needed.start - skipped.start if needed else 0
        return Window(self.weight, begin, data, self.scales[offset : offset + len(needed)])


class NonFiniteError(IntegrityError):
    """Raised when a weight or a scale is NaN or infinite, or their product is.

    Args:
        count: How many elements of the window are not finite.
        row: Row of the first one, within the whole weight.
        col: Its column.
    """

    def __init__(self, count: int, row: int, col: int) -> None:
        super().__init__(f"{count} elements are not finite, the first at [{row}, {col}].")
        self.count = count
        self.row = row
        self.col = col


def scale_values(
    raw: bytes | bytearray | memoryview | Bytes2D, dtype: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The numbers that stored scales mean, exactly.

    Args:
        raw: Bytes of the scales, row after row.
        dtype: F32, BF16, F16 or F8_E8M0 (0 is 2^-127, 255 is NaN).
        shape: Shape of the scales in `raw`; rows and columns for those of a window.

    Raises:
        ScaleError: The element type is not one of scales.
    """
    stored = np.frombuffer(raw, np.uint8)
    if dtype == "F8_E8M0":
        bits = stored.astype(np.uint32) << 23
        bits[stored == 0] = 1 << 22  # 2^-127 is subnormal in float32
        bits[stored == 255] = 0x7FC00000
        return bits.view(np.float32).reshape(shape)
    return _floats(stored, dtype).reshape(shape)


def window(
    weight: StoredWeight,
    first_row: int,
    data: bytes | bytearray | memoryview | Bytes2D,
    scales: bytes | bytearray | memoryview | Bytes2D = b"",
) -> Window:
    """Name the rows whose bytes these are.

    Args:
        weight: The weight that the rows belong to.
        first_row: The first of the rows.
        data: Bytes of whole rows; not copied.
        scales: Bytes of the scale rows that `weight.scale_rows` names; empty for plain weights.
    """
    stored = np.frombuffer(data, np.uint8).reshape(-1, weight.row_bytes)
    shape = (len(weight.scale_rows(first_row, len(stored))), weight.scale_shape[1])
    if weight.kind == "plain":
        return Window(weight, first_row, stored, np.empty((0, 0), np.float32))
    return Window(weight, first_row, stored, scale_values(scales, weight.scale_dtype, shape))


def upright(
    weight: StoredWeight, matrix: Bytes2D, first_row: int, room: Bytes2D
) -> tuple[StoredWeight, Bytes2D]:
    """Rows of a turned weight, stored as those of any other are.

    Args:
        weight: The weight; plain, and turned.
        matrix: Bytes of the whole matrix that it is stored in.
        first_row: The first of the rows.
        room: Where they are written: as many bytes as they have.

    Returns:
        The weight that their bytes are of, and the bytes.
    """
    if weight.turned is None:
        raise ValueError("the weight is upright already")
    kind = f"<u{BITS[weight.dtype] // 8}"
    whole = matrix.view(kind).reshape(weight.cols, weight.turned.columns)
    rows = room.view(kind).reshape(-1, weight.cols)
    first = weight.turned.first + first_row
    np.copyto(rows, whole[:, first : first + len(rows)].T)
    return replace(weight, turned=None), room


def dequantize(window: Window) -> Floats2D:
    """The weights of a window, by the definition of its format; slow.

    Returns:
        [rows, cols] float32.

    Raises:
        NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
    """
    weight = window.weight
    values = _DECODERS[weight.kind](window)
    if weight.kind != "plain":
        first = window.first_row // weight.block[0]
        of_row = np.arange(window.first_row, window.first_row + window.rows) // weight.block[0]
        of_col = np.arange(weight.cols) // weight.block[1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            values *= window.scales[(of_row - first)[:, None], of_col]
    bad = ~np.isfinite(values)
    if bad.any():
        row, col = np.argwhere(bad)[0]
        raise NonFiniteError(int(bad.sum()), window.first_row + int(row), int(col))
    return values


def _floats(stored: npt.NDArray[np.uint8], dtype: str) -> Floats2D:
    """[...] float32 from the bytes of float numbers; the last axis shrinks by the element size."""
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return stored.view("<f2").astype(np.float32)
    if dtype == "F32":
        return stored.view("<f4").astype(np.float32)
    raise ScaleError(f"{dtype} is not an element type of weights or scales that hubconv reads.")


def _plain(window: Window) -> Floats2D:
    return _floats(np.ascontiguousarray(window.data), window.weight.dtype)


def _e4m3(window: Window) -> Floats2D:
    return E4M3_VALUES[window.data]


def _e2m1(window: Window) -> Floats2D:
    return E2M1_VALUES[_nibbles(window)]


def _int4(window: Window) -> Floats2D:
    # Words are stored with the lowest byte first, so their nibbles follow one another as those of
    # bytes do. An integer less another is never -0.
    return (_nibbles(window).astype(np.int8) - INT4_ZERO).astype(np.float32)


def _nibbles(window: Window) -> Bytes2D:
    """[rows, cols] uint8 from two elements a byte."""
    nibbles = np.empty((window.rows, window.weight.cols), np.uint8)
    nibbles[:, 0::2] = window.data & 15
    nibbles[:, 1::2] = window.data >> 4
    return nibbles


_DECODERS: Final[dict[Kind, Callable[[Window], Floats2D]]] = {
    "plain": _plain,
    "fp8": _e4m3,
    "mxfp4": _e2m1,
    "int4": _int4,
}
