"""Journals of a repository seen from outside: listed, and discarded with what they alone hold."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hubconv.errors import NotAllowedError, SourceError
from hubconv.hub.client import HubClient
from hubconv.hub.compat import delete_large_files
from hubconv.hub.journals import Journals, Place, read_last_run, read_note, read_records
from hubconv.hub.publisher import MAIN
from hubconv.hub.source import HubSource
from hubconv.journal import Freed, Journal
from hubconv.manifest import read_manifest

_THREADS: Final = 8


class HubKeeper:
    """Looks after the journals of a repository.

    Args:
        client: How to reach it.
        repo: `org/name`.
        work_dir: Folder for what is read.
    """

    def __init__(self, client: HubClient, repo: str, work_dir: Path) -> None:
        self._client = client
        self._repo = repo
        self._work_dir = work_dir
        self._journals = Journals(client, repo)

    @property
    def ref(self) -> str:
        """`org/name`."""
        return self._repo

    def exists(self) -> bool:
        """Whether the repository is there, as far as this token can see."""

        def ask() -> bool:
            try:
                self._client.api.repo_info(self._repo)
            except RepositoryNotFoundError:
                return False
            return True

        return self._client.call(f"Looking for {self._repo}", ask)

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json on main, or None."""
        return read_manifest(self._at(MAIN))

    def journals(self) -> Sequence[Journal]:
        """Staging branches and pull requests, by plan."""
        found = (self._read(place) for place in self._places())
        return sorted(filter(None, found), key=lambda each: (each.plan_id, each.place))

    def remove(self, journals: Sequence[Journal]) -> Freed:
        """Delete branches and close pull requests, then the large files that they alone held."""
        wanted = {journal.place for journal in journals}
        places = [place for place in self._places() if place.revision in wanted]
        held: dict[str, int] = {}
        for place in places:
            held |= self._large(place.revision)
        for place in places:
            self._journals.remove(place)
        try:
            return self._free(held, places)
        except NotAllowedError as error:
            return Freed(why_not=str(error))

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def _at(self, revision: str) -> HubSource:
        return HubSource(self._client, self._repo, revision, self._work_dir / "slots")

    def _places(self) -> list[Place]:
        return [*self._journals.branches(), *self._journals.pulls()]

    def _read(self, place: Place) -> Journal | None:
        try:
            view = self._at(place.revision)
        except SourceError:
            return None  # removed a moment ago
        records = read_records(view, place.plan_id)
        nbytes = sum(record.size for record in records.values())
        return Journal(
            place.plan_id, place.revision, read_note(view, place.plan_id), len(records), nbytes,
            self._changed(place), place.author, sum(each.seconds for each in records.values()),
            read_last_run(view, place.plan_id),
        )  # fmt: skip

    def _changed(self, place: Place) -> datetime | None:
        """When the newest commit of a place was made, by the Hub's clock."""
        log = self._client.call(
            f"Reading the log of {place.revision}",
            lambda: self._client.api.list_repo_commits(self._repo, revision=place.revision),
        )
        return log[0].created_at if log else None

    # ── large files ──────────────────────────────────────────────────────────────────────────

    def _large(self, revision: str) -> dict[str, int]:
        """Large files of a revision: bytes by sha256."""
        entries = self._client.call(
            f"Listing {self._repo}",
            lambda: list(
                self._client.api.list_repo_tree(self._repo, recursive=True, revision=revision)
            ),
        )
        large = (each.lfs for each in entries if isinstance(each, RepoFile) and each.lfs)
        return {each.sha256: each.size for each in large}

    def _free(self, held: Mapping[str, int], gone: Sequence[Place]) -> Freed:
        """Delete large files that nothing names any more.

        What a commit of main's history names stays too: an earlier publish can be gone back to.
        """
        refs = self._client.call(
            f"Listing branches of {self._repo}",
            lambda: self._client.api.list_repo_refs(self._repo, include_pull_requests=True),
        )
        left = [*refs.branches, *refs.converts, *refs.tags, *(refs.pull_requests or ())]
        removed = {place.revision for place in gone}
        revisions = {each.target_commit for each in left if each.name not in removed}
        history = self._client.call(
            f"Reading the log of {self._repo}",
            lambda: self._client.api.list_repo_commits(self._repo, revision=MAIN),
        )
        revisions |= {commit.commit_id for commit in history}
        with ThreadPoolExecutor(_THREADS) as pool:
            kept = {each for large in pool.map(self._large, sorted(revisions)) for each in large}
        orphans = held.keys() - kept
        count = self._client.call(
            f"Deleting large files of {self._repo}",
            lambda: delete_large_files(self._client.api, self._repo, orphans),
        )
        return Freed(count, sum(held[each] for each in orphans))
