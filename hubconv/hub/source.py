"""A Hub repository as source: pinned to one commit, read by range, shards fetched into slots."""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.hf_api import RepoFile

from hubconv.ends import ByteRange, FileEntry, ShardBytes
from hubconv.errors import IntegrityError, ResourceError, SourceError, TemporaryError
from hubconv.files import PositionedFile
from hubconv.hub.client import HubClient
from hubconv.hub.compat import headers_of
from hubconv.hub.fetch import GIVE_UP_AFTER, fetch_file, opened, wrong_hash

LINK_LIFETIME_S: Final = 20 * 60
"""Signed links are asked for anew after this time; they live about an hour."""

PARTIAL_CONTENT: Final = 206
SHA256_DIGITS: Final = 64


class HubSource:
    """A checkpoint on the Hub.

    Args:
        client: How to reach it.
        repo: `org/name`.
        revision: Branch, tag or commit; pinned here once.
        slots: Folder for the shards being worked on.
    """

    def __init__(self, client: HubClient, repo: str, revision: str, slots: Path) -> None:
        self._client = client
        info = client.call(
            f"Reading {repo}", lambda: client.api.repo_info(repo, revision=revision or None)
        )
        self._repo = info.id
        self._commit = str(info.sha)
        self._restricted = "private" if info.private else "gated" if info.gated else ""
        self._slots = slots
        self._links: dict[str, tuple[float, HfFileMetadata]] = {}
        self._files = client.call(f"Listing {repo}", self._list)

    @property
    def ref(self) -> str:
        """`org/name` as the Hub spells it."""
        return self._repo

    @property
    def commit(self) -> str:
        """The pinned commit."""
        return self._commit

    @property
    def restricted(self) -> str:
        """Private or gated, if it is."""
        return self._restricted

    def files(self) -> Mapping[str, FileEntry]:
        """Every file of the pinned commit."""
        return self._files

    def _list(self) -> dict[str, FileEntry]:
        tree = self._client.api.list_repo_tree(
            self._repo, recursive=True, revision=self._commit, repo_type="model"
        )
        # Entries that are neither file nor LFS file (submodules, links) are passed over.
        return {
            entry.path: FileEntry(
                entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        }

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, by one ranged request; a whole file is checked.

        Raises:
            IntegrityError: The file has another hash than the tree names, twice.
        """
        what = f"Reading {path} of {self._repo}"
        entry = self._files.get(path)
        wanted = (entry.sha256 or entry.stamp) if entry and end - begin == entry.size else ""
        found = ""
        for _ in range(GIVE_UP_AFTER):
            data = self._client.call(what, lambda: self._range(path, begin, end))
            found = _hash_like(wanted, data)
            if found == wanted:
                return data
        raise wrong_hash(path, found, wanted)

    def _range(self, path: str, begin: int, end: int) -> bytes:
        if end <= begin:
            return b""
        try:
            return self._ranged(path, begin, end)
        except Exception:
            self.forget(path)
            raise

    def _ranged(self, path: str, begin: int, end: int) -> bytes:
        headers = {"range": f"bytes={begin}-{end - 1}"}
        pieces: list[bytes] = []
        length = 0
        with opened(self._client, self.link(path).location, headers) as response:
            if response.status_code != PARTIAL_CONTENT and begin > 0:
                raise SourceError(
                    f"The server of {path} does not serve ranges (answered {response.status_code})."
                )
            for piece in response.iter_bytes(1024 * 1024):
                pieces.append(piece)
                length += len(piece)
                # A server that ignores the range would send the whole shard.
                if length >= end - begin:
                    break
        data = b"".join(pieces)[: end - begin]
        if len(data) < end - begin:
            raise TemporaryError(f"{path}: {len(data)} of {end - begin} bytes came.")
        return data

    def forget(self, path: str) -> None:
        """Ask anew for the link of a file the next time."""
        self._links.pop(path, None)

    def link(self, path: str) -> HfFileMetadata:
        """Where the bytes of a file are, and how they are stored; remembered for a while."""
        known = self._links.get(path)
        if known is not None and time.monotonic() - known[0] < LINK_LIFETIME_S:
            return known[1]
        url = hf_hub_url(
            self._repo, path, revision=self._commit, endpoint=self._client.api.endpoint
        )
        metadata = get_hf_file_metadata(
            url,
            timeout=30,
            headers=headers_of(self._client.api),
            endpoint=self._client.api.endpoint,
        )
        if metadata.commit_hash != self._commit:
            raise IntegrityError(
                f"{self._repo} answered for commit {metadata.commit_hash} where {self._commit} "
                "was asked for."
            )
        self._links[path] = (time.monotonic(), metadata)
        return metadata

    @contextmanager
    def open(
        self, path: str, reads: Sequence[ByteRange] = (), *, whole: bool = True
    ) -> Iterator[ShardBytes]:
        """A shard, fetched whole into a slot and checked; the slot is emptied afterwards."""
        del reads, whole
        entry = self._files[path]
        slot = self._slots / f"{threading.get_ident()}-{path.replace('/', '_')}"
        try:
            self._slots.mkdir(parents=True, exist_ok=True)
            with PositionedFile(fetch_file(self._client, self, entry, slot).path) as shard:
                yield shard
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            raise ResourceError(
                f"The slot for {path} in {self._slots} failed: {error.strerror or error}.",
                f"It needs {entry.size / 2**30:.1f} GiB: make room or set --work-dir.",
            ) from error
        finally:
            slot.unlink(missing_ok=True)


def _hash_like(wanted: str, data: bytes) -> str:
    """The hash of a file, of the kind that a tree names for it: sha256 or git's own."""
    if not wanted:
        return ""
    if len(wanted) == SHA256_DIGITS:
        return hashlib.sha256(data).hexdigest()
    named = b"blob %d\0" % len(data)
    return hashlib.sha1(named + data, usedforsecurity=False).hexdigest()
