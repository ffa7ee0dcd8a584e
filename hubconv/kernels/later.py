"""A kernel that is loaded where it is first needed.

The one for CPUs takes longer to load than a CUDA device takes to open, and beside a device there
may be nothing for it to do.
"""

import threading
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from hubconv.formats import recodes
from hubconv.formats.nvfp4 import Encoded, Scales
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel

WORTH_LOADING_BYTES: Final = 32 * 1024 * 1024
"""numpy re-spells this much in about the time that the CPU's kernel takes to load."""


class LaterKernel:
    """Does what another kernel does, and loads that one first. Threads may share it.

    Args:
        load: Loads the other.
        little: Source bytes that are re-spelled without it, as long as it is not loaded.
    """

    def __init__(self, load: Callable[[], Kernel], little: int = 0) -> None:
        self._load = load
        self._little = little
        self._lock = threading.Lock()
        self._loaded: Kernel | None = None
        self._respelled = 0

    def _kernel(self) -> Kernel:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @property
    def name(self) -> str:
        """What did the work, for reports."""
        return self._kernel().name

    def stage(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """[nbytes] uint8 to read a window's bytes into."""
        return self._kernel().stage(nbytes)

    def amax(self, window: Window) -> float:
        """Largest magnitude of a window's weights; see `Kernel`."""
        return self._kernel().amax(window)

    def encode(self, window: Window, global_scale: float, scales: Scales) -> Encoded:
        """Round a window to NVFP4; see `Kernel`."""
        return self._kernel().encode(window, global_scale, scales)

    def begin_amax(self, window: Window) -> Callable[[], float]:
        """Begin `amax`; see `Kernel`."""
        return self._kernel().begin_amax(window)

    def begin_encode(
        self, window: Window, global_scale: float, scales: Scales
    ) -> Callable[[], Encoded]:
        """Begin `encode`; see `Kernel`."""
        return self._kernel().begin_encode(window, global_scale, scales)

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`."""
        if self._is_little(window):
            return recodes.fp8_to_mxfp4(window)
        return self._kernel().fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`."""
        if self._is_little(window):
            return recodes.bf16_to_fp8_block(window, block)
        return self._kernel().bf16_to_fp8_block(window, block)

    def _is_little(self, window: Window) -> bool:
        """Whether numpy has re-spelled this window before the other kernel is loaded."""
        with self._lock:
            self._respelled += window.data.nbytes
            return self._loaded is None and self._respelled < self._little
