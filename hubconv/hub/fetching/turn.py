"""Whose turn it is to have the line.

Shards that share a line all arrive late; one after the other, each comes as early as it can, and
what is made of the first goes out while the second comes in. A line that is faster than one shard
can be hashed and taken is another matter: several have room on it. Those that began together would
end together too, and leave the line empty while all of them are converted: each begins when the one
before it is well on its way.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hubconv.hub.waiting import AtOnce, never

LOOK_S: Final = 0.5
LEAST_S: Final = 0.01

FAST_BYTES_S: Final = 150_000_000
"""A transfer at this rate is held up by its own work as much as by the line."""

JUDGED_FROM_BYTES: Final = 64 * 1024 * 1024
"""The first bytes of a transfer say little about the line."""

WIDE: Final = 4
"""Transfers that a fast line carries at a time, the next of them after a share of the last one's
bytes: so they end at equal distances."""

YOUNG_S: Final = 3.0
"""A transfer that has brought no such share in so long holds nobody up: it may be silent."""

NEAR_END_S: Final = 2.5
NEAR_END_BYTES: Final = 16 * 1024 * 1024
"""The next transfer may start when the one before it has so long, or so much, to go: a process has
to start, a link to be asked for."""


class Turn:
    """Goes from thread to thread, in the order of asking.

    One that has it may take it again, for a unit's other shards.

    Args:
        at_once: Asked while another has it; raises where the run must end now.
        passed: Told the bytes that have come since it was told before.
    """

    def __init__(
        self, at_once: AtOnce = never, passed: Callable[[int], None] = lambda _: None
    ) -> None:
        self._at_once = at_once
        self._passed = passed
        self._free = threading.Condition()
        self._holders: Counter[int] = Counter()
        self._young: dict[object, float] = {}
        self._waiting: deque[object] = deque()
        self._room = 1

    @contextmanager
    def taken(self) -> Iterator[Callable[[int, int], None]]:
        """Wait for it, and keep it until the block ends or the transfer is about to.

        Gives a function to be told the bytes that came and the bytes that are left; any thread may
        call it.
        """
        me, transfer = threading.get_ident(), object()
        with self._free:
            if me not in self._holders:
                self._wait()
            self._holders[me] += 1
            started = self._young[transfer] = time.monotonic()
        held, told_of = True, 0

        def let_go() -> None:
            nonlocal held
            with self._free:
                if held:
                    self._holders[me] -= 1
                    self._holders += Counter()  # who holds none is no holder
                    self._young.pop(transfer, None)
                    self._free.notify_all()
                held = False

        def told(came: int, left: int) -> None:
            nonlocal told_of
            if came > told_of:
                more, told_of = came - told_of, came
                self._passed(more)
            seconds = max(time.monotonic() - started, LEAST_S)
            is_grown = came * WIDE >= came + left
            near_end = max(NEAR_END_BYTES, came / seconds * NEAR_END_S if is_grown else 0)
            if left <= near_end:
                let_go()
            elif is_grown and transfer in self._young:
                self._grow(transfer)
            self._judge(came, seconds)

        try:
            yield told
        finally:
            let_go()

    def _wait(self) -> None:
        """Stand in line until there is room: who came first is first."""
        ticket = object()
        self._waiting.append(ticket)
        try:
            while self._waiting[0] is not ticket or not self._has_room():
                self._free.wait(LOOK_S)
                self._at_once()
        finally:
            self._waiting.remove(ticket)
            self._free.notify_all()

    def _has_room(self) -> bool:
        now = time.monotonic()
        if any(now - started < YOUNG_S for started in self._young.values()):
            return False
        return len(self._holders) < self._room

    def _grow(self, transfer: object) -> None:
        with self._free:
            self._young.pop(transfer, None)
            self._free.notify_all()

    def _judge(self, nbytes: int, seconds: float) -> None:
        """Learn how fast the line is, from a transfer that has it."""
        if self._room == WIDE or nbytes < JUDGED_FROM_BYTES or nbytes < FAST_BYTES_S * seconds:
            return
        with self._free:
            self._room = WIDE
            self._free.notify_all()
