"""Waits that end when the run must: a signal is not answered with the patience of a bad line."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

Result = TypeVar("Result")
Item = TypeVar("Item")

LOOK_S: Final = 0.25
"""How often a wait asks whether the run must end."""

AtOnce = Callable[[], None]
"""Asked in every wait; raises where the run must end now."""


def never() -> None:
    """Nobody will ask this run to end."""


def resting(at_once: AtOnce) -> Callable[[float], None]:
    """A way to wait for seconds that ends where the run must."""
    if at_once is never:
        return time.sleep

    def rest(seconds: float) -> None:
        left = seconds
        while left > 0:
            at_once()
            time.sleep(min(left, LOOK_S))
            left -= LOOK_S
        at_once()

    return rest


def watched(request: Callable[[], Result], at_once: AtOnce) -> Result:
    """The result of a request that a silent server may hold up for minutes.

    A thread that waits for an answer cannot be called back: it is left to itself where the run
    must end, and goes with the process.
    """
    if at_once is never:
        return request()
    answers: list[Result] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(request())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            faults.append(error)

    thread = threading.Thread(target=run, name="request", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
        if thread.is_alive():
            at_once()
    if faults:
        raise faults[0]
    return answers[0]


def heard(items: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Items that a server sends when it has some, taken from it in a thread of its own.

    Python sees to Ctrl-C between two steps of the main thread: one that comes just before a read
    that waits for minutes would be seen to after it.
    """
    came: queue.SimpleQueue[Item] = queue.SimpleQueue()
    faults: list[BaseException] = []

    def run() -> None:
        try:
            for item in items():
                came.put(item)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            faults.append(error)

    thread = threading.Thread(target=run, name="listener", daemon=True)
    thread.start()
    while thread.is_alive() or not came.empty():
        with suppress(queue.Empty):
            yield came.get(timeout=LOOK_S)
    if faults:
        raise faults[0]
