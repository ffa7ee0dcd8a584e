"""A kernel that has another one do its work: which one may be known only when there is some."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hubconv.formats.nvfp4 import Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel


class StandIn(ABC):
    """Passes every call of `Kernel` on."""

    @abstractmethod
    def _kernel(self) -> Kernel:
        """The one that does the work now."""

    def _worker(self) -> Kernel:
        """The same, where it is about to round or to measure."""
        return self._kernel()

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        return self._kernel().name

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 to read a window's bytes into."""
        return self._kernel().stage(nbytes)

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's weights; see `Kernel`."""
        return self._worker().amax(window)

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4; see `Kernel`."""
        return self._worker().encode(window, global_scale, scales)

    def begin_amax(self, window: Window) -> Callable[[], float]:
        """Begin `amax`; see `Kernel`."""
        return self._worker().begin_amax(window)

    def begin_encode(
        self, window: Window, global_scale: float, scales: Scales
    ) -> Callable[[], Encoded]:
        """Begin `encode`; see `Kernel`."""
        return self._worker().begin_encode(window, global_scale, scales)

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`."""
        return self._kernel().fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`."""
        return self._kernel().bf16_to_fp8_block(window, block)
