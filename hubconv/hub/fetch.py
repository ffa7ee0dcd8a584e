"""One file of the Hub into one slot on the disk, its hash proven before anyone reads it.

Engines, chosen per file: a Xet stream where the file is stored in Xet, several connections through
hf_transfer where it is plain LFS and large, one connection that resumes otherwise. Whatever engine
brought the bytes, their sha256 must be the one the tree of the pinned commit names.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from huggingface_hub.file_download import HfFileMetadata

from hubconv.ends import FileEntry
from hubconv.errors import HubconvError, IntegrityError, TemporaryError
from hubconv.hub import parallel
from hubconv.hub.client import (
    REFUSED,
    TRIES,
    HubClient,
    explain,
    is_passing,
    pause,
)
from hubconv.hub.compat import (
    get_session,
    headers_of,
    headers_towards,
    hf_raise_for_status,
    httpx,
    refresh_xet_connection_info,
)

PIECE_BYTES: Final = 4 * 1024 * 1024
PARALLEL_FROM_BYTES: Final = 64 * 1024 * 1024
PARTIAL_CONTENT: Final = 206
PLAIN: Final = "http"
"""The engine of last resort: what it fails at has failed."""

GIVE_UP_AFTER: Final = 2
"""A wrong hash is fetched again once; the second time both hashes are shown."""


class Links(Protocol):
    """Where a file's bytes are; asked for anew when a link has grown old."""

    def link(self, path: str) -> HfFileMetadata:
        """Location, size and storage of a file of the pinned commit."""
        ...

    def forget(self, path: str) -> None:
        """Ask anew the next time."""
        ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that lies in its slot and has the right content."""

    path: Path
    engine: str
    seconds: float


def fetch_file(client: HubClient, links: Links, entry: FileEntry, slot: Path) -> Fetched:
    """Bring a file into a slot.

    Raises:
        IntegrityError: Its content has another hash than the tree names, twice.
        TemporaryError: The line failed for longer than our patience.
    """
    started = time.monotonic()
    for attempt in range(1, GIVE_UP_AFTER + 1):
        engine, sha256 = _bring(client, links, entry, slot)
        if not entry.sha256 or sha256 == entry.sha256:
            return Fetched(slot, engine, time.monotonic() - started)
        slot.unlink(missing_ok=True)
        if attempt == GIVE_UP_AFTER:
            raise wrong_hash(entry.path, sha256, entry.sha256)
    raise TemporaryError(f"{entry.path} was not tried.")


def wrong_hash(path: str, found: str, wanted: str) -> IntegrityError:
    """What is said of a file whose content is not what the tree names."""
    return IntegrityError(
        f"{path} arrived with hash {found}; the Hub names {wanted}.",
        "The file or the line is damaged; nothing of it was used. Run again, and if it repeats "
        "tell the source's publisher.",
    )


Engine = Callable[[HubClient, HfFileMetadata, FileEntry, Path], str]


def engines_for(metadata: HfFileMetadata, entry: FileEntry) -> list[tuple[str, Engine]]:
    """Engines to try for a file, best first."""
    if metadata.xet_file_data is not None:
        return [("xet", _xet_stream), (PLAIN, _http)]
    if entry.size >= PARALLEL_FROM_BYTES:
        return [("hf_transfer", _parallel), (PLAIN, _http)]
    return [(PLAIN, _http)]


def _bring(client: HubClient, links: Links, entry: FileEntry, slot: Path) -> tuple[str, str]:
    what = f"Fetching {entry.path}"
    for attempt in range(1, TRIES + 1):
        name = ""
        try:
            metadata = links.link(entry.path)
            engines = engines_for(metadata, entry)
            # The first engine gets two tries; what it cannot do, plain HTTP may.
            name, engine = engines[0] if attempt <= 2 or len(engines) == 1 else engines[1]
            return name, engine(client, metadata, entry, slot)
        except Exception as error:
            if _is_disk_fault(error):
                raise
            if name in {"", PLAIN} and not is_passing(error):
                raise explain(error, what) from error
            if attempt == TRIES:
                raise TemporaryError(
                    f"{what} failed {TRIES} times: {error}.",
                    "Finished shards are kept; run the same command again later.",
                ) from error
            links.forget(entry.path)
            client.wait(pause(error, attempt))
    raise TemporaryError(f"{what}: not tried.")


def _is_disk_fault(error: Exception) -> bool:
    passing = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not passing


@contextmanager
def opened(client: HubClient, location: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer of a link, its body not yet read.

    Raises:
        TemporaryError: A signed link has grown old.
    """
    sent = {"accept-encoding": "identity", **headers, **headers_towards(client.api, location)}
    with get_session().stream("GET", location, headers=sent) as response:
        if response.status_code in REFUSED and not location.startswith(f"{client.api.endpoint}/"):
            raise TemporaryError(f"a download link was refused ({response.status_code})")
        hf_raise_for_status(response)
        yield response


