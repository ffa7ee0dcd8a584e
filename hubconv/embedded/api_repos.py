"""Accounts and repositories: who am I, create, delete, move, settings, info."""

import json
from typing import Any

from starlette.responses import Response

from hubconv.embedded.access import readable_repo, type_of, visible_repo, writable_repo
from hubconv.embedded.accounts import demand_login, demand_write, may_see
from hubconv.embedded.cards import front_matter_json
from hubconv.embedded.commits import changes_between
from hubconv.embedded.records import FileEntry, FileTree, pointer
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.repository import MAIN, Repository
from hubconv.embedded.wire import Call, Route, json_answer, page_of

_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def repo_url(call: Call, repo: Repository) -> str:
    """The web address of a repository."""
    return f"{call.state.endpoint}/{_PREFIXES[repo.card.type]}{repo.id}"


def whoami(call: Call) -> Response:
    """Say whose token it is."""
    account = demand_login(call.account)
    if account.only:
        raise Refusal(403, "This token stands for a CI job, not for a user.")
    return json_answer(account.whoami())


def create_repo(call: Call) -> Response:
    """Make a repository."""
    wish = call.json()
    account = demand_login(call.account)
    namespace = wish.get("organization") or account.name
    demand_write(account, namespace)
    repo_type = wish.get("type") or "model"
    repo_id = f"{namespace}/{wish.get('name')}"
    is_private = wish.get("visibility") == "private" or bool(wish.get("private"))
    try:
        repo = call.state.catalog.create(
            repo_type, repo_id, private=is_private, author=account.name
        )
    except Refusal as refusal:
        if refusal.status == 409:
            there = call.state.catalog.find(repo_type, repo_id)
            refusal.fields.update(url=repo_url(call, there), name=there.id, id=there.card.key)
        raise
    return json_answer({"url": repo_url(call, repo), "name": repo.id, "id": repo.card.key})


def delete_repo(call: Call) -> Response:
    """Take a repository away."""
    wish = call.json()
    namespace = wish.get("organization") or demand_login(call.account).name
    call.params.update(type=f"{wish.get('type') or 'model'}s", ns=namespace, name=wish["name"])
    repo, _ = writable_repo(call)
    call.state.catalog.delete(repo)
    return json_answer({})


def move_repo(call: Call) -> Response:
    """Give a repository another name."""
    wish = call.json()
    namespace, _, name = str(wish["fromRepo"]).partition("/")
    call.params.update(type=f"{wish.get('type') or 'model'}s", ns=namespace, name=name)
    repo, account = writable_repo(call)
    demand_write(account, str(wish["toRepo"]).split("/", 1)[0])
    call.state.catalog.move(repo, str(wish["toRepo"]))
    return json_answer({"url": repo_url(call, repo)})


def change_settings(call: Call) -> Response:
    """Change visibility or the gate."""
    repo, _ = writable_repo(call)
    wish = call.json()
    changes: dict[str, Any] = {}
    if "gated" in wish:
        if wish["gated"] not in {"auto", "manual", False}:
            raise Refusal(400, '"gated" must be "auto", "manual" or false')
        changes["gated"] = wish["gated"]
    if "visibility" in wish or "private" in wish:
        changes["private"] = wish.get("visibility") == "private" or wish.get("private") is True
    repo.save_card(**changes)
    return json_answer({"private": repo.card.private, "gated": repo.card.gated})


def check_read(call: Call) -> Response:
    """Say yes if the caller may read the files."""
    readable_repo(call)
    return json_answer({})


def check_write(call: Call) -> Response:
    """Say yes if the caller may write."""
    writable_repo(call)
    return json_answer({})


def grant_access(call: Call) -> Response:
    """Let a user through the gate."""
    repo, _ = writable_repo(call)
    user = call.json().get("user")
    repo.save_card(granted=tuple(sorted({*repo.card.granted, str(user)})))
    return json_answer({})


def list_repos(call: Call) -> Response:
    """List the repositories that the caller may know of."""
    author, search = call.query.get("author"), call.query.get("search", "").lower()
    wanted = call.query_lists.get("expand") or call.query_lists.get("expand[]") or []
    found = [
        _listed_info(call, repo, wanted)
        for repo in call.state.catalog.of_type(type_of(call))
        if may_see(call.account, repo.card)
        and (author is None or repo.id.split("/", 1)[0] == author)
        and search in repo.id.lower()
    ]
    page, headers = page_of(call, found, call.state.knobs.page_size)
    return json_answer(page, headers=headers)


