"""A kernel that is opened while headers are read and the plan is made."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from hubconv import devices
from hubconv.kernels import Kernel, choose

WORTH_WAKING_BYTES: Final = 1024 * 1024 * 1024
"""Two cores convert this much in about the time that a device takes to wake."""

PATIENCE_S: Final = 3.0
"""A device that was asked for is ready by then, unless its kernels are being compiled: then the
CPU begins."""


class Starting:
    """Begins at once to load what the kernel of a device needs.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ResourceError: The device does not exist here: a run must not find that out late.
        UsageError: Not a device name.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._found = devices.named(device)
        # A device that was asked for is opened now; `auto` waits for how much there is to do.
        asked = self._found != "cpu" and device != "auto"
        self._waking = opening(self._open, "waking") if asked else None
        # The CPU's kernel takes as long to load as a device to open, and both want Python's lock.
        self._loading = None if asked else opening(lambda: choose("cpu"), "loading")
        self._began = time.monotonic()

    @property
    def found(self) -> str:
        """`cpu` or `cuda:N`: where the device's name leads to."""
        return self._found

    def _open(self) -> Kernel:
        return choose(self._device)

    def kernel(self, workers: int, weight_bytes: int) -> Kernel:
        """The kernel for a job of known size: a CUDA device may wake while the CPU begins.

        Args:
            workers: Threads that will use it at the same time; the CPU's cores are divided among
                them.
            weight_bytes: Stored weights that will be converted; `auto` does not wake a device for
                what the CPU will have done before.
        """
        if self._found == "cpu" or (self._waking is None and weight_bytes < WORTH_WAKING_BYTES):
            from hubconv.kernels.later import LaterKernel

            # Bytes can be on their way before it is loaded.
            return LaterKernel(lambda: self._loaded(workers))
        from hubconv.kernels.waking import WakingKernel

        patience = 0.0 if self._waking is None else self._began + PATIENCE_S - time.monotonic()
        waking = self._waking or opening(self._open, "waking")
        return WakingKernel(lambda: self._loaded(workers), waking, patience)

    def _loaded(self, workers: int) -> Kernel:
        """The CPU's kernel, once another thread has loaded its code."""
        if self._loading is not None:
            self._loading.exception()  # waited for; what failed is told here
        return choose("cpu", workers)


def opening(open_kernel: Callable[[], Kernel], name: str) -> "Future[Kernel]":
    """A kernel, being opened on a thread of its own."""
    future: Future[Kernel] = Future()

    def run() -> None:
        try:
            future.set_result(open_kernel())
        except BaseException as error:  # noqa: BLE001 - raised again where a call can fail
            future.set_exception(error)

    # Not a daemon: the interpreter must not end in the middle of an import.
    threading.Thread(target=run, name=name, daemon=False).start()
    return future
