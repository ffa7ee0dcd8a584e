"""Number makers for miniature checkpoints: plausible weights in the formats models come in.

Everything is numpy, and independent of the kernels that later read these numbers, so that a
checkpoint made here is a witness and not an echo.
"""

import math
import zlib
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]
Exponents = NDArray[np.int32]

Number = TypeVar("Number", np.float32, np.int32)

ScaleKind = Literal["F32", "BF16", "F16", "F8_E8M0"]
"""How FP8 scales are stored; F8_E8M0 also makes them powers of two."""

E4M3_LARGEST: Final = 448.0
E2M1_LARGEST: Final = 6.0
MX_GROUP: Final = 32
BLOCK: Final = (128, 128)

EXPONENT_BIAS: Final = 127
EXPERT_EXPONENTS: Final = (-13, -3)
"""Range of the group exponents in miniature experts: ten binades, within what an FP8 tile holds."""

_E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E2M1_MIDPOINTS: Final = (_E2M1[1:] + _E2M1[:-1]) / 2


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a tensor's name alone, not on its neighbours."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def gaussian(
    random: np.random.Generator, shape: tuple[int, ...], *, deviation: float = 0.02
) -> Floats:
    """Normally distributed float32 numbers of a given standard deviation."""
    return random.standard_normal(shape, np.float32) * np.float32(deviation)


