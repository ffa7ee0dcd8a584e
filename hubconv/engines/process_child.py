"""A worker's own process: `python -m hubconv.engines.process_child`.

Pickles on standard input: what to load, the post, then numbers of units; the end of it means to
give up. Pickles on standard output: what happens. Both ends are one hubconv.
"""

import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from hubconv.engines.post import Post, at_post, make
from hubconv.errors import HubconvError, StoppedError, of_this_machine
from hubconv.kernels.starting import Starting
from hubconv.work import Bench

_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG


class Says:
    """What this process tells the one that made it. Threads may share it."""

    def __init__(self) -> None:
        # What a library prints must not be taken for ours.
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def __call__(self, *told: Any) -> None:  # noqa: ANN401 - whatever the act has to tell
        """Tell of an act, and what belongs to it."""
        data = pickle.dumps(told, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._out.write(data)
            self._out.flush()


class Forward(logging.Handler):
    """Has log records shown by the process that made this one."""

    def __init__(self, says: Says) -> None:
        super().__init__()
        self._says = says

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of one record."""
        self._says("log", record.name, record.levelno, record.getMessage())


class Gone:
    """Whether the one that made this process wants no more of it."""

    def __init__(self) -> None:
        self._gone = threading.Event()

    def set(self) -> None:
        """It does not."""
        self._gone.set()

    def check(self) -> None:
        """Go on where it does.

        Raises:
            StoppedError: It does not.
        """
        if self._gone.is_set():
            raise StoppedError("The run has ended.")


def main() -> int:
    """Load, take the post, and make units until told to end."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):  # to stop in order is the parent's to decide
        signal.signal(number, signal.SIG_IGN)
    orders, says, gone = sys.stdin.buffer, Says(), Gone()
    first = pickle.load(orders)  # noqa: S301 - from our own process
    if os.getppid() != first["parent"]:
        return 1
    log = logging.getLogger("hubconv")
    log.setLevel(first["level"])
    log.addHandler(Forward(says))
    log.propagate = False
    try:
        starting = Starting(first["device"])
        post: Post = pickle.load(orders)  # noqa: S301
    except EOFError:
        return 0
    except HubconvError as error:
        says("failed", "", error)
        return 1
    return _at_work(post, starting, orders, says, gone)


def _at_work(post: Post, starting: Starting, orders: Any, says: Says, gone: Gone) -> int:  # noqa: ANN401
    def kernel() -> Any:  # noqa: ANN401 - a kernel
        return starting.kernel(post.workers, post.weight_bytes)

    try:
        with at_post(post, kernel, gone.check) as bench, ThreadPoolExecutor(post.threads) as pool:
            try:
                while True:
                    number = pickle.load(orders)  # noqa: S301
                    pool.submit(_one, bench, number, says)
            except (EOFError, OSError):
                gone.set()
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent is told
        says("failed", "", _told(error))
        return 1
    return 0


def _one(bench: Bench, number: int, says: Callable[..., None]) -> None:
    unit = bench.plan.units[number]
    says("begun", unit.shard)
    try:
        record = make(bench, unit, lambda done: says("converted", unit.shard, done))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the parent is told
        says("failed", unit.shard, _told(error))
    else:
        says("made", record)


def _told(error: BaseException) -> BaseException:
    """An error as it can travel: hubconv's own as they are, others with where they happened."""
    known = error if isinstance(error, HubconvError) else of_this_machine(error)
    if known is not None:
        known.__cause__ = None
        return known
    return RuntimeError("".join(traceback.format_exception(error)))


if __name__ == "__main__":
    # Libraries leave threads behind that would keep an orderly end waiting.
    ended = main()
    sys.stderr.flush()
    os._exit(ended)
