"""The CUDA driver, through NVIDIA's bindings: a device, its memory, streams, and what runs on it.

torch would do all of this too, but takes longer to import than a GPU takes for a model of 100 GB.
"""

import ctypes
import functools
import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

from hubconv.errors import ResourceError

Bytes = npt.NDArray[np.uint8]

_PIECE_BYTES: Final = 1024 * 1024
"""Pinned memory is taken in multiples of this, so that few sizes are in use."""


class FullError(Exception):
    """Raised when the device has no memory left."""


def _asked(answer: tuple[Any, ...]) -> Any:  # noqa: ANN401 - whatever the driver gives
    """What a call of the driver gives.

    Raises:
        FullError: The device is full.
        ResourceError: Anything else went wrong.
    """
    code, *values = answer
    if code == driver.CUresult.CUDA_SUCCESS:
        return values[0] if values else None
    if code == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise FullError
    raise ResourceError(
        f"The CUDA driver failed: {code.name}.",
        "Look at nvidia-smi and dmesg; --device cpu does without.",
    )


class Device:
    """A CUDA device, opened. Threads may share it; each must `enter` before other calls.

    Args:
        number: Which one, counted as the driver does.

    Raises:
        ResourceError: It cannot be opened.
    """

    def __init__(self, number: int) -> None:
        _asked(driver.cuInit(0))
        self._handle = _asked(driver.cuDeviceGet(number))
        self._context = _asked(driver.cuDevicePrimaryCtxRetain(self._handle))
        self.enter()
        self.pinned = PinnedMemory()

    def enter(self) -> None:
        """Have the calling thread work with this device from now on."""
        _asked(driver.cuCtxSetCurrent(self._context))

    @property
    def capability(self) -> tuple[int, int]:
        """Its compute capability."""
        attribute = driver.CUdevice_attribute
        major = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        found = [int(_asked(driver.cuDeviceGetAttribute(a, self._handle))) for a in (major, minor)]
        return found[0], found[1]


class DeviceMemory:
    """Bytes on the device, until this object goes.

    Args:
        nbytes: How many.

    Raises:
        FullError: The device has no more.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        pointer = _asked(driver.cuMemAlloc(max(nbytes, 1)))
        self.address = int(pointer)
        weakref.finalize(self, driver.cuMemFree, pointer).atexit = False


class Function:
    """Compiled code that was loaded.

    Args:
        binary: A cubin.
        name: Of the function in it.
        threads: Threads of a program.
        shared_bytes: Shared memory of a program.
    """

    def __init__(self, binary: bytes, name: str, threads: int, shared_bytes: int) -> None:
        module = _asked(driver.cuModuleLoadData(binary))
        self._handle = _asked(driver.cuModuleGetFunction(module, name.encode()))
        self._threads = threads
        self._shared_bytes = shared_bytes

    def launch(self, stream: "Stream", programs: int, arguments: Sequence[Any]) -> None:
        """Have a stream run it.

        Args:
            stream: The stream.
            programs: How many run.
            arguments: ctypes values, one for each parameter.
        """
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        _asked(
            driver.cuLaunchKernel(
                self._handle, programs, 1, 1, self._threads, 1, 1, self._shared_bytes,
                stream.handle, ctypes.addressof(pointers), 0,
            )
        )  # fmt: skip


class Stream:
    """Work that the device does in order, and an event at its end."""

    def __init__(self) -> None:
        self.handle = _asked(
            driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value)
        )
        # A waiting thread sleeps: the cores have files to read and to hash.
        flags = driver.CUevent_flags
        self._event = _asked(
            driver.cuEventCreate(
                flags.CU_EVENT_BLOCKING_SYNC.value | flags.CU_EVENT_DISABLE_TIMING.value
            )
        )

    def copy_in(self, memory: DeviceMemory, host: Bytes) -> None:
        """Copy pinned bytes to the device."""
        _asked(driver.cuMemcpyHtoDAsync(memory.address, host.ctypes.data, host.nbytes, self.handle))

    def copy_out(self, host: Bytes, memory: DeviceMemory) -> None:
        """Copy as many bytes as there is pinned room for."""
        _asked(driver.cuMemcpyDtoHAsync(host.ctypes.data, memory.address, host.nbytes, self.handle))

    def mark(self) -> None:
        """`wait` waits for what was asked of the stream so far."""
        _asked(driver.cuEventRecord(self._event, self.handle))

    def wait(self) -> None:
        """Sleep until all that was marked is done.

        Raises:
            ResourceError: Some of it failed.
        """
        _asked(driver.cuEventSynchronize(self._event))


class PinnedMemory:
    """Host memory that the device copies from and to at full speed; pieces are used again.

    Making a piece costs more than copying it, so that one goes back when no array uses it any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[int]] = {}
        self._starts: list[int] = []  # of every piece, in order
        self._ends: dict[int, int] = {}

    def take(self, nbytes: int) -> Bytes:
        """[nbytes] uint8; plain memory where the machine gives no more of this kind."""
        size = -(-max(nbytes, 1) // _PIECE_BYTES) * _PIECE_BYTES
        with self._lock:
            free = self._free.get(size)
            address = free.pop() if free else 0
        if not address:
            code, address = driver.cuMemHostAlloc(size, driver.CU_MEMHOSTALLOC_PORTABLE)
            if code != driver.CUresult.CUDA_SUCCESS:
                return np.empty(nbytes, np.uint8)
            address = int(address)
            with self._lock:
                self._starts.insert(bisect_right(self._starts, address), address)
                self._ends[address] = address + size
        # An object of its own for each use: the piece is free again when it goes.
        owner = _array_type(size).from_address(address)
        weakref.finalize(owner, self._give_back, size, address).atexit = False
        return np.frombuffer(owner, np.uint8, nbytes)

    def holds(self, host: Bytes) -> bool:
        """Whether an array's bytes lie in such memory, one after the other."""
        if not host.flags.c_contiguous:
            return False
        first = host.ctypes.data
        with self._lock:
            at = bisect_right(self._starts, first) - 1
            return at >= 0 and first + host.nbytes <= self._ends[self._starts[at]]

    def _give_back(self, size: int, address: int) -> None:
        # Runs wherever the last array goes, perhaps while this thread holds the lock: list
        # operations are whole by themselves.
        self._free.setdefault(size, []).append(address)


@functools.cache
def _array_type(size: int) -> Any:  # noqa: ANN401 - ctypes makes types as it goes
    return ctypes.c_uint8 * size
