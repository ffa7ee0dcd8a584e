"""Uploads through Xet: a shard's bytes as they are made, or a file, by a child process."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from huggingface_hub.errors import RevisionNotFoundError

from hubconv.ends import StagedFile
from hubconv.errors import IntegrityError
from hubconv.files import check_opens, disk_error
from hubconv.formats.checkpoint import LENGTH_BYTES
from hubconv.hub.client import HubClient
from hubconv.hub.commits import branch_gone
from hubconv.hub.compat import xet_connection
from hubconv.hub.desk import renewable
from hubconv.hub.uploading.process import Child
from hubconv.hub.uploading.sent import log_sent
from hubconv.hub.waiting import AtOnce


@dataclass(frozen=True, slots=True)
class XetLine:
    """Where shards go that are sent through Xet.

    Attributes:
        client: How to reach the Hub.
        repo: `org/name`.
        branch: The branch that they will be committed to.
        folder: For what hf_xet keeps on disk, about a thousandth of the bytes: a folder for each
            shard, kept until the shard is sent, so that what was sent of it is not sent again.
        at_once: Asked in every wait; raises where the run must end now.
    """

    client: HubClient
    repo: str
    branch: str
    folder: Path
    at_once: AtOnce

    def child(self, path: str, order: Mapping[str, Any]) -> Child:
        """A child process that sends one shard.

        Args:
            path: Of the shard in the repository.
            order: What it is to do, the connection apart.
        """

        def ask() -> dict[str, Any]:
            try:
                return xet_connection(self.client.api, self.repo, self.branch)
            except RevisionNotFoundError as error:
                raise branch_gone(self.repo, self.branch) from error

        # Asked for here: refusals and patience are ours, and a renewed token is picked up.
        connection = self.client.call(f"Asking {self.repo} for upload", ask)
        return Child(
            "xet_child",
            f"Sending {path} by hf_xet",
            {**order, "name": path, "connection": renewable(self.client, connection)},
            self.folder_of(path),
            self.at_once,
        )

    def folder_of(self, path: str) -> Path:
        """What hf_xet keeps on disk of a shard."""
        return self.folder / hashlib.sha256(path.encode()).hexdigest()[:16]

    def send_file(self, staged: StagedFile, file: Path) -> None:
        """Send a finished file; called again where the line broke.

        Raises:
            IntegrityError: The bytes that left are not the bytes that were written.
            BrokenLineError: The child died, failed or stalled.
        """
        started = time.monotonic()
        with self.child(staged.path, {"file": str(file)}) as child:
            _check(staged, child.answer())
        shutil.rmtree(self.folder_of(staged.path), ignore_errors=True)
        log_sent("xet file", staged, started)


class XetSink:
    """Sends the bytes of a shard as they are written; nothing of it lies on this disk.

    Args:
        line: Where it goes.
        name: Its path in the repository.
        sent: Told when the Hub has it.
    """

    def __init__(self, line: XetLine, name: str, sent: Callable[[StagedFile], None]) -> None:
        self._line = line
        self._name = name
        self._sent = sent
        self._child = line.child(name, {})
        self._hash = hashlib.sha256()
        self._size = 0
        self._head = bytearray()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; blocks while the line is slower than the conversion.

        Raises:
            BrokenLineError: The line broke, and what was written is lost.
        """
        view = memoryview(data).cast("B")
        self._child.send(view)
        self._hash.update(view)
        self._keep_head(view)
        self._size += view.nbytes
        self._line.client.passed(view.nbytes)

    def finish(self) -> StagedFile:
        """Wait until the Hub has every byte.

        Raises:
            BrokenLineError: The line broke, and what was written is lost.
            IntegrityError: The bytes that left are not the bytes that were written.
        """
        staged = StagedFile(self._name, self._size, self._hash.hexdigest())
        if self._name.endswith(".safetensors"):
            self._check_opens()
        self._child.send_end()
        _check(staged, self._child.answer())
        self._child.end()
        shutil.rmtree(self._line.folder_of(self._name), ignore_errors=True)
        log_sent("xet stream", staged, self._started)
        self._sent(staged)
        return staged

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.end()
        if kind is not None:
            self._line.client.passed(-self._size)

    def _keep_head(self, view: memoryview) -> None:
        """Keep the shard's header for the library's own look at it: its length, then itself."""
        for _ in range(2):
            wanted = LENGTH_BYTES
            if len(self._head) >= wanted:
                wanted += int.from_bytes(self._head[:LENGTH_BYTES], "little")
            taken = view[: max(0, wanted - len(self._head))]
            self._head += taken
            view = view[len(taken) :]

    def _check_opens(self) -> None:
        """Have the safetensors library open the header on a file of the right size with no data."""
        hollow = self._line.folder_of(self._name) / "header.safetensors"
        try:
            with hollow.open("wb") as file:
                file.write(self._head)
                file.truncate(self._size)
            check_opens(hollow, self._name)
        except OSError as error:
            raise disk_error(error, hollow.parent) from error
        finally:
            hollow.unlink(missing_ok=True)


def _check(staged: StagedFile, answer: Mapping[str, Any]) -> None:
    """Compare what the library hashed with what we did.

    Raises:
        IntegrityError: They differ.
    """
    if (answer["sha256"], answer["size"]) != (staged.sha256, staged.size):
        raise IntegrityError(
            f"{staged.path} was written as {staged.size} bytes with sha256 {staged.sha256} and "
            f"uploaded as {answer['size']} with {answer['sha256']}.",
            "The memory or the disk of this machine is faulty; nothing was committed.",
        )
