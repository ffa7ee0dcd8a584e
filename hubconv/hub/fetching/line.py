"""A line: spans of a file that arrive in order, whatever becomes of the transfers behind it."""

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubconv.ends import ByteRange
from hubconv.errors import TemporaryError
from hubconv.hub.client import TRIES, explain, is_passing, pause
from hubconv.hub.compat import UNKNOWN, status_of
from hubconv.hub.fetching import process
from hubconv.hub.fetching.buffer import Buffer, ClosedError
from hubconv.hub.fetching.process import Child
from hubconv.hub.fetching.supply import HTTP, Supply

LOG: Final = logging.getLogger(__name__)

PIECE_BYTES: Final = 1024 * 1024
RUNS_A_TRANSFER: Final = 500
"""So that an order fits into a pipe at once."""

FORGIVEN_AFTER_BYTES: Final = 64 * 1024 * 1024
"""A line that has brought so much since its last failure is a living one."""

CLOSE_S: Final = 2.0
"""A line that is closed waits so long for its thread, which may be in the middle of a request."""

Passed = Callable[[int, int, memoryview], None]
"""Told the number of a span, a position in the file, and the bytes that are there."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the file on its way.

    Attributes:
        begin: Its first byte in the file.
        end: The byte after its last.
        kept: It will be taken; else it only passes.
    """

    begin: int
    end: int
    kept: bool = True


class Line:
    """Brings spans in order into a bounded buffer, from a thread of its own.

    A transfer that fails or falls silent is replaced by another that goes on where it ended, with
    a fresh link and token; after two failures by another engine.

    Args:
        supply: The file.
        spans: What to bring, in this order.
        room: Bytes held at most.
        passed: Told every byte as it passes, kept or not.
        told: Told the bytes that came and that are left, now and then; 0 left at the end, also
            where it is no good one.
    """

    def __init__(
        self,
        supply: Supply,
        spans: Sequence[Span],
        room: int,
        passed: Passed = lambda _span, _begin, _piece: None,
        told: Callable[[int, int], None] = lambda _came, _left: None,
    ) -> None:
        self._supply, self._spans, self._passed = supply, spans, passed
        self._told = told
        self._left = sum(span.end - span.begin for span in spans)
        self._piece = max(min(PIECE_BYTES, room // 4), 1)
        self._index, self._at = 0, spans[0].begin if spans else 0
        self.brought = 0
        self.engines: set[str] = set()
        self.buffer = Buffer(room, supply.at_once)
        self._child: Child | None = None
        self._scratch = memoryview(bytearray(self._piece))
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the transfer; what is still on its way is let go."""
        self.buffer.close()
        child = self._child
        if child is not None:
            child.kill()
        # Not for ever: it may be waiting as long as a server asked it to.
        self._thread.join(CLOSE_S)

    # ── the line's own thread ────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._bring()
        except ClosedError:
            self.buffer.end()
        except BaseException as error:  # noqa: BLE001 - raised where bytes are waited for
            self.buffer.end(error)
        else:
            self.buffer.end()
        finally:
            self._told(self.brought, 0)

    def _bring(self) -> None:
        failures = brought = 0
        while self._index < len(self._spans):
            engine = ""
            try:
                engine = self._supply.engine(failures)
                self._transfer(engine)
            except Exception as error:
                if self.buffer.is_closed:
                    raise ClosedError from error
                if self.brought - brought >= FORGIVEN_AFTER_BYTES:
                    failures = 0
                brought, failures = self.brought, failures + 1
                self._judge(error, engine, failures)
                LOG.info("%s: %s failed: %s", self._supply.entry.path, engine, error)
                self._supply.links.forget(self._supply.entry.path)
                self._supply.client.wait(pause(error, failures))

    def _judge(self, error: Exception, engine: str, failures: int) -> None:
        """Let a failure pass that another try may mend; raise the others in our words."""
        what = f"Fetching {self._supply.entry.path}"
        if isinstance(error, ClosedError):
            raise error
        is_plain = isinstance(error, process.LineError)
        # The token of an identity may have ended with this transfer; the next has another.
        has_ended = self._supply.client.identity is not None and status_of(error) == UNKNOWN
        passes = is_plain or has_ended or is_passing(error)
        if engine in {"", HTTP} and not passes:
            raise explain(error, what) from error
        if failures >= TRIES:
            raise TemporaryError(
                f"{what} failed {TRIES} times: {error}.",
                "Finished shards are kept; run the same command again later.",
            ) from error

    def _transfer(self, engine: str) -> None:
        if self.buffer.is_closed:
            raise ClosedError
        runs, last = self._runs()
        order = self._supply.order(engine, runs)
        self._supply.place.mkdir(parents=True, exist_ok=True)
        cache = Path(tempfile.mkdtemp(prefix="line-", dir=self._supply.place))
        try:
            with Child(order, cache, process.STALL_S) as child:
                self._child = child
                if self.buffer.is_closed:
                    raise ClosedError
                self.engines.add(engine)
                while self._index < last:
                    self._span(child)
        finally:
            self._child = None
            shutil.rmtree(cache, ignore_errors=True)

    def _runs(self) -> tuple[list[ByteRange], int]:
        """What is missing, neighbours joined, and the span after the last of it."""
        runs: list[ByteRange] = []
        for index in range(self._index, len(self._spans)):
            begin, end = self._spans[index].begin, self._spans[index].end
            if index == self._index:
                begin = self._at
            if runs and runs[-1][1] == begin:
                runs[-1] = (runs[-1][0], end)
            elif len(runs) == RUNS_A_TRANSFER:
                return runs, index
            else:
                runs.append((begin, end))
        return runs, len(self._spans)

    def _span(self, child: Child) -> None:
        span = self._spans[self._index]
        while self._at < span.end:
            size = min(self._piece, span.end - self._at)
            if span.kept and self.buffer.make_room(self._index, size):
                piece = memoryview(bytearray(size))
                try:
                    child.fill(piece)
                except BaseException:
                    self.buffer.give_back(size)
                    raise
                self.buffer.put(self._index, piece)
            else:
                if self.buffer.is_closed:
                    raise ClosedError
                piece = self._scratch[:size]
                child.fill(piece)
            self._passed(self._index, self._at, piece)
            self._at += size
            self.brought += size
            self._told(self.brought, self._left - self.brought)
        self._index += 1
        if self._index < len(self._spans):
            self._at = self._spans[self._index].begin
