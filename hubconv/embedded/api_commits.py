"""Changing a repository: how files will be sent, xet tokens, the commit, the check of the card."""

from typing import Any

from starlette.responses import Response

from hubconv.embedded import attributes, pulls
from hubconv.embedded.access import (
    contributed_repo,
    readable_repo,
    visible_repo,
    writable_repo,
)
from hubconv.embedded.accounts import Account, demand_write
from hubconv.embedded.api_repos import repo_url
from hubconv.embedded.cards import card_faults
from hubconv.embedded.commits import ATTRIBUTES, CommitRequest, apply_commit, parse_commit
from hubconv.embedded.records import Commit
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.repository import MAIN, Repository
from hubconv.embedded.wire import Call, Route, json_answer

_MOST_FILES = 1000


def preupload(call: Call) -> Response:
    """Say for each file whether it is large, ignored, or already there."""
    repo, _ = contributed_repo(call)
    commit_id = repo.resolve(call.params["rev"])
    tree = repo.tree(commit_id)
    rules_entry = tree.get(ATTRIBUTES)
    rules = call.state.blobs.get_git(rules_entry.oid).decode() if rules_entry else ""
    wish = call.json()
    files: list[dict[str, Any]] = wish.get("files") or []
    if len(files) > _MOST_FILES:
        raise Refusal(400, f"Ask for at most {_MOST_FILES} files at once.")
    answers = []
    for file in files:
        path, size = str(file["path"]), int(file["size"])
        large = attributes.is_large(path, size, file.get("sample", ""), rules)
        answer: dict[str, Any] = {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": attributes.is_ignored(path, wish.get("gitIgnore")),
        }
        known = tree.get(path)
        if known is not None:
            answer["oid"] = known.sha256 or known.oid
        answers.append(answer)
    return json_answer({"files": answers, "commitOid": commit_id})


def commit(call: Call) -> Response:
    """Make a commit on a branch, on a pull request, or in a new pull request."""
    if call.query.get("create_pr"):
        return _commit_to_new_pull(call)
    repo = visible_repo(call)
    request = parse_commit(call.body)
    with repo.lock:
        kind, name = repo.writable_ref(call.params["rev"])
        account = _may_commit(call, repo, kind, name)
        head = repo.refs()[kind][name]
        made = apply_commit(repo, call.state.blobs, head, request, account.name)
        repo.move_ref(kind, name, made.id)
        if kind == "pulls":
            pulls.note_commit(repo, int(name), made)
    return json_answer(_commit_answer(call, repo, made))


def validate_card(call: Call) -> Response:
    """Check a README's front matter."""
    errors, warnings = card_faults(str(call.json().get("content") or ""))
    answer = {
        "errors": [{"message": error} for error in errors],
        "warnings": [{"message": warning} for warning in warnings],
    }
    return json_answer(answer, 400 if errors else 200)


def xet_write_token(call: Call) -> Response:
    """Give leave to upload to the xet store for a repository."""
    _demand_xet(call)
    repo, _ = writable_repo(call)
    if call.params["rev"] != "None":
        repo.resolve(call.params["rev"])
    return _token_answer(call, repo, "write")


def xet_read_token(call: Call) -> Response:
    """Give leave to download a repository's files from the xet store."""
    _demand_xet(call)
    repo = readable_repo(call)
    repo.resolve(call.params["rev"])
    return _token_answer(call, repo, "read")


def _commit_to_new_pull(call: Call) -> Response:
    repo, account = contributed_repo(call)
    request = parse_commit(call.body)
    with repo.lock:
        if call.params["rev"] != MAIN:
            raise Refusal(400, "A pull request can only be opened against main.")
        head = repo.resolve(MAIN)
        made = apply_commit(repo, call.state.blobs, head, request, account.name)
        opened = _open_pull(repo, request, account)
        repo.move_ref("pulls", str(opened), made.id)
        pulls.note_commit(repo, opened, made)
    answer = _commit_answer(call, repo, made)
    answer["pullRequestUrl"] = f"{repo_url(call, repo)}/discussions/{opened}"
    return json_answer(answer)


def _open_pull(repo: Repository, request: CommitRequest, account: Account) -> int:
    opened = pulls.open_discussion(
        repo,
        title=request.title,
        description=request.message,
        author=account.name,
        is_pull=True,
    )
    return opened.num


def _may_commit(call: Call, repo: Repository, kind: str, name: str) -> Account:
    """A pull request's author may go on with it; everything else takes the right to write."""
    if kind == "pulls" and call.account is not None and call.account.role == "write":
        pull = repo.discussion(int(name))
        if pull.status in {"merged", "closed"}:
            raise Refusal(400, f"Pull request {name} is {pull.status}.")
        if pull.author == call.account.name and call.account.only in {"", repo.id}:
            return call.account
    return demand_write(call.account, repo.id.split("/", 1)[0], repo.id)


def _commit_answer(call: Call, repo: Repository, made: Commit) -> dict[str, Any]:
    return {
        "success": True,
        "commitOid": made.id,
        "commitUrl": f"{repo_url(call, repo)}/commit/{made.id}",
        "hookOutput": "",
    }


def _demand_xet(call: Call) -> None:
    if call.state.mode != "xet":
        raise Refusal(404, "This Hub keeps large files without xet.")


def _token_answer(call: Call, repo: Repository, scope: str) -> Response:
    token, expires = call.state.xet_token(repo.card.key, scope)
    headers = {
        "X-Xet-Cas-Url": call.state.cdn,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    body = {"casUrl": call.state.cdn, "accessToken": token, "exp": expires}
    return json_answer(body, headers=headers)


ROUTES = [
    Route("POST", "/api/validate-yaml", "validate_yaml", validate_card),
    Route("POST", "/api/{type}/{ns}/{name}/preupload/{rev}", "preupload", preupload),
    Route("POST", "/api/{type}/{ns}/{name}/commit/{rev}", "commit", commit),
    Route("GET", "/api/{type}/{ns}/{name}/xet-write-token/{rev}", "xet_token", xet_write_token),
    Route("GET", "/api/{type}/{ns}/{name}/xet-read-token/{rev}", "xet_token", xet_read_token),
]
