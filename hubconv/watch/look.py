"""Where every target stands: the source's head against the commit its hubconv.json names.

An idle look costs two requests a target, one for sources that a pattern found: their heads come
with the listing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

from hubconv.errors import HubconvError, SourceError, TemporaryError, UsageError
from hubconv.opening import SOURCE_TOKEN
from hubconv.profiles import choose_profile
from hubconv.version import __version__
from hubconv.watch.event import Event
from hubconv.watch.listing import WatchList, Wish, recipe_asked
from hubconv.words import parse_end

if TYPE_CHECKING:
    from hubconv.hub.client import HubClient
    from hubconv.hub.heads import Head

State = Literal["up to date", "out of date", "new", "in progress", "refused", "unknown"]

DUE: Final[tuple[State, ...]] = ("in progress", "out of date", "new")
"""What a conversion is due for, in the order in which it is done: what is begun comes first."""

_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Look:
    """Where one target stands.

    Attributes:
        wish: Its entry.
        source: `org/name`.
        target: `org/name`.
        state: What was found.
        why: One sentence: what it comes from.
        exit_code: Of what refused it or kept it unknown; 0 where nothing did.
        head: The commit that the source stands at.
        published: The commit that the target was made from; empty where it is new.
        plan_id: The unfinished plan, where one is in progress.
        shards: Its finished shards.
        of: All of its shards; 0 where nobody noted them.
    """

    wish: Wish
    source: str
    target: str
    state: State = "unknown"
    why: str = ""
    exit_code: int = 0
    head: str = ""
    published: str = ""
    plan_id: str = ""
    shards: int = 0
    of: int = 0

    @property
    def is_due(self) -> bool:
        """Whether a conversion would do something."""
        return self.state in DUE

    @property
    def counts(self) -> bool:
        """Whether its refusal is a failure: a pattern may well find what hubconv cannot convert."""
        return not (self.wish.is_pattern and self.state == "refused")


Check = Callable[[Look], None]
"""Plans a conversion; raises what would refuse it."""


def look(
    watched: WatchList,
    *,
    only: str = "",
    event: Event | None = None,
    check: Check | None = None,
) -> tuple[Look, ...]:
    """Where the targets of a watch list stand, in its order.

    Args:
        watched: The watch list.
        only: Only this target, or the targets of this source; empty for all.
        event: Only what this update of a repository concerns.
        check: Plans what is due, so that what a plan refuses is told here; it costs the requests
            of a plan each.

    Raises:
        UsageError: Nothing of the list is called `only`.
        TemporaryError: Nothing could be looked at: the Hub or the line failed.
    """
    from hubconv.hub.client import open_client

    sources, targets = open_client(__version__, SOURCE_TOKEN), open_client(__version__)
    pairs, failed = _pairs(sources, watched, event)
    pairs = _narrowed(pairs, only, failed, watched, event)
    with ThreadPoolExecutor(_THREADS) as pool:
        looked = list(pool.map(lambda pair: _looked(sources, targets, *pair), pairs))
    if check is not None:
        looked = [_checked(each, check) if each.is_due else each for each in looked]
    found = (*looked, *failed)
    if found and all(each.state == "unknown" for each in found):
        raise TemporaryError(
            f"None of {len(found)} targets could be looked at: {found[0].why}",
            "Nothing was begun; run the same command again later.",
        )
    return found


def in_order(looked: Sequence[Look]) -> list[Look]:
    """What is due: what is begun first, then what is out of date, then what is new."""
    return sorted((each for each in looked if each.is_due), key=lambda each: DUE.index(each.state))


# ── which pairs ──────────────────────────────────────────────────────────────────────────────

_Pair = tuple[Wish, str, "Head | None"]


def _pairs(
    client: "HubClient", watched: WatchList, event: Event | None
) -> tuple[list[_Pair], list[Look]]:
    """Every source with its entry; and entries whose sources could not be listed."""
    from hubconv.hub.heads import heads_of

    pairs: list[_Pair] = []
    failed: list[Look] = []
    listed: dict[str, list[Head]] = {}
    for wish in watched.wishes:
        org = wish.source.partition("/")[0]
        if not wish.is_pattern:
            pairs.append((wish, wish.source, None))
        elif event is not None and event.repo.partition("/")[0].casefold() == org.casefold():
            pairs += [(wish, event.repo, None)] if _is_meant(wish, event.repo) else []
        elif event is None:
            try:
                listed[org] = heads = listed.get(org) or heads_of(client, org)
            except HubconvError as error:
                failed.append(_failed(Look(wish, wish.source, wish.target), error))
                continue
            pairs += [(wish, head.repo, head) for head in heads if _is_meant(wish, head.repo)]
    if event is not None:
        pairs = [pair for pair in pairs if event.concerns(pair[1], pair[0].revision)]
    return _once(pairs), failed


def _is_meant(wish: Wish, repo: str) -> bool:
    """Whether a repository of the organisation is one of the entry's sources."""
    name = repo.partition("/")[2]
    return (
        fnmatchcase(name, wish.source.partition("/")[2])
        and (not wish.include or any(fnmatchcase(name, each) for each in wish.include))
        and not any(fnmatchcase(name, each) for each in wish.exclude)
        and not _is_target(wish, repo)
    )


