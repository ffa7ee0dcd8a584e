"""The wish to stop in order: a signal, or the end of the time a run was given."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from hubconv.errors import HubconvError, StoppedError

GRACE_S: Final = 4.0
"""What saves finished work may go on so long after a signal."""


class SignalledError(StoppedError):
    """Raised when a signal ended the run in order.

    Args:
        number: The signal; the exit code is 128 plus it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(number).name}.",
            "Finished shards are kept; run the same command again to go on.",
        )
        self.exit_code = 128 + number  # type: ignore[misc]


class Stop:
    """Asked between pieces of work; once it says stop it keeps saying so.

    Args:
        time_limit_s: Seconds from now after which no new unit is begun; 0 for no limit.
    """

    def __init__(self, time_limit_s: float = 0.0) -> None:
        self._deadline = time.monotonic() + time_limit_s if time_limit_s else 0.0
        self._signal = 0
        self._heard_at = 0.0
        self._failed = threading.Event()
        self._vain: HubconvError | None = None

    def reason(self) -> HubconvError | None:
        """Why to stop, or None to go on."""
        if self._vain is not None:
            return self._vain
        if self._signal:
            return SignalledError(self._signal)
        if self._deadline and time.monotonic() > self._deadline:
            return StoppedError(
                "The time limit is reached.",
                "Finished shards are kept; run the same command again to go on.",
            )
        return None

    def at_once(self) -> None:
        """Give up a unit in the middle where a signal asks for it; its bytes are made again.

        Raises:
            SignalledError: A signal came.
            HubconvError: The result would be of no use.
        """
        if self._vain is not None:
            raise self._vain
        if self._signal:
            raise SignalledError(self._signal)

    def soon(self) -> None:
        """Give up even what saves finished work, where a signal came a while ago.

        Raises:
            SignalledError: It did.
        """
        if self._signal and time.monotonic() - self._heard_at > GRACE_S:
            raise SignalledError(self._signal)

    def in_vain(self, why: HubconvError) -> None:
        """The result would be of no use: make no more of it."""
        self._vain = why

    def fail(self) -> None:
        """Another worker failed: begin nothing new."""
        self._failed.set()

    @property
    def begun_enough(self) -> bool:
        """Whether no new unit should be begun."""
        return self._failed.is_set() or self.reason() is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to stop; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def heard(number: int, frame: FrameType | None) -> None:
            self._signal, self._heard_at = number, time.monotonic()
            for other, handler in before.items():
                signal.signal(other, handler)

        for number in before:
            signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
