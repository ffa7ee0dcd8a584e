"""Memory on both sides of the line to a CUDA device, and the stream that moves it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from hubconv.kernels.cuda.driver import Bytes, Device, DeviceMemory, Stream

Figures = dict[int, Bytes]
"""What the device leaves besides its outputs, for each part of a window."""


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
        self._figures: Figures | None = None
        self._part = 0
        self._used: tuple[object, ...] = ()

    @contextmanager
    def working(self, figures: Figures, part: int, *used: object) -> Iterator[None]:
        """Work on a part of a window, after what was under way here.

        What is asked of the stream inside can be waited for, also where an error leaves.

        Args:
            figures: Receives the figures of the part.
            part: Its number.
            used: What the device reads and writes meanwhile: its memory must stay.
        """
        self.settle()
        self._figures, self._part, self._used = figures, part, used
        try:
            yield
        finally:
            self.stream.mark()

    def serves(self, figures: Figures) -> bool:
        """Whether the last work here was for these figures."""
        return self._figures is figures

    def settle(self) -> None:
        """Wait until all work is done, and hand over its figures."""
        self.stream.wait()
        left, self._left = self._left, None
        if left is not None and self._figures is not None:
            self._figures[self._part] = left.copy()
        self._figures, self._used = None, ()

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
        """Copy some figures out; `settle` hands them over."""
        self._left = self._box("figures", nbytes)
        self.stream.copy_out(self._left, memory)

    def clear(self) -> None:
        """Give the device its memory back; nothing may be under way."""
        self._rooms.clear()

    def _box(self, name: str, nbytes: int) -> Bytes:
        if name not in self._boxes or self._boxes[name].nbytes < nbytes:
            self._boxes[name] = self._device.pinned.take(nbytes)
        return self._boxes[name][:nbytes]


class Lane:
    """The two slots of a thread, used in turn: one is under way while the other is waited for.

    Args:
        device: The CUDA device, entered.
    """

    def __init__(self, device: Device) -> None:
        self._slots = (Slot(device), Slot(device))
        self._turn = 0

    def next(self) -> Slot:
        """The one that has been under way for longer."""
        self._turn = 1 - self._turn
        return self._slots[self._turn]

    def finished(self, figures: Figures) -> list[Bytes]:
        """Wait for all work on a window; its figures, part by part."""
        for slot in self._slots:
            if slot.serves(figures):
                slot.settle()
        return [figures[part] for part in sorted(figures)]

    def settle(self) -> None:
        """Wait until nothing is under way."""
        for slot in self._slots:
            slot.settle()

    def clear(self) -> None:
        """Give the device its memory back, once nothing is under way."""
        self.settle()
        for slot in self._slots:
            slot.clear()
