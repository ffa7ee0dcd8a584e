"""Answers with the bytes of a file, whole or a range of it, in large blocks and bounded memory."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from starlette.responses import Response, StreamingResponse

from hubconv.embedded.blobs import BLOCK_BYTES
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.wire import Call

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


def file_blocks(path: Path, first: int, end: int) -> Iterator[bytes]:
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
    return StreamingResponse(_on_threads(call, blocks, first, end), status, headers)


class BlockSource:
    """Where blocks come from; a subclass opens them."""

    def open(self, first: int, end: int) -> Iterator[bytes]:
        """The bytes `first` to `end` (exclusive), in blocks."""
        raise NotImplementedError


class FileSource(BlockSource):
    """Blocks of a file on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, first: int, end: int) -> Iterator[bytes]:
        """The bytes `first` to `end` (exclusive), in blocks."""
        return file_blocks(self._path, first, end)


async def _on_threads(
    call: Call, source: BlockSource, first: int, end: int
) -> AsyncIterator[bytes]:
    """Read on other threads, one block at a time, only as fast as the client takes them."""
    loop = asyncio.get_running_loop()
    pool = call.state.unpackers
    blocks = await loop.run_in_executor(pool, source.open, first, end)
    try:
        while (block := await loop.run_in_executor(pool, next, blocks, None)) is not None:
            yield block
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            pool.submit(close)
