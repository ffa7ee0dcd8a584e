"""What a worker process does once it has a device to work on.

Pickles on standard input: the post, then orders; the end of it means to give up. Pickles on
standard output: what happens. Both ends are one hubconv.
"""

import logging
import os
import pickle
import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

from hubconv.engines.forward import Forward
from hubconv.engines.post import Order, Post, as_told, at_post, make
from hubconv.errors import HubconvError, StoppedError
from hubconv.kernels.starting import Starting
from hubconv.work import Bench


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


def begin(device: str, levels: Mapping[str, int], orders: BinaryIO) -> int:
    """Load, take the post, and make units until told to end.

    Args:
        device: `cpu` or `cuda:N`.
        levels: What is to be logged, by logger.
        orders: What the parent says.

    Returns:
        The exit code.
    """
    says, gone = Says(), Gone()
    try:
        Forward(lambda *told: says("log", *told)).listen(levels)
        warnings.simplefilter("ignore")  # the parent has shown them
        starting = Starting(device)
        post: Post = pickle.load(orders)  # noqa: S301 - from our own process
    except EOFError:
        return 0
    except HubconvError as error:
        says("failed", "", error)
        return 1
    try:
        return _at_work(post, starting, orders, says, gone)
    finally:
        logging.shutdown()


def _at_work(post: Post, starting: Starting, orders: BinaryIO, says: Says, gone: Gone) -> int:
    def kernel() -> Any:  # noqa: ANN401 - a kernel
        return starting.kernel(post.workers, post.weight_bytes)

    waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
    # A thread of its own, so that the end of the orders is heard in every wait.
    threading.Thread(target=_read, args=(orders, waiting, gone), daemon=True).start()
    try:
        with (
            at_post(post, kernel, gone.check, partial(says, "passed")) as bench,
            ThreadPoolExecutor(post.threads) as pool,
        ):
            while (order := waiting.get()) is not None:
                pool.submit(_one, bench, order, says)
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent is told
        says("failed", "", as_told(error))
        return 1
    return 0


def _read(orders: BinaryIO, waiting: "queue.SimpleQueue[Order | None]", gone: Gone) -> None:
    try:
        while True:
            waiting.put(pickle.load(orders))  # noqa: S301
    except (EOFError, OSError, pickle.UnpicklingError):
        gone.set()
        waiting.put(None)


def _one(bench: Bench, order: Order, says: Callable[..., None]) -> None:
    shard = order.unit.shard
    says("begun", shard)
    try:
        record = make(bench, order, lambda done: says("converted", shard, done))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the parent is told
        says("failed", shard, as_told(error))
    else:
        says("made", record)
