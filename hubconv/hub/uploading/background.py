"""Finished files on their way to the Hub while the next shard is made, two at most on the disk."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hubconv.ends import StagedFile
from hubconv.errors import HubconvError, StoppedError
from hubconv.files import FileSink
from hubconv.hub.client import explain
from hubconv.hub.room import SHARDS_ON_DISK
from hubconv.hub.waiting import LOOK_S, AtOnce

GRACE_S: Final = 5.0
"""A run that was signalled waits this long for what is on its way."""

Send = Callable[[StagedFile, Path], None]


class Background:
    """Sends files one after the other, in a thread that lives while there is something to send.

    Args:
        folder: Where shards are written.
        send: Brings a file to the Hub, with all the patience there is to be had.
        sent: Told of each file that the Hub has now, in the sending thread.
        at_once: Asked in every wait; raises where the run must end now.

    Attributes:
        shards_on_disk: How many may lie there, in writing or on their way.
    """

    def __init__(
        self, folder: Path, send: Send, sent: Callable[[StagedFile], None], at_once: AtOnce
    ) -> None:
        self._folder = folder
        self._send = send
        self._sent = sent
        self._at_once = at_once
        self._changed = threading.Condition()
        self._on_disk = 0
        self.shards_on_disk = SHARDS_ON_DISK
        self._waiting: deque[tuple[StagedFile, Path]] = deque()
        self._busy = False
        self._given_up = False
        self._failure: HubconvError | None = None

    def create(self, name: str) -> "BackgroundSink":
        """A sink for one shard; waits until there is room for it on the disk.

        Raises:
            HubconvError: An earlier shard could not be sent, or the run must end.
        """
        with self._changed:
            while self._on_disk >= self.shards_on_disk:
                self._changed.wait(LOOK_S)
                self._at_once()
                self._tell()
            self._tell()
            self._on_disk += 1
        return BackgroundSink(self, self._folder / name, name)

    def put(self, staged: StagedFile, file: Path) -> None:
        """Send a finished file; it is removed when the Hub has it, or cannot be given it."""
        with self._changed:
            self._waiting.append((staged, file))
            if not self._busy:
                # A daemon: a run that has ended does not wait for a line that is silent.
                threading.Thread(target=self._run, name="upload", daemon=True).start()
                self._busy = True

    def release(self) -> None:
        """One shard less lies on the disk."""
        with self._changed:
            self._on_disk -= 1
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until nothing is on its way; in a run that was signalled, for a moment only."""
        deadline = 0.0
        with self._changed:
            while self._busy and not self._given_up:
                self._changed.wait(LOOK_S)
                deadline = deadline or (time.monotonic() + GRACE_S if self._is_stopped() else 0.0)
                self._given_up = bool(deadline) and time.monotonic() > deadline

    def raise_failure(self) -> None:
        """Tell of a shard that could not be sent, once.

        Raises:
            HubconvError: There is one.
        """
        with self._changed:
            self._tell()

    def check(self) -> None:
        """For waits in the sending thread: raises where nobody waits for it any more."""
        if self._given_up:
            raise StoppedError("The run has ended.")

    # ── the sending thread ───────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting or self._given_up:
                    self._busy = False
                    self._changed.notify_all()
                    return
                staged, file = self._waiting.popleft()
            try:
                self._send(staged, file)
                is_sent = True
            except Exception as error:  # noqa: BLE001 - told in the thread that makes shards
                is_sent = False
                self._note(error, f"Uploading {staged.path}")
            file.unlink(missing_ok=True)
            self.release()
            if is_sent:
                try:
                    self._sent(staged)
                except Exception as error:  # noqa: BLE001 - so is this
                    self._note(error, f"Staging {staged.path}")

    def _note(self, error: Exception, what: str) -> None:
        failure = explain(error, what)
        if failure is not error:
            failure.__cause__ = error
        with self._changed:
            self._failure = self._failure or failure

    def _tell(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _is_stopped(self) -> bool:
        try:
            self._at_once()
        except StoppedError:
            return True
        return False


class BackgroundSink(FileSink):
    """A local file that is sent in the background when it is complete.

    Args:
        background: Sends it.
        path: Where it lies until then.
        name: Its path in the repository.
    """

    def __init__(self, background: Background, path: Path, name: str) -> None:
        # Not brought to the platter: after a crash of the machine nobody would look for it.
        super().__init__(path, name, durable=False)
        self._background = background
        self._handed_over = False
        self._final = path

    def __enter__(self) -> Self:
        try:
            return super().__enter__()
        except BaseException:
            self._background.release()
            raise

    def finish(self) -> StagedFile:
        """Complete the file and hand it over; errors of sending it are told later."""
        staged = super().finish()
        self._handed_over = True
        self._background.put(staged, self._final)
        return staged

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if not self._handed_over:
            self._background.release()
