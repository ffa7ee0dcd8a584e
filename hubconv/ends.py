"""The two ends of a conversion: where bytes come from and where they go.

A folder and a Hub repository are two implementations of the same protocols; nothing else in the
house asks which of the two it is talking to.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from hubconv.journal import NO_NOTE, NO_RUN, Ending, Note, RunNote
from hubconv.records import UnitRecord

MANIFEST: Final = "hubconv.json"
CARD: Final = "README.md"
JOURNAL: Final = ".hubconv"
"""Folder of the journal: on the staging branch of a Hub repo, or inside a target folder."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a source or a target.

    Attributes:
        path: Relative to the repository or folder, with forward slashes.
        size: Bytes.
        sha256: Of its content where it is known without reading; else empty.
        stamp: Something that changes when the content does: git or xet hash, or a file's time.
    """

    path: str
    size: int
    sha256: str = ""
    stamp: str = ""


ByteRange = tuple[int, int]
"""(begin, end) of bytes within a file."""


class ShardBytes(Protocol):
    """An opened source shard, read in about the order that was announced when it was opened."""

    @property
    def any_order(self) -> bool:
        """Whether reads cost no more in any other order, or again."""
        ...

    def read(self, begin: int, end: int) -> bytes | bytearray | memoryview:
        """Bytes [begin, end) of the file; fewer only where the file ends."""
        ...

    def read_into(self, begin: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from `begin` on; how many came."""
        ...

    def prove(self) -> None:
        """Make sure that every byte given was a byte of the file that the source names.

        Until then what was read may be worked on, and must not be staged.

        Raises:
            DamagedError: The whole file has another hash than the source names.
        """
        ...


class Source(Protocol):
    """Where a checkpoint is read from, pinned to one state of it."""

    @property
    def ref(self) -> str:
        """`org/name`, or the folder's path."""
        ...

    @property
    def commit(self) -> str:
        """The pinned commit; empty for a folder."""
        ...

    @property
    def restricted(self) -> str:
        """`private`, `gated`, or empty: what stands against publishing its content openly."""
        ...

    @property
    def born(self) -> str:
        """When the repository was made; empty for a folder, or where nobody knows."""
        ...

    def files(self) -> Mapping[str, FileEntry]:
        """Every file of the pinned state, by path."""
        ...

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file, fetched by themselves."""
        ...

    def open(
        self, path: str, reads: Sequence[ByteRange] = (), *, whole: bool = True
    ) -> AbstractContextManager[ShardBytes]:
        """A shard for reading.

        Args:
            path: The shard.
            reads: What will be read, in this order, so that it can be fetched ahead. Other reads
                are served too, more slowly.
            whole: The shard's hash is wanted, by `prove`; else these ranges alone are fetched and
                nothing is proven.
        """
        ...

    def allow_disk(self, nbytes: int) -> None:
        """How many bytes of disk all opened shards may take together."""
        ...


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file that a sink has taken over completely."""

    path: str
    size: int
    sha256: str


