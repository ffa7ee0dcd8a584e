"""Speed of the CUDA kernel on one card: on the device alone, beside the eager rule, end to end.

python benchmarks/gpu_probe.py [--device cuda:0] [--rows 16384] [--cols 7168] [--window-rows 4096]
"""

import argparse
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import eager
import numpy as np
import torch
import triton
from triton.testing import do_bench

from hubconv.formats import stored
from hubconv.formats.nvfp4 import BLOCK, Scales
from hubconv.formats.stored import StoredWeight, Window
from hubconv.kernels.cuda import CHUNK_BYTES, TritonKernel, variants
from hubconv.kernels.cuda.variants import FIGURES, Geometry, Variant

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
FORMS = ("fp8", "mxfp4", "int4", *DTYPES)

COUNT = 8
"""Different windows that are worked on by turns."""

OnDevice = tuple[torch.Tensor, torch.Tensor, Geometry]
"""Words, scales, how they lie."""


def machine(device: torch.device) -> str:
    """One line on the card and the software."""
    query = "--query-gpu=clocks.sm,clocks.max.sm,driver_version,pcie.link.gen.current"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader", f"--id={device.index or 0}"]
        clocks = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        clocks = str(error)
    name = torch.cuda.get_device_name(device)
    return f"{name}, torch {torch.__version__}, triton {triton.__version__}; {clocks}"


def median_s(run: Callable[[], object]) -> float:
    """Seconds of one run: the median, with caches emptied before each."""
    return do_bench(run, warmup=50, rep=300, return_mode="median") / 1e3


