"""Small files put beside what is published: one commit, on main or on a pull request."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from huggingface_hub import CommitInfo, CommitOperationAdd

from hubconv.ends import Published, Source
from hubconv.errors import ConflictError, TemporaryError
from hubconv.hub.client import MOVED, TRIES, HubClient, explain, is_passing, pause
from hubconv.hub.commits import Commits
from hubconv.hub.compat import finished_upload, small_addition, speaks_xet, status_of
from hubconv.hub.privacy import Guard

MAIN: Final = "main"


class Amending:
    """Commits small files, once, whatever the line does.

    Args:
        client: How to reach the Hub.
        repo: `org/name`.
        at: Opens a revision of it for reading.
        work_dir: Folder for files on their way.
        create_pr: Commit to a pull request instead of main.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        at: Callable[[str], Source],
        work_dir: Path,
        *,
        create_pr: bool,
    ) -> None:
        self._client = client
        self._repo = repo
        self._at = at
        self._work_dir = work_dir
        self._create_pr = create_pr
        # These files show numbers, not weights: they are as open as the repository is already.
        self._commits = Commits(client, repo, Guard(repo, ""))

    def commit(self, files: Mapping[str, bytes], title: str, base: str) -> Published:
        """One commit with these files; none where they are shown already.

        Args:
            files: Content by path.
            title: First line of the message; pull requests are found again by it.
            base: The commit of main that the files were made for.

        Raises:
            ConflictError: Main received something else meanwhile.
        """
        return self._shown(files, title) or self._once(files, title, base)

    def _once(self, files: Mapping[str, bytes], title: str, base: str) -> Published:
        what = f"Committing to {self._repo}"
        xet = self._client.call(
            f"Asking how {self._repo} takes files",
            lambda: speaks_xet(self._client.api, self._repo, MAIN),
        )
        for attempt in range(1, TRIES + 1):
            operations = [
                small_addition(path, data, xet=xet, folder=self._work_dir / "files")
                for path, data in files.items()
            ]
            try:
                return self._published(self._send(operations, title, base))
            except Exception as error:
                if not is_passing(error) and status_of(error) != MOVED:
                    raise explain(error, what) from error
                self._client.wait(pause(error, attempt))
                head = self._commits.head(MAIN)
                found = self._shown(files, title)
                if found is not None:
                    return found
                if head != base:
                    raise ConflictError(
                        f"Main of {self._repo} received another commit meanwhile.",
                        "Nothing was changed: look at that commit, then run the same command "
                        "again.",
                    ) from error
                if attempt == TRIES:
                    raise explain(error, what) from error
            finally:
                for operation in operations:
                    finished_upload(operation)
        raise TemporaryError(f"{what} was not tried.")

    def _send(self, operations: list[CommitOperationAdd], title: str, base: str) -> CommitInfo:
        return self._commits.commit(operations, title, MAIN, base, create_pr=self._create_pr)

    def _shown(self, files: Mapping[str, bytes], title: str) -> Published | None:
        """Where these files are shown already, whoever put them there."""
        url = f"{self._client.api.endpoint}/{self._repo}"
        if not self._create_pr:
            view = self._at("")
            return Published(self._repo, view.commit, url) if _holds(view, files) else None
        requests = self._client.call(
            f"Listing pull requests of {self._repo}",
            lambda: list(
                self._client.api.get_repo_discussions(
                    self._repo, discussion_type="pull_request", discussion_status="open"
                )
            ),
        )
        for request in sorted(requests, key=lambda each: each.num):
            if request.title == title:
                view = self._at(f"refs/pr/{request.num}")
                if _holds(view, files):
                    return Published(self._repo, view.commit, request.url, request.num)
        return None

    def _published(self, commit: CommitInfo) -> Published:
        if commit.pr_num:
            return Published(self._repo, str(commit.oid), str(commit.pr_url), int(commit.pr_num))
        return Published(self._repo, str(commit.oid), f"{self._client.api.endpoint}/{self._repo}")


def _holds(view: Source, files: Mapping[str, bytes]) -> bool:
    there = view.files()
    return all(
        path in there
        and there[path].size == len(data)
        and view.read(path, 0, there[path].size) == data
        for path, data in files.items()
    )
