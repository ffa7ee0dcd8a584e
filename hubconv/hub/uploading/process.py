"""A child process that moves bytes, watched by the thread that uses it.

Neither side can hang: every wait ends when the child dies, when nothing has moved for a while, or
when the run is asked to stop.
"""

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hubconv.errors import BrokenLineError
from hubconv.files import disk_error
from hubconv.hub import children
from hubconv.hub.uploading.xet_child import LENGTH_BYTES
from hubconv.hub.waiting import LOOK_S, AtOnce

STALL_S: Final = 60.0
"""A child that takes no byte and gives no sign of life for so long is ended."""

_WRITE_BYTES: Final = 1024 * 1024


class Child:
    """A child process with an order; ended with its `with` block at the latest.

    Args:
        name: Its module within this package.
        what: What it does, for messages: `Sending model.safetensors by hf_xet`.
        order: What it is to do. Holds headers: it is never part of a command line or a log.
        folder: Receives its cache and what it says on standard error.
        at_once: Asked in every wait.
        stall_s: Patience while nothing moves; 0 for `STALL_S`.

    It must be used up in the thread that made it: the system ends it with that thread.
    """

    def __init__(
        self,
        name: str,
        what: str,
        order: Mapping[str, Any],
        folder: Path,
        at_once: AtOnce,
        stall_s: float = 0.0,
    ) -> None:
        self._what = what
        self._at_once = at_once
        self._stall_s = stall_s or STALL_S
        self._said = b""
        self._moved = 0.0
        self._log = folder / "stderr"
        self._process = self._start(name, folder)
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("a child has pipes")
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self._order = children.told(order)

    def _start(self, name: str, folder: Path) -> "subprocess.Popen[bytes]":
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                module = f"hubconv.hub.uploading.{name}"
                return children.start(module, folder / "cache", log)
        except OSError as error:
            raise disk_error(error, folder) from error

    def __enter__(self) -> Self:
        try:
            self._push(self._order)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Pass a frame on; blocks while the child's line is slower than we are.

        Raises:
            BrokenLineError: The child died, failed or stalled.
        """
        view = memoryview(data).cast("B")
        if view.nbytes:
            self._push(view.nbytes.to_bytes(LENGTH_BYTES, "big"))
            self._push(view)

    def send_end(self) -> None:
        """Say that all frames were sent."""
        self._push(bytes(LENGTH_BYTES))

    def answer(self) -> Mapping[str, Any]:
        """Wait for what the child answers.

        Raises:
            BrokenLineError: The child died, failed or stalled.
        """
        self._moved = time.monotonic()
        while b"\n" not in self._said:
            self._wait(self._output.fileno(), select.POLLIN)
            self._read()
        answer: dict[str, Any] = json.loads(self._said)
        if "error" in answer:
            raise self._broken(answer["error"])
        return answer

    def end(self) -> None:
        """End the child, whatever it does."""
        children.end(self._process)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────

    def _push(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._moved = time.monotonic()
        while view:
            try:
                sent = os.write(self._input.fileno(), view[:_WRITE_BYTES])
            except BlockingIOError:
                self._wait(self._input.fileno(), select.POLLOUT)
                self._read()
            except BrokenPipeError as error:
                raise self._dead() from error
            else:
                view = view[sent:]
                self._moved = time.monotonic()

    def _wait(self, handle: int, event: int) -> None:
        """Wait until a pipe is ready or a moment has passed; look for reasons to give up."""
        poll = select.poll()
        poll.register(handle, event)
        poll.register(self._output.fileno(), select.POLLIN)
        poll.poll(LOOK_S * 1000)
        self._at_once()
        if time.monotonic() - self._moved > self._stall_s:
            self._process.kill()
            raise self._broken(f"nothing moved for {self._stall_s:.0f} seconds")

    def _read(self) -> None:
        """Take in signs of life, and the answer once it comes.

        Raises:
            BrokenLineError: There will be none.
        """
        try:
            came = os.read(self._output.fileno(), 65536)
        except BlockingIOError:
            return
        if not came:
            raise self._dead()
        self._moved = time.monotonic()
        self._said = (self._said + came).lstrip(b"\n")

    def _dead(self) -> BrokenLineError:
        """What is known of a child that ended before its time: its answer, or its last words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(children.END_S)
        with suppress(BlockingIOError):
            self._said = (self._said + os.read(self._output.fileno(), 65536)).lstrip(b"\n")
        if b"\n" in self._said:
            return self._broken(json.loads(self._said).get("error"))
        last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        code = self._process.returncode
        return self._broken(f"its process ended with {code} {last}".strip())

    def _broken(self, why: str) -> BrokenLineError:
        return BrokenLineError(
            f"{self._what} broke off: {why}.",
            "Finished shards are kept; run the same command again later.",
        )
