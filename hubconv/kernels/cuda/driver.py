"""The CUDA driver: a device, its memory, streams, and what runs on it.

torch would do all of this too, but takes longer to import than a GPU takes for a model of 100 GB.
Calls that only set work going keep Python's lock: to let go of it and take it back among many
threads costs more than such a call. Those that wait, or may, let go of it.
"""

import ctypes
import functools
import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from ctypes import c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hubconv.devices import capabilities
from hubconv.errors import ResourceError

Bytes = npt.NDArray[np.uint8]

_PIECE_BYTES: Final = 1024 * 1024
"""Pinned memory is taken in multiples of this, so that few sizes are in use."""

_OUT_OF_MEMORY: Final = 2  # CUresult
_PORTABLE: Final = 1  # CU_MEMHOSTALLOC_PORTABLE
_NON_BLOCKING: Final = 1  # CU_STREAM_NON_BLOCKING
_SLEEP_UNTIMED: Final = 1 | 2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING


class FullError(Exception):
    """Raised when the device has no memory left."""


class FullDeviceError(ResourceError):
    """Raised when a device has no memory left for even small weights."""


class Driver:
    """The functions of libcuda that are used here, as `cuda.h` declares them.

    Raises:
        OSError: There is no driver.
    """

    def __init__(self) -> None:
        quick, waiting = ctypes.PyDLL("libcuda.so.1"), ctypes.CDLL("libcuda.so.1")

        def declared(library: ctypes.CDLL, name: str, *types: Any) -> Any:  # noqa: ANN401 - ctypes
            function = getattr(library, name)
            function.argtypes = types
            return function

        self.init = declared(waiting, "cuInit", c_uint)
        self.get = declared(waiting, "cuDeviceGet", c_void_p, c_int)
        self.retain = declared(waiting, "cuDevicePrimaryCtxRetain", c_void_p, c_int)
        self.enter = declared(quick, "cuCtxSetCurrent", c_void_p)
        self.load = declared(waiting, "cuModuleLoadData", c_void_p, c_void_p)
        self.function = declared(quick, "cuModuleGetFunction", c_void_p, c_void_p, c_void_p)
        self.stream = declared(quick, "cuStreamCreate", c_void_p, c_uint)
        self.event = declared(quick, "cuEventCreate", c_void_p, c_uint)
        self.allocate = declared(waiting, "cuMemAlloc_v2", c_void_p, c_size_t)
        self.free = declared(waiting, "cuMemFree_v2", c_uint64)
        self.pin = declared(waiting, "cuMemHostAlloc", c_void_p, c_size_t, c_uint)
        copy = (c_size_t, c_void_p)
        self.copy_in = declared(quick, "cuMemcpyHtoDAsync_v2", c_uint64, c_void_p, *copy)
        self.copy_out = declared(quick, "cuMemcpyDtoHAsync_v2", c_void_p, c_uint64, *copy)
        grid = (c_uint,) * 7
        ends = (c_void_p,) * 3
        self.launch = declared(quick, "cuLaunchKernel", c_void_p, *grid, *ends)
        self.record = declared(quick, "cuEventRecord", c_void_p, c_void_p)
        self.wait = declared(waiting, "cuEventSynchronize", c_void_p)
        self.name_error = declared(quick, "cuGetErrorName", c_int, c_void_p)

    def check(self, code: int) -> None:
        """Go on where a function succeeded.

        Raises:
            FullError: The device is full.
            ResourceError: Anything else went wrong.
        """
        if not code:
            return
        if code == _OUT_OF_MEMORY:
            raise FullError
        text = ctypes.c_char_p()
        self.name_error(code, ctypes.byref(text))
        raise ResourceError(
            f"The CUDA driver failed: {(text.value or b'unknown error').decode()} ({code}).",
            "Look at nvidia-smi and dmesg; --device cpu does without.",
        )


@functools.cache
def driver() -> Driver:
    """The driver of this machine, opened.

    Raises:
        ResourceError: There is none, or it does not start.
    """
    try:
        found = Driver()
    except (OSError, AttributeError) as error:
        raise ResourceError(
            f"The CUDA driver cannot be used: {error}.",
            "Check nvidia-smi, or use --device cpu.",
        ) from error
    found.check(found.init(0))
    return found


class Device:
    """A CUDA device, opened. Threads may share it; each must `enter` before other calls.

    Args:
        number: Which one, counted as the driver does.

    Raises:
        ResourceError: It cannot be opened.
    """

    def __init__(self, number: int) -> None:
        handle, self._context = c_int(), c_void_p()
        driver().check(driver().get(ctypes.byref(handle), number))
        driver().check(driver().retain(ctypes.byref(self._context), handle))
        self.capability = capabilities()[number]
        self.enter()
        self.pinned = PinnedMemory()

    def enter(self) -> None:
        """Have the calling thread work with this device from now on."""
        driver().check(driver().enter(self._context))


class DeviceMemory:
    """Bytes on the device, until this object goes.

    Args:
        nbytes: How many.

    Raises:
        FullError: The device has no more.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        pointer = c_uint64()
        driver().check(driver().allocate(ctypes.byref(pointer), max(nbytes, 1)))
        self.address = pointer.value
        weakref.finalize(self, driver().free, self.address).atexit = False


class Function:
    """Compiled code that was loaded.

    Args:
        binary: A cubin.
        name: Of the function in it.
        threads: Threads of a program.
        shared_bytes: Shared memory of a program.
    """

    def __init__(self, binary: bytes, name: str, threads: int, shared_bytes: int) -> None:
        module, self._handle = c_void_p(), c_void_p()
        driver().check(driver().load(ctypes.byref(module), binary))
        driver().check(driver().function(ctypes.byref(self._handle), module, name.encode()))
        self._threads = threads
        self._shared_bytes = shared_bytes

    def launch(self, stream: "Stream", programs: int, arguments: Sequence[Any]) -> None:
        """Have a stream run it.

        Args:
            stream: The stream.
            programs: How many run.
            arguments: ctypes values, one for each parameter.
        """
        pointers = (c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        grid = (programs, 1, 1, self._threads, 1, 1, self._shared_bytes)
        driver().check(driver().launch(self._handle, *grid, stream.handle, pointers, None))


class Stream:
    """Work that the device does in order, and an event at its end."""

    def __init__(self) -> None:
        self.handle, self._event = c_void_p(), c_void_p()
        driver().check(driver().stream(ctypes.byref(self.handle), _NON_BLOCKING))
        # A waiting thread sleeps: the cores have files to read and to hash.
        driver().check(driver().event(ctypes.byref(self._event), _SLEEP_UNTIMED))

    def copy_in(self, memory: DeviceMemory, host: Bytes) -> None:
        """Copy pinned bytes to the device."""
        size, data = host.nbytes, host.ctypes.data
        driver().check(driver().copy_in(memory.address, data, size, self.handle))

    def copy_out(self, host: Bytes, memory: DeviceMemory) -> None:
        """Copy as many bytes as there is pinned room for."""
        size, data = host.nbytes, host.ctypes.data
        driver().check(driver().copy_out(data, memory.address, size, self.handle))

    def mark(self) -> None:
        """`wait` waits for what was asked of the stream so far."""
        driver().check(driver().record(self._event, self.handle))

    def wait(self) -> None:
        """Sleep until all that was marked is done.

        Raises:
            ResourceError: Some of it failed.
        """
        driver().check(driver().wait(self._event))


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
            pointer = c_void_p()
            if driver().pin(ctypes.byref(pointer), size, _PORTABLE):
                return np.empty(nbytes, np.uint8)
            address = pointer.value or 0
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
