"""Journals of a target folder seen from outside: listed, and discarded."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hubconv.ends import JOURNAL
from hubconv.folder.target import FolderTarget
from hubconv.journal import NO_NOTE, NOTE_NAME, RUNS, Freed, Journal, Note, RunNote
from hubconv.records import UnitRecord


class FolderKeeper:
    """Looks after the journals of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def ref(self) -> str:
        """The folder's absolute path."""
        return str(self._folder.resolve())

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self._folder.is_dir()

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json of the folder; None where there is none."""
        return FolderTarget(self._folder).manifest()

    def journals(self) -> Sequence[Journal]:
        """One for each folder of the journal. Shards are counted by size, not hashed."""
        return [_read(bench) for bench in sorted(self._folder.glob(f"{JOURNAL}/*"))]

    def remove(self, journals: Sequence[Journal]) -> Freed:
        """Remove the folders."""
        nbytes = count = 0
        for journal in journals:
            shards = [path for path in Path(journal.place).rglob("shards/**/*") if path.is_file()]
            count += len(shards)
            nbytes += sum(path.stat().st_size for path in shards)
            shutil.rmtree(journal.place, ignore_errors=True)
        with suppress(OSError):
            (self._folder / JOURNAL).rmdir()
        return Freed(count, nbytes)


def _read(bench: Path) -> Journal:
    records = list(_records(bench))
    times = [path.stat().st_mtime for path in (bench, *bench.rglob("*"))]
    note = bench / NOTE_NAME
    return Journal(
        bench.name,
        str(bench),
        Note.from_json(note.read_bytes()) if note.is_file() else NO_NOTE,
        len(records),
        sum(record.size for record in records),
        datetime.fromtimestamp(max(times), UTC),
        seconds=sum(record.seconds for record in records),
        last_run=_last_run(bench),
    )


def _last_run(bench: Path) -> RunNote | None:
    told = sorted((bench / RUNS).glob("*.json"))
    return RunNote.from_json(told[-1].read_bytes()) if told else None


def _records(bench: Path) -> Iterator[UnitRecord]:
    """Records whose shard is there with the recorded size."""
    for path in bench.glob("units/**/*.json"):
        with suppress(ValueError, OSError):
            record = UnitRecord.from_json(path.read_bytes())
            if (bench / "shards" / record.shard).stat().st_size == record.size:
                yield record
