"""Blocks of 16 weights to E2M1 codes and E4M3 block scales, in torch.

Blocks lie side by side, [16, blocks]: every step is then one long vector operation. Nothing here
may fuse a multiplication with an addition: the chosen scale, and so the bytes, would depend on the
machine.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from hubconv.formats.nvfp4 import E2M1_MAX, E4M3_MAX, SEARCH_ORDER
from hubconv.kernels.weights import e4m3_values

_LOWEST_SEARCHED: Final = 0x08  # E4M3 of 2^-6
_HIGHEST: Final = 0x7E  # E4M3 of 448
_ONE: Final = 0x38  # E4M3 of 1
_LOWEST_MODELOPT: Final = 2.0**-9
_EXPONENT_BITS: Final = 0x7F800000


class Rounded(NamedTuple):
    """Rounded blocks.

    Attributes:
        magnitudes: [16, blocks] float32, the E2M1 magnitudes.
        negative: [16, blocks] bool, the sign bits.
        scales: [blocks] uint8, the bits of E4M3 block scales.
    """

    magnitudes: Tensor
    negative: Tensor
    scales: Tensor


def search(blocks: Tensor, global_scale: float) -> Rounded:
    """Round under the best of nine block scales around the plain one.

    Args:
        blocks: [16, blocks] float32.
        global_scale: A power of two with a normal reciprocal.
    """
    # In units of the global scale: exact, and squares neither vanish nor overflow. Only numbers far
    # below the smallest boundary can lose bits here, so zeros and signs are read from the weights.
    sizes = blocks.abs()
    top = sizes.amax(0)
    is_zero = top == 0
    sizes.mul_(1 / global_scale)
    top.mul_(1 / global_scale)
    scales = _best(sizes, _e4m3_bits(_divide(top, E2M1_MAX)).to(torch.int16))
    scales.masked_fill_(is_zero, _ONE)
    magnitudes = nearest(sizes.div_(e4m3_values(scales)), torch.empty_like(sizes))
    return Rounded(magnitudes, blocks < 0, scales)


def plain(blocks: Tensor, global_scale: float) -> Rounded:
    """Round under amax / 6, with the clamps and the roundings of ModelOpt.

    Args:
        blocks: [16, blocks] float32.
        global_scale: Above zero.
    """
    unit = torch.tensor(global_scale, dtype=torch.float32, device=blocks.device)
    wanted = blocks.abs().amax(0).div_(unit * E2M1_MAX)
    wanted.masked_fill_(wanted == 0, 1.0)
    scales = _e4m3_bits(wanted.clamp_(min=_LOWEST_MODELOPT))
    scaled = blocks / (e4m3_values(scales) * unit)
    negative = scaled < 0
    return Rounded(nearest(scaled.abs_(), torch.empty_like(scaled)), negative, scales)


def nearest(sizes: Tensor, scratch: Tensor) -> Tensor:
    """Round magnitudes to E2M1 in place: to nearest, ties to the even code, at most 6.

    Adding and taking away 2^23 steps leaves whole steps, and the step is 0.5 below 2, 1 below 4,
    and 2 above.

    A float32 number divided by an E4M3 scale falls on the same side of each boundary, or on it, as
    the exact quotient does: the scale has four significant bits, and two numbers of 24 bits
    that differ stay further apart than the rounding of their quotients can bring them.

    Args:
        sizes: float32, not negative; overwritten.
        scratch: Like `sizes`; overwritten.
    """
    sizes.clamp_(max=E2M1_MAX)
    torch.clamp(sizes, min=1.0, out=scratch)
    scratch.view(torch.int32).bitwise_and_(_EXPONENT_BITS)
    scratch.mul_(2.0**22)
    return sizes.add_(scratch).sub_(scratch)


def pack(rounded: Rounded) -> Tensor:
    """[blocks, 8] uint8: two codes a byte, the even column in the low nibble."""
    sizes = rounded.magnitudes
    codes = torch.minimum(sizes * 2, sizes.clamp(max=5) + 2).to(torch.uint8)
    codes.add_(rounded.negative.view(torch.uint8), alpha=8)
    pairs = codes[0::2].add(codes[1::2], alpha=16)
    return pairs.t().contiguous()


def _best(sizes: Tensor, base: Tensor) -> Tensor:
    """The candidate with the smallest squared error, the earliest of equals.

    Args:
        sizes: [16, blocks] float32, magnitudes in units of the global scale.
        base: [blocks] int16, the code of the plain block scale.

    Returns:
        [blocks] uint8.
    """
    best = torch.zeros_like(base, dtype=torch.uint8)
    best_error = torch.full_like(sizes[0], torch.inf)
    rounded, scratch = torch.empty_like(sizes), torch.empty_like(sizes)
    for offset in SEARCH_ORDER:
        code = (base + offset).clamp_(_LOWEST_SEARCHED, _HIGHEST).to(torch.uint8)
        scale = e4m3_values(code)
        torch.div(sizes, scale, out=rounded)
        nearest(rounded, scratch).mul_(scale).sub_(sizes)
        error = sum_of_16(rounded.mul_(rounded))
        torch.where(error < best_error, code, best, out=best)
        torch.minimum(error, best_error, out=best_error)
    return best


def sum_of_16(terms: Tensor) -> Tensor:
    """[blocks] float32 from [16, blocks], by adjacent pairs: the order that every kernel keeps."""
    while len(terms) > 1:
        terms = terms[0::2] + terms[1::2]
    return terms[0]


def _divide(numbers: Tensor, divisor: float) -> Tensor:
    # By a tensor on the same device: torch multiplies by the reciprocal of a number on CUDA.
    return numbers / torch.tensor(divisor, dtype=torch.float32, device=numbers.device)


def _e4m3_bits(numbers: Tensor) -> Tensor:
    """uint8 bits of the nearest E4M3 numbers, ties to even, at most 448."""
    return numbers.clamp(max=E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
