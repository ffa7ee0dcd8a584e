"""How the embedded Hub says no: a status, the Hub's error code, and one sentence."""

from typing import Any


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault of the program
    """An answer other than success, raised anywhere below a handler.

    Attributes:
        status: HTTP status.
        message: What the client shows to its user.
        code: The Hub's `X-Error-Code`, which decides the client's exception class.
        fields: More members of the JSON body.
        headers: More response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        fields: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.fields = fields or {}
        self.headers = headers or {}


def repo_not_found() -> Refusal:
    """The answer for a repository that is not there or that the caller may not know of."""
    return Refusal(404, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> Refusal:
    """The answer for a branch, tag, pull request or commit that is not there."""
    return Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, commit: str | None = None) -> Refusal:
    """The answer for a file that the revision does not hold."""
    headers = {"X-Repo-Commit": commit} if commit else None
    return Refusal(404, f"Entry not found: {path}", code="EntryNotFound", headers=headers)


def gated(repo_id: str) -> Refusal:
    """The answer for the files of a gated repository."""
    message = f"Access to model {repo_id} is restricted and you are not in the authorized list."
    return Refusal(403, message, code="GatedRepo")
