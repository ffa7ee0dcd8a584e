"""Bytes from a child process to its parent through memory that both see.

A pipe takes them page by page and copies them twice within the system, which costs more than all
that becomes of them in Python. Here they are copied into a ring and out of it; pipes carry a byte
now and then that wakes whoever waits. It imports nothing heavy, for a child must be quick to start.
"""

import mmap
import os
from contextlib import suppress
from typing import Final

RING_BYTES: Final = 4 * 1024 * 1024
_HEAD_BYTES: Final = mmap.PAGESIZE
_FILLED, _EMPTIED = 0, 8  # eight-byte counters, a cache line apart
_WAKE: Final = b"."
_WAKES: Final = 65536


class _Ring:
    """The memory: two counters that only grow, and the bytes between them."""

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, _HEAD_BYTES + RING_BYTES)
        whole = memoryview(self._memory)
        self._counters = whole[:_HEAD_BYTES].cast("Q")
        self._bytes = whole[_HEAD_BYTES:]

    def _run(self, position: int, most: int) -> memoryview:
        """Bytes from a position on, as far as they lie in one piece."""
        begin = position % RING_BYTES
        return self._bytes[begin : min(begin + most, RING_BYTES)]

    def close(self) -> None:
        """Let go of the memory."""
        self._counters.release()
        self._bytes.release()
        with suppress(BufferError):  # a piece of it is still looked at
            self._memory.close()


class Filling(_Ring):
    """The child's side.

    Args:
        handle: Of the memory.
        out: Where the parent hears that bytes are there.
        wakes: Where it says that there is room.
    """

    def __init__(self, handle: int, out: int, wakes: int) -> None:
        super().__init__(handle)
        self._out, self._wakes = out, wakes

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Hand on bytes; waits for room.

        Raises:
            BrokenPipeError: Nobody takes them.
        """
        view = memoryview(data).cast("B")
        while view:
            filled = self._counters[_FILLED]
            room = RING_BYTES - (filled - self._counters[_EMPTIED])
            if not room:
                if not os.read(self._wakes, _WAKES):
                    raise BrokenPipeError
                continue
            run = self._run(filled, min(room, len(view)))
            run[:] = view[: len(run)]
            view = view[len(run) :]
            self._counters[_FILLED] = filled + len(run)
            os.write(self._out, _WAKE)


class Emptying(_Ring):
    """The parent's side; makes the memory, whose `handle` the child inherits."""

    def __init__(self) -> None:
        self.handle = os.memfd_create("ring")
        os.ftruncate(self.handle, _HEAD_BYTES + RING_BYTES)
        super().__init__(self.handle)

    @property
    def ready(self) -> int:
        """Bytes that are there."""
        return self._counters[_FILLED] - self._counters[_EMPTIED]

    def take(self, room: memoryview, wakes: int) -> int:
        """Take bytes that are there, as many as find room; how many.

        Args:
            room: Where to put them.
            wakes: Where the child hears of it; a pipe that does not block.
        """
        emptied = self._counters[_EMPTIED]
        run = self._run(emptied, min(self.ready, len(room)))
        room[: len(run)] = run
        self._counters[_EMPTIED] = emptied + len(run)
        # A pipe that is full has woken it; one that is broken has nobody to wake.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(wakes, _WAKE)
        return len(run)

    def close(self) -> None:
        """Let go of the memory; the child may still hold it."""
        super().close()
        os.close(self.handle)
