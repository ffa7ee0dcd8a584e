"""hf_transfer in a process of its own: `python -m hubconv.hub.uploading.parts_child`.

It keeps Python's lock for as long as it works, so that in our own process neither the conversion
nor a signal would get a turn.
"""

from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from hubconv.hub.uploading.child import Report, run

CONNECTIONS: Final = 8
_RETRIES: Final = 5


def _send(order: Mapping[str, Any], _: BinaryIO, report: Report) -> dict[str, Any]:
    import hf_transfer

    headers = hf_transfer.multipart_upload(
        order["file"],
        order["urls"],
        order["chunk_size"],
        CONNECTIONS,
        parallel_failures=CONNECTIONS - 1,
        max_retries=_RETRIES,
        callback=lambda _: report(),
    )
    return {"headers": [{"etag": each.get("etag", "")} for each in headers]}


if __name__ == "__main__":
    run(_send)
