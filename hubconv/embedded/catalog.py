"""The repositories of the Hub by type and name, and the reading of their files."""

import shutil
import threading
import uuid
from dataclasses import asdict
from pathlib import Path

from hubconv.embedded.attributes import INITIAL
from hubconv.embedded.blobs import BlobStore
from hubconv.embedded.records import FileEntry, RepoCard, now, write_json
from hubconv.embedded.refusals import Refusal, repo_not_found
from hubconv.embedded.repository import MAIN, Repository

REPO_TYPES = ("model", "dataset", "space")


class Catalog:
    """All repositories. A folder has a name of its own, so moving one is changing its record."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self._root = root / "repos"
        self._root.mkdir(parents=True, exist_ok=True)
        self._blobs = blobs
        self._lock = threading.RLock()
        self._repos: dict[tuple[str, str], Repository] = {}
        for folder in sorted(self._root.iterdir()):
            if (folder / "refs.json").exists():
                self._remember(Repository(folder))
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def find(self, repo_type: str, repo_id: str) -> Repository:
        """A repository by type and id, or by a name that it had and nobody has now.

        Raises:
            Refusal: There is none.
        """
        with self._lock:
            repo = self._repos.get((repo_type, repo_id.lower())) or self._moved(repo_type, repo_id)
        if repo is None:
            raise repo_not_found()
        return repo

    def find_by_key(self, key: str) -> Repository:
        """A repository by the name of its folder.

        Raises:
            Refusal: There is none.
        """
        with self._lock:
            for repo in self._repos.values():
                if repo.card.key == key:
                    return repo
        raise repo_not_found()

    def of_type(self, repo_type: str) -> list[Repository]:
        """All repositories of a type."""
        with self._lock:
            return [repo for (kind, _), repo in sorted(self._repos.items()) if kind == repo_type]

    def create(self, repo_type: str, repo_id: str, *, private: bool, author: str) -> Repository:
        """Make a repository with its first commit.

        Raises:
            Refusal: The type is unknown, or the name is taken.
        """
        if repo_type not in REPO_TYPES:
            raise Refusal(400, f"Unknown repo type {repo_type}")
        with self._lock:
            if (repo_type, repo_id.lower()) in self._repos:
                raise Refusal(409, f"You already created this {repo_type} repo: {repo_id}")
            key = uuid.uuid4().hex
            folder = self._root / key
            card = RepoCard(key, repo_type, repo_id, private=private, created_at=now())
            write_json(folder / "card.json", asdict(card))
            repo = Repository(folder)
            text = INITIAL.encode()
            tree = {".gitattributes": FileEntry(self._blobs.put_git(text), len(text))}
            first = repo.save_commit(
                tree, parents=(), title="initial commit", message="", author=author
            )
            repo.move_ref("branches", MAIN, first.id)
            self._remember(repo)
            return repo

    def delete(self, repo: Repository) -> None:
        """Take a repository away for good."""
        with self._lock, repo.lock:
            self._repos.pop((repo.card.type, repo.id.lower()), None)
            # Without its refs a folder is no repository any more, even if the rest stays behind.
            (repo.folder / "refs.json").unlink(missing_ok=True)
        shutil.rmtree(repo.folder, ignore_errors=True)

    def move(self, repo: Repository, to_id: str) -> None:
        """Give a repository another name.

        Raises:
            Refusal: The name is taken.
        """
        with self._lock:
            if (repo.card.type, to_id.lower()) in self._repos:
                raise Refusal(409, f"There is a {repo.card.type} repo {to_id} already")
            self._repos.pop((repo.card.type, repo.id.lower()), None)
            repo.save_card(id=to_id, former=(*repo.card.former, repo.id))
            self._remember(repo)

    def _moved(self, repo_type: str, repo_id: str) -> Repository | None:
        """The real Hub redirects; its clients follow, so that both come to the same."""
        for (kind, _), repo in self._repos.items():
            if kind == repo_type and repo_id.lower() in {name.lower() for name in repo.card.former}:
                return repo
        return None

    def _remember(self, repo: Repository) -> None:
        self._repos[repo.card.type, repo.id.lower()] = repo
