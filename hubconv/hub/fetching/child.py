"""The transfer's own process: `python -m hubconv.hub.fetching.child`.

One order as a line of JSON on standard input; bytes through a ring of shared memory, see
`hubconv.hub.ring`; if it fails, the reason as a line of JSON on standard error. It imports nothing
heavy and dies with the process that made it.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from hubconv.hub.childhood import order_of_parent, words_of
from hubconv.hub.fetching import ranges
from hubconv.hub.ring import Filling

Put = Callable[[bytes | bytearray | memoryview], None]

STREAMS_AHEAD: Final = 2
REPEATS: Final = 3
"""A piece that fails is asked for again so often before the parent is told."""

XET_BUFFERS: Final = {
    "reconstruction.download_buffer_size": 32 * 1024 * 1024,
    "reconstruction.download_buffer_perfile_size": 32 * 1024 * 1024,
    "reconstruction.download_buffer_limit": 64 * 1024 * 1024,
    "reconstruction.min_prefetch_buffer": 16 * 1024 * 1024,
    "reconstruction.min_reconstruction_fetch_size": 8 * 1024 * 1024,
    "telemetry.enabled": False,
}
"""By default a session buffers gigabytes."""


def through_xet(order: Mapping[str, Any], put: Put) -> None:
    """Runs of a file by ordered Xet streams."""
    import hf_xet

    session = hf_xet.XetSession(hf_xet.XetConfig().with_config(XET_BUFFERS))
    group = session.new_download_stream_group(**order["group"])
    info = hf_xet.XetFileInfo(order["hash"], order["size"])
    streams: deque[Any] = deque()
    runs = deque(order["runs"])
    while runs or streams:
        while runs and len(streams) < STREAMS_AHEAD:
            streams.append(group.download_stream(info, *runs.popleft()))
        for piece in streams.popleft():
            put(piece)


def through_hf_transfer(order: Mapping[str, Any], put: Put) -> None:
    """A whole file into a slot on the disk; each piece that is there is told by a byte."""
    import hf_transfer

    hf_transfer.download(
        order["url"],
        order["path"],
        order["connections"],
        order["piece_bytes"],
        parallel_failures=order["connections"] - 1,
        max_retries=REPEATS,
        headers=order["headers"],
        callback=lambda _size: put(b"."),
    )


ENGINES: Final[Mapping[str, Callable[[Mapping[str, Any], Put], None]]] = {
    "xet": through_xet,
    "http": ranges.through_http,
    "hf_transfer": through_hf_transfer,
}


def main() -> int:
    """Do one order."""
    order = order_of_parent(sys.stdin.buffer)
    if order is None:
        return 1
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for bytes

    ring = Filling(order["ring"], out, sys.stdin.fileno())
    try:
        ENGINES[order["engine"]](order, ring.put)
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it was, the parent is told
        _tell(error)
        return 1
    return 0


def _tell(error: Exception) -> None:
    told = {
        "text": words_of(error)[:500],
        "status": getattr(error, "status", 0),
        "headers": getattr(error, "headers", {}),
        "is_link": getattr(error, "is_link", False),
    }
    os.write(2, b"\n" + json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    # Libraries leave threads behind that would keep an orderly end waiting.
    os._exit(main())
