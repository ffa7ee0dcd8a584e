"""Content-addressed files: git blobs by sha1, large files by sha256, hashed as they stream in."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hubconv.embedded.records import git_oid
from hubconv.embedded.refusals import Refusal

BLOCK_BYTES = 1 << 20


class Incoming:
    """A file on its way in: `write` blocks, then take `path` away or let it go.

    Args:
        file: The open file.
        path: Where it lies.
        hashed: Whether anybody will ask for the sha256: it is half the work of taking a block.
    """

    def __init__(self, file: BinaryIO, path: Path, *, hashed: bool = False) -> None:
        self._file = file
        self.path = path
        self._sha256 = hashlib.sha256() if hashed else None

    @property
    def sha256(self) -> str:
        """sha256 of what came so far."""
        if self._sha256 is None:
            raise ValueError("this file was not hashed as it came")
        return self._sha256.hexdigest()

    def write(self, block: bytes | bytearray) -> None:
        """Take the next bytes."""
        self._file.write(block)
        if self._sha256 is not None:
            self._sha256.update(block)

    def close(self) -> None:
        """Put all bytes on disk."""
        self._file.close()


class BlobStore:
    """The blobs of all repositories, each kept once."""

    def __init__(self, root: Path) -> None:
        self._root = root / "blobs"
        self.incoming_root = root / "incoming"
        # What was on its way when an earlier Hub ended will never be asked for again.
        shutil.rmtree(self.incoming_root, ignore_errors=True)
        self.incoming_root.mkdir(parents=True)

    def git_path(self, oid: str) -> Path:
        """Where a regular file's content lies."""
        return self._root / "git" / oid[:2] / oid

    def large_path(self, sha256: str) -> Path:
        """Where a large file's content lies, if it did not come through xet."""
        return self._root / "large" / sha256[:2] / sha256

    def put_git(self, content: bytes) -> str:
        """Keep a regular file; its git sha1 is the name."""
        oid = git_oid(content)
        if not self.git_path(oid).exists():
            with self.incoming() as incoming:
                incoming.write(content)
                incoming.close()
                self._settle(incoming.path, self.git_path(oid))
        return oid

    def get_git(self, oid: str) -> bytes:
        """A regular file's content."""
        return self.git_path(oid).read_bytes()

    @contextmanager
    def incoming(self, *, hashed: bool = False) -> Iterator[Incoming]:
        """A scratch file that is gone afterwards unless it was kept."""
        handle, name = tempfile.mkstemp(dir=self.incoming_root)
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            try:
                yield Incoming(file, path, hashed=hashed)
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def incoming_part(self, upload_id: str, begin: int) -> Iterator[Incoming]:
        """The place of one part inside the file that all parts of an upload make up."""
        path = self._joint_path(upload_id)
        path.parent.mkdir(exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.seek(begin)
            yield Incoming(file, path)

    def keep_large(self, incoming: Incoming, sha256: str) -> None:
        """Keep a whole large file under the hash that was promised for it.

        Raises:
            Refusal: The bytes have another hash.
        """
        incoming.close()
        self._keep_proven(incoming.path, incoming.sha256, sha256)

    def keep_part(self, upload_id: str, number: int) -> str:
        """Note that a part of a multipart upload has come whole; the answer is its ETag."""
        etag = uuid.uuid4().hex
        self._part_path(upload_id, number, etag).touch()
        return etag

    def join_parts(self, upload_id: str, sha256: str, etags: list[tuple[int, str]]) -> None:
        """Make a large file out of its parts.

        Raises:
            Refusal: A part is missing, has another ETag, or the whole has another hash.
        """
        if [number for number, _ in etags] != list(range(1, len(etags) + 1)):
            raise Refusal(400, "The parts are not numbered 1, 2, 3 and so on.")
        for number, etag in etags:
            if not self._part_path(upload_id, number, etag.strip('"')).exists():
                raise Refusal(400, f"Part {number} with ETag {etag} was not uploaded.")
        joint = self._joint_path(upload_id)
        came = {path.name.partition("-")[0] for path in joint.parent.glob("*-*")}
        if len(came) != len(etags):
            raise Refusal(400, f"{len(came)} parts were uploaded, but {len(etags)} are named.")
        with joint.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        self._keep_proven(joint, actual, sha256)
        shutil.rmtree(joint.parent, ignore_errors=True)

    def _keep_proven(self, source: Path, actual: str, sha256: str) -> None:
        if actual != sha256:
            raise Refusal(400, f"The content's sha256 is {actual}, not {sha256}.")
        self._settle(source, self.large_path(sha256))

    def _joint_path(self, upload_id: str) -> Path:
        return self.incoming_root / Path(upload_id).name / "whole"

    def _part_path(self, upload_id: str, number: int, etag: str) -> Path:
        return self.incoming_root / Path(upload_id).name / f"{number:06d}-{Path(etag).name}"

    def _settle(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
