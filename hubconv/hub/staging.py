"""The staging branch: finished shards and their records, and the one commit that publishes them.

Order of writes: shard bytes, then shard and record in one commit on staging, then one commit on
main that copies by the staging commit's sha. Every commit names the parent it expects, and after
every doubtful answer the branch is read before anything is repeated: an answer may be lost after
the commit was made.
"""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RevisionNotFoundError

from hubconv.ends import JOURNAL, Published, Release, Sink, Source, StagedFile, UnitRecord
from hubconv.errors import ConflictError, HubconvError, IntegrityError, TemporaryError
from hubconv.files import FileSink
from hubconv.hub.client import (
    MOVED,
    TRIES,
    HubClient,
    explain,
    is_engine_fault,
    is_passing,
    pause,
)
from hubconv.hub.commits import TRAILER, Commits
from hubconv.hub.compat import (
    NOT_FOUND,
    addition,
    finished_upload,
    sha256_of,
    speaks_xet,
    status_of,
)
from hubconv.hub.publisher import Publisher
from hubconv.hub.source import HubSource

GROUP_UNITS: Final = 20
GROUP_SECONDS: Final = 600.0
"""The Hub allows few commits an hour: shards are committed in groups."""


BRANCHES: Final = "hubconv/"


def note_path(plan_id: str) -> str:
    """Where a run notes how it began, on the staging branch."""
    return f"{JOURNAL}/{plan_id}/journal.json"


def branch_of(plan_id: str) -> str:
    """The staging branch of a plan."""
    return f"{BRANCHES}{plan_id}"


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """A shard whose bytes the Hub has, not yet part of any commit."""

    operation: CommitOperationAdd
    staged: StagedFile


