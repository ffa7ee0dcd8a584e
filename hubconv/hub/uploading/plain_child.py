"""The client's own way to send parts, in a process of its own: `hubconv.hub.uploading.plain_child`.

For a machine of few cores: hf_transfer reads a file in pieces of 8 KB, each on another thread, and
takes three times the processor time for a byte (benchmarks/README.md, Through a line).
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final

from hubconv.hub.uploading.child import Report, run

CONNECTIONS: Final = 4


def _send(order: Mapping[str, Any], _: BinaryIO, report: Report) -> dict[str, Any]:
    # What the client would tell of a repeated request is its link, which is signed.
    logging.disable(logging.CRITICAL)
    from hubconv.hub.compat import send_part

    size = int(order["chunk_size"])

    def one(number: int, url: str) -> dict[str, str]:
        answered = send_part(url, Path(order["file"]), number * size, size)
        report()
        return {"etag": answered.get("etag", "")}

    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        sent = [pool.submit(one, *part) for part in enumerate(order["urls"])]
        return {"headers": [each.result() for each in sent]}
    finally:  # after a failure nobody waits for the other parts: the parent ends this process
        pool.shutdown(wait=False, cancel_futures=True)


if __name__ == "__main__":
    run(_send)
