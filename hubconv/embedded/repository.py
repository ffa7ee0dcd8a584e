"""One repository in its folder: refs, immutable commits and trees, large objects, discussions.

Every change of a ref is one replaced file, made under the repository's lock; what a ref points to
was written before. So a reader, or a restart, sees the state before or after, never between.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hubconv.embedded.records import (
    Commit,
    Discussion,
    FileEntry,
    FileTree,
    LargeObject,
    RepoCard,
    digest,
    new_commit,
    read_json,
    write_json,
)
from hubconv.embedded.refusals import Refusal, revision_not_found

MAIN = "main"
REF_KINDS = ("branches", "tags", "pulls")
_PREFIXES = (("refs/pr/", "pulls"), ("refs/heads/", "branches"), ("refs/tags/", "tags"))
_TREES_KEPT = 16


class Repository:
    """A repository; hold `lock` from reading a ref to moving it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._trees: dict[str, FileTree] = {}
        card = read_json(folder / "card.json")
        lists = {name: tuple(card.get(name, ())) for name in ("granted", "former")}
        self.card = RepoCard(**{**card, **lists})

    @property
    def id(self) -> str:
        """Namespace and name."""
        return self.card.id

    def save_card(self, **changes: Any) -> None:  # noqa: ANN401
        """Change what is known of the repository."""
        with self.lock:
            card = replace(self.card, **changes)
            write_json(self.folder / "card.json", asdict(card))
            self.card = card

    # Refs

    def refs(self) -> dict[str, dict[str, str]]:
        """Branches, tags and pull requests, each with its commit."""
        refs: dict[str, dict[str, str]] = read_json(self.folder / "refs.json") or {}
        return {kind: refs.get(kind, {}) for kind in REF_KINDS}

    def move_ref(self, kind: str, name: str, commit: str | None) -> None:
        """Point a ref at a commit, or take it away."""
        with self.lock:
            refs = self.refs()
            refs[kind].pop(name, None)
            if commit is not None:
                refs[kind][name] = commit
            self.save_refs(refs)

    def save_refs(self, refs: dict[str, dict[str, str]]) -> None:
        """Replace all refs at once."""
        write_json(self.folder / "refs.json", refs)

    def resolve(self, revision: str) -> str:
        """The commit behind a branch, tag, pull request or commit id.

        Raises:
            Refusal: There is none.
        """
        found = self.find_ref(revision)
        if found is not None:
            return self.refs()[found[0]][found[1]]
        if self._is_commit_id(revision) and self._commit_path(revision).exists():
            return revision
        raise revision_not_found(revision)

    def find_ref(self, revision: str) -> tuple[str, str] | None:
        """The kind and the name of the ref that a revision means."""
        refs = self.refs()
        for prefix, kind in (
            ("refs/pr/", "pulls"),
            ("refs/heads/", "branches"),
            ("refs/tags/", "tags"),
        ):
            name = revision.removeprefix(prefix)
            if revision.startswith(prefix) and name in refs[kind]:
                return kind, name
        for kind in ("branches", "tags"):
            if revision in refs[kind]:
                return kind, revision
        return None

    def writable_ref(self, revision: str) -> tuple[str, str]:
        """The branch or pull request that a commit may go to.

        Raises:
            Refusal: There is none.
        """
        found = self.find_ref(revision)
        if found is None:
            self.resolve(revision)
            raise Refusal(400, f"Invalid rev id: {revision} is a commit, not a branch.")
        if found[0] == "tags":
            raise Refusal(400, f"Invalid rev id: {revision} is a tag, not a branch.")
        return found

    # Commits and trees

    def commit(self, commit_id: str) -> Commit:
        """A commit by its id."""
        value = read_json(self._commit_path(commit_id))
        if value is None:
            raise revision_not_found(commit_id)
        return Commit(**{**value, "parents": tuple(value["parents"])})

    def tree(self, commit_id: str) -> FileTree:
        """All files of a commit."""
        tree_id = self.commit(commit_id).tree
        with self.lock:
            if tree_id not in self._trees:
                value = read_json(self.folder / "trees" / f"{tree_id}.json")
                self._trees[tree_id] = {path: FileEntry(*entry) for path, entry in value.items()}
                if len(self._trees) > _TREES_KEPT:
                    self._trees.pop(next(iter(self._trees)))
            return dict(self._trees[tree_id])

    def log(self, commit_id: str) -> Iterator[Commit]:
        """A commit and those before it, newest first (first parents)."""
        at: str | None = commit_id
        while at is not None:
            commit = self.commit(at)
            yield commit
            at = commit.parents[0] if commit.parents else None

    def save_commit(
        self, tree: FileTree, *, parents: tuple[str, ...], title: str, message: str, author: str
    ) -> Commit:
        """Write a commit and its tree; no ref moves."""
        files = {
            path: [entry.oid, entry.size, entry.sha256, entry.xet]
            for path, entry in sorted(tree.items())
        }
        tree_id = digest(files)
        path = self.folder / "trees" / f"{tree_id}.json"
        if not path.exists():
            write_json(path, files)
        commit = new_commit(
            parents=parents, tree=tree_id, title=title, message=message, author=author
        )
        write_json(self._commit_path(commit.id), asdict(commit))
        return commit

    def _commit_path(self, commit_id: str) -> Path:
        return self.folder / "commits" / f"{commit_id}.json"

    @staticmethod
    def _is_commit_id(text: str) -> bool:
        return len(text) == 40 and all(letter in "0123456789abcdef" for letter in text)

    # Large objects

    def large(self, sha256: str) -> LargeObject | None:
        """A large object that this repository holds."""
        value = read_json(self._large_path(sha256))
        return LargeObject(**value) if value is not None else None

    def save_large(self, large: LargeObject) -> None:
        """Let this repository hold a large object."""
        write_json(self._large_path(large.sha256), asdict(large))

    def drop_large(self, sha256: str) -> None:
        """Let go of a large object."""
        self._large_path(sha256).unlink(missing_ok=True)

    def all_large(self) -> list[LargeObject]:
        """The large objects, oldest first."""
        paths = sorted((self.folder / "large").glob("*.json"))
        values = (LargeObject(**json.loads(path.read_text(encoding="utf-8"))) for path in paths)
        return sorted(values, key=lambda large: (large.pushed_at, large.sha256))

    def _large_path(self, sha256: str) -> Path:
        return self.folder / "large" / f"{sha256}.json"

    # Discussions

    def discussion(self, num: int) -> Discussion:
        """A discussion by its number.

        Raises:
            Refusal: There is none.
        """
        value = read_json(self.folder / "discussions" / f"{num}.json")
        if value is None:
            raise Refusal(404, f"Discussion {num} not found")
        return Discussion(**{**value, "events": tuple(value["events"])})

    def save_discussion(self, discussion: Discussion) -> None:
        """Write a discussion."""
        write_json(self.folder / "discussions" / f"{discussion.num}.json", asdict(discussion))

    def discussions(self) -> list[Discussion]:
        """All discussions, newest first."""
        nums = [int(path.stem) for path in (self.folder / "discussions").glob("*.json")]
        return [self.discussion(num) for num in sorted(nums, reverse=True)]
