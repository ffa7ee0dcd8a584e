"""The engines that can bring a file, and what each of them must be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from huggingface_hub.file_download import HfFileMetadata

from hubconv.ends import ByteRange, FileEntry
from hubconv.hub.client import HubClient
from hubconv.hub.compat import (
    headers_of,
    headers_towards,
    refresh_xet_connection_info,
)
from hubconv.hub.desk import renewable
from hubconv.hub.fetching.process import LineError
from hubconv.hub.waiting import AtOnce, never

XET: Final = "xet"
HTTP: Final = "http"
HF_TRANSFER: Final = "hf_transfer"

TRIES_EACH: Final = 2
"""An engine that failed so often gives way to the next."""

CONNECTIONS: Final = 6
PIECE_BYTES: Final = 8 * 1024 * 1024


class Links(Protocol):
    """Where a file's bytes are; asked for anew when a link has grown old."""

    def link(self, path: str) -> HfFileMetadata:
        """Location, size and storage of a file of the pinned commit."""
        ...

    def forget(self, path: str) -> None:
        """Ask anew the next time."""
        ...


@dataclass(frozen=True, slots=True)
class Supply:
    """One file, and the ways to its bytes.

    Attributes:
        client: How to reach the Hub.
        links: Where the file is.
        entry: The file.
        place: Folder for slots and for what libraries keep while they run.
        skipped: Failures that earlier transfers of this file had: other engines first.
        at_once: Asked in every wait for bytes; raises where the run must end now.
    """

    client: HubClient
    links: Links
    entry: FileEntry
    place: Path
    skipped: int = 0
    at_once: AtOnce = never

    def engine(self, failures: int) -> str:
        """The engine to use after so many failures: another after every second one."""
        stored_in_xet = self.links.link(self.entry.path).xet_file_data is not None
        engines = (XET, HTTP) if stored_in_xet else (HTTP,)
        return engines[(self.skipped + failures) // TRIES_EACH % len(engines)]

    def order(self, engine: str, runs: Sequence[ByteRange]) -> dict[str, Any]:
        """What a transfer is told; with the link and the token as they are now.

        Raises:
            LineError: The file cannot be had this way.
        """
        metadata = self.links.link(self.entry.path)
        told = {"engine": engine, "size": self.entry.size, "runs": list(runs)}
        if engine == XET:
            return {**told, **self._xet(metadata)}
        api = self.client.api
        return {
            **told,
            "url": metadata.location,
            "headers": headers_towards(api, metadata.location),
            "is_link": not metadata.location.startswith(f"{api.endpoint}/"),
            "connections": CONNECTIONS,
            "piece_bytes": PIECE_BYTES,
        }

    def _xet(self, metadata: HfFileMetadata) -> Mapping[str, Any]:
        if metadata.xet_file_data is None:
            raise LineError(f"{self.entry.path} is not stored in Xet")
        headers = headers_of(self.client.api)
        connection = refresh_xet_connection_info(file_data=metadata.xet_file_data, headers=headers)
        return {
            "hash": metadata.xet_file_data.file_hash,
            "group": renewable(
                self.client,
                {
                    "endpoint": connection.endpoint,
                    "token": connection.access_token,
                    "token_expiry_unix_secs": connection.expiration_unix_epoch,
                    "token_refresh_url": metadata.xet_file_data.refresh_route,
                    "token_refresh_headers": headers,
                },
            ),
        }
