"""Files on this machine: read by position, written beside their name and renamed when whole."""

import ctypes
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, cast

from safetensors import SafetensorError, safe_open

from hubconv.ends import StagedFile
from hubconv.errors import IntegrityError, ResourceError
from hubconv.quantities import human_bytes

WRITEBACK_BYTES: Final = 64 * 1024 * 1024
PARTIAL: Final = ".partial"
"""End of the name of a file that is being written."""

_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE


def _find_sync_file_range() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):  # not every system has it
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast("Callable[..., int]", function)


_SYNC_FILE_RANGE: Final = _find_sync_file_range()


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
        durable: `finish` waits until the bytes are on the disk; else they are on their way there,
            and a crash of the machine (not of the process) may lose them.
    """

    def __init__(self, path: Path, name: str, *, durable: bool = True) -> None:
        self._path = path
        self._name = name
        self._durable = durable
        # A name of its own: another process may be making the same file, to the same bytes.
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        self._hash = hashlib.sha256()
        self._size = 0
        self._flushed = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_locked(self._partial)
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
            self._size += memoryview(data).nbytes
            self._begin_writeback()
        except OSError as error:
            raise disk_error(error, self._path.parent) from error
        self._hash.update(data)

    def _begin_writeback(self) -> None:
        """Have the system write while we work, so that nobody waits for all of it in the end."""
        if self._file is None or self._size - self._flushed < WRITEBACK_BYTES:
            return
        start_writeback(self._file.fileno(), self._flushed, self._size)
        self._flushed = self._size

    def finish(self) -> StagedFile:
        """Bring the bytes to the disk if that is wanted, then give the file its name."""
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
        f"Writing in {folder} failed: {error.strerror or error}; {human_bytes(free)} are free "
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


def start_writeback(descriptor: int, begin: int, end: int) -> None:
    """Have the system write bytes [begin, end) of a file to the disk, without waiting for it."""
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(descriptor, begin, end - begin, _WRITE)


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_locked(path: Path) -> BinaryIO:
    """A new file that no sweep takes for one that was left behind.

    Between the making of a file and its lock another process may sweep it away: then it is made
    once more.
    """
    while True:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # at most for as long as a sweep looks at it
        except OSError:  # not every file system has locks; there, nothing is swept either
            return file
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def sweep_partial(folder: Path) -> None:
    """Remove what killed processes left half written; what a living one writes is locked."""
    for torso in folder.rglob(f"*{PARTIAL}"):
        with suppress(OSError), torso.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            torso.unlink(missing_ok=True)


def machine_run() -> str:
    """Stands for this machine since it was last started; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