class Sink(Protocol):
    """Takes the bytes of one file in order, hashing as they pass.

    Both methods raise BrokenLineError where the bytes are lost: the file must be made again.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; waits where the line is slower."""
        ...

    def finish(self) -> StagedFile:
        """Take the file over completely; without this call nothing of it remains."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Release:
    """What one publish puts on main, whole or not at all.

    Attributes:
        plan_id: Written into the commit message; found there again after a lost answer.
        title: First line of the commit message.
        shards: Staged shards, by record.
        files: Small files by path: config, index, card, manifest, copied files.
        deletions: Paths of the earlier publish that are no longer part of the checkpoint.
    """

    plan_id: str
    title: str
    shards: Sequence[UnitRecord]
    files: Mapping[str, bytes]
    deletions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Published:
    """Where the release stands.

    Attributes:
        ref: `org/name` or folder.
        commit: The publish commit; empty for a folder.
        url: What a person opens to see it.
        pull_request: Number of the pull request where it was published to one, else 0.
    """

    ref: str
    commit: str
    url: str
    pull_request: int = 0


class Staging(Protocol):
    """The journal and the workbench of one plan on a target."""

    @property
    def streams(self) -> bool:
        """Whether a shard goes where it belongs while it is made, not only once it is whole."""
        ...

    def records(self) -> Mapping[str, UnitRecord]:
        """Finished units by shard: only those whose record names the hash that is really there."""
        ...

    def create(self, path: str) -> Sink:
        """A sink for one output shard; waits while too many are on their way."""
        ...

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit; durable at the latest after `flush`."""
        ...

    def adopt(self, record: UnitRecord) -> None:
        """Note a finished unit whose bytes another process has brought here."""
        ...

    def flush(self, ending: Ending | None = None) -> None:
        """Make every noted unit durable, once its bytes have arrived.

        Args:
            ending: How the run ends, where it does; noted once.
        """
        ...

    def disk_bytes(self, largest_shard: int, room: int) -> int:
        """Bytes of the work folder's disk that unfinished output shards will take at a time.

        Args:
            largest_shard: Bytes of the largest output shard.
            room: What they may take: where it is little, they make do with less.
        """
        ...

    def view(self) -> Source:
        """The staged files, for reading back."""
        ...

    def publish(self, release: Release) -> Published:
        """Show the release: one commit on a Hub repo, the manifest last in a folder.

        Raises:
            ConflictError: The target received something else meanwhile; staging is kept.
        """
        ...

    def discard(self) -> None:
        """Remove the journal and everything staged."""
        ...


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target repository is made and published to.

    Attributes:
        private: Make a new repository private (True), public (False), or as the source is (None).
        create_pr: Publish to a pull request instead of main.
        allow_public: Publish content of a private or gated source in a public repository.
        tag: Tag the publish commit.
    """

    private: bool | None = None
    create_pr: bool = False
    allow_public: bool = False
    tag: bool = True


class Target(Protocol):
    """Where the result goes."""

    @property
    def ref(self) -> str:
        """`org/name`, or the folder's path."""
        ...

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json of what is published now; None where hubconv has published nothing."""
        ...

    def files(self) -> Mapping[str, FileEntry]:
        """What is published now, by path; empty where nothing exists."""
        ...

    def check(self, restricted: str) -> None:
        """Refuse early what could only fail late: rights, privacy, space.

        Args:
            restricted: What stands against publishing the source's content openly.

        Raises:
            NotAllowedError: No right to write, or private content would become public.
        """
        ...

    def doubt(self, nbytes: int) -> str:
        """What may stop a publish of so many bytes late, and nobody knows for certain; or empty."""
        ...

    def check_card(self, card: str) -> None:
        """Refuse a card that publishing would refuse.

        Raises:
            SourceError: Its front matter is not acceptable.
        """
        ...

    def tidy(self, plan_id: str) -> None:
        """Finish what a run killed after its publish left undone."""
        ...

    def begun(self, plan_id: str) -> bool:
        """Whether there is a journal of a plan; makes nothing."""
        ...

    def stage(self, plan_id: str, note: Note = NO_NOTE, run: RunNote = NO_RUN) -> Staging:
        """Open the journal of a plan, making what it needs."""
        ...

    def join(self, plan_id: str) -> Staging:
        """Open a journal that another process keeps, to bring shards there; makes nothing.

        Raises:
            ConflictError: There is none: the plan was published or discarded.
        """
        ...

    def published(self, plan_id: str) -> Published | None:
        """Where a plan's result stands, if it was published already."""
        ...

    def view(self, revision: str = "") -> Source:
        """What is published now, or in a revision of it, for reading back."""
        ...

    def amend(self, files: Mapping[str, bytes], title: str) -> Published:
        """Put small files beside what is published, in one commit; all else stays as it is.

        Raises:
            ConflictError: The target received something else meanwhile.
        """
        ...

    def collect(self, collection: str) -> str:
        """Add the target to a collection of the Hub; that collection's address.

        Args:
            collection: `owner/slug`, or a title, with its owner before a `/` or without.

        Raises:
            UsageError: A folder stands in no collection.
        """
        ...
