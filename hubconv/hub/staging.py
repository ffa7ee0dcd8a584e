"""The journal of a plan: finished shards, their records, and the one commit that publishes them.

Order of writes: shard bytes, then shard and record in one commit on staging, then one commit on
main that copies by the staging commit's sha. Every commit names the parent it expects, and after
every doubtful answer the branch is read before anything is repeated: an answer may be lost after
the commit was made.
"""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import BadRequestError, RevisionNotFoundError

from hubconv.ends import Published, Release, Sink, Source, StagedFile
from hubconv.errors import HubconvError, SourceError, TemporaryError
from hubconv.hub.client import (
    MOVED,
    TRIES,
    HubClient,
    explain,
    is_passing,
    pause,
)
from hubconv.hub.commits import TRAILER, branch_gone
from hubconv.hub.compat import (
    by_hash,
    small_addition,
    speaks_xet,
    status_of,
)
from hubconv.hub.journals import Journals, Place, note_path, read_records, unit_path
from hubconv.hub.publisher import Publisher
from hubconv.hub.runs import RunTelling
from hubconv.hub.source import HubSource
from hubconv.hub.uploading.uploads import Uploads
from hubconv.journal import GROUP_SECONDS, GROUP_UNITS, NO_NOTE, NO_RUN, Ending, Note, RunNote
from hubconv.records import UnitRecord

Seen = TypeVar("Seen")

MOVED_TRIES: Final = 60
"""Many slices of one plan commit to the same branch: one of them always gets on."""

MOVED_PAUSE: Final = 2


