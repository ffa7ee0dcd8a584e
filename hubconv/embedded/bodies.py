"""Answers with the bytes of a file, whole or a range of it, in large blocks and bounded memory."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hubconv.embedded.blobs import BLOCK_BYTES
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.wire import Call

SEND_FILE = "hubconv.send_file"
"""In the scope of a request: sends bytes of an open file (file, first byte, size)."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the byte after the last that a Range header asks for; None for the whole.

    Raises:
        Refusal: It begins behind the end.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.group(0) == "bytes=-":
        return None
    first_text, last_text = found.groups()
    if first_text:
        first = int(first_text)
        end = min(int(last_text) + 1, size) if last_text else size
    else:
        first, end = max(size - int(last_text), 0), size
    if first >= size or end <= first:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "The range begins behind the end of the file.", headers=headers)
    return first, end


def file_blocks(path: Path, first: int, end: int) -> Generator[bytes]:
    """The bytes `first` to `end` (exclusive) of a file in blocks."""
    with path.open("rb") as file:
        file.seek(first)
        left = end - first
        while left > 0:
            block = file.read(min(BLOCK_BYTES, left))
            if not block:
                return
            left -= len(block)
            yield block


def body_answer(
    call: Call,
    size: int,
    blocks: "BlockSource",
    headers: dict[str, str],
) -> Response:
    """Answer with a file, or with the range of it that was asked for."""
    wanted = wanted_range(call.headers.get("range"), size)
    first, end = wanted or (0, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        **headers,
        "Content-Length": str(end - first),
    }
    if wanted is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    status = 206 if wanted is not None else 200
    if call.method == "HEAD":
        return Response(None, status, headers)
    answer = _BlockAnswer(_on_threads(call, blocks, first, end), status, headers)
    if not isinstance(blocks, FileSource):
        return answer
    return _FileAnswer(blocks.path, first, end, answer)


class BlockSource:
    """Where blocks come from; a subclass opens them.

    Attributes:
        is_unpacked: Its blocks come from the Hub's own CDN origin.
    """

    is_unpacked = False

    def open(self, first: int, end: int) -> Generator[bytes]:
        """The bytes `first` to `end` (exclusive), in blocks."""
        raise NotImplementedError


class FileSource(BlockSource):
    """Blocks of a file on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, first: int, end: int) -> Generator[bytes]:
        """The bytes `first` to `end` (exclusive), in blocks."""
        return file_blocks(self.path, first, end)


class _BlockAnswer(StreamingResponse):
    """An answer that ends its blocks with itself, also where the client has hung up.

    Left alone they would end when garbage is collected, with their file open until then.
    """

    def __init__(
        self, blocks: AsyncGenerator[bytes], status_code: int, headers: dict[str, str]
    ) -> None:
        super().__init__(blocks, status_code, headers)
        self._blocks = blocks

    async def stream_response(self, send: Send) -> None:
        """Send the blocks, then let go of what they come from."""
        async with aclosing(self._blocks):
            await super().stream_response(send)


class _FileAnswer(Response):
    """Bytes of a file, sent by the kernel where nobody need look at them."""

    def __init__(self, path: Path, first: int, end: int, otherwise: _BlockAnswer) -> None:
        super().__init__(None, otherwise.status_code)
        self.raw_headers = otherwise.raw_headers
        self._path, self._first, self._end, self._otherwise = path, first, end, otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        send_file = scope.get(SEND_FILE)
        if send_file is None:
            await self._otherwise(scope, receive, send)
            return
        with self._path.open("rb") as file:
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            for at in range(self._first, self._end, BLOCK_BYTES):
                await send_file(file, at, min(BLOCK_BYTES, self._end - at))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _on_threads(
    call: Call, source: BlockSource, first: int, end: int
) -> AsyncGenerator[bytes]:
    """Read on other threads, one block at a time, only as fast as the client takes them."""
    blocks = source.open(first, end)
    pool = call.state.unpackers if source.is_unpacked else call.state.readers
    reading: Future[bytes | None] = Future()
    reading.cancel()  # as good as done: nothing is read as yet
    try:
        while True:
            reading = pool.submit(next, blocks, None)
            block = await asyncio.wrap_future(reading)
            if block is None:
                return
            yield block
    finally:
        # A read that is going on cannot be closed under: whoever ends it closes.
        reading.add_done_callback(lambda _: blocks.close())
