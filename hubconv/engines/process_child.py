"""A worker's own process: `python -m hubconv.engines.process_child`.

Its device wakes while everything else is imported, so this imports nothing that takes time.
"""

import ctypes
import os
import pickle
import signal
import sys
from typing import Final

from hubconv import devices

_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG


def main() -> int:
    """Take the first order, wake the device, and begin to work."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # to stop in order is the parent's to decide
        signal.signal(number, signal.SIG_IGN)
    orders = sys.stdin.buffer
    try:
        first = pickle.load(orders)  # noqa: S301 - from our own process
    except EOFError:
        return 0
    if os.getppid() != first["parent"]:
        return 1
    devices.wake(first["device"])
    from hubconv.engines.process_worker import begin

    return begin(first["device"], first["levels"], orders)


if __name__ == "__main__":
    ended = main()
    sys.stderr.flush()
    # Libraries leave threads behind that would keep an orderly end waiting.
    os._exit(ended)
