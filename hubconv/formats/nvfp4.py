"""NVFP4: the values, the global scale, and the slow decoder everything is checked against.

A weight is, per row of K columns (K % 16 == 0), K/2 bytes of E2M1 codes (even column in the low
nibble), K/16 E4M3 block scales, and one float32 global scale g for the tensor:
`value = e2m1[code] * e4m3(block scale) * g`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Scales = Literal["search", "amax"]

BLOCK: Final = 16
"""Columns that share one block scale."""

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes by the low three bits of a code; the fourth is the sign."""

E2M1_MAX: Final = 6.0
E4M3_MAX: Final = 448.0
MIN_SEARCHED_SCALE: Final = 2.0**-6
"""vLLM's Marlin kernel zeroes every block whose scale is smaller than this."""

SEARCH_ORDER: Final = (0, -1, 1, -2, 2, 3, 4, 5, 6)
"""Distances of the tried block scales from the plain one, in codes; the first of equals wins."""


def _e4m3(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return math.nan
    magnitude = math.ldexp(mantissa + 8 * (exponent > 0), max(exponent, 1) - 10)
    return math.copysign(magnitude, -1.0 if code & 0x80 else 1.0)


E4M3_VALUES: Final = np.array([_e4m3(code) for code in range(256)], np.float32)
"""[256] float32, what each E4M3 byte means; NaN at 0x7F and 0xFF."""

E2M1_VALUES: Final = np.array([*E2M1, *(-value for value in E2M1)], np.float32)
"""[16] float32, what each E2M1 code means, signs included."""


def global_scale(amax: float) -> float:
    """The global scale of `search`: the power of two 2^ceil(log2(amax / 1536)).

    1536 = 6 * 256 leaves the E4M3 codes above 256 free for the search. The exponent is kept within
    [-126, 120], so that the scale and its reciprocal are normal float32 numbers.

    Args:
        amax: Largest magnitude over all weights that share the scale; finite.
    """
    if amax == 0:
        return 1.0
    mantissa, exponent = math.frexp(amax)  # a floating log2 is wrong just above a power of two
    exponent -= 11 if mantissa <= 0.75 else 10  # 1536 = 0.75 * 2^11
    return math.ldexp(1.0, min(max(exponent, -126), 120))


def global_scale_amax(amax: float) -> float:
    """The global scale of `amax`: float32(amax / 2688), as ModelOpt computes it.

    Two things differ, where ModelOpt divides by zero: a tensor of zeros gets 1, and the scale is
    never subnormal, or else its product with a small block scale would vanish.

    Args:
        amax: Largest magnitude over all weights that share the scale; finite.
    """
    if amax == 0:
        return 1.0
    return max(float(np.float32(amax) / np.float32(E2M1_MAX * E4M3_MAX)), 2.0**-126)


def decode(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], global_scale: float
) -> npt.NDArray[np.float64]:
    """What NVFP4 bytes mean, without any rounding.

    Args:
        codes: [rows, cols / 2] uint8, the even column in the low nibble.
        scales: [rows, cols / 16] uint8, the bits of E4M3 numbers.
        global_scale: The factor of the whole tensor (not its reciprocal).

    Returns:
        [rows, cols] float64; NaN where the block scale is NaN.
    """
    rows, cols = codes.shape[0], 2 * codes.shape[1]
    values = np.empty((rows, cols), np.float64)
    values[:, 0::2] = E2M1_VALUES[codes & 15]
    values[:, 1::2] = E2M1_VALUES[codes >> 4]
    factors = E4M3_VALUES[scales].astype(np.float64) * global_scale
    blocks = values.reshape(rows, scales.shape[1], BLOCK)
    blocks *= factors[:, :, None]
    return values


@dataclass(frozen=True, slots=True)
class Quality:
    """How far some NVFP4 values are from the weights they stand for; sums add up.

    Attributes:
        elements: Weights compared.
        blocks: Blocks of 16 weights.
        exact_blocks: Blocks whose 16 values equal the weights.
        flushed_blocks: Blocks that decode to zero although a weight in them is not zero.
        low_scales: Blocks whose scale is below 2^-6, which Marlin would zero.
        error_sq: Sum of squared differences, float64.
        weight_sq: Sum of squared weights, float64.
        worst_block: Largest relative Frobenius error of a block; 0 where all are exact.
    """

    elements: int = 0
    blocks: int = 0
    exact_blocks: int = 0
    flushed_blocks: int = 0
    low_scales: int = 0
    error_sq: float = 0.0
    weight_sq: float = 0.0
    worst_block: float = 0.0

    def __add__(self, other: "Quality") -> "Quality":
        return Quality(
            self.elements + other.elements,
            self.blocks + other.blocks,
            self.exact_blocks + other.exact_blocks,
            self.flushed_blocks + other.flushed_blocks,
            self.low_scales + other.low_scales,
            self.error_sq + other.error_sq,
            self.weight_sq + other.weight_sq,
            max(self.worst_block, other.worst_block),
        )

    @classmethod
    def total(cls, qualities: Sequence["Quality"]) -> "Quality":
        """The sum of many, the same in whatever order they come."""
        return cls(
            sum(each.elements for each in qualities),
            sum(each.blocks for each in qualities),
            sum(each.exact_blocks for each in qualities),
            sum(each.flushed_blocks for each in qualities),
            sum(each.low_scales for each in qualities),
            math.fsum(each.error_sq for each in qualities),
            math.fsum(each.weight_sq for each in qualities),
            max((each.worst_block for each in qualities), default=0.0),
        )

    @property
    def relative_error(self) -> float:
        """Relative Frobenius error; 0 for a tensor of zeros."""
        return math.sqrt(self.error_sq / self.weight_sq) if self.weight_sq else 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise in decibels; infinite where every block is exact."""
        if not self.error_sq:
            return math.inf
        return 10 * math.log10(self.weight_sq / self.error_sq) if self.weight_sq else 0.0


def measure(
    weights: npt.NDArray[np.floating],
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.uint8],
    global_scale: float,
) -> Quality:
    """How far NVFP4 bytes are from the weights they stand for; slow, whole arrays in float64.

    Args:
        weights: [rows, cols] of any float type.
        codes: [rows, cols / 2] uint8.
        scales: [rows, cols / 16] uint8, the bits of E4M3 numbers.
        global_scale: The factor of the whole tensor.
    """
    blocks = weights.astype(np.float64).reshape(-1, BLOCK)
    decoded = decode(codes, scales, global_scale).reshape(-1, BLOCK)
    errors = np.square(blocks - decoded).sum(1)
    squares = np.square(blocks).sum(1)
    relative = errors / np.where(squares == 0, 1, squares)
    return Quality(
        elements=blocks.size,
        blocks=len(blocks),
        exact_blocks=int((errors == 0).sum()),
        flushed_blocks=int(((squares > 0) & ~decoded.any(1)).sum()),
        low_scales=int((E4M3_VALUES[scales] < MIN_SEARCHED_SCALE).sum()),
        error_sq=float(errors.sum()),
        weight_sq=float(squares.sum()),
        worst_block=math.sqrt(float(relative.max(initial=0))),
    )


@dataclass(frozen=True, slots=True)
class Encoded:
    """NVFP4 bytes of some rows.

    Attributes:
        codes: [rows, cols / 2] uint8.
        scales: [rows, cols / 16] uint8, the bits of E4M3 numbers.
        quality: Against the weights these rows came from.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint8]
    quality: Quality
