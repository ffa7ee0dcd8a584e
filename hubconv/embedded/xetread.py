"""Reading a xet file inside the Hub, for those who ask for it by plain HTTP."""

import threading
from collections.abc import Generator
from typing import Any

from hubconv.embedded.app import INTERNAL_HEADER
from hubconv.embedded.blobs import BLOCK_BYTES
from hubconv.embedded.bodies import BlockSource
from hubconv.embedded.state import State

_BUFFERS = {
    "reconstruction.download_buffer_size": "64mb",
    "reconstruction.download_buffer_perfile_size": "32mb",
    "reconstruction.download_buffer_limit": "128mb",
    "reconstruction.min_prefetch_buffer": "32mb",
    "reconstruction.min_reconstruction_fetch_size": "16mb",
    "telemetry.enabled": False,
}
_OWN_TOKEN_S = 3600
_LOCK = threading.Lock()
_SESSIONS: dict[str, Any] = {}


class XetSource(BlockSource):
    """Blocks of a xet file, unpacked by the xet library through the Hub's own CDN origin."""

    is_unpacked = True

    def __init__(self, state: State, file_hash: str, size: int) -> None:
        self._state = state
        self._hash = file_hash
        self._size = size

    def open(self, first: int, end: int) -> Generator[bytes]:
        """The bytes `first` to `end` (exclusive), in blocks."""
        import hf_xet

        if end <= first:
            return
        token, expires = self._state.xet_token("internal", "read", _OWN_TOKEN_S)
        group = _session().new_download_stream_group(
            endpoint=self._state.inner_cdn,
            token=token,
            token_expiry_unix_secs=expires,
            custom_headers={INTERNAL_HEADER: self._state.sign(INTERNAL_HEADER)},
        )
        stream = group.download_stream(hf_xet.XetFileInfo(self._hash, self._size), first, end)
        left = end - first
        try:
            for block in stream:
                left -= len(block)
                for at in range(0, len(block), BLOCK_BYTES):
                    yield bytes(block[at : at + BLOCK_BYTES])
            # The library may end a stream that failed without raising.
            if left:
                raise OSError(f"xet file {self._hash}: {left} bytes are missing")
        finally:
            if left:
                stream.cancel()


def _session() -> Any:  # noqa: ANN401 - the library ships no types
    import hf_xet

    with _LOCK:
        if "session" not in _SESSIONS:
            _SESSIONS["session"] = hf_xet.XetSession(hf_xet.XetConfig().with_config(_BUFFERS))
        return _SESSIONS["session"]
