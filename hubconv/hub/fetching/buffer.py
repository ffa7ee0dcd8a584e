"""Bytes that came and wait for their turn: bounded, filled by one thread, emptied by another."""

import threading
from dataclasses import dataclass, field
from typing import Final

from hubconv.hub.waiting import AtOnce, never

PATIENCE_S: Final = 0.5
"""How often a waiting thread looks around by itself."""


class ClosedError(Exception):
    """Raised in the filling thread when nobody wants bytes any more."""


@dataclass(slots=True)
class _Waiting:
    """What is here of one span, in order."""

    pieces: list[memoryview] = field(default_factory=list)
    came: int = 0
    taken: int = 0
    refused: bool = False


class Buffer:
    """Holds pieces of spans until they are taken.

    Args:
        limit: Bytes held at most; one piece is let in whatever its size.
        at_once: Asked while bytes are waited for; raises where the run must end now.
    """

    def __init__(self, limit: int, at_once: AtOnce = never) -> None:
        self._limit = limit
        self._at_once = at_once
        self._used = 0
        self._spans: dict[int, _Waiting] = {}
        self._changed = threading.Condition()
        self._asked = 0
        self._is_draining = self._is_closed = self._has_ended = False
        self._error: BaseException | None = None

    # ── the filling thread ───────────────────────────────────────────────────────────────────

    def make_room(self, span: int, size: int) -> bool:
        """Wait for room; False where these bytes are wanted no more.

        Raises:
            ClosedError: Nothing is wanted any more.
        """
        with self._changed:
            while not self._is_closed and not self._is_draining and not self._of(span).refused:
                self._asked = size
                if not self._is_full():
                    self._asked = 0
                    self._used += size
                    return True
                self._changed.notify_all()
                self._changed.wait(PATIENCE_S)
            self._asked = 0
            if self._is_closed:
                raise ClosedError
            return False

    def _is_full(self) -> bool:
        """Whether the filling thread waits for room that is not there."""
        return self._asked > 0 and self._used > 0 and self._used + self._asked > self._limit

    def put(self, span: int, piece: memoryview) -> None:
        """Hand in a piece for which room was made."""
        with self._changed:
            waiting = self._of(span)
            if waiting.refused or self._is_draining:
                self._used -= len(piece)
                return
            waiting.pieces.append(piece)
            waiting.came += len(piece)
            self._changed.notify_all()

    def give_back(self, size: int) -> None:
        """Room that was made for bytes that did not come."""
        with self._changed:
            self._used -= size

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come, for this reason."""
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    # ── the emptying thread ──────────────────────────────────────────────────────────────────

    def take(self, span: int, offset: int, into: memoryview) -> int:
        """Take bytes of a span from an offset on; what lies before it is let go.

        Returns:
            How many came, at least one; 0 where the span holds them no more, or where they could
            only come if bytes for which it is not yet time made room.

        Raises:
            HubconvError: The line failed for good.
        """
        with self._changed:
            waiting = self._of(span)
            while True:
                if waiting.refused or offset < waiting.taken:
                    return 0
                self._let_go(waiting, offset - waiting.taken)
                if waiting.pieces and waiting.taken == offset:
                    return self._copy(waiting, into)
                if self._error is not None:
                    raise self._error
                if self._has_ended:
                    return 0
                if self._is_full():
                    self._refuse(waiting)
                    return 0
                self._changed.wait(PATIENCE_S)
                self._at_once()

    def _copy(self, waiting: _Waiting, into: memoryview) -> int:
        piece = waiting.pieces[0]
        size = min(len(piece), len(into))
        into[:size] = piece[:size]
        self._let_go(waiting, size)
        return size

    def _let_go(self, waiting: _Waiting, size: int) -> None:
        while size > 0 and waiting.pieces:
            piece = waiting.pieces[0]
            gone = min(size, len(piece))
            if gone == len(piece):
                waiting.pieces.pop(0)
            else:
                waiting.pieces[0] = piece[gone:]
            waiting.taken += gone
            size -= gone
            self._used -= gone
        self._changed.notify_all()

    def _refuse(self, waiting: _Waiting) -> None:
        self._let_go(waiting, waiting.came - waiting.taken)
        waiting.refused = True

    def refuse(self, span: int) -> None:
        """Let go of a span, and of what will still come of it."""
        with self._changed:
            self._refuse(self._of(span))

    def drain(self) -> None:
        """Let everything pass unheld to its end, and wait for that.

        Raises:
            HubconvError: The line failed for good.
        """
        with self._changed:
            self._is_draining = True
            for waiting in self._spans.values():
                self._refuse(waiting)
            while not self._has_ended:
                self._changed.wait(PATIENCE_S)
                self._at_once()
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Let go of everything; the filling thread ends at its next step."""
        with self._changed:
            self._is_closed = True
            self._spans.clear()
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nobody wants bytes any more."""
        return self._is_closed

    def _of(self, span: int) -> _Waiting:
        return self._spans.setdefault(span, _Waiting())