def repo_info(call: Call) -> Response:
    """Say what is known of a repository at a revision."""
    repo = visible_repo(call)
    commit = repo.commit(repo.resolve(call.params.get("rev", MAIN)))
    tree = repo.tree(commit.id)
    with_blobs = call.query.get("blobs", "").lower() == "true"
    card = card_of(call, tree)
    everything = {
        **_short_info(repo),
        "sha": commit.id,
        "lastModified": repo.commit(repo.resolve(MAIN)).date,
        "disabled": False,
        "downloads": repo.card.downloads,
        "downloadsAllTime": repo.card.downloads,
        "likes": 0,
        "tags": _tags(card),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card or None,
        "config": config_of(call, tree) or None,
        "siblings": [_sibling(path, entry, with_blobs) for path, entry in sorted(tree.items())],
        "usedStorage": _used_bytes(repo, tree),
    }
    wanted = call.query_lists.get("expand") or call.query_lists.get("expand[]")
    if wanted:
        kept = {"id", "_id", "modelId", *wanted}
        everything = {name: value for name, value in everything.items() if name in kept}
    return json_answer({name: value for name, value in everything.items() if value is not None})


def card_of(call: Call, tree: FileTree) -> dict[str, Any]:
    """The front matter of a tree's README."""
    entry = tree.get("README.md")
    if entry is None or entry.sha256 is not None:
        return {}
    return front_matter_json(call.state.blobs.get_git(entry.oid).decode("utf-8", "replace"))


def config_of(call: Call, tree: FileTree) -> dict[str, Any]:
    """What the Hub tells of a tree's config.json: the family, and whether it is quantized."""
    entry = tree.get("config.json")
    if entry is None or entry.sha256 is not None:
        return {}
    try:
        config = json.loads(call.state.blobs.get_git(entry.oid))
    except ValueError:
        return {}
    if not isinstance(config, dict):
        return {}
    told = {name: config[name] for name in ("architectures", "model_type") if name in config}
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict) and "quant_method" in quantized:
        told["quantization_config"] = {"quant_method": quantized["quant_method"]}
    return told


def large_members(entry: FileEntry) -> dict[str, Any]:
    """Hash and sizes of a large file as listings carry them, without the hash's name."""
    size = len(pointer(entry.sha256 or "", entry.size))
    return {"size": entry.size, "pointerSize": size}


def _listed_info(call: Call, repo: Repository, wanted: list[str]) -> dict[str, Any]:
    """An entry of a listing: the usual members, or those that were asked for."""
    info = _short_info(repo)
    if not wanted:
        return info
    commit = repo.resolve(MAIN)
    if "sha" in wanted:
        info["sha"] = commit
    if "config" in wanted:
        info["config"] = config_of(call, repo.tree(commit))
    return {name: value for name, value in info.items() if name in {"_id", "id", *wanted}}


def _short_info(repo: Repository) -> dict[str, Any]:
    info: dict[str, Any] = {
        "_id": repo.card.key,
        "id": repo.id,
        "author": repo.id.split("/", 1)[0],
        "private": repo.card.private,
        "gated": repo.card.gated,
        "createdAt": repo.card.created_at,
    }
    if repo.card.type == "model":
        info["modelId"] = repo.id
    return info


def _sibling(path: str, entry: FileEntry, with_blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": path}
    if with_blobs:
        sibling |= {"size": entry.size, "blobId": entry.oid}
        if entry.sha256 is not None:
            sibling["lfs"] = {"sha256": entry.sha256, **large_members(entry)}
    return sibling


def _tags(card: dict[str, Any]) -> list[str]:
    tags = [str(tag) for tag in _listed(card.get("tags"))]
    tags += [str(card[name]) for name in ("library_name", "pipeline_tag") if card.get(name)]
    tags += [f"license:{name}" for name in _listed(card.get("license"))]
    tags += [f"base_model:{name}" for name in _listed(card.get("base_model"))]
    relation = card.get("base_model_relation")
    if relation:
        tags += [f"base_model:{relation}:{name}" for name in _listed(card.get("base_model"))]
    return list(dict.fromkeys(tags))


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _used_bytes(repo: Repository, tree: FileTree) -> int:
    small = sum(entry.size for entry in changes_between({}, tree).values() if entry)
    return max(small, sum(large.size for large in repo.all_large()))


ROUTES = [
    Route("GET", "/api/whoami-v2", "whoami", whoami),
    Route("POST", "/api/repos/create", "create_repo", create_repo),
    Route("DELETE", "/api/repos/delete", "delete_repo", delete_repo),
    Route("POST", "/api/repos/move", "move_repo", move_repo),
    Route("PUT", "/api/{type}/{ns}/{name}/settings", "settings", change_settings),
    Route("GET", "/api/{type}/{ns}/{name}/auth-check", "auth_check", check_read),
    Route("GET", "/api/{type}/{ns}/{name}/auth-check/write", "auth_check", check_write),
    Route("POST", "/api/{type}/{ns}/{name}/user-access-request/grant", "grant", grant_access),
    Route("GET", "/api/{type}", "list_repos", list_repos),
    Route("GET", "/api/{type}/{ns}/{name}", "repo_info", repo_info),
    Route("GET", "/api/{type}/{ns}/{name}/revision/{rev}", "repo_info", repo_info),
]
