"""Commits on a repository: each names the parent it expects, none is repeated blindly."""

from collections.abc import Sequence
from typing import Final

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
)

from hubconv.errors import ConflictError
from hubconv.hub.client import HubClient
from hubconv.hub.privacy import Guard
from hubconv.hub.waiting import watched

TRAILER: Final = "hubconv-plan: "
STAGED: Final = "Stage "
"""First word of commits on the staging branch; a publish never begins so."""

LOG_DEPTH: Final = 50

Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


def branch_gone(repo: str, branch: str) -> ConflictError:
    """What is said where the staging branch of a run is no longer there."""
    return ConflictError(
        f"The staging branch {branch} of {repo} is gone: another run has published this plan or "
        "removed the branch.",
        "Run the same command again: it looks at what is published first.",
    )


class Commits:
    """Heads, commits and logs of one repository.

    Args:
        client: How to reach it.
        repo: `org/name`.
        guard: What must not be seen there; looked after before every commit.
    """

    def __init__(self, client: HubClient, repo: str, guard: Guard) -> None:
        self._client = client
        self._repo = repo
        self._guard = guard

    def head(self, revision: str) -> str:
        """The commit a branch stands at."""
        info = self._client.call(
            f"Reading the head of {revision}",
            lambda: self._client.api.repo_info(self._repo, revision=revision),
        )
        return str(info.sha)

    def commit(
        self,
        operations: Sequence[Operation],
        message: str,
        revision: str,
        parent: str,
        *,
        create_pr: bool = False,
    ) -> CommitInfo:
        """One request to commit, without any retry: the caller must look before it repeats.

        Raises:
            NotAllowedError: The repository has become public, and the source is not.
        """
        title, _, description = message.partition("\n\n")

        def send() -> CommitInfo:
            self.check_privacy()
            return self._client.api.create_commit(
                self._repo,
                list(operations),
                commit_message=title,
                commit_description=description,
                revision=revision,
                parent_commit=parent,
                create_pr=create_pr,
            )

        return watched(send, self._client.at_once)

    def check_privacy(self) -> None:
        """Make sure that what the source keeps to itself is not seen here.

        Raises:
            NotAllowedError: The repository has become public.
        """
        # Asked anew each time: a person may change the settings while a run of hours is under way.
        if self._guard.restricted:
            self._guard.check(self._client.api.model_info(self._repo))

    def published(self, revision: str, plan_id: str, since: str = "") -> str | None:
        """The commit of a branch that published a plan, if no other plan was published after it.

        Args:
            revision: The branch.
            plan_id: The plan.
            since: A commit of the branch: only what came after it counts.
        """

        def search() -> str | None:
            log = self._client.api.list_repo_commits(self._repo, revision=revision)
            for commit in log[:LOG_DEPTH]:
                if commit.commit_id == since:
                    return None
                told = f"{commit.title}\n{commit.message}"
                if TRAILER in told and not commit.title.startswith(STAGED):
                    return str(commit.commit_id) if f"{TRAILER}{plan_id}" in told else None
            return None

        return self._client.call(f"Reading the log of {self._repo}", search)
