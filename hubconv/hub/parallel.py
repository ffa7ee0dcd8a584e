"""hf_transfer in a process of its own: `python -m hubconv.hub.parallel`.

hf_transfer keeps Python's lock for as long as it works, so that in our own process neither the
conversion nor a signal would get a turn. What it is to do comes on standard input, where no other
user of the machine can read the headers.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from hubconv.errors import TemporaryError

CONNECTIONS: Final = 8
CONNECTION_BYTES: Final = 16 * 1024 * 1024
LONGEST_S: Final = 6 * 3600
SLOWEST_BYTES_A_S: Final = 200_000
"""A line slower than this is taken for dead: the next engine resumes where it can."""


def download(url: str, path: Path, size: int, headers: dict[str, str]) -> None:
    """Fetch a URL over several connections, in a child process.

    Args:
        url: Must honour ranges.
        path: Receives the content; removed again on failure, for what is left has holes.
        size: Bytes that are expected.
        headers: Sent with every request.

    Raises:
        TemporaryError: It failed, or took longer than any living line would.
    """
    order = json.dumps({"url": url, "path": str(path), "headers": headers})
    path.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "hubconv.hub.parallel"],
            input=order,
            capture_output=True,
            text=True,
            check=False,
            timeout=min(LONGEST_S, 60 + size / SLOWEST_BYTES_A_S),
        )
    except subprocess.TimeoutExpired as error:
        path.unlink(missing_ok=True)
        raise TemporaryError(f"hf_transfer brought {path.name} to no end.") from error
    if done.returncode:
        path.unlink(missing_ok=True)
        last = done.stderr.strip().rpartition("\n")[2]
        raise TemporaryError(f"hf_transfer failed: {last or done.returncode}")


def _child() -> None:
    import hf_transfer

    order = json.load(sys.stdin)
    hf_transfer.download(
        order["url"],
        order["path"],
        CONNECTIONS,
        CONNECTION_BYTES,
        parallel_failures=CONNECTIONS - 1,
        max_retries=5,
        headers=order["headers"],
    )


if __name__ == "__main__":
    _child()
