"""Whose turn it is to have the line.

Shards that share a line all arrive late; one after the other, each comes as early as it can, and
what is made of the first goes out while the second comes in.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hubconv.hub.waiting import AtOnce, never

LOOK_S: Final = 0.5


class Turn:
    """Goes from thread to thread; one that has it may take it again, for a unit's other shards.

    Args:
        at_once: Asked while another has it; raises where the run must end now.
    """

    def __init__(self, at_once: AtOnce = never) -> None:
        self._at_once = at_once
        self._free = threading.Condition()
        self._holder = 0
        self._count = 0

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Wait for it; gives a function that lets go before the block ends, from any thread."""
        me = threading.get_ident()
        with self._free:
            while self._count and self._holder != me:
                self._free.wait(LOOK_S)
                self._at_once()
            self._holder, self._count = me, self._count + 1
        held = True

        def let_go() -> None:
            nonlocal held
            with self._free:
                if held:
                    self._count -= 1
                    self._free.notify_all()
                held = False

        try:
            yield let_go
        finally:
            let_go()