class HubStaging:
    """The journal of one plan on a target repository.

    Attributes:
        published: The publish of the plan, once there is one.
    """

    def __init__(
        self, client: HubClient, repo: str, plan_id: str, work_dir: Path, publisher: Publisher
    ) -> None:
        self._client = client
        self._repo = repo
        self._plan_id = plan_id
        self._branch = branch_of(plan_id)
        self._work_dir = work_dir
        self._publisher = publisher
        self._commits = Commits(client, repo)
        self._lock = threading.Lock()
        self._uploaded: dict[str, _Uploaded] = {}
        self._pending: list[UnitRecord] = []
        self._last_commit = time.monotonic()
        self.published: Published | None = None
        self._open_branch()
        self._xet = client.call(
            f"Asking {repo} for upload", lambda: speaks_xet(client.api, repo, self._branch)
        )

    # ── journal ──────────────────────────────────────────────────────────────────────────────

    def _open_branch(self) -> None:
        api = self._client.api
        self._client.call(
            f"Opening the staging branch of {self._repo}",
            lambda: api.create_branch(self._repo, branch=self._branch, exist_ok=True),
        )

    def records(self) -> Mapping[str, UnitRecord]:
        """Finished units: their record names the hash that the staging tree shows."""
        view = self._staging_view()
        folder = f"{JOURNAL}/{self._plan_id}/units/"
        paths = [path for path in view.files() if path.startswith(folder)]
        with ThreadPoolExecutor(8) as pool:
            texts = pool.map(lambda path: view.read(path, 0, view.files()[path].size), paths)
        found = {}
        for text in texts:
            try:
                record = UnitRecord.from_json(text)
            except ValueError:
                continue
            entry = view.files().get(record.shard)
            if record.plan_id == self._plan_id and entry and entry.sha256 == record.sha256:
                found[record.shard] = record
        return found

    def _staging_view(self) -> HubSource:
        return HubSource(self._client, self._repo, self._branch, self._work_dir / "slots")

    def create(self, path: str) -> Sink:
        """A sink that uploads the shard when it is finished."""
        return _UploadSink(self, self._work_dir / "out" / path, path)

    def upload(self, staged: StagedFile, file: Path) -> None:
        """Bring a finished shard's bytes to the Hub; its local file may go afterwards.

        Raises:
            IntegrityError: The bytes that left are not the bytes that were written.
        """

        def send() -> CommitOperationAdd:
            operation = addition(staged.path, file, xet=self._xet)
            try:
                self._client.api.preupload_lfs_files(
                    self._repo, [operation], revision=self._branch, free_memory=False
                )
            except RevisionNotFoundError as error:
                raise self._gone() from error
            except Exception as error:
                if is_engine_fault(error):
                    raise TemporaryError(f"hf_xet says: {error}") from error
                raise
            finally:
                finished_upload(operation)
            return operation

        operation = self._client.call(f"Uploading {staged.path}", send)
        if sha256_of(operation) != staged.sha256:
            raise IntegrityError(
                f"{staged.path} was written with sha256 {staged.sha256} and uploaded with "
                f"{sha256_of(operation)}.",
                "The local disk or memory is faulty; nothing was committed.",
            )
        with self._lock:
            self._uploaded[staged.path] = _Uploaded(operation, staged)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit; commits when a group is full or old."""
        with self._lock:
            self._pending.append(record)
            full = len(self._pending) >= GROUP_UNITS
            old = time.monotonic() - self._last_commit > GROUP_SECONDS
            if full or old:
                self._commit_group()

    def flush(self) -> None:
        """Commit what is pending."""
        with self._lock:
            self._commit_group()

    def _commit_group(self) -> None:
        if not self._pending:
            return
        operations: list[CommitOperationAdd] = [self._note()]
        for record in self._pending:
            path = f"{JOURNAL}/{self._plan_id}/units/{record.shard}.json"
            operations += [
                self._uploaded[record.shard].operation,
                CommitOperationAdd(path, record.to_json().encode()),
            ]
        count = len(self._pending)
        last = self._pending[-1]
        message = f"Stage {count} shard{'s' if count > 1 else ''}\n\n{TRAILER}{self._plan_id}"
        self._commit_on_staging(operations, message, lambda: self._shows(last))
        for record in self._pending:
            del self._uploaded[record.shard]
        self._pending.clear()
        self._last_commit = time.monotonic()

    def begin(self) -> None:
        """Note how this run began before anything else, for a run after a kill."""
        self._commit_on_staging(
            [self._note()],
            f"Stage the journal\n\n{TRAILER}{self._plan_id}",
            lambda: note_path(self._plan_id) in self._staging_view().files(),
        )

    def _note(self) -> CommitOperationAdd:
        """What a later run, on another machine, must know of how this one began."""
        note = {"make_public": self._publisher.public_after}
        return CommitOperationAdd(note_path(self._plan_id), json.dumps(note).encode())

    def _commit_on_staging(
        self, operations: Sequence[CommitOperationAdd], message: str, made: Callable[[], bool]
    ) -> None:
        what = f"Committing to {self._branch} of {self._repo}"
        for attempt in range(1, TRIES + 1):
            try:
                head = self._commits.head(self._branch)
                self._commits.commit(operations, message, self._branch, head)
            except Exception as error:
                if attempt == TRIES or not (is_passing(error) or status_of(error) == MOVED):
                    raise self._explain(error, what) from error
                self._client.wait(pause(error, attempt))
                # The answer may have been lost after the commit was made.
                if made():
                    return
            else:
                return
        raise TemporaryError(f"{what} was not tried.")

    def _shows(self, record: UnitRecord) -> bool:
        """Whether the branch holds a record and the shard it speaks of."""
        files = self._staging_view().files()
        entry = files.get(record.shard)
        noted = f"{JOURNAL}/{self._plan_id}/units/{record.shard}.json" in files
        return noted and entry is not None and entry.sha256 == record.sha256

    def _explain(self, error: Exception, what: str) -> HubconvError:
        if isinstance(error, RevisionNotFoundError):
            return self._gone()
        if isinstance(error, BadRequestError):
            return TemporaryError(
                f"{what}: the Hub has lost shards that were uploaded to it ({error}).",
                "Run the same command again: they are made anew, and none that is committed.",
            )
        return explain(error, what)

    def _gone(self) -> ConflictError:
        return ConflictError(
            f"The staging branch {self._branch} of {self._repo} is gone: another run has published "
            "this plan or removed the branch.",
            "Run the same command again: it looks at what is published first.",
        )

    def disk_bytes(self, largest_shard: int) -> int:
        """One shard being written and one being uploaded."""
        return 2 * largest_shard

    def view(self) -> Source:
        """The staging branch, for reading back."""
        return self._staging_view()

    # ── publish ──────────────────────────────────────────────────────────────────────────────

    def publish(self, release: Release) -> Published:
        """Show the release in one commit; see `Publisher`."""
        self.published = self._publisher.publish(release, self._staging_view().commit, self._file)
        return self.published

    def _file(self, path: str, data: bytes) -> CommitOperationAdd:
        if self._xet:
            return CommitOperationAdd(path, data)
        # Bytes would go to Xet; a file read as a buffer takes plain LFS.
        spooled = self._work_dir / "files" / hashlib.sha256(data).hexdigest()[:16]
        spooled.parent.mkdir(parents=True, exist_ok=True)
        spooled.write_bytes(data)
        return addition(path, spooled, xet=False)

    def discard(self) -> None:
        """Tag and show what was published; delete the staging branch and the local work folder.

        Called when the publish commit was read back and found right.
        """
        if self.published is not None:
            self._publisher.close(self._plan_id, self.published)

        def delete() -> None:
            try:
                self._client.api.delete_branch(self._repo, branch=self._branch)
            except HfHubHTTPError as error:
                if status_of(error) != NOT_FOUND:
                    raise

        self._client.call(f"Deleting {self._branch} of {self._repo}", delete)
        shutil.rmtree(self._work_dir, ignore_errors=True)


class _UploadSink(FileSink):
    """A local file that is uploaded as soon as it is complete, and then removed."""

    def __init__(self, staging: HubStaging, path: Path, name: str) -> None:
        super().__init__(path, name)
        self._staging = staging
        self._final = path

    def finish(self) -> StagedFile:
        """Complete the file, upload it, free the disk."""
        staged = super().finish()
        try:
            self._staging.upload(staged, self._final)
        finally:
            self._final.unlink(missing_ok=True)
        return staged
