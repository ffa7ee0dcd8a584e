"""What a webhook of the Hub says: which repository was updated.

A payload comes from outside. It only chooses among the entries of a watch list; where a source
stands is always asked of the Hub anew.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hubconv.errors import UsageError


class _Repo(msgspec.Struct, frozen=True):
    type: str
    name: str


class _What(msgspec.Struct, frozen=True):
    action: str = "update"
    scope: str = "repo"


class _Ref(msgspec.Struct, frozen=True):
    ref: str = ""


class _Payload(msgspec.Struct, frozen=True, rename="camel"):
    repo: _Repo
    event: _What = _What()
    updated_refs: tuple[_Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """An update of a repository.

    Attributes:
        repo: `org/name` of a model; empty where the event is about something that is no source.
        branches: Branches and tags that moved; empty where the payload does not tell.
        why_not: Why nothing follows from it; empty where something may.
    """

    repo: str
    branches: frozenset[str] = frozenset()
    why_not: str = ""

    def concerns(self, source: str, revision: str) -> bool:
        """Whether a source may stand elsewhere after it."""
        if self.repo.casefold() != source.casefold():
            return False
        return not self.branches or (revision or "main") in self.branches


def read_event(file: str) -> Event:
    """The event of a payload's file; `-` reads it from standard input.

    The file may be that of a repository_dispatch on GitHub, with the payload as client_payload.

    Raises:
        UsageError: It cannot be read, or is no payload of a webhook of the Hub.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        told = json.loads(text)
    except OSError as error:
        raise UsageError(f"The event {file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The event {file} is not JSON: {error}.") from error
    return parse_event(told, file)


def parse_event(told: Any, where: str = "The payload") -> Event:  # noqa: ANN401 - any JSON
    """The event of a payload.

    Raises:
        UsageError: It is no payload of a webhook of the Hub.
    """
    if isinstance(told, dict) and isinstance(told.get("client_payload"), dict):
        told = told["client_payload"]
    try:
        payload = msgspec.convert(told, _Payload)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{where} is no payload of a repository webhook: {error}.",
            'Its form is {"event": {"action", "scope"}, "repo": {"type", "name"}, ...}.',
        ) from error
    repo, event = payload.repo, payload.event
    if repo.type != "model":
        return Event("", why_not=f"{repo.name} is a {repo.type}, no model")
    if event.action not in {"create", "update"} or event.scope not in {"repo", "repo.content"}:
        return Event("", why_not=f"{event.action} of {event.scope} changes no file of {repo.name}")
    refs = (each.ref for each in payload.updated_refs)
    branches = frozenset(ref.removeprefix("refs/heads/").removeprefix("refs/tags/") for ref in refs)
    return Event(repo.name, branches)