def _is_target(wish: Wish, repo: str) -> bool:
    """Whether a repository has the name that the entry gives to the target of another.

    It is no source, even where that other is not there any more.
    """
    org = wish.source.partition("/")[0]
    form = re.escape(wish.target_of(f"{org}/{{name}}")).replace(re.escape("{name}"), "(.+)")
    found = re.fullmatch(form, repo, re.IGNORECASE)
    return found is not None and len(set(found.groups())) == 1


def _once(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Each target once, named sources before patterns; and no target as a source of another."""
    order = sorted(pairs, key=lambda pair: pair[0].is_pattern)
    targets = {pair[0].target_of(pair[1]).casefold() for pair in pairs}
    seen: set[str] = set()
    kept: list[_Pair] = []
    for pair in order:
        wish, source, _ = pair
        target = wish.target_of(source).casefold()
        if target in seen or (wish.is_pattern and source.casefold() in targets):
            continue
        seen.add(target)
        kept.append(pair)
    return kept


def _narrowed(
    pairs: Iterable[_Pair],
    only: str,
    failed: Sequence[Look],
    watched: WatchList,
    event: Event | None,
) -> list[_Pair]:
    pairs = list(pairs)
    if not only:
        return pairs
    wanted = only.removeprefix("hf://").casefold()
    chosen = [
        pair
        for pair in pairs
        if wanted in {pair[1].casefold(), pair[0].target_of(pair[1]).casefold()}
    ]
    if not chosen and not failed and event is None:
        raise UsageError(
            f"{watched.file} has neither a source nor a target called {only}.",
            f"hubconv watch {watched.file} lists what it has.",
        )
    return chosen


# ── one pair ─────────────────────────────────────────────────────────────────────────────────


def _looked(
    sources: "HubClient", targets: "HubClient", wish: Wish, source: str, head: "Head | None"
) -> Look:
    blank = Look(wish, source, wish.target_of(source))
    try:
        return _compared(sources, targets, blank, head)
    except HubconvError as error:
        return _failed(blank, error)


def _compared(sources: "HubClient", targets: "HubClient", blank: Look, head: "Head | None") -> Look:
    from hubconv.hub.heads import head_of, manifest_of

    parse_end(f"hf://{blank.target}")  # a long name may make one that no repository can have
    if head is None or not head.commit or blank.wish.revision:
        head = head_of(sources, blank.source, blank.wish.revision)
    found = replace(blank, head=head.commit)
    if head.model_type:
        choose_profile({"model_type": head.model_type}, ())
    elif found.wish.is_pattern:
        raise SourceError(f"{found.source} has no config.json with a model_type.")
    exists, manifest = manifest_of(targets, found.target)
    if manifest is not None:
        found = replace(found, published=_text(manifest, "commit"))
    if manifest is not None and found.published:
        found = _aged(found, manifest)
    else:
        where = "there" if exists else "there, or this account cannot see it"
        found = replace(found, state="new", why=f"nothing of hubconv is published {where}")
    return _with_begun(targets, found) if exists and found.is_due else found


def _text(manifest: Mapping[str, Any], name: str) -> str:
    source = manifest.get("source")
    return str(source.get(name) or "") if isinstance(source, dict) else ""


def _aged(found: Look, manifest: Mapping[str, Any]) -> Look:
    """A target that was published before, against its source as it is now."""
    made_from = _text(manifest, "repo")
    if made_from.casefold() != found.source.casefold():
        return replace(
            found, state="refused", exit_code=6, why=f"it was made from another source, {made_from}"
        )
    if found.published != found.head:
        why = f"the source moved from {found.published[:12]} to {found.head[:12]}"
        return replace(found, state="out of date", why=why)
    other = recipe_asked(manifest, found.wish.recipe)
    if other:
        why = f"it was made with another {other} than {found.wish.where} asks for"
        return replace(found, state="out of date", why=why)
    return replace(found, state="up to date", why=f"made from {found.head[:12]}")


def _with_begun(client: "HubClient", found: Look) -> Look:
    """Whether a plan for the source as it is now has begun already."""
    from hubconv.hub.heads import begun_on

    begun = [each for each in begun_on(client, found.target) if each.note.commit == found.head]
    if not begun:
        return found
    far = max(begun, key=lambda each: each.shards)
    of = f" of {far.note.shards}" if far.note.shards else ""
    why = f"{far.shards}{of} shards are staged on {far.place}; {found.why}"
    return replace(
        found, state="in progress", why=why, plan_id=far.plan_id, shards=far.shards,
        of=far.note.shards,
    )  # fmt: skip


def _checked(found: Look, check: Check) -> Look:
    try:
        check(found)
    except HubconvError as error:
        return _failed(found, error)
    return found


def _failed(found: Look, error: HubconvError) -> Look:
    state: State = "unknown" if isinstance(error, TemporaryError) else "refused"
    return replace(found, state=state, why=str(error), exit_code=error.exit_code)
