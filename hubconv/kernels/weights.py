"""Stored bytes to float32 weights, in torch, exactly as `formats.stored.dequantize` defines them.

Finite input is taken for granted: `magnitude.largest` has looked at every byte before.
"""

import numpy as np
import torch
from torch import Tensor

from hubconv.formats.nvfp4 import E2M1
from hubconv.formats.stored import INT4_ZERO, Window

_PLAIN = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def weights(window: Window, first: int, last: int, device: torch.device) -> Tensor:
    """Dequantise some rows.

    Args:
        window: Rows of a stored weight, all of them finite.
        first: The first row wanted, counted within the window.
        last: The row after the last one.
        device: Where the weights are wanted.

    Returns:
        [last - first, cols] float32, contiguous and not shared with the window.
    """
    # A copy, because torch warns about memory that it may not write to.
    stored = torch.from_numpy(window.data[first:last].copy()).to(device)
    kind = window.weight.kind
    if kind == "plain":
        return stored.view(_PLAIN[window.weight.dtype]).to(torch.float32, copy=True)
    if kind == "fp8":
        return _scale(e4m3_values(stored), window, first)
    values = _e2m1(stored) if kind == "mxfp4" else _int4(stored)
    return _scale(values, window, first)


def e4m3_values(bits: Tensor) -> Tensor:
    """float32 from the bits of E4M3 numbers that are not NaN; several times faster than a cast.

    Taken for float16 bits, shifted into place, they mean 2^-8 of it, subnormal numbers included.

    Args:
        bits: uint8 of any shape, contiguous.
    """
    wide = bits.view(torch.int8).to(torch.int16)  # the sign fills bits 7 to 15
    wide.bitwise_left_shift_(7).bitwise_and_(-0x4001)  # and belongs into bit 15 alone
    return wide.view(torch.float16).to(torch.float32).mul_(256.0)


def _e2m1(stored: Tensor) -> Tensor:
    """[rows, cols] float32 from pairs of E2M1 codes, the even column in the low nibble."""
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=stored.device)
    return values[_nibbles(stored).to(torch.int32)]


def _int4(stored: Tensor) -> Tensor:
    """[rows, cols] float32, -8 to 7, from words of eight, the first column in the lowest bits."""
    return _nibbles(stored).to(torch.float32).sub_(INT4_ZERO)


def _nibbles(stored: Tensor) -> Tensor:
    """[rows, cols] uint8 from two elements a byte."""
    pairs = (stored & 15, stored >> 4)
    return torch.stack(pairs, dim=-1).view(len(stored), 2 * stored.shape[1])


def _scale(values: Tensor, window: Window, first: int) -> Tensor:
    """Multiply [rows, cols] float32 in place by the scales of a window's rows from `first` on."""
    block_rows, block_cols = window.weight.block
    rows, cols = values.shape
    of_row = np.arange(window.first_row + first, window.first_row + first + rows) // block_rows
    of_row -= window.first_row // block_rows
    scales = torch.from_numpy(window.scales[of_row]).to(values.device)
    whole = cols // block_cols
    split = whole * block_cols
    values[:, :split].view(rows, whole, block_cols).mul_(scales[:, :whole, None])
    if split < cols:
        values[:, split:].mul_(scales[:, whole:])
    return values
