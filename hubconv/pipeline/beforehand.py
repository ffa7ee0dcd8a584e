"""What the end of a run needs, made ready while its shards are made."""

import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from hubconv import card
from hubconv.engines.stop import Stop
from hubconv.steps.plan import Plan
from hubconv.steps.promise import Promise, promised

BEGIN_S: Final = 0.5
"""Seconds after which every worker has something to do."""

NEXT: Final = (
    "Nothing was published; finished shards are kept. Leave --keep and --quantize out, or report "
    "the command: no plan should come to this."
)


class Beforehand:
    """Imports what draws the card, and looks at what loaders will see, in a thread of its own.

    A run that is over before it has begun makes both for itself.

    Args:
        plan: What is made meanwhile.
        stop: Told where no loader would take the result: the rest of its shards is not made.
    """

    def __init__(self, plan: Plan, stop: Stop) -> None:
        self._plan, self._stop = plan, stop
        # Not a daemon: the interpreter must not end in the middle of an import.
        self._thread = threading.Timer(BEGIN_S, self._make_ready)
        self._is_over = threading.Event()
        self.promise: Promise | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what has begun; of a run that has failed, for an import alone."""
        self._thread.cancel()
        if raised is None:
            self._thread.join()
        self._is_over.set()

    def _make_ready(self) -> None:
        card.load()
        if self._is_over.is_set():
            return
        with suppress(Exception):  # it shows itself again where the result is verified
            self.promise = promised(self._plan)
            faults = self.promise.faults(NEXT)
            if faults is not None:
                self._stop.in_vain(faults)
