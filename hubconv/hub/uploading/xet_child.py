"""hf_xet in a process of its own: `python -m hubconv.hub.uploading.xet_child`.

A stalled session can only be ended with its process. An order names a file to send, or none: then
the bytes follow on standard input in frames, each led by its length as eight bytes, and a frame of
no length ends them. Input that ends without it sends nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

from hubconv.hub.uploading.child import Report, run

LENGTH_BYTES: Final = 8
PIECE_BYTES: Final = 1024 * 1024
XET_CONFIG: Final = {
    # A xorb is 64 MB: how many are on their way decides how much is in memory.
    "client.ac_max_upload_concurrency": 4,
    "data.max_concurrent_file_ingestion": 1,
    "telemetry.enabled": False,
}
_REPORT_MS: Final = 500


def _send(order: Mapping[str, Any], stdin: BinaryIO, report: Report) -> dict[str, Any] | None:
    import hf_xet

    moved: tuple[int, ...] = ()

    def progress(group: Any, _: Any) -> None:  # noqa: ANN401 - the library ships no types
        nonlocal moved
        now = (group.total_bytes_completed, group.total_transfer_bytes_completed)
        if now != moved:
            moved = now
            report()

    session = hf_xet.XetSession(hf_xet.XetConfig().with_config(XET_CONFIG))
    commit = session.new_upload_commit(
        **order["connection"], progress_callback=progress, progress_interval_ms=_REPORT_MS
    )
    if "file" in order:
        handle = commit.start_upload_file(order["file"])
    else:
        handle = commit.start_upload_stream(name=order["name"])
        for piece in _pieces(stdin):
            if piece is None:
                commit.abort()
                return None
            handle.write(piece)
        info = handle.finish().xet_info
    done = commit.wait_to_finish()
    if "file" in order:
        info = handle.result().xet_info
    metrics = done.dedup_metrics
    return {
        "xet_hash": info.hash,
        "sha256": info.sha256,
        "size": info.file_size,
        "sent_bytes": metrics.total_bytes_uploaded,
        "deduped_bytes": metrics.deduped_bytes,
    }


def _pieces(stdin: BinaryIO) -> Iterator[bytes | None]:
    """The bytes of all frames; None at last where the input ended in their middle."""
    while left := int.from_bytes(_exactly(stdin, LENGTH_BYTES) or b"\1", "big"):
        while left:
            piece = stdin.read(min(left, PIECE_BYTES))
            if not piece:
                yield None
                return
            left -= len(piece)
            yield piece


def _exactly(stdin: BinaryIO, size: int) -> bytes:
    data = stdin.read(size)
    return data if len(data) == size else b""


if __name__ == "__main__":
    run(_send)
