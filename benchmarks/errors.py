"""Prints how far NVFP4 weights are from their source, by the rule that made them.

    python benchmarks/errors.py

Every row is one kind of weight, stored as FP8 with one scale per 128x128 block, and rounded by the
eager rule, by `--scales amax` and by `--scales search`. "Born FP4" weights were rounded to MXFP4
before they were stored as FP8, as DeepSeek V4's experts are in FP8 repacks.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
import eager

from hubconv.formats import nvfp4
from hubconv.formats.nvfp4 import Quality
from hubconv.formats.stored import StoredWeight, Window, dequantize, window
from hubconv.kernels import Kernel, choose

BLOCK = 128


def main() -> None:
    """Measure every kind of weight under every rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    kernel = choose("cpu")
    print(f"{asked.rows}x{asked.cols} weights, {kernel.name}, torch {torch.__version__}")
    print(f"{'weights':<24}{'rule':<9}{'rel. error':>12}{'SQNR dB':>9}{'exact blocks':>14}")
    for name, make in SOURCES.items():
        source = make(asked.rows, asked.cols)
        for rule, quality in measured(kernel, source).items():
            share = quality.exact_blocks / quality.blocks
            print(
                f"{name:<24}{rule:<9}{quality.relative_error:>12.5f}{quality.sqnr_db:>9.2f}"
                f"{share:>14.1%}"
            )


def measured(kernel: Kernel, source: Window) -> dict[str, Quality]:
    """Quality of each rule on one weight."""
    weights = dequantize(source)
    amax = kernel.amax(source)
    codes, scales, g = eager.quantize(torch.from_numpy(weights))
    return {
        "eager": nvfp4.measure(weights, codes.numpy(), scales.view(torch.uint8).numpy(), float(g)),
        "amax": kernel.encode(source, nvfp4.global_scale_amax(amax), "amax").quality,
        "search": kernel.encode(source, nvfp4.global_scale(amax), "search").quality,
    }


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


if __name__ == "__main__":
    main()
