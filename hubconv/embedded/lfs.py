"""Large files by the LFS protocol: the batch, uploads whole or in parts, what is held."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from math import ceil
from typing import Any

from starlette.responses import Response

from hubconv.embedded.access import visible_repo, writable_repo
from hubconv.embedded.accounts import demand_write, may_see
from hubconv.embedded.records import FileTree, LargeObject, large_entry, now
from hubconv.embedded.refusals import Refusal, repo_not_found
from hubconv.embedded.repository import MAIN, REF_KINDS, Repository
from hubconv.embedded.wire import Call, Route, json_answer, page_of

_LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}
_HEX = frozenset("0123456789abcdef")


def batch(call: Call) -> Response:
    """Say where to send large files, or that they are here."""
    repo, _ = writable_repo(call)
    wish = call.json()
    if wish.get("operation") != "upload":
        raise Refusal(400, "This Hub's LFS batch only knows the operation upload.")
    offered = wish.get("transfers") or ["basic"]
    chosen = "multipart" if "multipart" in offered else "basic"
    objects = [_batch_object(call, repo, item, chosen) for item in wish.get("objects") or []]
    text = json.dumps({"transfer": chosen, "objects": objects})
    return Response(text, headers=_LFS_JSON)


def verify(call: Call) -> Response:
    """Check that an upload arrived whole, and let the repository hold it."""
    repo, _ = writable_repo(call)
    wish = call.json()
    large = repo.large(_checked_oid(wish.get("oid")))
    if large is None or large.size != wish.get("size"):
        raise Refusal(404, f"The content of {wish.get('oid')} did not arrive whole.")
    return json_answer({"message": "File validated"})


def complete(call: Call) -> Response:
    """Put the parts of an upload together."""
    call.state.check_link(call.path, call.query)
    wish = call.json()
    sha256 = _checked_oid(wish.get("oid"))
    if sha256 != call.query["oid"]:
        raise Refusal(400, "The parts were uploaded for another file.")
    parts = sorted((int(part["partNumber"]), str(part["etag"])) for part in wish.get("parts") or [])
    call.state.blobs.join_parts(call.query["upload"], sha256, parts)
    repo = call.state.catalog.find_by_key(call.query["repo"])
    _hold(call, repo, sha256)
    return json_answer({"success": True})


async def receive_whole(call: Call, body: AsyncIterator[bytes]) -> Response:
    """Take a large file in one piece."""
    call.state.check_link(call.path, call.query)
    with call.state.blobs.incoming(hashed=True) as incoming:
        async for block in body:
            await call.run(incoming.write, block)
        await call.run(call.state.blobs.keep_large, incoming, call.params["oid"])
    repo = call.state.catalog.find_by_key(call.query["repo"])
    await call.run(_hold, call, repo, call.params["oid"])
    return Response(None, 200, {"ETag": f'"{call.params["oid"]}"'})


async def receive_part(call: Call, body: AsyncIterator[bytes]) -> Response:
    """Take one part of a large file."""
    call.state.check_link(call.path, call.query)
    upload, number = call.params["upload"], int(call.params["num"])
    with call.state.blobs.incoming_part(upload, int(call.query["begin"])) as incoming:
        async for block in body:
            await call.run(incoming.write, block)
    etag = await call.run(call.state.blobs.keep_part, upload, number)
    return Response(None, 200, {"ETag": f'"{etag}"'})


def list_large(call: Call) -> Response:
    """List the large files that a repository holds."""
    repo, _ = writable_repo(call)
    page, headers = page_of(call, repo.all_large(), call.state.knobs.page_size)
    items = [
        {
            "fileOid": large.sha256,
            "filename": large.path,
            "oid": large_entry(large).oid,
            "pushedAt": large.pushed_at,
            "ref": f"refs/heads/{MAIN}",
            "size": large.size,
            **({"xetHash": large.xet} if large.xet and call.state.mode == "xet" else {}),
        }
        for large in page
    ]
    return json_answer(items, headers=headers)


def delete_large(call: Call) -> Response:
    """Let go of large files, and of their traces in the history if asked."""
    repo, _ = writable_repo(call)
    deletions = call.json().get("deletions") or {}
    doomed = {str(sha256) for sha256 in deletions.get("sha") or []}
    with repo.lock:
        if deletions.get("rewriteHistory"):
            _rewrite_history(repo, doomed)
        for sha256 in doomed:
            repo.drop_large(sha256)
    return json_answer({})


def duplicate(call: Call) -> Response:
    """Let another repository hold large files of this one, without moving a byte."""
    source = visible_repo(call)
    wish = call.json()
    kind, name = str(wish["target"]["type"]), str(wish["target"]["name"])
    target = call.state.catalog.find(kind, name)
    if not may_see(call.account, target.card):
        raise repo_not_found()
    demand_write(call.account, target.id.split("/", 1)[0], target.id)
    failed = []
    for file in wish.get("files") or []:
        large = source.large(str(file.get("sha256")))
        if large is None or (large.xet is not None and large.xet != file.get("xetHash")):
            failed.append({"sha256": file.get("sha256"), "error": "File not found in the source"})
        else:
            target.save_large(replace(large, pushed_at=now(), path=""))
    return json_answer({"failed": failed})


def _batch_object(
    call: Call, repo: Repository, item: dict[str, Any], chosen: str
) -> dict[str, Any]:
    oid, size = _checked_oid(item.get("oid")), int(item.get("size", -1))
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if repo.large(oid) is not None:
        return answer
    if size <= 0:
        answer["error"] = {"code": 422, "message": "Large files have at least one byte."}
        return answer
    key = repo.card.key
    if chosen == "multipart" and size >= call.state.knobs.multipart_from_bytes:
        upload = _multipart_action(call, key, oid, size)
    else:
        path = f"/upload/{oid}"
        upload = {"href": call.state.link(path, origin=call.state.cdn, repo=key), "header": {}}
    verify_url = f"{call.state.endpoint}{call.path.removesuffix('/objects/batch')}/verify"
    actions = {"upload": upload, "verify": {"href": verify_url, "header": {}}}
    return {**answer, "authenticated": True, "actions": actions}


def _multipart_action(call: Call, key: str, oid: str, size: int) -> dict[str, Any]:
    state = call.state
    upload = uuid.uuid4().hex
    header = {"chunk_size": str(state.knobs.part_bytes)}
    for number in range(1, ceil(size / state.knobs.part_bytes) + 1):
        begin = (number - 1) * state.knobs.part_bytes
        path = f"/part/{upload}/{number}"
        header[str(number)] = state.link(path, origin=state.cdn, begin=begin)
    path = "/api/complete_multipart"
    href = state.link(path, origin=state.endpoint, upload=upload, oid=oid, repo=key)
    return {"href": href, "header": header}


def _checked_oid(oid: object) -> str:
    if not isinstance(oid, str) or len(oid) != 64 or not set(oid) <= _HEX:
        raise Refusal(400, f"Not a sha256: {oid}")
    return oid


def _hold(call: Call, repo: Repository, sha256: str) -> None:
    """Let a repository hold a blob that has just arrived."""
    size = call.state.blobs.large_path(sha256).stat().st_size
    repo.save_large(LargeObject(sha256, size, None, now()))


def _rewrite_history(repo: Repository, doomed: set[str]) -> None:
    """Make all refs anew without the doomed files."""
    refs = repo.refs()
    new_ids: dict[str, str] = {}
    for kind in REF_KINDS:
        for name, head in refs[kind].items():
            refs[kind][name] = _rewrite(repo, head, doomed, new_ids)
    repo.save_refs(refs)


def _rewrite(repo: Repository, head: str, doomed: set[str], new_ids: dict[str, str]) -> str:
    for commit in reversed(list(repo.log(head))):
        if commit.id in new_ids:
            continue
        parents = tuple(new_ids.get(parent, parent) for parent in commit.parents)
        tree = repo.tree(commit.id)
        kept: FileTree = {path: entry for path, entry in tree.items() if entry.sha256 not in doomed}
        if parents == commit.parents and len(kept) == len(tree):
            new_ids[commit.id] = commit.id
            continue
        made = repo.save_commit(
            kept, parents=parents, title=commit.title, message=commit.message, author=commit.author
        )
        new_ids[commit.id] = made.id
    return new_ids[head]


ROUTES = [
    Route("POST", "/{prefix}{ns}/{name}/info/lfs/objects/batch", "lfs_batch", batch),
    Route("POST", "/{prefix}{ns}/{name}/info/lfs/verify", "lfs_verify", verify),
    Route("POST", "/api/complete_multipart", "lfs_complete", complete),
    Route("GET", "/api/{type}/{ns}/{name}/lfs-files", "lfs_files", list_large),
    Route("POST", "/api/{type}/{ns}/{name}/lfs-files/batch", "lfs_files", delete_large),
    Route("POST", "/api/{type}/{ns}/{name}/lfs-files/duplicate", "duplicate", duplicate),
]
CDN_ROUTES = [
    Route("PUT", "/upload/{oid}", "lfs_put", stream=receive_whole),
    Route("PUT", "/part/{upload}/{num}", "lfs_part", stream=receive_part),
]