def uneven_rows(random: np.random.Generator, rows: int, cols: int) -> Floats:
    """Gaussian weights whose rows differ in size by up to six binades, with one block of zeros.

    Args:
        random: Where the numbers come from.
        rows: Rows of the result.
        cols: Columns of the result, at least 16.

    Returns:
        [rows, cols] float32; 16 neighbouring columns of one row are zeros of either sign.
    """
    sizes = np.exp2(random.uniform(-3, 3, (rows, 1))).astype(np.float32)
    weights = gaussian(random, (rows, cols)) * sizes
    weights[rows // 2, :16] *= np.float32(0)
    return weights


# --- FP8 ------------------------------------------------------------------------------------------


def to_e4m3(values: Floats) -> Bytes:
    """Round float32 numbers to E4M3 codes: to nearest, ties to even, saturating; never a NaN."""
    magnitudes = np.minimum(np.abs(values), np.float32(E4M3_LARGEST))
    # Below 2^-6, the smallest normal number, everything counts in steps of the same size.
    exponents = np.frexp(np.maximum(magnitudes, np.float32(2**-6)))[1] - 1
    # A number of the binade e is q * 2^(e-3) with q in 8..15; q = 16 carries into the next code.
    steps = np.rint(np.ldexp(magnitudes, 3 - exponents)).astype(np.uint8)
    codes: Bytes = (exponents + 6).astype(np.uint8) * np.uint8(8) + steps
    return codes | (np.signbit(values).astype(np.uint8) << np.uint8(7))


def from_e4m3(codes: Bytes) -> Floats:
    """The numbers that E4M3 codes stand for; 0x7F and 0xFF are NaN."""
    decoded: Floats = _E4M3[codes]
    return decoded


def _e4m3_numbers() -> Floats:
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    magnitudes = np.where(
        exponents > 0, np.ldexp(8.0 + mantissas, exponents - 10), np.ldexp(1.0 * mantissas, -9)
    )
    magnitudes[codes & 0x7F == 0x7F] = np.nan
    decoded: Floats = np.where(codes < 128, magnitudes, -magnitudes).astype(np.float32)
    return decoded


_E4M3: Final = _e4m3_numbers()


def random_e4m3(random: np.random.Generator, shape: tuple[int, ...]) -> Bytes:
    """Any E4M3 codes but NaN, as fast as random bytes come."""
    codes = random_bytes(random, shape)
    codes -= codes & 0x7F == 0x7F
    return codes


def random_bytes(random: np.random.Generator, shape: tuple[int, ...]) -> Bytes:
    """Bytes of any value."""
    return np.frombuffer(bytearray(random.bytes(math.prod(shape))), np.uint8).reshape(shape)


def fp8_blocks(
    weights: Floats, kind: ScaleKind, block: tuple[int, int] = BLOCK
) -> tuple[Bytes, Floats]:
    """Quantize weights to FP8 with one scale per block.

    Args:
        weights: [rows, cols] float32.
        kind: How the scales will be stored; codes are chosen for the scales as stored.
        block: Rows and columns of a block; blocks at the edges may be partial.

    Returns:
        codes [rows, cols] uint8 (E4M3), scales [ceil(rows/block), ceil(cols/block)] float32.
    """
    rows, cols = weights.shape
    high, wide = -(-rows // block[0]), -(-cols // block[1])
    padded = np.zeros((high * block[0], wide * block[1]), np.float32)
    padded[:rows, :cols] = np.abs(weights)
    amax = padded.reshape(high, block[0], wide, block[1]).max(axis=(1, 3))
    scales = as_stored(np.maximum(amax, np.float32(1e-4)) / np.float32(E4M3_LARGEST), kind)
    return to_e4m3(weights / spread(scales, block)[:rows, :cols]), scales


def fp8_rows(weights: Floats) -> tuple[Bytes, Floats]:
    """Quantize weights to FP8 with one float32 scale per row.

    Returns:
        codes [rows, cols] uint8 (E4M3), scales [rows, 1] float32.
    """
    return fp8_blocks(weights, "F32", (1, weights.shape[1]))


def spread(scales: NDArray[Number], block: tuple[int, int]) -> NDArray[Number]:
    """One scale per element, whole blocks: the caller cuts off what partial blocks leave over."""
    return np.repeat(np.repeat(scales, block[0], 0), block[1], 1)


def as_stored(scales: Floats, kind: ScaleKind) -> Floats:
    """What remains of positive float32 scales once they are stored; powers of two round up."""
    if kind == "BF16":
        return from_bf16(to_bf16(scales))
    if kind == "F16":
        return scales.astype(np.float16).astype(np.float32)
    if kind == "F8_E8M0":
        return np.ldexp(np.float32(1), exponent_above(scales))
    return scales


def scale_bytes(scales: Floats, kind: ScaleKind) -> bytes:
    """Scales in the stored form of their kind; they must be exact in it."""
    if kind == "BF16":
        return to_bf16(scales).tobytes()
    if kind == "F16":
        return scales.astype("<f2").tobytes()
    if kind == "F8_E8M0":
        return e8m0(exponent_above(scales)).tobytes()
    return scales.astype("<f4").tobytes()


# --- BF16 and exponents ---------------------------------------------------------------------------


def to_bf16(values: Floats) -> Halves:
    """Round finite float32 numbers to BF16 bit patterns: to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(patterns: Halves) -> Floats:
    """The numbers that BF16 bit patterns stand for."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def exponent_above(values: Floats) -> Exponents:
    """Smallest k with 2^k >= value, for positive values; exact, unlike a logarithm."""
    mantissas, exponents = np.frexp(values)
    above: Exponents = (exponents - (mantissas == 0.5)).astype(np.int32)
    return above


def e8m0(exponents: Exponents) -> Bytes:
    """E8M0 codes of powers of two, given their exponents."""
    return (exponents + EXPONENT_BIAS).astype(np.uint8)


# --- MXFP4 ----------------------------------------------------------------------------------------


def mxfp4(weights: Floats) -> tuple[Bytes, Exponents]:
    """Quantize weights to MXFP4 as DeepSeek does: the smallest power of two that never saturates.

    Args:
        weights: [..., cols] float32, cols a multiple of 32.

    Returns:
        codes [..., cols] uint8 (E2M1, one per byte, -0 kept), exponents [..., cols/32] int32,
        held within EXPERT_EXPONENTS.
    """
    groups = weights.reshape(*weights.shape[:-1], -1, MX_GROUP)
    amax = np.abs(groups).max(-1)
    exponents = exponent_above(amax / np.float32(E2M1_LARGEST))
    exponents = np.clip(np.where(amax > 0, exponents, EXPERT_EXPONENTS[0]), *EXPERT_EXPONENTS)
    units = np.ldexp(groups, -exponents[..., None])
    # Ties may go either way here: these weights are born now, there is nothing to agree with.
    codes = np.searchsorted(_E2M1_MIDPOINTS, np.abs(units)).astype(np.uint8)
    codes |= np.signbit(units).astype(np.uint8) << 3
    return codes.reshape(weights.shape), exponents.astype(np.int32)


def pack_nibbles(codes: Bytes) -> Bytes:
    """Two codes to a byte, the even column in the low nibble."""
    return codes[..., 0::2] | codes[..., 1::2] << np.uint8(4)


def unpack_nibbles(packed: Bytes) -> Bytes:
    """One code per byte, as many columns again: the inverse of `pack_nibbles`."""
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], -1).reshape(
        *packed.shape[:-1], -1
    )


def from_e2m1(codes: Bytes) -> Floats:
    """The numbers that E2M1 codes stand for, the sign of a zero included."""
    decoded: Floats = np.where(codes & 8, -_E2M1[codes & 7], _E2M1[codes & 7])
    return decoded
