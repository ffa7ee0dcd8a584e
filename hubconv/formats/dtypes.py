"""The element types of safetensors, and what a byte of each means.

The names and sizes are those of the safetensors format itself. hubconv never asks a library for
them: `safetensors.torch.load(bytes)` does not know F8_E8M0, and numpy knows neither FP8 nor BF16.
"""

from typing import Final

BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, by safetensors dtype name."""

PLAIN_FLOATS: Final = frozenset({"BF16", "F16", "F32"})
"""Element types that hold a weight without any companion."""


_ALIGNMENT: Final = {dtype: max(1, bits // 8) for dtype, bits in BITS.items()}


def alignment(dtype: str) -> int:
    """Bytes an element of `dtype` must be aligned to: torch views refuse other offsets."""
    return _ALIGNMENT[dtype]
