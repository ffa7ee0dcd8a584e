"""A Hub repository as source: pinned to one commit, read by range, shards as they are fetched."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.hf_api import RepoFile

from hubconv.ends import ByteRange, FileEntry, ShardBytes
from hubconv.errors import (
    ConflictError,
    DamagedError,
    IntegrityError,
    ResourceError,
    SourceError,
    TemporaryError,
)
from hubconv.hub.client import HubClient
from hubconv.hub.compat import headers_of
from hubconv.hub.fetching.proof import hash_like, wrong_hash
from hubconv.hub.fetching.requests import opened
from hubconv.hub.fetching.shards import HeldShard, RangedShard, StreamedShard
from hubconv.hub.fetching.slots import Slots, SlotShard
from hubconv.hub.fetching.supply import HF_TRANSFER, TRIES_EACH, Supply
from hubconv.hub.fetching.turn import Turn
from hubconv.hub.privacy import restriction_of
from hubconv.hub.waiting import AtOnce, never
from hubconv.quantities import human_bytes

LOG: Final = logging.getLogger(__name__)

SMALL_BYTES: Final = 8 * 1024 * 1024
"""A shard below this size is fetched by one request into memory; so are ranges that make less."""

SLOT_FROM_BYTES: Final = 64 * 1024 * 1024
"""Smaller ones are not worth a slot."""

GIVE_UP_AFTER: Final = 2
"""A wrong hash is fetched again once; the second time both hashes are shown."""

LINK_LIFETIME_S: Final = 20 * 60
"""Signed links are asked for anew after this time; they live about an hour."""

PARTIAL_CONTENT: Final = 206


@dataclass(frozen=True, slots=True)
class Budget:
    """What a source may take of this machine.

    Attributes:
        memory_bytes: Held of each opened shard.
        disk_bytes: Taken by all slots together; None for what is free.
    """

    memory_bytes: int = 192 * 1024 * 1024
    disk_bytes: int | None = None


DEFAULT_BUDGET: Final = Budget()


class HubSource:
    """A checkpoint on the Hub.

    Args:
        client: How to reach it.
        repo: `org/name`.
        revision: Branch, tag or commit; pinned here once.
        place: Folder for the shards being worked on.
        budget: What an opened shard may take.
        at_once: Asked in every wait for bytes; raises where the run must end now.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        revision: str,
        place: Path,
        budget: Budget = DEFAULT_BUDGET,
        at_once: AtOnce = never,
    ) -> None:
        # Its own waits end where the run must; a target's end a little later, to save what is done.
        if at_once is not never:
            client = replace(client, at_once=at_once)
        self._client = client
        self._at_once = at_once
        info = client.call(
            f"Reading {repo}", lambda: client.api.model_info(repo, revision=revision or None)
        )
        self._repo = info.id
        self._commit = str(info.sha)
        self._born = info.created_at.isoformat() if info.created_at else ""
        self._place = place
        self._budget = budget
        self._turn = Turn(at_once, client.passed)
        self._slots = Slots(place, budget.disk_bytes, self._turn)
        self._doubts: dict[str, int] = {}
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
        """Private or gated, if it is; asked anew, for its owner may change his mind.

        Raises:
            ConflictError: It is no longer there for this account.
        """

        def ask() -> str:
            with self._still_there():
                return restriction_of(self._client.api.model_info(self._repo))

        return self._client.call(f"Looking who may see {self._repo}", ask)

    @property
    def born(self) -> str:
        """When the repository was made, as the Hub tells; a new one of the same name is another."""
        return self._born

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
        entry = self._files.get(path)
        wanted = (entry.sha256 or entry.stamp) if entry and end - begin == entry.size else ""
        found = ""
        for _ in range(GIVE_UP_AFTER):
            data = self._fetched(path, begin, end)
            found = hash_like(wanted, data)
            if found == wanted:
                return data
        raise wrong_hash(path, found, wanted)

    def _fetched(self, path: str, begin: int, end: int) -> bytes:
        what = f"Reading {path} of {self._repo}"
        return self._client.call(what, lambda: self._range(path, begin, end))

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
        with (
            self._still_there(),
            opened(self._client, self.link(path).location, headers) as response,
        ):
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
        with self._still_there():
            metadata = get_hf_file_metadata(
                url,
                token=False,  # it is in the headers
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
    def _still_there(self) -> Iterator[None]:
        """Around requests for the pinned commit: it was there when it was pinned.

        Raises:
            ConflictError: It is no longer.
        """
        try:
            yield
        except GatedRepoError:
            raise
        except (RevisionNotFoundError, RepositoryNotFoundError) as error:
            raise ConflictError(
                f"The commit {self._commit} of {self._repo} no longer exists: its history was "
                "rewritten, or the repository was removed or hidden from this account, after this "
                "run had begun.",
                "Nothing was published and finished shards are kept. Run the same command again to "
                "convert what the repository holds now.",
            ) from error

    def allow_disk(self, nbytes: int) -> None:
        """How much disk shards on their way may take from now on."""
        self._slots.disk_bytes = nbytes

    @contextmanager
    def open(
        self, path: str, reads: Sequence[ByteRange] = (), *, whole: bool = True
    ) -> Iterator[ShardBytes]:
        """A shard for reading, by the engine that suits it.

        A small one is fetched at once. A large one is streamed: through Xet, or by HTTP ranges. One
        that is plain LFS comes whole into a slot on the disk, through hf_transfer, where there is
        room. A shard that was found damaged is fetched in another way the next time.
        """
        entry = self._files[path]
        doubts = self._doubts.get(path, 0)
        supply = Supply(self._client, self, entry, self._place, doubts, self._at_once)
        started = time.monotonic()
        try:
            with self._opened(supply, reads, whole=whole) as shard:
                yield shard
                level = logging.INFO if whole else logging.DEBUG
                LOG.log(level, "%s: %s", path, _told(entry, shard, time.monotonic() - started))
        except DamagedError:
            self._doubts[path] = supply.skipped + TRIES_EACH
            raise
        except OSError as error:
            if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
                raise
            raise ResourceError(
                f"The slot for {path} in {self._place} failed: {error.strerror or error}.",
                f"It needs {human_bytes(entry.size)}: make room or set --work-dir.",
            ) from error

    @contextmanager
    def _opened(
        self, supply: Supply, reads: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[ShardBytes]:
        entry = supply.entry
        if entry.size < SMALL_BYTES:
            content = self._fetched(entry.path, 0, entry.size)
            self._client.passed(entry.size if whole else 0)
            yield HeldShard(entry, content)
            return
        wanted = _inside(reads or [(0, entry.size)], entry.size)
        if not whole and sum(end - begin for begin, end in wanted) < SMALL_BYTES:
            yield RangedShard(entry, lambda begin, end: self._fetched(entry.path, begin, end))
            return
        link = self._client.call(f"Reading {entry.path}", lambda: self.link(entry.path))
        fits = whole and link.xet_file_data is None and entry.size >= SLOT_FROM_BYTES
        if fits and not supply.skipped:
            with self._slots.fetched(supply) as slot:
                if slot is not None:
                    yield slot
                    return
        memory = self._budget.memory_bytes
        if not whole:  # a measuring pass runs beside the stream of its unit's own shard
            with StreamedShard(supply, wanted, memory // 2, whole=False) as stream:
                yield stream
            return
        with (
            self._turn.taken() as told,
            StreamedShard(supply, wanted, memory, told, whole=True) as stream,
        ):
            yield stream


def _told(entry: FileEntry, shard: ShardBytes, seconds: float) -> str:
    """Which engine brought a shard, how much of it, how fast."""
    engine, size = "one request", entry.size
    if isinstance(shard, SlotShard):
        engine = HF_TRANSFER
    elif isinstance(shard, RangedShard):
        engine, size = "requests", shard.brought
    elif isinstance(shard, StreamedShard):
        engine, size = shard.so_far()
    rate = size / 1e6 / max(seconds, 1e-6)
    return f"{engine}, {size / 1e6:.1f} MB in {seconds:.1f} s ({rate:.0f} MB/s)"


def _inside(reads: Sequence[ByteRange], size: int) -> list[ByteRange]:
    """Reads without those that are empty, cut where the file ends."""
    cut = ((begin, min(end, size)) for begin, end in reads)
    return [(begin, end) for begin, end in cut if begin < end]
