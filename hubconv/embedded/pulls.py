"""Discussions and pull requests: opening, commenting, the difference they make, merging."""

import difflib
import uuid
from dataclasses import replace
from typing import Any

from hubconv.embedded import commits
from hubconv.embedded.blobs import BlobStore
from hubconv.embedded.records import Commit, Discussion, FileEntry, now, pointer
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.repository import MAIN, Repository

_SHOWN_BYTES = 200_000


def open_discussion(
    repo: Repository,
    *,
    title: str,
    description: str,
    author: str,
    is_pull: bool,
    status: str = "open",
) -> Discussion:
    """Open a discussion, or a pull request that as yet changes nothing."""
    with repo.lock:
        num = max((known.num for known in repo.discussions()), default=0) + 1
        base = repo.resolve(MAIN) if is_pull else None
        first = _comment_event(author, description)
        discussion = Discussion(
            num, title, author, now(), status, is_pull, base=base, events=(first,)
        )
        if base is not None:
            repo.move_ref("pulls", str(num), base)
        repo.save_discussion(discussion)
        return discussion


def add_event(repo: Repository, num: int, event: dict[str, Any], **changes: Any) -> Discussion:  # noqa: ANN401
    """Add something that happened to a discussion."""
    with repo.lock:
        known = repo.discussion(num)
        discussion = replace(known, events=(*known.events, event), **changes)
        repo.save_discussion(discussion)
        return discussion


def comment(repo: Repository, num: int, author: str, text: str) -> dict[str, Any]:
    """Add a comment; the answer is its event."""
    event = _comment_event(author, text)
    add_event(repo, num, event)
    return event


def change_status(repo: Repository, num: int, author: str, status: str) -> dict[str, Any]:
    """Open or close a discussion.

    Raises:
        Refusal: The status is unknown, or the pull request is merged.
    """
    if status not in {"open", "closed"}:
        raise Refusal(400, f"Unknown status {status}")
    if repo.discussion(num).status == "merged":
        raise Refusal(400, "This pull request is merged.")
    event = _event("status-change", author, {"status": status})
    add_event(repo, num, event, status=status)
    return event


def change_title(repo: Repository, num: int, author: str, title: str) -> dict[str, Any]:
    """Give a discussion another title."""
    event = _event("title-change", author, {"from": repo.discussion(num).title, "to": title})
    add_event(repo, num, event, title=title)
    return event


def edit_comment(
    repo: Repository, num: int, event_id: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """Change a comment's text, or hide it.

    Raises:
        Refusal: There is no such comment.
    """
    with repo.lock:
        known = repo.discussion(num)
        for at, event in enumerate(known.events):
            if event["id"] == event_id:
                new = {**event, "data": {**event["data"], **changes}}
                events = (*known.events[:at], new, *known.events[at + 1 :])
                repo.save_discussion(replace(known, events=events))
                return new
    raise Refusal(404, f"Comment {event_id} not found")


def note_commit(repo: Repository, num: int, made: Commit) -> None:
    """Write a new commit of a pull request into its story."""
    data = {"subject": made.title, "oid": made.id}
    add_event(repo, num, _event("commit", made.author, data))


def conflicting_files(repo: Repository, discussion: Discussion) -> list[str]:
    """Files that the pull request and main both changed."""
    if discussion.base is None or discussion.status == "merged":
        return []
    trees = (discussion.base, repo.resolve(MAIN), repo.resolve(f"refs/pr/{discussion.num}"))
    return commits.conflicts(*(repo.tree(at) for at in trees))


def merge(repo: Repository, blobs: BlobStore, num: int, author: str) -> Commit:
    """Put a pull request's changes on main as one commit.

    Raises:
        Refusal: It is no open pull request, or it conflicts with main.
    """
    with repo.lock:
        discussion = repo.discussion(num)
        if not discussion.is_pull or discussion.base is None:
            raise Refusal(400, f"Discussion {num} is no pull request.")
        if discussion.status != "open":
            raise Refusal(400, f"Pull request {num} is {discussion.status}, not open.")
        clashes = conflicting_files(repo, discussion)
        if clashes:
            message = f"Pull request {num} conflicts with main in {', '.join(clashes)}"
            raise Refusal(409, message, fields={"filesWithConflicts": clashes})
        head, theirs = repo.resolve(MAIN), repo.resolve(f"refs/pr/{num}")
        tree = commits.merged(blobs, repo.tree(discussion.base), repo.tree(head), repo.tree(theirs))
        message = "\n".join(repo.commit(theirs).message.splitlines())
        made = repo.save_commit(
            tree,
            parents=(head, theirs),
            title=f"{discussion.title} (#{num})",
            message=message,
            author=author,
        )
        repo.move_ref("branches", MAIN, made.id)
        event = _event("status-change", author, {"status": "merged"})
        add_event(repo, num, event, status="merged", merge_commit=made.id)
        return made


def diff(repo: Repository, blobs: BlobStore, discussion: Discussion) -> str:
    """The pull request's changes as a unified diff; large files show their pointers."""
    if discussion.base is None:
        return ""
    old = repo.tree(discussion.base)
    new = repo.tree(repo.resolve(f"refs/pr/{discussion.num}"))
    return "".join(
        _file_diff(blobs, path, old.get(path), entry)
        for path, entry in commits.changes_between(old, new).items()
    )


def _file_diff(blobs: BlobStore, path: str, old: FileEntry | None, new: FileEntry | None) -> str:
    before, after = _shown(blobs, old), _shown(blobs, new)
    lines = difflib.unified_diff(
        before, after, f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null"
    )
    text = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n{text}"


def _shown(blobs: BlobStore, entry: FileEntry | None) -> list[str]:
    if entry is None:
        return []
    if entry.sha256 is not None:
        return pointer(entry.sha256, entry.size).decode().splitlines(keepends=True)
    if entry.size > _SHOWN_BYTES:
        return [f"({entry.size} bytes)\n"]
    return blobs.get_git(entry.oid).decode("utf-8", "replace").splitlines(keepends=True)


def _comment_event(author: str, text: str) -> dict[str, Any]:
    data = {"edited": False, "hidden": False, "latest": {"raw": text, "html": text}}
    return _event("comment", author, data)


def _event(kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:24],
        "type": kind,
        "author": {"name": author, "type": "user"},
        "createdAt": now(),
        "data": data,
    }
