"""Memory on both sides of the line to a CUDA device, and the streams that move it.

Copies overlap with work only from and to pinned memory. torch keeps a cache of it, so taking a
piece costs little once pieces of that size have been in use.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_LOG: Final = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]


def pinned(nbytes: int) -> Tensor:
    """[nbytes] uint8 in pinned memory; in plain memory where the machine gives no more of it."""
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        _LOG.warning("No pinned memory for %d bytes, copies will be slow: %s", nbytes, error)
        return torch.empty(nbytes, dtype=torch.uint8)


class Slot:
    """Half of a thread's double buffer: a stream, and memory that its copies start and end in.

    One stream copies a chunk in, computes, and copies out, in this order; that of the other half
    does the same for another chunk meanwhile. Not to be shared by threads.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # A waiting thread sleeps: the cores have files to read and to hash.
        self._done: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._rooms = _Memory(self._allocate)
        self._boxes = _Memory(pinned)
        self._left: Tensor | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is inside happens on this slot's device and stream, after what came before."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                yield
            finally:
                self._done.record(self._stream)

    def room(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """[count] of a type on the device; the same memory every time, so wait before.

        Raises:
            torch.OutOfMemoryError: The device has no more.
        """
        return self._rooms.take(name, count, dtype)

    def boxed(self, name: str, array: npt.NDArray[np.generic]) -> Tensor:
        """[nbytes] uint8, the bytes of an array in pinned memory: where they are, or a copy."""
        host = array.reshape(-1).view(np.uint8)
        found = _if_pinned(host)
        if found is None:
            found = self._boxes.take(name, host.nbytes, torch.uint8)
            np.copyto(found.numpy(), host)
        return found

    def leave(self, figures: Tensor) -> None:
        """Copy some figures out; `taken` gives them."""
        box = self._boxes.take("figures", figures.numel(), figures.dtype)
        self._left = box.copy_(figures, non_blocking=True)

    def taken(self) -> list[npt.NDArray[np.generic]]:
        """Wait until all work is done; the figures that it left, or nothing."""
        self._done.synchronize()
        left, self._left = self._left, None
        return [] if left is None else [left.numpy().copy()]

    def clear(self) -> None:
        """Give the device its memory back; nothing may be under way."""
        self._rooms.clear()

    def _allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)


class _Memory:
    """Pieces of memory by name that grow as needed, and the last view of each."""

    def __init__(self, allocate: Callable[[int], Tensor]) -> None:
        self._allocate = allocate
        self._pieces: dict[str, Tensor] = {}
        self._views: dict[str, Tensor] = {}

    def take(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """[count] of a type, in the piece of that name."""
        view = self._views.get(name)
        if view is not None and view.numel() == count and view.dtype == dtype:
            return view
        nbytes = count * dtype.itemsize
        if name not in self._pieces or self._pieces[name].numel() < nbytes:
            self._views.pop(name, None)
            self._pieces.pop(name, None)  # first, so that both never exist at once
            self._pieces[name] = self._allocate(nbytes)
        view = self._views[name] = self._pieces[name][:nbytes].view(dtype)
        return view

    def clear(self) -> None:
        """Let go of all of it."""
        self._views.clear()
        self._pieces.clear()


def _if_pinned(host: Bytes) -> Tensor | None:
    # torch warns about memory that it may not write to; such memory was never made by `pinned`.
    if not host.flags.writeable:
        return None
    tensor = torch.from_numpy(host)
    return tensor if tensor.is_pinned() else None
