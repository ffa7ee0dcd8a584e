"""The CPU works while the CUDA device wakes.

Opening the device and loading its kernels takes a second, compiling them many. Both give the same
bytes, so the first windows need not wait for that.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from hubconv.kernels import Kernel
from hubconv.kernels.standin import StandIn
from hubconv.kernels.starting import opening


class WakingKernel(StandIn):
    """One kernel from the first window on, another as soon as that is ready. Threads may share it.

    What opening the second one raises is raised by the next call.

    Args:
        first: Opens the one that is ready soon.
        waking: The other, being opened.
        patience_s: Seconds to wait for the other before the first one is opened at all.
    """

    def __init__(
        self, first: Callable[[], Kernel], waking: "Future[Kernel]", patience_s: float = 0.0
    ) -> None:
        self._next = waking
        self._open_first = first
        self._first: Future[Kernel] | None = None
        self._deadline = time.monotonic() + patience_s
        self._lock = threading.Lock()
        self._used: dict[str, None] = {}

    @property
    def name(self) -> str:
        """What did the work so far, for reports; what would do it, before any was done."""
        return " and ".join(self._used) or self._kernel().name

    def _kernel(self) -> Kernel:
        if not self._next.done():
            wait((self._next,), max(0.0, self._deadline - time.monotonic()))
        if self._next.done():
            return self._next.result()
        with self._lock:
            if self._first is None:
                self._first = opening(self._open_first, "first")
        wait((self._first, self._next), return_when=FIRST_COMPLETED)
        return (self._next if self._next.done() else self._first).result()

    def _worker(self) -> Kernel:
        kernel = self._kernel()
        self._used.setdefault(kernel.name)
        return kernel
