"""Bytes from a child process to its parent through memory that both see.

A pipe takes them page by page, which costs up to several times the processor time
(`benchmarks/README.md`). Here they are copied into a ring and out of it; pipes carry numbers alone:
how many bytes were put, and how many were taken. Nobody looks at bytes that the other has not told
of: what comes through a pipe comes after what was done before, on every processor.

It imports nothing heavy, for a child must be quick to start.
"""

import mmap
import os
from contextlib import suppress
from typing import Final

RING_BYTES: Final = 4 * 1024 * 1024
WORDS_BYTES: Final = 65536
"""What is read of a pipe at a time: whole numbers, for each is written at once."""

_WORD_BYTES: Final = 4


def _said(count: int) -> bytes:
    return count.to_bytes(_WORD_BYTES, "little")


def _heard(words: bytes) -> int:
    """The sum of all numbers."""
    parts = range(0, len(words), _WORD_BYTES)
    return sum(int.from_bytes(words[at : at + _WORD_BYTES], "little") for at in parts)


class _Ring:
    """The memory, and how far one side has gone in it."""

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, RING_BYTES)
        self._bytes = memoryview(self._memory)
        self._position = 0

    def _run(self, most: int) -> memoryview:
        """The next bytes, as far as they lie in one piece."""
        begin = self._position % RING_BYTES
        return self._bytes[begin : min(begin + most, RING_BYTES)]


class Filling(_Ring):
    """The child's side.

    Args:
        handle: Of the memory.
        out: Where the parent hears of bytes that were put.
        room: Where it says how many it has taken.
    """

    def __init__(self, handle: int, out: int, room: int) -> None:
        super().__init__(handle)
        self._out, self._in = out, room
        self._room = RING_BYTES

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """Hand on bytes; waits for room.

        Raises:
            BrokenPipeError: Nobody takes them.
        """
        view = memoryview(data).cast("B")
        while view:
            if not self._room:
                words = os.read(self._in, WORDS_BYTES)
                if not words:
                    raise BrokenPipeError
                self._room += _heard(words)
                continue
            run = self._run(min(self._room, len(view)))
            size = len(run)
            run[:] = view[:size]
            view = view[size:]
            self._position += size
            self._room -= size
            os.write(self._out, _said(size))


class Emptying(_Ring):
    """The parent's side; makes the memory, whose `handle` the child inherits."""

    def __init__(self) -> None:
        self.handle = os.memfd_create("ring")
        os.ftruncate(self.handle, RING_BYTES)
        super().__init__(self.handle)
        self.ready = 0
        self._owed = 0

    def hear(self, words: bytes) -> None:
        """Take in what the child says of bytes that it put."""
        self.ready += _heard(words)

    def take(self, room: memoryview) -> int:
        """Take bytes that are there, as many as find room; how many."""
        run = self._run(min(self.ready, len(room)))
        size = len(run)
        room[:size] = run
        self._position += size
        self.ready -= size
        self._owed += size
        return size

    def tell(self, out: int) -> None:
        """Tell the child how many bytes were taken; what a full pipe does not take is told later.

        Args:
            out: A pipe that does not block. It is full only while the child has room, or is about
                to read that it has.
        """
        if self._owed:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(out, _said(self._owed))
                self._owed = 0

    def close(self) -> None:
        """Let go of the memory; the child may still hold it."""
        self._bytes.release()
        with suppress(BufferError):  # a piece of it is still looked at
            self._memory.close()
        os.close(self.handle)
