"""Files, refs and history: listings, branches, tags, squashing."""

from typing import Any

from starlette.responses import Response

from hubconv.embedded.access import branched_repo, visible_repo, writable_repo
from hubconv.embedded.api_repos import large_members
from hubconv.embedded.records import FileEntry, FileTree, digest
from hubconv.embedded.refusals import Refusal, entry_not_found, revision_not_found
from hubconv.embedded.repository import MAIN, Repository
from hubconv.embedded.wire import Call, Route, json_answer, page_of

_MOST_PATHS = 1000
_MOST_EXPANDED = 50


def list_tree(call: Call) -> Response:
    """List a folder, or all below it."""
    repo = visible_repo(call)
    commit_id = repo.resolve(call.params["rev"])
    tree = repo.tree(commit_id)
    folder = call.params.get("path", "").strip("/")
    inside = _below(tree, folder)
    if folder and not inside:
        raise entry_not_found(folder, commit_id)
    entries = _listing(inside, folder, is_deep=_is_true(call.query.get("recursive")))
    is_expanded = _is_true(call.query.get("expand"))
    size = (
        min(call.state.knobs.page_size, _MOST_EXPANDED)
        if is_expanded
        else call.state.knobs.page_size
    )
    page, headers = page_of(call, entries, size)
    items = [_item(call, path, tree) for path in page]
    if is_expanded:
        _add_last_commits(repo, commit_id, items)
    return json_answer(items, headers=headers)


def paths_info(call: Call) -> Response:
    """Say what lies at some paths; missing ones are left out."""
    repo = visible_repo(call)
    commit_id = repo.resolve(call.params["rev"])
    tree = repo.tree(commit_id)
    form = call.form()
    paths = list(dict.fromkeys(form.get("paths", [])))
    if len(paths) > _MOST_PATHS:
        raise Refusal(413, f"Ask for at most {_MOST_PATHS} paths at once.")
    wanted = [path.strip("/") for path in paths]
    there = [path for path in wanted if path in tree or _below(tree, path)]
    items = [_item(call, path, tree) for path in there if path]
    if _is_true(form.get("expand", ["false"])[0]):
        _add_last_commits(repo, commit_id, items)
    return json_answer(items)


def list_refs(call: Call) -> Response:
    """List branches, tags and, if asked, pull requests."""
    refs = visible_repo(call).refs()
    answer: dict[str, Any] = {
        "branches": _ref_items(refs["branches"], "refs/heads/"),
        "converts": [],
        "tags": _ref_items(refs["tags"], "refs/tags/"),
    }
    if call.query.get("include_prs"):
        pulls = sorted(refs["pulls"].items(), key=lambda item: int(item[0]))
        answer["pullRequests"] = [
            {"name": f"refs/pr/{num}", "ref": f"refs/pr/{num}", "targetCommit": commit}
            for num, commit in pulls
        ]
    return json_answer(answer)


def list_commits(call: Call) -> Response:
    """List the history of a revision, newest first."""
    repo = visible_repo(call)
    commits = list(repo.log(repo.resolve(call.params["rev"])))
    page, headers = page_of(call, commits, call.state.knobs.commits_page_size)
    with_html = "formatted" in call.query_lists.get("expand[]", [])
    items = []
    for commit in page:
        item: dict[str, Any] = {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
        }
        if with_html:
            item["formatted"] = {"title": commit.title, "message": commit.message}
        items.append(item)
    return json_answer(items, headers={**headers, "X-Total-Count": str(len(commits))})


def create_branch(call: Call) -> Response:
    """Grow a branch from main or from another revision."""
    repo = branched_repo(call)
    name = _checked_name(call.params["ref"])
    with repo.lock:
        if name in repo.refs()["branches"]:
            raise Refusal(409, f"Reference already exists: refs/heads/{name}")
        start = repo.resolve(call.json().get("startingPoint") or MAIN)
        repo.move_ref("branches", name, start)
    return json_answer({})


def delete_branch(call: Call) -> Response:
    """Take a branch away."""
    repo = branched_repo(call)
    name = call.params["ref"].removeprefix("refs/heads/")
    if name == MAIN:
        raise Refusal(403, "The main branch cannot be deleted.")
    with repo.lock:
        if name not in repo.refs()["branches"]:
            raise revision_not_found(name)
        repo.move_ref("branches", name, None)
    return json_answer({})


def create_tag(call: Call) -> Response:
    """Put a tag on a revision."""
    repo = branched_repo(call)
    name = _checked_name(str(call.json().get("tag") or ""))
    with repo.lock:
        if name in repo.refs()["tags"]:
            raise Refusal(409, f"Tag reference exists already: refs/tags/{name}")
        repo.move_ref("tags", name, repo.resolve(call.params["rev"]))
    return json_answer({})


