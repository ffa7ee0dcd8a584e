"""The reference kernel: torch, on a CPU or a CUDA device, a chunk of rows at a time."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubconv import allowance, devices
from hubconv.formats import recodes
from hubconv.formats.nvfp4 import BLOCK, MIN_SEARCHED_SCALE, Encoded, Quality, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Prompt, magnitude, rounding
from hubconv.kernels.rounding import Rounded
from hubconv.kernels.weights import e4m3_values, weights

# On a CPU the temporaries of a chunk should stay in its cache, and yet each step be long: workers
# are threads, and short steps would have them wait for one another between any two.
_CPU_ELEMENTS = 1 << 18
_CUDA_ELEMENTS = 1 << 23


class ReferenceKernel(Prompt):
    """Turns windows of stored weights into NVFP4 with torch. Threads may share an instance.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: Threads that will share it; with several, torch's own are divided among them.

    Raises:
        ResourceError: The device does not exist here.
        UsageError: Not a device name.
    """

    def __init__(self, device: str, workers: int = 1) -> None:
        self._device = torch.device(devices.named(device))
        if workers > 1:
            torch.set_num_threads(max(1, allowance.cores() // workers))
        self._elements = _CPU_ELEMENTS if self._device.type == "cpu" else _CUDA_ELEMENTS

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        return f"reference ({self._device})"

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 to read a window's bytes into: plain memory."""
        return np.empty(nbytes, np.uint8)

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's dequantised weights, as an exact float32 number.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        return magnitude.largest(window)

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4 under a given global scale, and measure the distance.

        Args:
            window: Rows of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            scales: `search` tries nine block scales; `amax` is ModelOpt's rule.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        magnitude.largest(window)  # refuses what is not finite; the rest relies on it
        cols = window.weight.cols
        codes = np.empty((window.rows, cols // 2), np.uint8)
        block_scales = np.empty((window.rows, cols // BLOCK), np.uint8)
        quality = Quality()
        step = max(1, self._elements // cols)
        round_blocks = rounding.search if scales == "search" else rounding.plain
        with torch.inference_mode():
            for first in range(0, window.rows, step):
                last = min(first + step, window.rows)
                blocks = weights(window, first, last, self._device).view(-1, BLOCK).t().contiguous()
                rounded = round_blocks(blocks, global_scale)
                quality += _quality(blocks, rounded, global_scale)
                codes[first:last] = _numpy(rounding.pack(rounded), last - first)
                block_scales[first:last] = _numpy(rounded.scales, last - first)
        return Encoded(codes, block_scales, quality)

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`."""
        return recodes.fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`."""
        return recodes.bf16_to_fp8_block(window, block)


def _quality(blocks: Tensor, rounded: Rounded, global_scale: float) -> Quality:
    """Compare [16, blocks] weights with what they were rounded to; everything in float64."""
    scales = e4m3_values(rounded.scales).double()
    sizes = blocks.double().abs_()
    squares = (sizes * sizes).sum(0)
    sizes.sub_(rounded.magnitudes.double().mul_(scales * global_scale))
    errors = sizes.mul_(sizes).sum(0)
    flushed = (squares > 0) & (rounded.magnitudes.amax(0) == 0)
    relative = errors / squares.clamp(min=torch.finfo(torch.float64).tiny)
    figures = torch.stack([
        (errors == 0).sum().double(),
        flushed.sum().double(),
        (scales < MIN_SEARCHED_SCALE).sum().double(),
        errors.sum(),
        squares.sum(),
        relative.amax().sqrt(),
    ])
    exact, flushed_blocks, low, error_sq, weight_sq, worst = figures.tolist()
    return Quality(
        elements=blocks.numel(),
        blocks=blocks.shape[1],
        exact_blocks=int(exact),
        flushed_blocks=int(flushed_blocks),
        low_scales=int(low),
        error_sq=error_sq,
        weight_sq=weight_sq,
        worst_block=worst,
    )


def _numpy(tensor: Tensor, rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return tensor.cpu().numpy().reshape(rows, -1)
