"""Commits on a repository: each names the parent it expects, none is repeated blindly."""

from collections.abc import Sequence
from typing import Final

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
)
from huggingface_hub.errors import HfHubHTTPError

from hubconv.errors import ConflictError
from hubconv.hub.client import HubClient
from hubconv.hub.compat import NOT_FOUND, status_of

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
    """Heads, commits and logs of one repository."""

    def __init__(self, client: HubClient, repo: str) -> None:
        self._client = client
        self._repo = repo

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
        """One request to commit, without any retry: the caller must look before it repeats."""
        title, _, description = message.partition("\n\n")
        return self._client.api.create_commit(
            self._repo,
            list(operations),
            commit_message=title,
            commit_description=description,
            revision=revision,
            parent_commit=parent,
            create_pr=create_pr,
        )

    def delete_branch(self, branch: str) -> None:
        """Delete a branch; that it is gone already is as good."""

        def delete() -> None:
            try:
                self._client.api.delete_branch(self._repo, branch=branch)
            except HfHubHTTPError as error:
                if status_of(error) != NOT_FOUND:
                    raise

        self._client.call(f"Deleting {branch} of {self._repo}", delete)

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
