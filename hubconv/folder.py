"""Folders as source and target.

A target folder is published like a Hub repository: finished shards wait in `.hubconv/<plan id>`,
every file gets its name by an atomic rename, and the manifest comes last.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from hubconv.ends import (
    CARD,
    JOURNAL,
    MANIFEST,
    ByteRange,
    FileEntry,
    Published,
    Release,
    ShardBytes,
    Sink,
    Source,
    UnitRecord,
)
from hubconv.errors import NotAllowedError, SourceError
from hubconv.files import FileSink, PositionedFile, disk_error, sha256_of
from hubconv.formats.checkpoint import INDEX_NAME
from hubconv.manifest import read_manifest

_PUBLISHING: Final = "publishing.json"


class FolderSource:
    """A checkpoint in a folder.

    Args:
        folder: Where it lies.

    Raises:
        SourceError: There is no such folder.
    """

    commit = ""
    restricted = ""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder.", "Check the path.")
        self._folder = folder
        self._files = {entry.path: entry for entry in _walk(folder)}

    @property
    def ref(self) -> str:
        """The folder's absolute path."""
        return str(self._folder.resolve())

    def files(self) -> Mapping[str, FileEntry]:
        """Files by path, linked ones too; hidden files and folders are not among them."""
        return self._files

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file."""
        with self.open(path) as shard:
            return bytes(shard.read(begin, end))

    @contextmanager
    def open(
        self, path: str, reads: Sequence[ByteRange] = (), *, whole: bool = True
    ) -> Iterator[ShardBytes]:
        """A shard for reading; a folder names no hashes, so only its size is checked.

        Args:
            path: The shard.
            reads: Not needed: the system fetches ahead.
            whole: Not needed either.

        Raises:
            SourceError: It cannot be read, or is not what it was when the folder was listed.
        """
        del reads, whole
        entry = self._files.get(path)
        try:
            shard = PositionedFile(self._folder / path)
        except OSError as error:
            raise SourceError(
                f"{path} in {self._folder} cannot be read: {error.strerror or error}."
            ) from error
        with shard:
            if entry is None or (self._folder / path).stat().st_size != entry.size:
                raise SourceError(
                    f"{path} in {self._folder} changed its size while it was read.",
                    "Wait until the folder is complete, then run the same command again.",
                )
            yield shard


def _walk(folder: Path) -> Iterator[FileEntry]:
    root = folder.resolve()
    for current, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(current) / name
            # A shard may be a link into a download cache; a link to a device or a loop is nothing.
            if name.startswith(".") or not path.is_file():
                continue
            status = path.stat()
            yield FileEntry(
                path.relative_to(root).as_posix(),
                status.st_size,
                stamp=str(status.st_mtime_ns),
            )


class FolderTarget:
    """A folder that receives the result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def ref(self) -> str:
        """The folder's absolute path."""
        return str(self._folder.resolve())

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json of the folder; None where there is none."""
        return read_manifest(self.view()) if self._folder.is_dir() else None

    def files(self) -> Mapping[str, FileEntry]:
        """What the folder holds, the journal apart."""
        return FolderSource(self._folder).files() if self._folder.is_dir() else {}

    def check(self, restricted: str) -> None:
        """Refuse a folder that cannot be written; take back what a killed publish left in it.

        Raises:
            NotAllowedError: No right to write there.
        """
        there = self._folder
        while not there.exists():
            there = there.parent
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise NotAllowedError(f"{there} cannot be written to.", "Choose another target.")
        plan_id = (self.manifest() or {}).get("plan_id")
        for journal in sorted(self._folder.glob(f"{JOURNAL}/*/{_PUBLISHING}")):
            if journal.parent.name != plan_id:
                FolderStaging(self._folder, journal.parent.name).take_back()

    def check_card(self, card: str) -> None:
        """A folder takes any card."""

    def stage(self, plan_id: str) -> "FolderStaging":
        """Open the journal of a plan in the folder, and sweep what a killed run left half done."""
        return FolderStaging(self._folder, plan_id)

    def tidy(self, plan_id: str) -> None:
        """Remove the journal of a run killed after its publish."""
        if (self._folder / JOURNAL / plan_id).is_dir():
            FolderStaging(self._folder, plan_id).discard()

    def published(self, plan_id: str) -> Published | None:
        """The folder, if the manifest in it is that of this plan."""
        manifest = self.manifest()
        if manifest is None or manifest.get("plan_id") != plan_id:
            return None
        return Published(self.ref, "", str(self._folder))

    def view(self, revision: str = "") -> Source:
        """The folder as a source; it has no revisions."""
        del revision
        return FolderSource(self._folder)


class FolderStaging:
    """`.hubconv/<plan id>` inside a target folder: shards, and a record for each."""

    def __init__(self, folder: Path, plan_id: str) -> None:
        self._folder = folder
        self._bench = folder / JOURNAL / plan_id
        self._shards = self._bench / "shards"
        self._units = self._bench / "units"
        self._plan_id = plan_id
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            self._units.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        for torso in self._bench.rglob("*.partial"):
            torso.unlink(missing_ok=True)

    def records(self) -> Mapping[str, UnitRecord]:
        """Finished units whose shard is there with the recorded size.

        The shard got its name after its bytes were on the disk, and its record after that: a
        record therefore proves the content.
        """
        found = {}
        for path in sorted(self._units.rglob("*.json")):
            try:
                record = UnitRecord.from_json(path.read_bytes())
            except ValueError:
                continue
            told = path.relative_to(self._units).as_posix()
            if record.plan_id != self._plan_id or told != f"{record.shard}.json":
                continue
            self._bring_back(record.shard, record.size, record.sha256)
            staged = self._shards / record.shard
            if staged.is_file() and staged.stat().st_size == record.size:
                found[record.shard] = record
        return found

    def take_back(self) -> None:
        """Undo a publish that was killed before its manifest: shards return, the rest goes.

        Without this the folder would hold files that no manifest explains, as foreign ones do.
        """
        try:
            listed = json.loads((self._bench / _PUBLISHING).read_bytes())
            for shard, size, digest in listed["shards"]:
                self._bring_back(shard, size, digest)
            for path, digest in listed["files"].items():
                place = self._folder / path
                if place.is_file() and sha256_of(place) == digest:
                    place.unlink()
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # no list of ours: nothing is known, nothing is touched
        except OSError as error:
            raise disk_error(error, self._folder) from error
        (self._bench / _PUBLISHING).unlink(missing_ok=True)

    def _bring_back(self, shard: str, size: int, digest: str) -> None:
        """After a kill in mid-publish: a shard at its final place goes back to the bench.

        Size alone proves nothing there: an earlier publish has a file of the same name and size.
        """
        place, staged = self._folder / shard, self._shards / shard
        if staged.exists() or not place.is_file() or place.stat().st_size != size:
            return
        if sha256_of(place) == digest:
            staged.parent.mkdir(parents=True, exist_ok=True)
            place.replace(staged)

    def create(self, path: str) -> Sink:
        """A sink for one output shard."""
        return FileSink(self._shards / path, path)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit, durably."""
        self._write(self._units / f"{record.shard}.json", record.to_json().encode())

    def flush(self) -> None:
        """Nothing to do: `add` is durable already."""

    def disk_bytes(self, largest_shard: int) -> int:
        """None of the work folder's: shards are written where they stay."""
        del largest_shard
        return 0

    def view(self) -> Source:
        """The staged shards as a source."""
        return FolderSource(self._shards)

    def publish(self, release: Release) -> Published:
        """Move everything to its place: shards, small files, index; the manifest last."""
        last = [INDEX_NAME, "config.json", CARD, MANIFEST]
        self._write(self._bench / _PUBLISHING, _publishing(release))
        try:
            for record in release.shards:
                staged = self._shards / record.shard
                if staged.is_file():
                    self._move(staged, record.shard)
            order = sorted(release.files, key=lambda path: last.index(path) if path in last else -1)
            for path in order:
                if path == MANIFEST:
                    self._delete(release)
                # Written on the bench: a kill in mid-write leaves nothing at the final place.
                self._write(self._bench / "files" / path, release.files[path])
                self._move(self._bench / "files" / path, path)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        return Published(str(self._folder.resolve()), "", str(self._folder))

    def _move(self, staged: Path, path: str) -> None:
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(place)

    def _delete(self, release: Release) -> None:
        for path in release.deletions:
            (self._folder / path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the journal of this plan."""
        shutil.rmtree(self._bench, ignore_errors=True)
        with suppress(OSError):
            (self._folder / JOURNAL).rmdir()

    def _write(self, path: Path, data: bytes) -> None:
        with FileSink(path, path.name) as sink:
            sink.write(data)
            sink.finish()


def _publishing(release: Release) -> bytes:
    """What a publish is about to put in its place, for whoever finds it half done."""
    listed = {
        "shards": [[record.shard, record.size, record.sha256] for record in release.shards],
        "files": {path: sha256(content).hexdigest() for path, content in release.files.items()},
    }
    return json.dumps(listed).encode()
