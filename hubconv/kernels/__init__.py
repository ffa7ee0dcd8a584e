"""The arithmetic: one signature, several implementations, the same bytes from each.

`choose` and `starting` are the only doors; nothing outside this folder imports torch. numpy in,
numpy out, so that whoever calls does not see where the work was done.
"""

import logging
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from hubconv.errors import ResourceError
from hubconv.formats.nvfp4 import Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import devices

_LOG: Final = logging.getLogger(__name__)


class Kernel(Protocol):
    """Turns windows of stored weights into NVFP4. Instances may be shared by threads."""

    @property
    def name(self) -> str:
        """What did the work, for reports: `reference (cpu)`."""
        ...

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 to read a window's bytes into, from where they travel fastest."""
        ...

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's dequantised weights, as an exact float32 number.

        Raises:
            NonFiniteError: A weight or a scale is NaN or infinite, or their product is.
        """
        ...

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4 under a given global scale, and measure the distance.

        Args:
            window: Rows of a stored weight; columns a multiple of 16.
            global_scale: Above zero; a power of two for `search`.
            scales: `search` tries nine block scales; `amax` is ModelOpt's rule.
        """
        ...

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`, with its errors."""
        ...

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`, with its errors."""
        ...


def choose(device: str, workers: int = 1) -> Kernel:
    """The kernel for a device, ready.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: Threads that will use it at the same time; the CPU's cores are divided among them.

    Raises:
        ResourceError: The device does not exist here.
        UsageError: Not a device name.
    """
    found = devices.named(device)
    if found != "cpu":
        from hubconv.kernels.cuda import open_kernel

        try:
            return open_kernel(found, workers)
        except ResourceError as error:
            if device != "auto":
                raise
            _LOG.warning("%s The CPU does the work.", error)
    from hubconv.kernels.cpu import CpuKernel  # here, for compiled code takes a second to load

    return CpuKernel(workers)
