"""Names that a mistyped one may have meant."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final

from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubconv.errors import SourceError
from hubconv.hub.client import HubClient
from hubconv.hub.waiting import watched

MOST_LISTED: Final = 1000
SHOWN: Final = 3
LIKE: Final = 0.75

PATIENCE_S: Final = 5.0
"""The client itself would try for half a minute; a hint is not worth that."""


@contextmanager
def with_likeness(client: HubClient, repo: str, revision: str) -> Iterator[None]:
    """Add the nearest names there are to the failure of a look-up.

    Raises:
        SourceError: The look-up's own, with them.
    """
    try:
        yield
    except SourceError as error:
        cause = error.__cause__
        near: Sequence[str] = ()
        if isinstance(cause, RevisionNotFoundError):
            near = _near(revision, lambda: _revisions(client, repo))
        elif isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
            near = _near(repo, lambda: _repositories(client, repo))
        if not near:
            raise
        hint = f"Did you mean {' or '.join(near)}?"
        raise SourceError(error.what, f"{hint} {error.next_step}") from cause


def _near(name: str, listed: Callable[[], Sequence[str]]) -> Sequence[str]:
    until = time.monotonic() + PATIENCE_S

    def enough() -> None:
        if time.monotonic() > until:
            raise TimeoutError

    try:
        names = {each.casefold(): each for each in watched(listed, enough)}
    except Exception:  # noqa: BLE001 - a hint; the failure itself is told either way
        return ()
    return [names[like] for like in get_close_matches(name.casefold(), names, SHOWN, LIKE)]


def _revisions(client: HubClient, repo: str) -> Sequence[str]:
    refs = client.api.list_repo_refs(repo)
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _repositories(client: HubClient, repo: str) -> Sequence[str]:
    owner, _, name = repo.partition("/")
    of_owner = client.api.list_models(author=owner, limit=MOST_LISTED)
    of_name = client.api.list_models(search=name, limit=MOST_LISTED)
    return [each.id for each in (*of_owner, *of_name)]
