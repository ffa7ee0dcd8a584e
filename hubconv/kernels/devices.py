"""Which devices this machine has: asked of the driver itself, which takes no time."""

import ctypes
import functools
import re
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


def _ask(driver: ctypes.CDLL, attribute: int, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
    return value.value