def delete_tag(call: Call) -> Response:
    """Take a tag away."""
    repo = branched_repo(call)
    name = call.params["rev"].removeprefix("refs/tags/")
    with repo.lock:
        if name not in repo.refs()["tags"]:
            raise revision_not_found(name)
        repo.move_ref("tags", name, None)
    return json_answer({})


def super_squash(call: Call) -> Response:
    """Make one commit of a branch's history."""
    repo, account = writable_repo(call)
    with repo.lock:
        kind, name = repo.writable_ref(call.params["rev"])
        head = repo.refs()[kind][name]
        title = str(call.json().get("message") or f"Super-squash branch '{name}'")
        squashed = repo.save_commit(
            repo.tree(head), parents=(), title=title, message="", author=account.name
        )
        repo.move_ref(kind, name, squashed.id)
    return json_answer({"commitOid": squashed.id})


def _checked_name(name: str) -> str:
    name = name.removeprefix("refs/heads/")
    parts = name.split("/")
    is_odd = any(letter in name for letter in " ~^:?*[\\") or ".." in name
    if is_odd or any(not part or part.startswith(".") for part in parts) or name.endswith(".lock"):
        raise Refusal(400, f"Invalid reference name: {name}")
    return name


def _ref_items(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
    return [
        {"name": name, "ref": prefix + name, "targetCommit": commit}
        for name, commit in sorted(refs.items())
    ]


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in {"true", "1"}


def _below(tree: FileTree, folder: str) -> list[str]:
    return [path for path in tree if not folder or path.startswith(f"{folder}/")]


def _listing(paths: list[str], folder: str, *, is_deep: bool) -> list[str]:
    """Files and folders below a folder; a folder stands before what it holds."""
    skip = len(folder) + 1 if folder else 0
    found: set[str] = set()
    for path in paths:
        parts = path[skip:].split("/")
        depth = len(parts) if is_deep else 1
        head = path[:skip]
        found.update(head + "/".join(parts[: end + 1]) for end in range(depth))
    return sorted(found)


def _item(call: Call, path: str, tree: FileTree) -> dict[str, Any]:
    entry = tree.get(path)
    if entry is None:
        oid = digest([[name, tree[name].oid] for name in sorted(_below(tree, path))])
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256 is not None:
        item["lfs"] = {"oid": entry.sha256, **large_members(entry)}
        if entry.xet is not None and call.state.mode == "xet":
            item["xetHash"] = entry.xet
    return item


def _add_last_commits(repo: Repository, commit_id: str, items: list[dict[str, Any]]) -> None:
    """Say for each item which commit changed it last."""
    left = {item["path"]: item for item in items}
    log = list(repo.log(commit_id))
    trees = [repo.tree(commit.id) for commit in log]
    for at, commit in enumerate(log):
        before: FileTree = trees[at + 1] if at + 1 < len(trees) else {}
        for path in [path for path in left if _differs(path, trees[at], before)]:
            item = left.pop(path)
            item["lastCommit"] = {"id": commit.id, "title": commit.title, "date": commit.date}
            item["securityFileStatus"] = None


def _differs(path: str, new: FileTree, old: FileTree) -> bool:
    def state(tree: FileTree) -> list[FileEntry | None]:
        return [tree.get(path), *(tree[name] for name in _below(tree, path))]

    return state(new) != state(old)


ROUTES = [
    Route("GET", "/api/{type}/{ns}/{name}/tree/{rev}", "tree", list_tree),
    Route("GET", "/api/{type}/{ns}/{name}/tree/{rev}/{path}", "tree", list_tree),
    Route("POST", "/api/{type}/{ns}/{name}/paths-info/{rev}", "paths_info", paths_info),
    Route("GET", "/api/{type}/{ns}/{name}/refs", "refs", list_refs),
    Route("GET", "/api/{type}/{ns}/{name}/commits/{rev}", "commits", list_commits),
    Route("POST", "/api/{type}/{ns}/{name}/branch/{ref}", "branch", create_branch),
    Route("DELETE", "/api/{type}/{ns}/{name}/branch/{ref}", "branch", delete_branch),
    Route("POST", "/api/{type}/{ns}/{name}/tag/{rev}", "tag", create_tag),
    Route("DELETE", "/api/{type}/{ns}/{name}/tag/{rev}", "tag", delete_tag),
    Route("POST", "/api/{type}/{ns}/{name}/super-squash/{rev}", "squash", super_squash),
]
