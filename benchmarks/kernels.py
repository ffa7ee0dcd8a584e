"""Prints how fast each kernel turns FP8 weights into NVFP4, beside the eager rule.

    python benchmarks/kernels.py --rows 4096 --cols 7168 --rounds 9

All take the same weight, stored as FP8 with one scale per 128x128 block, in memory; the quality
figures of hubconv's kernels are included. Rounds rotate through the contestants, so that all of
them meet the same disturbances, and ratios are taken within a round. ModelOpt takes part where it
is installed, and CUDA devices where there are any.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import eager
from sources import SOURCES

from hubconv.errors import ResourceError
from hubconv.formats import nvfp4
from hubconv.formats.stored import Window, dequantize
from hubconv.kernels import Kernel
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.reference import ReferenceKernel

OUTPUT_BYTES = 1 / 2 + 1 / 16  # of each weight
COPIED_BYTES = 1 << 28


class Contestant(NamedTuple):
    """One way to convert the weight.

    Attributes:
        name: For the table.
        convert: Converts it once, and waits until that is done.
        error: Its relative Frobenius error.
        on_cuda: The work is done on a CUDA device.
    """

    name: str
    convert: Callable[[], object]
    error: float
    on_cuda: bool = False


class Times(NamedTuple):
    """Seconds that one conversion took, by the clock and of all processors."""

    wall: float
    cpu: float


def main() -> None:
    """Measure every contestant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048, help="a multiple of 128")
    parser.add_argument("--cols", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", choices=SOURCES, default="Gaussian", help="what they are like")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    source = SOURCES[asked.weights](asked.rows, asked.cols)
    contestants = [*on_cpu(source), *on_cuda(source)]
    for contestant in contestants:
        contestant.convert()  # what is done once only
    rounds = [race(contestants) for _ in range(asked.rounds)]
    print(
        f"{asked.weights}, {asked.rows}x{asked.cols}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    show(contestants, rounds, asked.rows * asked.cols)


def race(contestants: list[Contestant]) -> list[Times]:
    """One round."""
    times = []
    for contestant in contestants:
        wall, cpu = time.perf_counter(), time.process_time()
        contestant.convert()
        times.append(Times(time.perf_counter() - wall, time.process_time() - cpu))
    return times


def show(contestants: list[Contestant], rounds: list[list[Times]], elements: int) -> None:
    """Print the medians of all rounds; the first contestant is the measure of the others."""
    device, line = copies() if any(contestant.on_cuda for contestant in contestants) else (0, 0)
    print(f"{'':<22}{'G el/s':>9}{'x eager':>9}{'CPU ns/el':>11}{'x eager':>9}{'rel. error':>12}")
    for at, contestant in enumerate(contestants):
        wall = statistics.median(times[at].wall for times in rounds)
        cpu = statistics.median(times[at].cpu for times in rounds)
        faster = statistics.median(times[0].wall / times[at].wall for times in rounds)
        cheaper = statistics.median(times[0].cpu / times[at].cpu for times in rounds)
        row = f"{contestant.name:<22}{elements / wall / 1e9:>9.3f}{faster:>9.1f}"
        row += f"{cpu / elements * 1e9:>11.2f}{cheaper:>9.1f}{contestant.error:>12.5f}"
        if contestant.on_cuda:
            moved = elements * (1 + OUTPUT_BYTES) / wall
            row += f"  {moved / device:.0%} of a copy on the device"
            row += f", {elements / wall / line:.0%} of a pinned copy to it"
        print(row)


def on_cpu(source: Window) -> Iterator[Contestant]:
    """The eager rule, ModelOpt if it is here, our reference and our kernel."""
    codes = torch.from_numpy(source.data.copy()).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(source.scales.copy())
    yield plain_torch("eager", source, lambda: eager.quantize(eager.dequantize(codes, scales)))
    try:
        from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    except ImportError:
        print("ModelOpt is not installed")
    else:

        def modelopt() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            made, block_scales, g = NVFP4QTensor.quantize(eager.dequantize(codes, scales), 16)
            return made._quantized_data, block_scales, g

        yield plain_torch("ModelOpt", source, modelopt)
    yield from ours("reference", ReferenceKernel("cpu"), source)
    try:
        kernel = CpuKernel()
    except ImportError:
        print("numba is not installed")
    else:
        yield from ours("cpu", kernel, source)


def on_cuda(source: Window) -> Iterator[Contestant]:
    """The eager rule with its weight on the device already, and our kernels from host to host."""
    if not torch.cuda.is_available():
        return
    codes = torch.from_numpy(source.data.copy()).view(torch.float8_e4m3fn).cuda()
    scales = torch.from_numpy(source.scales.copy()).cuda()

    def convert() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = eager.quantize(eager.dequantize(codes, scales))
        torch.cuda.synchronize()
        return made

    yield plain_torch("eager on the device", source, convert, on_cuda=True)
    yield from ours("reference, cuda", ReferenceKernel("cuda"), source, on_cuda=True)
    try:
        from hubconv.kernels.cuda import TritonKernel

        kernel = TritonKernel("cuda")
    except (ImportError, ResourceError) as error:
        print(f"no CUDA kernel: {error}")
    else:
        yield from ours("cuda", kernel, source, on_cuda=True)


def plain_torch(
    name: str,
    source: Window,
    convert: Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    *,
    on_cuda: bool = False,
) -> Contestant:
    """A contestant that returns codes, block scales and a global scale."""
    codes, scales, g = (made.cpu() for made in convert())
    bits = scales.view(torch.uint8).numpy()
    quality = nvfp4.measure(dequantize(source), codes.numpy(), bits, float(g))
    return Contestant(name, convert, quality.relative_error, on_cuda)


def ours(
    name: str, kernel: Kernel, source: Window, *, on_cuda: bool = False
) -> Iterator[Contestant]:
    """A kernel under both rules, with the pass that finds the largest magnitude."""

    def search() -> nvfp4.Encoded:
        return kernel.encode(source, nvfp4.global_scale(kernel.amax(source)), "search")

    def amax() -> nvfp4.Encoded:
        return kernel.encode(source, nvfp4.global_scale_amax(kernel.amax(source)), "amax")

    yield Contestant(f"{name}, search", search, search().quality.relative_error, on_cuda)
    yield Contestant(f"{name}, amax", amax, amax().quality.relative_error, on_cuda)


def copies() -> tuple[float, float]:
    """Bytes per second of a copy on the device, read and written, and of a pinned one to it."""
    there = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    other, here = torch.empty_like(there), torch.empty(COPIED_BYTES, dtype=torch.uint8).pin_memory()

    def rate(target: torch.Tensor, origin: torch.Tensor) -> float:
        def copy() -> None:
            target.copy_(origin, non_blocking=True)
            torch.cuda.synchronize()

        copy()
        times = [race([Contestant("", copy, 0)])[0].wall for _ in range(9)]
        return COPIED_BYTES / statistics.median(times)

    return 2 * rate(other, there), rate(there, here)


if __name__ == "__main__":
    main()
