"""The publish commit: exactly one for a plan, on main or on a pull request."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
)

from hubconv.ends import Published, Release
from hubconv.errors import ConflictError, NotAllowedError, TemporaryError
from hubconv.hub.client import MOVED, TRIES, HubClient, explain, is_passing, pause
from hubconv.hub.commits import STAGED, TRAILER, Commits, Operation
from hubconv.hub.compat import finished_upload, status_of
from hubconv.hub.privacy import Guard

LOG: Final = logging.getLogger(__name__)

MAIN: Final = "main"

AddFile = Callable[[str, bytes], CommitOperationAdd]


@dataclass(frozen=True, slots=True)
class Publisher:
    """Puts a release on a repository.

    Attributes:
        client: How to reach it.
        repo: `org/name`.
        create_pr: Publish to a pull request instead of main.
        tag: Tag the publish commit.
        public_after: Make the repository public once the release is on main.
        guard: What must not be seen on the repository.
        base: The commit of main that the release was composed for; empty where nothing is
            published.
    """

    client: HubClient
    repo: str
    create_pr: bool
    tag: bool
    public_after: bool
    guard: Guard
    base: str = ""

    @property
    def commits(self) -> Commits:
        """Commits on the repository, under the guard."""
        return Commits(self.client, self.repo, self.guard)

    def publish(self, release: Release, staging_commit: str, add: AddFile) -> Published:
        """One commit with every shard copied from a commit of the staging branch.

        Args:
            release: What to show.
            staging_commit: The commit whose shards are copied; a branch name could move.
            add: Makes the operation for a small file.

        Raises:
            ConflictError: Main received something else meanwhile.
        """
        return self._made(release.plan_id) or self._once(release, staging_commit, add)

    def close(self, plan_id: str, done: Published) -> None:
        """What follows once the commit is checked: visibility and tag. Harmless when done again.

        Raises:
            NotAllowedError: The repository became public in the moment of the publish.
        """
        api = self.client.api
        self.client.call(f"Looking who may see {self.repo}", self.commits.check_privacy)
        if self.create_pr:
            self.close_twins(plan_id)
        if self.public_after and not done.pull_request:
            self.client.call(
                f"Making {self.repo} public",
                lambda: api.update_repo_settings(self.repo, private=False),
            )
        if not self.tag or done.pull_request:
            return
        try:
            self.client.call(
                f"Tagging {self.repo}",
                lambda: api.create_tag(
                    self.repo,
                    tag=f"hubconv-{plan_id}",
                    revision=done.commit,
                    exist_ok=True,
                ),
            )
        except NotAllowedError as error:
            # A token that makes no branches may make no tags: what it published stands.
            LOG.warning("%s", error)

    def _once(self, release: Release, staging_commit: str, add: AddFile) -> Published:
        message = f"{release.title}\n\n{TRAILER}{release.plan_id}"
        what = f"Publishing {self.repo}"
        for attempt in range(1, TRIES + 1):
            operations = _operations(release, staging_commit, add)
            try:
                done = self.commits.commit(
                    operations, message, MAIN, self.base, create_pr=self.create_pr
                )
            except Exception as error:  # noqa: BLE001 - sorted out in _after_error
                found = self._after_error(error, attempt, what, release.plan_id)
                if found is not None:
                    return found
            else:
                # Of two pull requests the first counts, for every run that looks.
                twin = self.found(release.plan_id) if self.create_pr else None
                return twin or self._published(done)
            finally:
                for operation in operations:
                    if isinstance(operation, CommitOperationAdd):
                        finished_upload(operation)
        raise TemporaryError(f"{what} was not tried.")

    def _after_error(
        self, error: Exception, attempt: int, what: str, plan_id: str
    ) -> Published | None:
        """After a failed or doubtful commit: it was made (returned), may be repeated, or not."""
        if not is_passing(error) and status_of(error) != MOVED:
            raise explain(error, what) from error
        self.client.wait(pause(error, attempt))
        # The head before the log: a commit that arrives between the two is then not taken for
        # somebody else's.
        head = self.commits.head(MAIN)
        found = self._made(plan_id)
        if found is not None:
            return found
        if head != self.base:
            raise ConflictError(
                f"Main of {self.repo} received another commit while this run worked.",
                "Nothing was published and every shard is kept: look at that commit, then run the "
                "same command again.",
            ) from error
        if attempt == TRIES:
            raise explain(error, what) from error
        return None

    def _made(self, plan_id: str) -> Published | None:
        """The publish of a plan on top of our base: what an earlier one made is another matter."""
        return self.found(plan_id, self.base)

    def found(self, plan_id: str, since: str = "") -> Published | None:
        """The publish of a plan, if there is one: told by the log, never from memory."""
        if not self.create_pr:
            commit = self.commits.published(MAIN, plan_id, since)
            return Published(self.repo, commit, self._url()) if commit else None
        return next(iter(self._pull_requests(plan_id)), None)

    def _pull_requests(self, plan_id: str) -> list[Published]:
        """Open pull requests that show a plan, the first one first."""
        api = self.client.api
        requests = self.client.call(
            f"Listing pull requests of {self.repo}",
            lambda: list(
                api.get_repo_discussions(
                    self.repo, discussion_type="pull_request", discussion_status="open"
                )
            ),
        )
        told = [
            Published(self.repo, commit, request.url, request.num)
            for request in requests
            # A journal is no publish: below its shards lies main, as it was.
            if not request.title.startswith(STAGED)
            and (commit := self.commits.published(f"refs/pr/{request.num}", plan_id))
        ]
        return sorted(told, key=lambda each: each.pull_request)

    def close_twins(self, plan_id: str) -> None:
        """Close pull requests that show what an earlier one shows already.

        No parent can be named for a new pull request: a request that came late, or another run,
        may have opened one more.
        """
        for twin in self._pull_requests(plan_id)[1:]:
            self.client.call(
                f"Closing pull request {twin.pull_request} of {self.repo}",
                partial(self._close_pull_request, twin.pull_request),
            )

    def _close_pull_request(self, number: int) -> None:
        self.client.api.change_discussion_status(self.repo, number, "closed")

    def _published(self, commit: CommitInfo) -> Published:
        if commit.pr_num:
            return Published(self.repo, str(commit.oid), str(commit.pr_url), int(commit.pr_num))
        return Published(self.repo, str(commit.oid), self._url())

    def _url(self) -> str:
        return f"{self.client.api.endpoint}/{self.repo}"


def _operations(release: Release, staging_commit: str, add: AddFile) -> list[Operation]:
    operations: list[Operation] = [
        CommitOperationCopy(record.shard, record.shard, src_revision=staging_commit)
        for record in release.shards
    ]
    operations += [add(path, data) for path, data in release.files.items()]
    operations += [CommitOperationDelete(path) for path in release.deletions]
    return operations
