"""A kernel that is loaded where it is first needed.

The one for CPUs takes longer to load than a CUDA device takes to open, and beside a device there
may be nothing for it to do.
"""

import threading
from collections.abc import Callable
from typing import Final

from hubconv.formats import recodes
from hubconv.formats.stored import Bytes2D, Window
from hubconv.kernels import Kernel
from hubconv.kernels.standin import StandIn

WORTH_LOADING_BYTES: Final = 32 * 1024 * 1024
"""numpy re-spells this much in about the time that the CPU's kernel takes to load."""


class LaterKernel(StandIn):
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

    def fp8_to_mxfp4(self, window: Window) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.fp8_to_mxfp4`."""
        if self._is_little(window):
            return recodes.fp8_to_mxfp4(window)
        return super().fp8_to_mxfp4(window)

    def bf16_to_fp8_block(self, window: Window, block: tuple[int, int]) -> tuple[Bytes2D, Bytes2D]:
        """`formats.recodes.bf16_to_fp8_block`."""
        if self._is_little(window):
            return recodes.bf16_to_fp8_block(window, block)
        return super().bf16_to_fp8_block(window, block)

    def _is_little(self, window: Window) -> bool:
        """Whether numpy has re-spelled this window before the other kernel is loaded."""
        with self._lock:
            self._respelled += window.data.nbytes
            return self._loaded is None and self._respelled < self._little
