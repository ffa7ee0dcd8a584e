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
from pathlib import Path
from typing import Final, TypeVar

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, RevisionNotFoundError

from hubconv.ends import JOURNAL, Published, Release, Sink, Source, StagedFile, UnitRecord
from hubconv.errors import HubconvError, SourceError, TemporaryError
from hubconv.hub.client import (
    MOVED,
    TRIES,
    HubClient,
    explain,
    is_passing,
    pause,
)
from hubconv.hub.commits import TRAILER, Commits, branch_gone
from hubconv.hub.compat import (
    addition,
    by_hash,
    speaks_xet,
    status_of,
)
from hubconv.hub.publisher import Publisher
from hubconv.hub.source import HubSource
from hubconv.hub.uploading.uploads import Uploads

Seen = TypeVar("Seen")

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


class HubStaging:
    """The journal of one plan on a target repository.

    Args:
        client: How to reach it.
        repo: `org/name`.
        plan_id: The plan.
        work_dir: For what is on its way.
        publisher: Makes the publish commit.
        at_once: Asked in every wait for an upload; raises where the run must end now.

    Attributes:
        published: The publish of the plan, once there is one.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        plan_id: str,
        work_dir: Path,
        publisher: Publisher,
        at_once: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._repo = repo
        self._plan_id = plan_id
        self._branch = branch_of(plan_id)
        self._work_dir = work_dir
        self._publisher = publisher
        self._commits = Commits(client, repo)
        self._at_once = at_once
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._sent: dict[str, StagedFile] = {}
        self._pending: list[UnitRecord] = []
        self._last_commit = time.monotonic()
        self.published: Published | None = None
        self._open_branch()
        self._xet = self._looking(
            lambda: client.call(
                f"Asking {repo} for upload", lambda: speaks_xet(client.api, repo, self._branch)
            )
        )
        self._uploads = Uploads(
            client,
            repo,
            self._branch,
            work_dir,
            xet=self._xet,
            sent=self._note_sent,
            at_once=at_once,
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
        place = self._work_dir / "slots"
        return self._looking(lambda: HubSource(self._client, self._repo, self._branch, place))

    def _looking(self, look: Callable[[], Seen]) -> Seen:
        """Look at the staging branch; where it is gone, another run has ended the plan."""
        try:
            return look()
        except SourceError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                raise branch_gone(self._repo, self._branch) from error
            raise

    def create(self, path: str) -> Sink:
        """A sink that brings a shard to the Hub; see `uploading`.

        Raises:
            HubconvError: An earlier shard could not be sent, or the run must end.
        """
        return self._uploads.create(path)

    def disk_bytes(self, largest_shard: int) -> int:
        """What shards on their way need on this machine's disk."""
        return self._uploads.disk_bytes(largest_shard)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit; commits when a group is full or old.

        Raises:
            HubconvError: An earlier shard could not be sent.
        """
        with self._lock:
            self._pending.append(record)
        self._commit_if_due()
        self._uploads.raise_failure()

    def flush(self) -> None:
        """Wait for what is on its way, commit what the Hub has.

        Raises:
            HubconvError: A shard could not be sent; the others are committed.
        """
        self._uploads.settle()
        with self._committing:
            self._commit(self._ready())
        self._uploads.raise_failure()
        if self._pending:
            self._at_once()

    def _note_sent(self, staged: StagedFile) -> None:
        with self._lock:
            self._sent[staged.path] = staged
        self._commit_if_due()

    def _ready(self) -> list[UnitRecord]:
        """Noted units whose bytes the Hub has: no other may be committed."""
        with self._lock:
            return [record for record in self._pending if record.shard in self._sent]

    def _due(self) -> list[UnitRecord]:
        ready = self._ready()
        old = time.monotonic() - self._last_commit > GROUP_SECONDS
        return ready if old or len(ready) >= GROUP_UNITS else []

    def _commit_if_due(self) -> None:
        if self._due():
            with self._committing:
                self._commit(self._due())

    def _commit(self, records: Sequence[UnitRecord]) -> None:
        if not records:
            return
        operations: list[CommitOperationAdd] = [self._note()]
        for record in records:
            staged = self._sent[record.shard]
            path = f"{JOURNAL}/{self._plan_id}/units/{record.shard}.json"
            operations += [
                by_hash(staged.path, staged.sha256, staged.size),
                CommitOperationAdd(path, record.to_json().encode()),
            ]
        count = len(records)
        message = f"Stage {count} shard{'s' if count > 1 else ''}\n\n{TRAILER}{self._plan_id}"
        self._commit_on_staging(operations, message, lambda: self._shows(records[-1]))
        with self._lock:
            for record in records:
                del self._sent[record.shard]
                self._pending.remove(record)
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
        if RevisionNotFoundError in {type(error), type(error.__cause__)}:
            return branch_gone(self._repo, self._branch)
        if isinstance(error, BadRequestError):
            return TemporaryError(
                f"{what}: the Hub has lost shards that were uploaded to it ({error}).",
                "Run the same command again: they are made anew, and none that is committed.",
            )
        return explain(error, what)

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
        self._commits.delete_branch(self._branch)
        shutil.rmtree(self._work_dir, ignore_errors=True)
