"""The records a repository is made of, and their JSON on disk."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FileTree = dict[str, "FileEntry"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of one commit.

    Attributes:
        oid: git sha1 of the content, or of the pointer text of a large file.
        size: bytes of the content.
        sha256: hex sha256 of a large file, None for a regular one.
        xet: xet hash of a large file that came through xet.
    """

    oid: str
    size: int
    sha256: str | None = None
    xet: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """One immutable point in a repository's history."""

    id: str
    parents: tuple[str, ...]
    tree: str
    title: str
    message: str
    author: str
    date: str


@dataclass(frozen=True, slots=True)
class LargeObject:
    """A large file that a repository holds, committed or not yet.

    Attributes:
        sha256: hex sha256 of the content.
        size: bytes of the content.
        xet: xet hash if the bytes lie in the xet store, None if they lie in the blob store.
        pushed_at: when it came.
        path: the last path it was committed under.
    """

    sha256: str
    size: int
    xet: str | None
    pushed_at: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class RepoCard:
    """What is known of a repository besides its history; `former` are names that lead to it."""

    key: str
    type: str
    id: str
    private: bool = False
    gated: str | bool = False
    created_at: str = ""
    granted: tuple[str, ...] = ()
    downloads: int = 0
    former: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Discussion:
    """A discussion or a pull request. `base` is the commit a pull request grew from."""

    num: int
    title: str
    author: str
    created_at: str
    status: str
    is_pull: bool
    base: str | None = None
    merge_commit: str | None = None
    events: tuple[dict[str, Any], ...] = field(default=())


def now() -> str:
    """The present moment as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(content: bytes) -> str:
    """The sha1 by which git knows a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of a large file."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    )


def large_entry(large: LargeObject) -> FileEntry:
    """A tree's entry for a large file."""
    oid = git_oid(pointer(large.sha256, large.size))
    return FileEntry(oid, large.size, large.sha256, large.xet)


def digest(value: object) -> str:
    """sha1 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def new_commit(
    *, parents: tuple[str, ...], tree: str, title: str, message: str, author: str
) -> Commit:
    """Make a commit of the present moment; its id is the digest of all that it says."""
    date = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    bare = Commit("", parents, tree, title, message, author, date)
    return replace(bare, id=digest(asdict(bare)))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, separators=(",", ":"))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:  # noqa: ANN401 - the callers know the shape
    """Read a JSON file, or None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
