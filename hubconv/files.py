"""Files on this machine: read by position, written beside their name and renamed when whole."""

import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from safetensors import SafetensorError, safe_open

from hubconv.ends import StagedFile
from hubconv.errors import IntegrityError, ResourceError


class PositionedFile:
    """A file on a disk as an opened shard: read by position, from any thread."""

    any_order = True

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end); fewer only where the file ends."""
        pieces = []
        while begin < end:
            piece = os.pread(self._file.fileno(), end - begin, begin)
            if not piece:
                break
            pieces.append(piece)
            begin += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, begin: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from `begin` on; how many came."""
        came = 0
        while came < len(buffer):
            got = os.preadv(self._file.fileno(), [buffer[came:]], begin + came)
            if not got:
                break
            came += got
        return came

    def prove(self) -> None:
        """A file on this disk is what it is: whoever put it there has proven it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class FileSink:
    """Writes one file beside its final name, hashing as bytes pass.

    Args:
        path: Final path; the file appears there by `finish` alone.
        name: Its name in the target.
        durable: Bring the bytes to the disk before the file gets its name.
    """

    def __init__(self, path: Path, name: str, *, durable: bool = True) -> None:
        self._path = path
        self._durable = durable
        self._name = name
        self._partial = path.with_name(path.name + ".partial")
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb")
        except OSError as error:
            raise disk_error(error, self._path.parent) from error
        return self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            ResourceError: The disk is full or the file system refuses.
        """
        if self._file is None:
            raise ValueError("a sink is written inside its with block")
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_error(error, self._path.parent) from error
        self._hash.update(data)
        self._size += memoryview(data).nbytes

    def finish(self) -> StagedFile:
        """Complete the file, then give it its name."""
        if self._file is None:
            raise ValueError("a sink is finished inside its with block")
        try:
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
            if self._path.suffix == ".safetensors":
                check_opens(self._partial, self._name)
            self._partial.replace(self._path)
        except OSError as error:
            raise disk_error(error, self._path.parent) from error
        self._file = None
        return StagedFile(self._name, self._size, self._hash.hexdigest())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def disk_error(error: OSError, folder: Path) -> ResourceError:
    """What a failed write means, and what to do."""
    free = shutil.disk_usage(folder).free if folder.exists() else 0
    return ResourceError(
        f"Writing in {folder} failed: {error.strerror or error}; {free / 2**30:.1f} GiB are free "
        "there.",
        "Make room or choose another folder, then run the same command again: finished shards "
        "are kept.",
    )


def check_opens(path: Path, name: str) -> None:
    """Have the safetensors library itself open a shard before anybody else must.

    Raises:
        IntegrityError: It refuses.
    """
    try:
        with safe_open(path, framework="numpy") as shard:
            shard.keys()
    except SafetensorError as error:
        raise IntegrityError(
            f"The safetensors library refuses {name} as it was written: {error}.",
            "This is a fault in hubconv: please report it with the output of hubconv plan.",
        ) from error


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
