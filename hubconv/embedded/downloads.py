"""Reading files: where they are (`resolve`), their bytes on the CDN, and safetensors headers."""

import json
import struct
from typing import Any

from starlette.responses import Response

from hubconv.embedded.access import readable_repo, type_of
from hubconv.embedded.bodies import BlockSource, FileSource, body_answer
from hubconv.embedded.records import FileEntry, FileTree
from hubconv.embedded.refusals import Refusal, entry_not_found
from hubconv.embedded.repository import MAIN, Repository
from hubconv.embedded.state import State
from hubconv.embedded.wire import Call, Route, json_answer
from hubconv.embedded.xetread import XetSource

_MOST_HEADER_BYTES = 100_000_000


def resolve(call: Call) -> Response:
    """Answer with a regular file, or with the way to a large one."""
    repo = readable_repo(call)
    commit = repo.resolve(call.params["rev"])
    path = call.params["path"]
    entry = repo.tree(commit).get(path)
    if entry is None:
        raise entry_not_found(path, commit)
    headers = {"X-Repo-Commit": commit}
    if entry.sha256 is None:
        headers["ETag"] = f'"{entry.oid}"'
        source = FileSource(call.state.blobs.git_path(entry.oid))
        return body_answer(call, entry.size, source, headers)
    if repo.large(entry.sha256) is None:
        raise entry_not_found(path, commit)
    return Response(None, 302, {**headers, **_way_to(call, repo, commit, entry)})


def blob(call: Call) -> Response:
    """Answer with a large file's bytes; the link itself is the permission."""
    call.state.check_link(call.path, call.query)
    repo = call.state.catalog.find_by_key(call.params["key"])
    sha256 = call.params["oid"]
    large = repo.large(sha256)
    if large is None:
        raise Refusal(404, "The file is gone.")
    source = _source(call.state, large.sha256, large.xet, large.size)
    return body_answer(call, large.size, source, {"ETag": f'"{sha256}"'})


def safetensors_metadata(call: Call) -> Response:
    """Answer with the headers of all shards that an index on main speaks of."""
    repo = readable_repo(call)
    tree = repo.tree(repo.resolve(MAIN))
    name = call.params["path"]
    index = json.loads(_read(call.state, tree, name, 0, None))
    folder = name.rpartition("/")[0]
    shards = sorted(set(index["weight_map"].values()))
    headers = {}
    for shard in shards:
        path = f"{folder}/{shard}" if folder else shard
        (size,) = struct.unpack("<Q", _read(call.state, tree, path, 0, 8))
        if size > _MOST_HEADER_BYTES:
            raise Refusal(400, f"{path} is not a safetensors file.")
        headers[shard] = json.loads(_read(call.state, tree, path, 8, 8 + size))
    rest = {key: value for key, value in index.items() if key != "weight_map"}
    return json_answer({"index": rest, "headers": headers})


def _way_to(call: Call, repo: Repository, commit: str, entry: FileEntry) -> dict[str, str]:
    state = call.state
    link = state.link(f"/blob/{repo.card.key}/{entry.sha256}", origin=state.cdn)
    headers = {
        "Location": link,
        "ETag": f'"{entry.sha256}"',
        "X-Linked-Etag": f'"{entry.sha256}"',
        "X-Linked-Size": str(entry.size),
        "Accept-Ranges": "bytes",
    }
    if entry.xet is not None and state.mode == "xet":
        token = f"{state.endpoint}/api/{type_of(call)}s/{repo.id}/xet-read-token/{commit}"
        plan = f"{state.cdn}/v1/reconstructions/{entry.xet}"
        headers["X-Xet-Hash"] = entry.xet
        headers["Link"] = f'<{token}>; rel="xet-auth", <{plan}>; rel="xet-reconstruction-info"'
    return headers


def _source(state: State, sha256: str, xet: str | None, size: int) -> BlockSource:
    if xet is None:
        return FileSource(state.blobs.large_path(sha256))
    return XetSource(state, xet, size)


def _read(state: State, tree: FileTree, path: str, first: int, end: int | None) -> bytes:
    """Bytes `first` to `end` (exclusive) of a file of a tree."""
    entry: Any = tree.get(path)
    if entry is None:
        raise entry_not_found(path)
    end = entry.size if end is None else min(end, entry.size)
    if entry.sha256 is None:
        return state.blobs.get_git(entry.oid)[first:end]
    return b"".join(_source(state, entry.sha256, entry.xet, entry.size).open(first, end))


_RESOLVE = "/{prefix}{ns}/{name}/resolve/{rev}/{path}"
_METADATA = "/api/{type}/{ns}/{name}/safetensors-metadata/{path}"
ROUTES = [
    Route("GET", _METADATA, "safetensors_metadata", safetensors_metadata),
    Route("HEAD", _RESOLVE, "resolve", resolve),
    Route("GET", _RESOLVE, "resolve", resolve),
]
CDN_ROUTES = [
    Route("HEAD", "/blob/{key}/{oid}", "blob", blob),
    Route("GET", "/blob/{key}/{oid}", "blob", blob),
]
