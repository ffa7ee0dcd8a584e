"""A checkpoint in a folder, as a source."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hubconv.ends import ByteRange, FileEntry, ShardBytes
from hubconv.errors import SourceError
from hubconv.files import PositionedFile

LOG: Final = logging.getLogger(__name__)


class FolderSource:
    """A checkpoint in a folder.

    Args:
        folder: Where it lies.
        own: It is the user's own result: links in it are looked at wherever they lead.

    Raises:
        SourceError: There is no such folder.
    """

    commit = ""
    restricted = ""
    born = ""

    def __init__(self, folder: Path, *, own: bool = False) -> None:
        if not folder.is_dir():
            raise SourceError(f"{folder} is not a folder.", "Check the path.")
        self._folder = folder
        self._files = {entry.path: entry for entry in _walk(folder, own=own)}

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

    def allow_disk(self, nbytes: int) -> None:
        """Reading a folder takes none."""


def _walk(folder: Path, *, own: bool) -> Iterator[FileEntry]:
    root = folder.resolve()
    for current, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(current) / name
            # A shard may be a link into a download cache; a link to a device or a loop is nothing.
            if name.startswith(".") or not path.is_file():
                continue
            if not own and _leads_out(path, root):
                LOG.error("%s is a link that leads out of %s: it is left out.", name, folder)
                continue
            status = path.stat()
            yield FileEntry(
                path.relative_to(root).as_posix(),
                status.st_size,
                stamp=str(status.st_mtime_ns),
            )


def _leads_out(path: Path, root: Path) -> bool:
    """Whether a link could publish a file of this machine that is no part of the checkpoint.

    A link into the download cache that the folder belongs to is no such link, nor is a shard's,
    which comes to nothing where it leads to anything but a shard.
    """
    if not path.is_symlink() or path.suffix == ".safetensors":
        return False
    file = path.resolve()
    if root.parent.name == "snapshots" and file.is_relative_to(root.parent.parent / "blobs"):
        return False
    return not file.is_relative_to(root)
