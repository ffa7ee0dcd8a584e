"""Prints how far NVFP4 weights are from their source, by the rule that made them.

    python benchmarks/errors.py

Every row is one kind of weight, stored as FP8 with one scale per 128x128 block, and rounded by the
eager rule, by `--scales amax` and by `--scales search`. "Born FP4" weights were rounded to MXFP4
before they were stored as FP8, as DeepSeek V4's experts are in FP8 repacks.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import eager
from sources import SOURCES

from hubconv.formats import nvfp4
from hubconv.formats.nvfp4 import Quality
from hubconv.formats.stored import Window, dequantize
from hubconv.kernels import Kernel, choose


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


if __name__ == "__main__":
    main()
