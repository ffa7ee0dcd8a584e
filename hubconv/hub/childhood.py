"""What every child process begins with: it ends with its parent, and takes an order from it.

It imports nothing heavy, for a child must be quick to start.
"""

import ctypes
import json
import os
import re
import signal
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG


def order_of_parent(stdin: BinaryIO) -> Mapping[str, Any] | None:
    """The order on the first line of standard input; None where who gave it is gone.

    From here on the process dies with the thread that started it, also one that hangs in native
    code and would not see the end of its input.
    """
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    order: Mapping[str, Any] = json.loads(stdin.readline() or b"{}")
    return order if order.get("parent") == os.getppid() else None


def words_of(error: Exception) -> str:
    """What a child may say of an error: links are signed, and would let anyone in."""
    return re.sub(r"\?[^\s)\"']+", "?...", f"{type(error).__name__}: {error}")