def _http(client: HubClient, metadata: HfFileMetadata, entry: FileEntry, slot: Path) -> str:
    """One connection; what is in the slot already is kept and hashed, the rest asked for."""
    digest = hashlib.sha256()
    have = _hash_present(slot, entry.size, digest)
    headers = {"range": f"bytes={have}-"} if have else {}
    if have < entry.size:
        with opened(client, metadata.location, headers) as response:
            if have and response.status_code != PARTIAL_CONTENT:
                digest, have = hashlib.sha256(), 0
            with slot.open("r+b" if have else "wb") as file:
                file.seek(have)
                for piece in response.iter_bytes(PIECE_BYTES):
                    file.write(piece)
                    digest.update(piece)
                    have += len(piece)
    if have != entry.size:
        raise TemporaryError(f"{entry.path}: {have} of {entry.size} bytes came.")
    return digest.hexdigest()


def _hash_present(slot: Path, size: int, digest: "hashlib._Hash") -> int:
    if not slot.exists() or slot.stat().st_size > size:
        slot.unlink(missing_ok=True)
        return 0
    have = 0
    with slot.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            have += len(piece)
    return have


def _parallel(client: HubClient, metadata: HfFileMetadata, entry: FileEntry, slot: Path) -> str:
    """Several connections through hf_transfer; hashed afterwards, for the bytes come unordered."""
    headers = headers_towards(client.api, metadata.location)
    parallel.download(metadata.location, slot, entry.size, headers)
    digest = hashlib.sha256()
    have = _hash_present(slot, entry.size, digest)
    if have != entry.size:
        raise TemporaryError(f"{entry.path}: {have} of {entry.size} bytes came.")
    return digest.hexdigest()


def _xet_stream(client: HubClient, metadata: HfFileMetadata, entry: FileEntry, slot: Path) -> str:
    """An ordered Xet stream, hashed as it passes."""
    import hf_xet

    if metadata.xet_file_data is None:
        raise HubconvError(f"{entry.path} is not stored in Xet.")
    headers = headers_of(client.api)
    connection = refresh_xet_connection_info(file_data=metadata.xet_file_data, headers=headers)
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config(_XET_BUFFERS))
    group = session.new_download_stream_group(
        endpoint=connection.endpoint,
        token=connection.access_token,
        token_expiry_unix_secs=connection.expiration_unix_epoch,
        token_refresh_url=metadata.xet_file_data.refresh_route,
        token_refresh_headers=headers,
    )
    info = hf_xet.XetFileInfo(metadata.xet_file_data.file_hash, entry.size)
    digest = hashlib.sha256()
    have = 0
    with slot.open("wb") as file:
        for piece in group.download_stream(info):
            file.write(piece)
            digest.update(piece)
            have += len(piece)
        file.flush()
        os.fdatasync(file.fileno())
    if have != entry.size:
        raise TemporaryError(f"{entry.path}: {have} of {entry.size} bytes came.")
    return digest.hexdigest()


_XET_BUFFERS: Final = {
    "reconstruction.download_buffer_size": 64 * 1024 * 1024,
    "reconstruction.download_buffer_perfile_size": 64 * 1024 * 1024,
    "reconstruction.download_buffer_limit": 128 * 1024 * 1024,
    "reconstruction.min_prefetch_buffer": 32 * 1024 * 1024,
    "reconstruction.min_reconstruction_fetch_size": 16 * 1024 * 1024,
    "telemetry.enabled": False,
}
"""By default a session buffers gigabytes; these keep a worker below 128 MB."""
