"""Discussions and pull requests over HTTP."""

from typing import Any

from starlette.responses import Response

from hubconv.embedded import pulls
from hubconv.embedded.access import contributed_repo, visible_repo, writable_repo
from hubconv.embedded.records import Discussion
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.repository import MAIN, Repository
from hubconv.embedded.wire import Call, Route, json_answer


def create(call: Call) -> Response:
    """Open a discussion or a draft of a pull request."""
    repo, account = contributed_repo(call)
    wish = call.json()
    is_pull = bool(wish.get("pullRequest"))
    opened = pulls.open_discussion(
        repo,
        title=str(wish.get("title") or ""),
        description=str(wish.get("description") or ""),
        author=account.name,
        is_pull=is_pull,
        status="draft" if is_pull else "open",
    )
    return json_answer({"num": opened.num, "pullRequest": is_pull})


def list_all(call: Call) -> Response:
    """List discussions, newest first, a page at a time."""
    repo = visible_repo(call)
    found = [item for item in repo.discussions() if _is_wanted(call, item)]
    size = call.state.knobs.discussions_page_size
    start = int(call.query.get("p", "0")) * size
    page = [_members(repo, item) for item in found[start : start + size]]
    return json_answer({"discussions": page, "count": len(found), "start": start})


def details(call: Call) -> Response:
    """Show one discussion with its story and, for a pull request, its changes."""
    repo = visible_repo(call)
    found = repo.discussion(int(call.params["num"]))
    answer = {**_members(repo, found), "events": list(found.events)}
    if found.is_pull:
        changes = {"base": f"refs/heads/{MAIN}"}
        if found.merge_commit:
            changes["mergeCommitId"] = found.merge_commit
        answer["changes"] = changes
        answer["filesWithConflicts"] = pulls.conflicting_files(repo, found)
        if call.query.get("diff"):
            answer["diff"] = pulls.diff(repo, call.state.blobs, found)
    return json_answer(answer)


def merge(call: Call) -> Response:
    """Merge a pull request into main."""
    repo, account = writable_repo(call)
    made = pulls.merge(repo, call.state.blobs, int(call.params["num"]), account.name)
    text = call.json().get("comment")
    if text:
        pulls.comment(repo, int(call.params["num"]), account.name, str(text))
    return json_answer({"mergeCommitId": made.id})


def change_status(call: Call) -> Response:
    """Open or close a discussion."""
    repo, account = _own_discussion(call)
    wish = call.json()
    num = int(call.params["num"])
    if wish.get("comment"):
        pulls.comment(repo, num, account, str(wish["comment"]))
    event = pulls.change_status(repo, num, account, str(wish.get("status")))
    return json_answer({"newStatus": event})


def change_title(call: Call) -> Response:
    """Give a discussion another title."""
    repo, account = _own_discussion(call)
    title = str(call.json().get("title") or "")
    event = pulls.change_title(repo, int(call.params["num"]), account, title)
    return json_answer({"newTitle": event})


def comment(call: Call) -> Response:
    """Say something in a discussion."""
    repo, account = contributed_repo(call)
    text = str(call.json().get("comment") or "")
    event = pulls.comment(repo, int(call.params["num"]), account.name, text)
    return json_answer({"newMessage": event})


def edit_comment(call: Call) -> Response:
    """Change a comment's text."""
    repo, _ = _own_discussion(call)
    text = str(call.json().get("content") or "")
    changes = {"edited": True, "latest": {"raw": text, "html": text}}
    event = pulls.edit_comment(repo, int(call.params["num"]), call.params["comment"], changes)
    return json_answer({"updatedComment": event})


def hide_comment(call: Call) -> Response:
    """Hide a comment."""
    repo, _ = _own_discussion(call)
    changes = {"hidden": True}
    event = pulls.edit_comment(repo, int(call.params["num"]), call.params["comment"], changes)
    return json_answer({"updatedComment": event})


def _own_discussion(call: Call) -> tuple[Repository, str]:
    """The repository and the caller's name, if the discussion is his or he may write."""
    repo, account = contributed_repo(call)
    found = repo.discussion(int(call.params["num"]))
    if found.author != account.name and not account.belongs_to(repo.id.split("/", 1)[0]):
        raise Refusal(403, "Only its author or a member can change this discussion.")
    return repo, account.name


def _is_wanted(call: Call, item: Discussion) -> bool:
    kind, status = call.query.get("type", "all"), call.query.get("status", "all")
    author = call.query.get("author")
    is_open = item.status in {"open", "draft"}
    return (
        (kind == "all" or item.is_pull == (kind == "pull_request"))
        and (status == "all" or is_open == (status == "open"))
        and (author is None or item.author == author)
    )


def _members(repo: Repository, item: Discussion) -> dict[str, Any]:
    return {
        "num": item.num,
        "title": item.title,
        "author": {"name": item.author, "type": "user"},
        "createdAt": item.created_at,
        "status": item.status,
        "repo": {"name": repo.id, "type": repo.card.type},
        "isPullRequest": item.is_pull,
        "pinned": False,
    }


_DISCUSSION = "/api/{type}/{ns}/{name}/discussions"
ROUTES = [
    Route("POST", _DISCUSSION, "discussion", create),
    Route("GET", _DISCUSSION, "discussion", list_all),
    Route("GET", f"{_DISCUSSION}/{{num}}", "discussion", details),
    Route("POST", f"{_DISCUSSION}/{{num}}/merge", "merge", merge),
    Route("POST", f"{_DISCUSSION}/{{num}}/status", "discussion", change_status),
    Route("POST", f"{_DISCUSSION}/{{num}}/title", "discussion", change_title),
    Route("POST", f"{_DISCUSSION}/{{num}}/comment", "discussion", comment),
    Route("POST", f"{_DISCUSSION}/{{num}}/comment/{{comment}}/edit", "discussion", edit_comment),
    Route("POST", f"{_DISCUSSION}/{{num}}/comment/{{comment}}/hide", "discussion", hide_comment),
]
