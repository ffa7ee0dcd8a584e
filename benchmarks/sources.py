"""The weights that `errors.py` and `kernels.py` convert: one matrix of every kind."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hubconv.formats import nvfp4
from hubconv.formats.stored import StoredWeight, Window, window

BLOCK = 128


def fp8(weights: Tensor, *, power_of_two: bool) -> Window:
    """[rows, cols] float32 weights as FP8 with one scale per 128x128 block.

    Args:
        weights: Rows and columns are multiples of 128.
        power_of_two: Scales are powers of two in E8M0, otherwise amax / 448 in float32.
    """
    rows, cols = weights.shape
    blocks = weights.view(rows // BLOCK, BLOCK, cols // BLOCK, BLOCK)
    scales = blocks.abs().amax((1, 3)) / 448
    if power_of_two:
        scales = scales.log2().ceil().exp2()
    codes = (blocks / scales[:, None, :, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
    weight = StoredWeight("fp8", "F8_E4M3", rows, cols, "F32", (BLOCK, BLOCK))
    return window(weight, 0, codes.view(torch.uint8).numpy().tobytes(), scales.numpy().tobytes())


def born_fp4(weights: Tensor) -> Tensor:
    """The nearest MXFP4 values, exponents as the OCP specification sets them."""
    groups = weights.view(-1, 32)
    units = (groups.abs().amax(1, keepdim=True).log2().floor() - 2).exp2()
    grid = torch.tensor(nvfp4.E2M1)
    midpoints = (grid[1:] + grid[:-1]) / 2
    rounded = grid[torch.searchsorted(midpoints, (groups / units).abs())] * units
    return torch.copysign(rounded, groups).view_as(weights)


def gaussian(rows: int, cols: int) -> Tensor:
    """Normal weights, as most projections have them."""
    return torch.randn(rows, cols) * 0.02


def laplace(rows: int, cols: int) -> Tensor:
    """Heavier tails than Gaussian."""
    return torch.distributions.Laplace(0.0, 0.02).sample((rows, cols))


def student(rows: int, cols: int) -> Tensor:
    """Far heavier tails: Student's t with four degrees of freedom."""
    sample = np.random.default_rng(torch.initial_seed()).standard_t(4, (rows, cols))
    return torch.from_numpy(sample * 0.02).float()


SOURCES: dict[str, Callable[[int, int], Window]] = {
    "Gaussian": lambda rows, cols: fp8(gaussian(rows, cols), power_of_two=False),
    "Gaussian, UE8M0 scales": lambda rows, cols: fp8(gaussian(rows, cols), power_of_two=True),
    "Laplace": lambda rows, cols: fp8(laplace(rows, cols), power_of_two=False),
    "Student t(4)": lambda rows, cols: fp8(student(rows, cols), power_of_two=False),
    "born FP4, Gaussian": lambda rows, cols: fp8(born_fp4(gaussian(rows, cols)), power_of_two=True),
    "born FP4, Student t(4)": lambda rows, cols: fp8(
        born_fp4(student(rows, cols)), power_of_two=True
    ),
}
