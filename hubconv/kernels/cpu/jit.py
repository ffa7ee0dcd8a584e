"""numba, with the settings that the bytes depend on, and types for the checker.

Every loop here computes as the reference does: no reassociation, no fusing of a multiplication with
an addition, division as IEEE has it. What is compiled is kept on disk, under a name that changes
with any line of this folder: numba itself looks only at the file that holds a function, not at the
files its helpers stand in.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from hubconv.kernels.cache import cache_folder

F = TypeVar("F", bound=Callable[..., Any])

_LOCK = threading.Lock()  # the folder of the cache is one setting for the whole process


def array(element: Any, *, written: bool = True) -> Any:
    """The type of a flat array; one that is only read may lie at any address, as file windows do.

    Args:
        element: A numpy number type.
        written: The function writes into it, or may.
    """
    return types.Array(
        numba.from_dtype(np.dtype(element)), 1, "C", readonly=not written, aligned=written
    )


BYTES: Final = array(np.uint8, written=False)
HALVES: Final = array(np.uint16, written=False)
WORDS: Final = array(np.uint32, written=False)
FLOATS: Final = array(np.float32, written=False)
BYTES_OUT: Final = array(np.uint8)
DOUBLES_OUT: Final = array(np.float64)
INT: Final = types.int64
FLOAT: Final = types.float32
FLAG: Final = types.boolean


def compiled(*signatures: Any) -> Callable[[F], F]:
    """Compile now, for these signatures and no others, or load what was compiled before."""

    def decorate(function: F) -> F:
        with _LOCK:
            before = numba.config.CACHE_DIR
            folder = cache_folder("kernels", Path(__file__).parent, asked=before)
            numba.config.CACHE_DIR = str(folder or "")
            try:
                return _njit(function, list(signatures), cache=folder is not None)
            except OSError:  # a full disk, say
                return _njit(function, list(signatures), cache=False)
            finally:
                numba.config.CACHE_DIR = before

    return decorate


def inlined(function: F) -> F:
    """A part of compiled functions, compiled with each of them."""
    return _njit(function, None, cache=False, forceinline=True)


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that writes LLVM instructions instead of being translated to them."""
    return numba_intrinsic(function)


def _njit(function: F, signatures: list[Any] | None, **more: bool) -> F:
    # Without `numpy` errors each division would look for a zero first, and no loop be vectorised.
    # The caller holds every array: counting references in the loops would cost more than the work.
    options = {"nogil": True, "fastmath": False, "error_model": "numpy", "_nrt": False}
    made: F = numba.njit(signatures, **options, **more)(function)
    return made
