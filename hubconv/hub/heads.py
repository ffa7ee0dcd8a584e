"""The cheapest looks at repositories: one request tells where a source or a target stands."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from huggingface_hub import ModelInfo, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ExpandModelProperty_T, RepoFile

from hubconv.ends import JOURNAL, MANIFEST
from hubconv.errors import IntegrityError, NotAllowedError
from hubconv.hub.client import HubClient
from hubconv.hub.fetching.requests import opened
from hubconv.hub.journals import Journals, Place, note_path
from hubconv.hub.publisher import MAIN
from hubconv.journal import NO_NOTE, Note

MOST_BYTES: Final = 64 * 1024 * 1024
_WANTED: Final[list[ExpandModelProperty_T]] = ["sha", "config"]
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class Head:
    """Where a source stands.

    Attributes:
        repo: `org/name` as the Hub spells it.
        commit: Its commit; empty where a listing did not tell.
        model_type: Of its config.json, as far as the Hub tells; empty where it does not.
    """

    repo: str
    commit: str
    model_type: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """An unfinished plan on a target.

    Attributes:
        plan_id: The plan.
        place: Branch or pull request.
        note: How it began.
        shards: Records of finished shards that are there.
    """

    plan_id: str
    place: str
    note: Note
    shards: int


def heads_of(client: HubClient, org: str) -> list[Head]:
    """Every model of an account or organisation, with where it stands: one request a page."""
    listed = client.call(
        f"Listing the models of {org}",
        lambda: list(client.api.list_models(author=org, expand=_WANTED)),
    )
    return [_head(info) for info in listed]


def head_of(client: HubClient, repo: str, revision: str = "") -> Head:
    """Where one source stands: one request.

    Raises:
        NotAllowedError: It answers under another name.
        SourceError: There is no such repository or revision.
    """
    info = client.call(
        f"Reading {repo}",
        lambda: client.api.model_info(repo, revision=revision or None, expand=_WANTED),
    )
    if info.id.casefold() != repo.casefold():
        raise NotAllowedError(
            f"{repo} is now called {info.id}.",
            f"If that is the source you mean, name it: {info.id}.",
        )
    return _head(info)


def _head(info: ModelInfo) -> Head:
    config = info.config if isinstance(info.config, dict) else {}
    return Head(info.id, str(info.sha or ""), str(config.get("model_type") or ""))


def manifest_of(client: HubClient, repo: str) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether a target is there, and hubconv.json on its main: one request.

    Nothing of it is checked but that it is a JSON object; None where there is none that is.
    """
    exists, text = _text(client, repo, MAIN, MANIFEST)
    try:
        manifest = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return exists, None
    return exists, manifest if isinstance(manifest, dict) else None


def begun_on(client: HubClient, repo: str) -> list[Begun]:
    """Unfinished plans on a target: a request for its branches, and two for each plan.

    Pull requests are looked at only where there is no branch: an account that makes branches has
    its journals there.
    """
    journals = Journals(client, repo)
    places = journals.branches() or journals.pulls()
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda place: _begun(client, repo, place), places))


def _begun(client: HubClient, repo: str, place: Place) -> Begun:
    _, text = _text(client, repo, place.revision, note_path(place.plan_id))
    note = NO_NOTE if text is None else Note.from_json(text)

    def count() -> int:
        folder = f"{JOURNAL}/{place.plan_id}/units"
        try:
            entries = client.api.list_repo_tree(
                repo, folder, recursive=True, revision=place.revision
            )
            return sum(isinstance(entry, RepoFile) for entry in entries)
        except (EntryNotFoundError, RevisionNotFoundError):
            return 0

    shards = client.call(f"Listing {place.revision} of {repo}", count)
    return Begun(place.plan_id, place.revision, note, shards)


def _text(client: HubClient, repo: str, revision: str, path: str) -> tuple[bool, bytes | None]:
    """Whether the repository is there, and a small file of it: one request, unless it is LFS."""
    url = hf_hub_url(repo, path, revision=revision, endpoint=client.api.endpoint)

    def ask() -> tuple[bool, bytes | None]:
        try:
            with opened(client, url, {}) as response:
                return True, _limited(response.iter_bytes(), f"{path} of {repo}")
        except GatedRepoError:
            raise
        except (RemoteEntryNotFoundError, RevisionNotFoundError):
            return True, None
        except RepositoryNotFoundError:
            return False, None

    return client.call(f"Reading {path} of {repo}", ask)


def _limited(pieces: Iterator[bytes], what: str) -> bytes:
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) > MOST_BYTES:
            raise IntegrityError(f"{what} is larger than any that hubconv writes.")
    return bytes(text)
