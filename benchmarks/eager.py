"""The eager rule: what a conversion script in plain torch does, for benchmarks to run beside us.

One block scale of amax / 6 each, a division, a search among the midpoints. It reads FP8 weights
with one scale per 128x128 block, and quantizes tensor after tensor. It rounds ties to the lower
code and lets tiny block scales become zero; that is part of what is measured.
"""

import torch
from torch import Tensor

MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """[rows, cols] float32 from [rows, cols] float8_e4m3fn and one scale per 128x128 block."""
    rows, cols = codes.shape
    whole = scales.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return codes.float() * whole[:rows, :cols]


def quantize(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round float32 weights to NVFP4 by the eager rule.

    Args:
        weights: [rows, cols] float32, cols a multiple of 16.

    Returns:
        Codes [rows, cols / 2] uint8, scales [rows, cols / 16] float8_e4m3fn, global scale [].
    """
    rows, cols = weights.shape
    global_scale = weights.abs().max() / 2688
    blocks = weights.view(rows, cols // 16, 16)
    scales = (blocks.abs().amax(-1) / (6 * global_scale)).clamp(min=1e-30).to(torch.float8_e4m3fn)
    units = scales.float().clamp(min=1e-30) * global_scale
    scaled = (blocks / units[..., None]).view(rows, cols)
    codes = torch.searchsorted(torch.tensor(MIDPOINTS, device=weights.device), scaled.abs())
    codes = codes.to(torch.uint8) | (scaled < 0).to(torch.uint8) << 3
    return codes[:, 0::2] | codes[:, 1::2] << 4, scales, global_scale
