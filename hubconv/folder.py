"""Folders as source and target.

A target folder is published like a Hub repository: finished shards wait in `.hubconv/<plan id>`,
every file gets its name by an atomic rename, and the manifest comes last.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hubconv.ends import (
    CARD,
    JOURNAL,
    MANIFEST,
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


class FolderSource:
    """A checkpoint in a folder.

    Args:
        folder: Where it lies.
        include_journal: Show the files under `.hubconv` too.
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
        """Regular files by path; links out of the folder and hidden files are not among them."""
        return self._files

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of a file."""
        with self.open(path) as shard:
            return bytes(shard.read(begin, end))

    @contextmanager
    def open(self, path: str) -> Iterator[ShardBytes]:
        """A shard for reading; a folder names no hashes, so only its size is checked."""
        with PositionedFile(self._folder / path) as shard:
            size = (self._folder / path).stat().st_size
            if size != self._files[path].size:
                raise SourceError(f"{path} in {self._folder} changed its size while it was read.")
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
        path = self._folder / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def files(self) -> Mapping[str, FileEntry]:
        """What the folder holds, the journal apart."""
        return FolderSource(self._folder).files() if self._folder.is_dir() else {}

    def check(self, restricted: str) -> None:
        """Refuse a folder that cannot be written.

        Raises:
            NotAllowedError: No right to write there.
        """
        there = self._folder
        while not there.exists():
            there = there.parent
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise NotAllowedError(f"{there} cannot be written to.", "Choose another target.")

    def check_card(self, card: str) -> None:
        """A folder takes any card."""

    def stage(self, plan_id: str) -> "FolderStaging":
        """Open the journal of a plan in the folder, and sweep those of other plans' torsos."""
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
            if record.plan_id != self._plan_id:
                continue
            self._bring_back(record)
            staged = self._shards / record.shard
            if staged.is_file() and staged.stat().st_size == record.size:
                found[record.shard] = record
        return found

    def _bring_back(self, record: UnitRecord) -> None:
        """After a kill in mid-publish: a shard at its final place goes back to the bench.

        Size alone proves nothing there: an earlier publish has a file of the same name and size.
        """
        place, staged = self._folder / record.shard, self._shards / record.shard
        if staged.exists() or not place.is_file() or place.stat().st_size != record.size:
            return
        if sha256_of(place) == record.sha256:
            place.replace(staged)

    def create(self, path: str) -> Sink:
        """A sink for one output shard."""
        return FileSink(self._shards / path, path)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit, durably."""
        self._write(self._units / f"{record.shard}.json", record.to_json().encode())

    def flush(self) -> None:
        """Nothing to do: `add` is durable already."""

    def view(self) -> Source:
        """The staged shards as a source."""
        return FolderSource(self._shards)

    def publish(self, release: Release) -> Published:
        """Move everything to its place: shards, small files, index; the manifest last."""
        last = [INDEX_NAME, "config.json", CARD, MANIFEST]
        self._folder.mkdir(parents=True, exist_ok=True)
        for record in release.shards:
            staged = self._shards / record.shard
            if staged.is_file():
                place = self._folder / record.shard
                place.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(place)
        order = sorted(release.files, key=lambda path: last.index(path) if path in last else -1)
        for path in order:
            if path == MANIFEST:
                self._delete(release)
            self._write(self._folder / path, release.files[path])
        return Published(str(self._folder.resolve()), "", str(self._folder))

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
