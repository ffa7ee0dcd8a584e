"""Memory on both sides of the line to a CUDA device, and the stream that moves it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from hubconv.kernels.cuda.driver import Bytes, Device, DeviceMemory, Stream


class Slot:
    """Half of a thread's double buffer: a stream, and memory that its copies start and end in.

    One stream copies a chunk in, computes, and copies out, in this order; that of the other half
    does the same for another chunk meanwhile. Not to be shared by threads.

    Args:
        device: The CUDA device, entered.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.stream = Stream()
        self._rooms: dict[str, DeviceMemory] = {}
        self._boxes: dict[str, Bytes] = {}
        self._left: Bytes | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is asked of the stream inside can be waited for, also where an error leaves."""
        try:
            yield
        finally:
            self.stream.mark()

    def room(self, name: str, nbytes: int) -> DeviceMemory:
        """Memory on the device; the same every time, so wait before.

        Raises:
            FullError: The device has no more.
        """
        found = self._rooms.get(name)
        if found is None or found.nbytes < nbytes:
            self._rooms.pop(name, None)
            del found  # first, so that both never exist at once
            self._rooms[name] = self._allocate(nbytes)
        return self._rooms[name]

    def _allocate(self, nbytes: int) -> DeviceMemory:
        return DeviceMemory(nbytes)

    def sent(self, name: str, array: npt.NDArray[np.generic]) -> DeviceMemory:
        """An array's bytes, on their way to the device; from where they are, if that is pinned."""
        host = array.reshape(-1).view(np.uint8)
        memory = self.room(name, host.nbytes)
        if not self._device.pinned.holds(host):
            box = self._box(name, host.nbytes)
            np.copyto(box, host)
            host = box
        self.stream.copy_in(memory, host)
        return memory

    def leave(self, memory: DeviceMemory, nbytes: int) -> None:
        """Copy some figures out; `taken` gives them."""
        self._left = self._box("figures", nbytes)
        self.stream.copy_out(self._left, memory)

    def taken(self) -> list[Bytes]:
        """Wait until all work is done; the bytes that it left, or nothing."""
        self.stream.wait()
        left, self._left = self._left, None
        return [] if left is None else [left.copy()]

    def clear(self) -> None:
        """Give the device its memory back; nothing may be under way."""
        self._rooms.clear()

    def _box(self, name: str, nbytes: int) -> Bytes:
        if name not in self._boxes or self._boxes[name].nbytes < nbytes:
            self._boxes[name] = self._device.pinned.take(nbytes)
        return self._boxes[name][:nbytes]