class HubStaging:
    """The journal of one plan on a target repository.

    Args:
        client: How to reach it.
        repo: `org/name`.
        plan_id: The plan.
        work_dir: For what is on its way.
        publisher: Makes the publish commit.
        at_once: Asked in every wait for an upload; raises where the run must end now.
        note: How the run began, for whoever finds the journal.
        place: Where the journal is; None makes it where it is missing.
        run: What is told of this run, with its first shards and at its end; nothing for NO_RUN.

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
        note: Note = NO_NOTE,
        place: Place | None = None,
        run: RunNote = NO_RUN,
    ) -> None:
        self._client = client
        self._repo = repo
        self._plan_id = plan_id
        self._note = note
        self._run = RunTelling(plan_id, run)
        self._is_noted = False
        self._journals = Journals(client, repo)
        self._place = place or self._journals.open(plan_id)
        self._branch = self._place.revision
        self._work_dir = work_dir
        self._publisher = publisher
        self._commits = publisher.commits
        self._at_once = at_once
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._sent: dict[str, StagedFile] = {}
        self._pending: list[UnitRecord] = []
        self._last_commit = time.monotonic()
        self.published: Published | None = None
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

    def records(self) -> Mapping[str, UnitRecord]:
        """Finished units: their record names the hash that the staging tree shows."""
        return read_records(self._staging_view(), self._plan_id)

    def _staging_view(self) -> HubSource:
        slots = self._work_dir / "slots"
        return self._looking(
            lambda: HubSource(self._client, self._repo, self._branch, slots, at_once=self._at_once)
        )

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

    @property
    def streams(self) -> bool:
        """Whether shards go up while they are made: by Xet they do, as plain LFS when whole."""
        return self._xet

    def disk_bytes(self, largest_shard: int, room: int) -> int:
        """What shards on their way need on this machine's disk."""
        return self._uploads.disk_bytes(largest_shard, room)

    def add(self, record: UnitRecord) -> None:
        """Note a finished unit; commits when a group is full or old.

        Raises:
            HubconvError: An earlier shard could not be sent.
        """
        with self._lock:
            self._pending.append(record)
        self._commit_if_due()
        self._uploads.raise_failure()

    def adopt(self, record: UnitRecord) -> None:
        """Note a finished unit whose bytes another process has brought to the Hub."""
        with self._lock:
            self._sent[record.shard] = StagedFile(record.shard, record.size, record.sha256)
        self.add(record)

    def flush(self, ending: Ending | None = None) -> None:
        """Wait for what is on its way, commit what the Hub has.

        Args:
            ending: How the run ends, where it does: told with the last shards, or alone.

        Raises:
            HubconvError: A shard could not be sent; the others are committed.
        """
        self._uploads.settle()
        with self._committing:
            ready = self._ready()
            if ending is not None and self._run.end(ending) and not ready:
                self._tell_end(patient=not ending.is_journals)
            self._commit(ready)
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
        operations: list[CommitOperationAdd] = []
        for record in records:
            staged = self._sent[record.shard]
            path = unit_path(self._plan_id, record.shard)
            operations += [
                by_hash(staged.path, staged.sha256, staged.size),
                CommitOperationAdd(path, record.to_json().encode()),
            ]
        operations += self._run.news()
        count = len(records)
        message = f"Stage {count} shard{'s' if count > 1 else ''}\n\n{TRAILER}{self._plan_id}"
        self._commit_on_staging(operations, message, lambda: self._shows(records))
        with self._lock:
            for record in records:
                del self._sent[record.shard]
                self._pending.remove(record)
        self._run.is_told()
        self._last_commit = time.monotonic()

    def _tell_end(self, *, patient: bool) -> None:
        """Tell how the run ended, where no shard goes with it."""
        message = f"Stage the end of a run\n\n{TRAILER}{self._plan_id}"
        news = self._run.news()
        if patient:
            self._commit_on_staging(
                news, message, lambda: self._run.is_shown_by(self._staging_view())
            )
            return
        # The run failed by the line or by the journal itself: one try, and no word of a failure.
        with suppress(Exception):
            info = self._client.api.repo_info(self._repo, revision=self._branch)
            self._commits.commit(news, message, self._branch, str(info.sha))

    def begin(self) -> None:
        """Note how this run began before anything else, for a run after a kill.

        Only the run that made the repository does so: what it knows of it stands above what
        another run of the same plan may have noted meanwhile.
        """
        self._commit_on_staging(
            [self._noted()],
            f"Stage the journal\n\n{TRAILER}{self._plan_id}",
            lambda: note_path(self._plan_id) in self._staging_view().files(),
        )

    def _noted(self) -> CommitOperationAdd:
        return CommitOperationAdd(note_path(self._plan_id), self._note.to_json())

    def _first_words(self, head: str) -> list[CommitOperationAdd]:
        """The note, where a commit of staging has none: the first run's stays."""
        self._is_noted = self._is_noted or self._client.call(
            f"Reading the journal of {self._repo}",
            lambda: bool(
                self._client.api.get_paths_info(
                    self._repo, [note_path(self._plan_id)], revision=head
                )
            ),
        )
        return [] if self._is_noted else [self._noted()]

    def _commit_on_staging(
        self, operations: Sequence[CommitOperationAdd], message: str, made: Callable[[], bool]
    ) -> None:
        what = f"Committing to {self._branch} of {self._repo}"
        failures = moved = 0
        while True:
            try:
                head = self._commits.head(self._branch)
                noting = any(each.path_in_repo == note_path(self._plan_id) for each in operations)
                first = [] if noting else self._first_words(head)
                self._commits.commit([*first, *operations], message, self._branch, head)
            except Exception as error:
                has_moved = status_of(error) == MOVED
                failures, moved = failures + (not has_moved), moved + has_moved
                is_over = failures == TRIES or moved == MOVED_TRIES
                if is_over or not (is_passing(error) or has_moved):
                    raise self._explain(error, what) from error
                attempt = min(moved, MOVED_PAUSE) if has_moved else failures
                self._client.wait(pause(error, attempt))
                # The answer may have been lost after the commit was made.
                if made():
                    return
            else:
                self._is_noted = True
                return

    def _shows(self, records: Sequence[UnitRecord]) -> bool:
        """Whether the branch holds records and the shards they speak of."""
        files = self._staging_view().files()
        shown = ((files.get(record.shard), record) for record in records)
        return all(
            entry is not None
            and entry.sha256 == record.sha256
            and unit_path(self._plan_id, record.shard) in files
            for entry, record in shown
        )

    def _explain(self, error: Exception, what: str) -> HubconvError:
        if RevisionNotFoundError in {type(error), type(error.__cause__)}:
            return branch_gone(self._repo, self._branch)
        if isinstance(error, BadRequestError) and not self._journals.is_open(self._place):
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
        return small_addition(path, data, xet=self._xet, folder=self._work_dir / "files")

    def discard(self) -> None:
        """Tag and show what was published; remove the staging place and the local work folder.

        Called when the publish commit was read back and found right.
        """
        if self.published is not None:
            self._publisher.close(self._plan_id, self.published)
        self._journals.remove(self._place)
        shutil.rmtree(self._work_dir, ignore_errors=True)
