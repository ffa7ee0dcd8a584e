"""The arithmetic: one signature, several implementations, the same bytes from each.

`choose` and `starting` are the only doors; nothing outside this folder imports torch. numpy in,
numpy out, so that whoever calls does not see where the work was done.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hubconv import devices
from hubconv.errors import HubconvError, ResourceError
from hubconv.formats.nvfp4 import Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window

_LOG: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


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

    def begin_amax(self, window: Window) -> Callable[[], float]:
        """Begin `amax`; what is returned waits for it, on the thread that began it.

        A device works meanwhile. Errors may be raised by either.
        """
        ...

    def begin_encode(
        self, window: Window, global_scale: float, scales: Scales
    ) -> Callable[[], Encoded]:
        """Begin `encode`; what is returned waits for it, on the thread that began it."""
        ...

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`, with its errors."""
        ...

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`, with its errors."""
        ...


class Prompt(ABC):
    """Of a kernel without a device: what it begins it has done."""

    @abstractmethod
    def amax(self, window: Window) -> float:
        """See `Kernel`."""

    @abstractmethod
    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """See `Kernel`."""

    def begin_amax(self, window: Window) -> Callable[[], float]:
        """Do `amax`; what is returned gives what it found."""
        return done(self.amax(window))

    def begin_encode(
        self, window: Window, global_scale: float, scales: Scales
    ) -> Callable[[], Encoded]:
        """Do `encode`; what is returned gives what it made."""
        return done(self.encode(window, global_scale, scales))


def done(result: Result) -> Callable[[], Result]:
    """Work that is done, as something that could be waited for."""
    return lambda: result


def one_ahead(begun: Iterable[Callable[[], Result]]) -> Generator[Result, None, None]:
    """What comes of pieces of work, each waited for once the next one has begun.

    Args:
        begun: Begins a piece each time it is asked for one.
    """
    before: Callable[[], Result] | None = None
    try:
        for after in begun:
            waited, before = before, after
            if waited is not None:
                yield waited()
        waited, before = before, None
        if waited is not None:
            yield waited()
    finally:
        if before is not None:  # an error came first; a device must not go on beside it
            with suppress(HubconvError):
                before()


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
