"""A transfer in a process of its own, seen from ours: bytes, silence, and how it ended.

Libraries that move bytes can fall silent for ever, and hf_transfer keeps Python's lock for as long
as it works. A process can be watched and killed. Its order goes through standard input, where no
other user of the machine can read links and tokens.
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
from typing import Any, BinaryIO, Final, Self

from huggingface_hub.errors import HfHubHTTPError

from hubconv.errors import TemporaryError
from hubconv.hub import children
from hubconv.hub.compat import httpx
from hubconv.hub.ring import WORDS_BYTES, Emptying
from hubconv.hub.waiting import LOOK_S, AtOnce, never

STALL_S: Final = 60.0
"""A transfer that brings no byte for so long, while bytes are wanted, is ended."""

END_S: Final = 10.0


class LineError(Exception):
    """Raised when a transfer failed in a way that the next one may not."""


class DiskFullError(LineError):
    """Raised when a transfer found no room for its slot."""


class Child:
    """One transfer: `python -m hubconv.hub.fetching.child`. It ends with its `with` block.

    Args:
        order: What it is to do; may hold tokens.
        cache: Folder for what its libraries want to keep; the caller removes it.
        stall_s: Seconds of silence after which it is given up.
        at_once: Asked while bytes are waited for; raises where the run must end now.
    """

    def __init__(
        self, order: Mapping[str, Any], cache: Path, stall_s: float, at_once: AtOnce = never
    ) -> None:
        self._stall_s = stall_s
        self._at_once = at_once
        self._said: BinaryIO = os.fdopen(os.memfd_create("said"), "w+b")
        self._ring = Emptying()
        try:
            self._process = children.start(
                "hubconv.hub.fetching.child", cache, self._said, [self._ring.handle]
            )
        except BaseException:
            self._ring.close()
            self._said.close()
            raise
        self._told = children.told({**order, "stall_s": stall_s, "ring": self._ring.handle})
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("a child has pipes")
        self._room, self._woken = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)

    def __enter__(self) -> Self:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it ended already, and has said why
                self._process.stdin.write(self._told)
        os.set_blocking(self._room, False)
        return self

    def read_into(self, room: memoryview) -> int:
        """Wait for bytes; 0 at the end.

        Raises:
            LineError: None came for too long.
        """
        end = time.monotonic() + self._stall_s
        while not self._ring.ready:
            self._ring.tell(self._room)
            if self._poll.poll(min(self._stall_s, LOOK_S) * 1000):
                words = os.read(self._woken, WORDS_BYTES)
                if not words:
                    return 0
                self._ring.hear(words)
                continue
            self._at_once()
            if time.monotonic() >= end:
                raise LineError(f"not a byte came for {self._stall_s:g} seconds")
        came = self._ring.take(room)
        self._ring.tell(self._room)
        return came

    def fill(self, room: memoryview) -> None:
        """Wait until bytes fill the room.

        Raises:
            Exception: Why they do not.
        """
        have = 0
        while have < len(room):
            came = self.read_into(room[have:])
            if not came:
                self.check()
                raise LineError("the transfer ended early")
            have += came

    def check(self) -> None:
        """Wait for the end of a transfer whose bytes have ended.

        Raises:
            Exception: It failed; with the server's answer where there was one.
        """
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            raise LineError("the transfer did not end") from error
        if code:
            raise self._fault(code)

    def _fault(self, code: int) -> Exception:
        self._said.seek(0)
        for line in reversed(self._said.read().decode("utf-8", "replace").splitlines()):
            with suppress(ValueError, KeyError, TypeError):  # what a library wrote there
                return _error_of(json.loads(line))
        return LineError(f"the transfer's process ended with {code}")

    def kill(self) -> None:
        """End it at once, from any thread."""
        self._process.kill()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        children.end(self._process)
        self._ring.close()
        self._said.close()


def _error_of(told: Mapping[str, Any]) -> Exception:
    text, status = str(told["text"]), int(told["status"])
    if "os error 28" in text:
        return DiskFullError(text)
    if not status:
        return LineError(text)
    if told["is_link"]:
        return TemporaryError(f"a download link was refused ({status})")
    answer = httpx.Response(
        status, headers=told["headers"], request=httpx.Request("GET", "http://hub")
    )
    return HfHubHTTPError(text, response=answer)