def device_data(form: str, rows: int, cols: int, device: torch.device) -> OnDevice:
    """Random finite weights on the device."""
    per_row = cols // BLOCK
    blocks = rows * per_row
    if form in DTYPES:
        values = torch.randn(rows * cols, device=device).to(DTYPES[form])
        nothing = torch.ones(1, device=device)
        return values.view(torch.int64), nothing, Geometry(form, blocks, per_row)
    raw = torch.randint(0, 256, (rows * cols // (1 if form == "fp8" else 2),), device=device)
    raw = raw.to(torch.uint8)
    if form == "fp8":
        raw[raw & 0x7F == 0x7F] = 0x38
    down, across = (128, 128) if form == "fp8" else (1, 32)
    scales = torch.rand(rows // down, cols // across, device=device) * 1e-3 + 1e-3
    layout = Geometry(form, blocks, per_row, 0, down, across, cols // across)
    return raw.view(torch.int64), scales, layout


def on_the_device(kernel: TritonKernel, device: torch.device, rows: int, cols: int) -> None:
    """Each kernel on data that is there already, beside the eager rule."""
    elements = rows * cols
    print(f"\non the device, {rows} x {cols}, G elements/s (median)")
    print(f"{'form':8}{'amax':>9}{'encode amax':>13}{'both':>9}{'encode search':>15}")
    speeds = {}
    for form in FORMS:
        speeds[form] = [
            elements / seconds / 1e9 for seconds in seconds_of(kernel, form, rows, cols, device)
        ]
        amax, plain, both, search = speeds[form]
        print(f"{form:8}{amax:9.0f}{plain:13.0f}{both:9.0f}{search:15.0f}")
    beside_eager(device, rows, cols, speeds["fp8"])


class TorchStream:
    """The stream that torch works on, for launching ours between its events."""

    handle = None


def seconds_of(
    kernel: TritonKernel, form: str, rows: int, cols: int, device: torch.device
) -> list[float]:
    """Of finding the largest magnitude, of the plain rule, of both, of the search."""
    data, factors, layout = device_data(form, rows, cols, device)
    codes = torch.empty(layout.blocks, dtype=torch.int64, device=device)
    scales = torch.empty(layout.blocks, dtype=torch.uint8, device=device)
    tops = torch.empty(layout.programs, dtype=torch.int32, device=device)
    figures = torch.empty(layout.programs, FIGURES, dtype=torch.float64, device=device)

    def prepared(
        variant: Variant, tensors: list[torch.Tensor], *scalars: float
    ) -> Callable[[], None]:
        function, spare = kernel._engine._function(variant)
        arguments = variants.pointers([tensor.data_ptr() for tensor in tensors])
        for scalar in scalars:
            arguments += variants.scalars(scalar)
        arguments += [*layout.sizes(), *spare]
        return lambda: function.launch(TorchStream(), layout.programs, arguments)

    def encode(rule: Scales, g: float) -> Callable[[], None]:
        variant = variants.encode_variant(layout, g, rule)
        return prepared(variant, [data, factors, codes, scales, figures], g)

    amax = prepared(variants.amax_variant(layout), [data, factors, tops])
    plain, search = encode("amax", 1e-4), encode("search", 2.0**-10)

    def both() -> None:
        amax()
        plain()

    return [median_s(run) for run in (amax, plain, both, search)]


def beside_eager(device: torch.device, rows: int, cols: int, ours: list[float]) -> None:
    """The eager rule on the same FP8 weights."""
    data, factors, _ = device_data("fp8", rows, cols, device)
    weights = data.view(torch.float8_e4m3fn).view(rows, cols)
    theirs = (
        rows * cols / median_s(lambda: eager.quantize(eager.dequantize(weights, factors))) / 1e9
    )
    print(
        f"eager rule: {theirs:.1f}; amax then encode amax is {ours[2] / theirs:.1f} x that, ",
        end="",
    )
    print(f"encode amax {ours[1] / theirs:.1f} x, encode search {ours[3] / theirs:.1f} x")


def line(device: torch.device, nbytes: int = 1 << 28) -> list[float]:
    """GB/s of pinned copies: in, out, in while out."""
    there = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
    here = [torch.empty(nbytes, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    streams = [torch.cuda.Stream(device) for _ in range(2)]

    def seconds(ways: tuple[int, ...]) -> float:
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        for _ in range(10):
            for way in ways:
                with torch.cuda.stream(streams[way]):
                    source, target = (here, there) if way == 0 else (there, here)
                    target[way].copy_(source[way], non_blocking=True)
        torch.cuda.synchronize(device)
        return (time.perf_counter() - begun) / 10

    seconds((0, 1))
    speeds = [nbytes / seconds(ways) / 1e9 for ways in ((0,), (1,), (0, 1))]
    print("\npinned copies, GB/s: in {:.1f}, out {:.1f}, each way at once {:.1f}".format(*speeds))
    return speeds


def host_windows(
    kernel: TritonKernel, form: str, rows: int, cols: int, *, staged: bool
) -> list[Window]:
    """Windows of random weights in memory of the kernel's or of numpy's."""
    rng = np.random.default_rng(0)
    dtype = {"fp8": "F8_E4M3", "mxfp4": "I8", "int4": "I32"}.get(form, form)
    if form not in DTYPES:
        block = (128, 128) if form == "fp8" else (1, 32)
        weight = StoredWeight(form, dtype, rows, cols, "F32", block)
        scales = np.full(weight.scale_shape, 2.0**-9, np.float32).tobytes()
    else:
        weight, scales = StoredWeight("plain", dtype, rows, cols), b""
    size = rows * weight.row_bytes
    source = rng.integers(0, 256, size).astype(np.uint8)
    if form == "fp8":
        source[source & 0x7F == 0x7F] = 0x38
    if dtype == "BF16":
        source.view(np.uint16)[:] &= 0xBF7F
    windows = []
    for _ in range(COUNT):
        data = kernel.stage(size) if staged else np.empty(size, np.uint8)
        np.copyto(data, source)
        windows.append(stored.window(weight, 0, data, scales))
    return windows


def end_to_end(kernel: TritonKernel, line_in: float, rows: int, cols: int) -> None:
    """Through `encode` and `amax` with every copy, from memory of both sorts."""
    print(
        f"\nend to end, windows of {rows} x {cols}, GB/s in and out (share of the pinned line in)"
    )
    names = "{:7}{:8}{:8}{:>8}{:>8}{:>8}{:>8}{:>8}"
    print(names.format("form", "what", "memory", "threads", "in", "out", "G el/s", "share"))
    for form in ("fp8", "mxfp4", "int4", "BF16"):
        for memory in ("plain", "staged"):
            windows = host_windows(kernel, form, rows, cols, staged=memory == "staged")
            for what in ("search", "amax") if form == "fp8" else ("search",):
                for workers in (1, 2, 4, 8):
                    seconds = timed(kernel, windows, what, workers)
                    show((form, what, memory, workers), windows[0], seconds, line_in)


def timed(
    kernel: TritonKernel, windows: list[Window], what: str, workers: int, rounds: int = 6
) -> float:
    """Seconds per window; `amax` is the kernel's method of that name."""
    start = threading.Barrier(workers)

    def run(first: int) -> None:
        start.wait()
        mine = [windows[index % len(windows)] for index in range(first, first + COUNT * rounds)]
        for window in mine:
            if what == "search":
                kernel.encode(window, 2.0**-10, "search")
            else:
                kernel.amax(window)

    with ThreadPoolExecutor(workers) as pool:
        for _ in range(2):  # the first one fills the caches of memory
            begun = time.perf_counter()
            list(pool.map(run, range(workers)))
            seconds = (time.perf_counter() - begun) / (COUNT * rounds * workers)
    return seconds


def show(case: tuple[str, str, str, int], window: Window, seconds: float, line_in: float) -> None:
    """One row."""
    elements = window.rows * window.weight.cols
    into = (window.data.nbytes + window.scales.nbytes) / seconds / 1e9
    out = elements * 9 / 16 / seconds / 1e9 if case[1] == "search" else 0.0
    print(
        "{:7}{:8}{:8}{:8}".format(*case)
        + f"{into:8.1f}{out:8.1f}{elements / seconds / 1e9:8.1f}{into / line_in:8.0%}",
        flush=True,
    )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--cols", type=int, default=7168)
    parser.add_argument("--window-rows", type=int, default=4096)
    parser.add_argument("--chunk-bytes", type=int, default=CHUNK_BYTES)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.cuda.set_device(device)
    print(machine(device))
    begun = time.perf_counter()
    kernel = TritonKernel(options.device, chunk_bytes=options.chunk_bytes)
    print(f"{kernel.name}: made and checked in {time.perf_counter() - begun:.1f} s")
    on_the_device(kernel, device, options.rows, options.cols)
    end_to_end(kernel, line(device)[0], options.window_rows, 8192)
    print("after: " + machine(device))


if __name__ == "__main__":
    main()
