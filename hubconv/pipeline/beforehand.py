"""What the end of a run needs, made ready while its shards are made."""

import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from hubconv import card
from hubconv.steps.plan import Plan
from hubconv.steps.promise import Promise, promised

BEGIN_S: Final = 0.5
"""Seconds after which every worker has something to do."""


class Beforehand:
    """Looks at what loaders will see, and imports what draws the card, in a thread of its own.

    A run that is over before it has begun makes both for itself.

    Args:
        plan: What is made meanwhile.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._thread = threading.Timer(BEGIN_S, self._make_ready)
        self._thread.daemon = True
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
        """Wait for what has begun, unless the run has failed."""
        self._thread.cancel()
        if raised is None:
            self._thread.join()

    def _make_ready(self) -> None:
        card.load()
        with suppress(Exception):  # it shows itself again where the result is verified
            self.promise = promised(self._plan)
