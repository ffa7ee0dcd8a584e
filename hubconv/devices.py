"""Which devices this machine has, and their waking: asked of the driver itself.

The driver takes a fifth of a second to start and twice that to open a device, and wants nothing of
Python meanwhile: both can begin before the libraries are imported that make use of it.
"""

import ctypes
import functools
import re
import threading
from typing import Final

from hubconv.errors import ResourceError, UsageError

_MAJOR: Final = 75  # CUdevice_attribute
_MINOR: Final = 76


def named(name: str) -> str:
    """`cpu` or `cuda:N`, what a device's name stands for on this machine.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ResourceError: The device does not exist here.
        UsageError: Not a device name.
    """
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if not found:
        raise UsageError(f"{name!r} is not a device.", "Use auto, cpu, cuda or cuda:N.")
    if name == "cpu":
        return name
    count = len(capabilities())
    if name == "auto" and not count:
        return "cpu"
    if not count:
        raise ResourceError(
            f"There is no CUDA device for --device {name} here.",
            "Check that nvidia-smi shows one, or use --device cpu.",
        )
    number = int(found[1] or 0)
    if number >= count:
        raise ResourceError(
            f"There is no cuda:{number} here, the last device is cuda:{count - 1}.",
            "Name one of those, or use --device auto.",
        )
    return f"cuda:{number}"


@functools.cache
def capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capability of each CUDA device that this process may use; empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple((_ask(driver, _MAJOR, n), _ask(driver, _MINOR, n)) for n in range(count.value))


def ask_early(name: str) -> None:
    """Have the driver start meanwhile, if it is wanted: whoever asks for devices waits less.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.
    """
    if name != "cpu":
        threading.Thread(target=capabilities, name="devices").start()


def wake(name: str) -> None:
    """Have a device open meanwhile: whoever opens it soon waits less.

    What fails here fails again where the device is opened, and is told there.

    Args:
        name: `cpu` or `cuda:N`.
    """
    if name != "cpu":
        number = int(name.removeprefix("cuda:"))
        threading.Thread(target=_open, args=(number,), name="wake").start()


def _open(number: int) -> None:
    if number >= len(capabilities()):
        return
    driver = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if not driver.cuDeviceGet(ctypes.byref(device), number):
        # Never released: it is open for as long as the process lives.
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)


def _ask(driver: ctypes.CDLL, attribute: int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
    return value.value
