"""The journal and the workbench of one plan, inside the folder that receives it."""

import json
import platform
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from hubconv.ends import CARD, JOURNAL, MANIFEST, Published, Release, Sink, Source
from hubconv.errors import ConflictError
from hubconv.files import (
    PARTIAL,
    FileSink,
    disk_error,
    machine_run,
    sha256_of,
    sweep_partial,
    sync,
)
from hubconv.folder.source import FolderSource
from hubconv.formats.checkpoint import INDEX_NAME
from hubconv.journal import NO_NOTE, NO_RUN, NOTE_NAME, RUNS, Ending, Note, RunNote
from hubconv.records import UnitRecord

PUBLISHING: Final = "publishing.json"
"""Lists what a publish is about to put in its place."""

_MACHINES: Final = "machines"
"""On which run of which machine the shards of a journal were written: a file for each machine,
for slices on several of them may share the folder."""

_DISK_THREADS: Final = 8


class FolderStaging:
    """`.hubconv/<plan id>` inside a target folder: shards, and a record for each.

    Args:
        folder: The target.
        plan_id: The plan.
        note: How the run began, for whoever finds the journal.
        run: This run, for the same.
        joins: Another process keeps the journal: nothing is made or swept, and it must be there.

    Raises:
        ConflictError: It is not.
    """

    def __init__(
        self,
        folder: Path,
        plan_id: str,
        note: Note = NO_NOTE,
        run: RunNote = NO_RUN,
        *,
        joins: bool = False,
    ) -> None:
        self._folder = folder
        self._run = run
        self._bench = folder / JOURNAL / plan_id
        self._shards = self._bench / "shards"
        self._units = self._bench / "units"
        self._plan_id = plan_id
        if joins:
            self._join()
            return
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            self._units.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        sweep_partial(self._bench)
        if note != NO_NOTE and not (self._bench / NOTE_NAME).exists():
            self._write(self._bench / NOTE_NAME, note.to_json())
        self._tell(run)

    def _join(self) -> None:
        if not self._units.is_dir():
            raise ConflictError(
                f"{self._folder} holds no journal of plan {self._plan_id}: another run has "
                "published or discarded it, or this machine sees another folder of that name.",
                "Run the same command again; machines that work together need one file system.",
            )
        here, machine = machine_run(), _machine()
        if _read(self._bench / _MACHINES / machine) != here:
            self._write(self._bench / _MACHINES / machine, here.encode())

    def records(self) -> Mapping[str, UnitRecord]:
        """Finished units whose shard is there with the recorded size.

        The shard got its name after its last byte was written, and its record after that: a
        record therefore proves the content. But if a machine was started anew since, or several
        wrote, bytes may never have reached the disk: then they are hashed once more.
        """
        here, machine = machine_run(), _machine()
        wrote = {
            path.name: _read(path)
            for path in (self._bench / _MACHINES).glob("*")
            if path.suffix != PARTIAL
        }
        known = bool(here) and wrote == {machine: here}
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
        if not known:
            with ThreadPoolExecutor(_DISK_THREADS) as pool:
                same = list(pool.map(self._holds, found.values()))
            found = dict(entry for entry, right in zip(found.items(), same, strict=True) if right)
        self._write(self._bench / _MACHINES / machine, here.encode())
        return found

    def _holds(self, record: UnitRecord) -> bool:
        """Whether a staged shard has the content that its record names."""
        return sha256_of(self._shards / record.shard) == record.sha256

    def take_back(self) -> None:
        """Undo a publish that was killed before its manifest: shards return, the rest goes.

        Without this the folder would hold files that no manifest explains, as foreign ones do.
        """
        try:
            listed = json.loads((self._bench / PUBLISHING).read_bytes())
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
        (self._bench / PUBLISHING).unlink(missing_ok=True)

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
        return FileSink(self._shards / path, path, durable=False)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit, for a run after a kill; `records` is wary of a dead machine."""
        path = self._units / f"{record.shard}.json"
        with FileSink(path, path.name, durable=False) as sink:
            sink.write(record.to_json().encode())
            sink.finish()

    def adopt(self, record: UnitRecord) -> None:
        """Note a finished unit that another process has written into this folder."""
        self.add(record)

    def flush(self, ending: Ending | None = None) -> None:
        """Note how the run ends, where it does: what is noted of units outlives this process."""
        if ending is not None and not self._run.ended and self._bench.is_dir():
            self._run = self._run.end(ending)
            self._tell(self._run)

    def _tell(self, run: RunNote) -> None:
        if run.run_id:
            self._write(self._bench / RUNS / f"{run.run_id}.json", run.to_json())

    @property
    def streams(self) -> bool:
        """Yes: shards are written where they stay."""
        return True

    def disk_bytes(self, largest_shard: int, room: int) -> int:
        """None of the work folder's: shards are written where they stay."""
        del largest_shard, room
        return 0

    def view(self) -> Source:
        """The staged shards as a source."""
        return FolderSource(self._shards)

    def publish(self, release: Release) -> Published:
        """Move everything to its place: shards, small files, index; the manifest last."""
        last = [INDEX_NAME, "config.json", CARD, MANIFEST]
        self._bring_to_disk(release)
        self._write(self._bench / PUBLISHING, _publishing(release))
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
            sync(self._folder)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        return Published(str(self._folder.resolve()), "", str(self._folder))

    def _bring_to_disk(self, release: Release) -> None:
        """A manifest must never speak of bytes that a dead machine takes with it."""
        staged = [self._shards / record.shard for record in release.shards]
        try:
            with ThreadPoolExecutor(_DISK_THREADS) as pool:
                list(pool.map(sync, (path for path in staged if path.is_file())))
        except OSError as error:
            raise disk_error(error, self._folder) from error

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


def _machine() -> str:
    return platform.node() or "machine"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
