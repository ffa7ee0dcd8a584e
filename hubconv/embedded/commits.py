"""Turning the lines of a commit request into a commit, and branches into one another."""

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hubconv.embedded import attributes
from hubconv.embedded.blobs import BlobStore
from hubconv.embedded.cards import card_faults
from hubconv.embedded.records import Commit, FileEntry, FileTree, large_entry
from hubconv.embedded.refusals import Refusal, entry_not_found
from hubconv.embedded.repository import Repository

ATTRIBUTES = ".gitattributes"
STALE_PARENT = "A commit has happened since. Please refresh and try again."
UNKNOWN_LARGE = "LFS pointer pointed to a file that does not exist"


@dataclass(slots=True)
class CommitRequest:
    """What a client asks to commit.

    Attributes:
        title: First line of the message.
        message: The rest.
        parent: The commit that the branch must still be at, if the client cares.
        lines: The operations as they came.
    """

    title: str = ""
    message: str = ""
    parent: str | None = None
    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def parse_commit(body: bytes) -> CommitRequest:
    """Read the newline-delimited JSON of a commit request.

    Raises:
        Refusal: A line is none of the protocol's.
    """
    request = CommitRequest()
    for key, value in _json_lines(body):
        if key == "header":
            request.title = str(value.get("summary") or "")
            request.message = str(value.get("description") or "")
            request.parent = value.get("parentCommit") or None
        else:
            request.lines.append((key, value))
    if not request.title:
        raise Refusal(400, "The commit has no summary.")
    return request


def apply_commit(
    repo: Repository, blobs: BlobStore, head: str, request: CommitRequest, author: str
) -> Commit:
    """Write the commit that a request asks for on top of a commit; no ref moves.

    Raises:
        Refusal: The branch has moved on, an operation is impossible, or the card is broken.
    """
    if request.parent is not None and request.parent != head:
        raise Refusal(412, STALE_PARENT)
    tree = repo.tree(head)
    new_large: list[str] = []
    for key, value in request.lines:
        _apply(repo, blobs, tree, new_large, key, value)
    _mend_attributes(blobs, tree, new_large)
    return repo.save_commit(
        tree, parents=(head,), title=request.title, message=request.message, author=author
    )


def changes_between(old: FileTree, new: FileTree) -> dict[str, FileEntry | None]:
    """Paths that differ, with their new entry, or None where the file is gone."""
    paths = sorted(old.keys() | new.keys())
    return {path: new.get(path) for path in paths if old.get(path) != new.get(path)}


def conflicts(base: FileTree, ours: FileTree, theirs: FileTree) -> list[str]:
    """Paths that both sides changed since the base, in different ways."""
    mine = changes_between(base, ours)
    return [
        path
        for path, entry in changes_between(base, theirs).items()
        if path in mine and mine[path] != entry and path != ATTRIBUTES
    ]


def merged(blobs: BlobStore, base: FileTree, ours: FileTree, theirs: FileTree) -> FileTree:
    """Our tree with their changes since the base; `.gitattributes` is the union of both."""
    tree = dict(ours)
    for path, entry in changes_between(base, theirs).items():
        if entry is None:
            tree.pop(path, None)
        elif path != ATTRIBUTES:
            tree[path] = entry
    large = [path for path, entry in tree.items() if entry.sha256 is not None]
    _mend_attributes(blobs, tree, large)
    return tree


def _json_lines(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in body.splitlines():
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, f"A line of the commit cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise Refusal(400, f"The value of a {key} line is not an object.")
        yield key, value


def _apply(
    repo: Repository,
    blobs: BlobStore,
    tree: FileTree,
    new_large: list[str],
    key: str,
    value: dict[str, Any],
) -> None:
    path = _clean_path(value.get("path"), is_folder=key == "deletedFolder")
    if key == "file":
        tree[path] = _regular_file(blobs, path, value)
    elif key == "lfsFile":
        tree[path] = _large_file(repo, path, value)
        new_large.append(path)
    elif key == "deletedFile":
        if path not in tree:
            raise entry_not_found(f"A file with this name doesn't exist: {path}")
        del tree[path]
    elif key == "deletedFolder":
        inside = [name for name in tree if name.startswith(f"{path}/")]
        if not inside:
            raise entry_not_found(f"A folder with this name doesn't exist: {path}")
        for name in inside:
            del tree[name]
    else:
        raise Refusal(400, f"Unknown commit operation {key}")


def _clean_path(path: object, *, is_folder: bool) -> str:
    if not isinstance(path, str):
        raise Refusal(400, "A commit operation has no path.")
    clean = path.rstrip("/") if is_folder else path
    parts = clean.split("/")
    if any(part in {"", ".", "..", ".git"} for part in parts) or "\0" in clean:
        raise Refusal(400, f"Invalid path in repo: {path}")
    return clean


def _regular_file(blobs: BlobStore, path: str, value: dict[str, Any]) -> FileEntry:
    content = str(value.get("content", ""))
    try:
        data = (
            base64.b64decode(content, validate=True)
            if value.get("encoding") == "base64"
            else content.encode()
        )
    except binascii.Error as error:
        raise Refusal(400, f"The content of {path} is not base64.") from error
    if len(data) > attributes.LARGE_FROM_BYTES:
        message = f"{path} is larger than 10 MB and must be sent as a large file."
        raise Refusal(400, message)
    if path == "README.md":
        _check_card(data)
    return FileEntry(blobs.put_git(data), len(data))


def _check_card(data: bytes) -> None:
    errors, _ = card_faults(data.decode("utf-8", "replace"))
    if errors:
        text = "\n".join(f"- {error}" for error in errors)
        fields = {"errors": [{"message": error} for error in errors]}
        raise Refusal(400, f"Invalid metadata in README.md.\n{text}", fields=fields)


def _large_file(repo: Repository, path: str, value: dict[str, Any]) -> FileEntry:
    if value.get("algo") != "sha256":
        raise Refusal(400, f"{path}: the only hash known for large files is sha256.")
    large = repo.large(str(value.get("oid")))
    if large is None:
        raise Refusal(400, UNKNOWN_LARGE)
    size = value.get("size")
    if size is not None and size != large.size:
        message = f"{path}: the large file has {large.size} bytes, not {size}."
        raise Refusal(400, message)
    if large.path != path:
        repo.save_large(replace(large, path=path))
    return large_entry(large)


def _mend_attributes(blobs: BlobStore, tree: FileTree, large_paths: list[str]) -> None:
    """Let `.gitattributes` speak of every large file, as the Hub does by itself."""
    entry = tree.get(ATTRIBUTES)
    old = blobs.get_git(entry.oid).decode("utf-8", "replace") if entry else ""
    new = attributes.with_rules_for(old, [path for path in large_paths if path in tree])
    if new != old:
        data = new.encode()
        tree[ATTRIBUTES] = FileEntry(blobs.put_git(data), len(data))
