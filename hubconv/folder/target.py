"""A folder that receives the result."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubconv.ends import CARD, JOURNAL, FileEntry, Published, Source
from hubconv.errors import NotAllowedError, UsageError
from hubconv.files import FileSink, disk_error, sync
from hubconv.folder.source import FolderSource
from hubconv.folder.staging import PUBLISHING, FolderStaging
from hubconv.journal import NO_NOTE, NO_RUN, Note, RunNote
from hubconv.manifest import read_manifest


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
        return FolderSource(self._folder, own=True).files() if self._folder.is_dir() else {}

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
        for journal in sorted(self._folder.glob(f"{JOURNAL}/*/{PUBLISHING}")):
            if journal.parent.name != plan_id:
                FolderStaging(self._folder, journal.parent.name).take_back()

    def doubt(self, nbytes: int) -> str:
        """None: the disk's room is known."""
        del nbytes
        return ""

    def check_card(self, card: str) -> None:
        """A folder takes any card."""

    def begun(self, plan_id: str) -> bool:
        """Whether the folder holds a journal of a plan."""
        return (self._folder / JOURNAL / plan_id).is_dir()

    def stage(self, plan_id: str, note: Note = NO_NOTE, run: RunNote = NO_RUN) -> "FolderStaging":
        """Open the journal of a plan in the folder, and sweep what a killed run left half done."""
        return FolderStaging(self._folder, plan_id, note, run)

    def join(self, plan_id: str) -> "FolderStaging":
        """Open a journal that another process keeps, without sweeping what others write."""
        return FolderStaging(self._folder, plan_id, joins=True)

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

    def amend(self, files: Mapping[str, bytes], title: str) -> Published:
        """Write small files into the folder: each whole or not at all, the card last."""
        del title
        try:
            for path in sorted(files, key=lambda path: (path == CARD, path)):
                place = self._folder / path
                with FileSink(place, place.name) as sink:
                    sink.write(files[path])
                    sink.finish()
            sync(self._folder)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        return Published(self.ref, "", str(self._folder))

    def collect(self, collection: str) -> str:
        """A folder stands in no collection.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            f"A folder stands in no collection, so not in {collection!r}.",
            "Leave --collection out.",
        )
