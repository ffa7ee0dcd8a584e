"""Everything a publish shows: small files, card, manifest, and what of an earlier publish goes."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubconv.card import (
    PICTURES,
    CardFacts,
    SourceCard,
    draw,
    kept_sections,
    read_front_matter,
    render_card,
)
from hubconv.ends import CARD, MANIFEST, FileEntry, Release, Source, Target
from hubconv.errors import NotAllowedError, UsageError
from hubconv.records import UnitRecord
from hubconv.steps.facts import Report, Run
from hubconv.steps.manifest import Told, manifest
from hubconv.steps.plan import Plan
from hubconv.steps.report import TENSOR_DETAILS, make_report, tensor_details
from hubconv.steps.verify import Verification

LOG: Final = logging.getLogger(__name__)

MAX_CARD_BYTES: Final = 2 * 1024 * 1024

_HARMLESS: Final = re.compile(r"(\.gitattributes|\.gitignore|README\.md|LICENSE.*)", re.IGNORECASE)
"""What a repository made by hand for publishing may already hold."""

_WEIGHTS: Final = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)|.*\.index\.json", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Telling:
    """What a card tells besides plan and records.

    Attributes:
        command: The command line as typed.
        template: Path of a card template in place of hubconv's own; empty for that.
        seconds: Wall time so far.
        versions: Program to version.
        verification: What was checked before publishing; None for a preview.
    """

    command: str
    template: str
    seconds: float
    versions: Mapping[str, str]
    verification: Verification | None = None


def preview_card(plan: Plan, source: Source, target: Target, telling: Telling) -> str:
    """The card as it will be, without what only the run can tell: for checking it early."""
    report = make_report(plan, (), Run(telling.command, versions=telling.versions))
    told = Told(report.to_json(), source_card(source))
    return card_files(told, target, telling.template, pictures={})[CARD].decode()


def compose(
    plan: Plan, records: Sequence[UnitRecord], source: Source, target: Target, telling: Telling
) -> tuple[Release, Report]:
    """Everything that one publish puts on the target.

    Args:
        plan: What was done.
        records: Every output shard.
        source: Where the files that travel along are read.
        target: Where it goes; what it holds now decides what is deleted.
        telling: What the card tells besides.
    """
    files = dict(plan.files)
    for entry in plan.copies:
        files[entry.path] = source.read(entry.path, 0, entry.size)
    files[TENSOR_DETAILS] = tensor_details(records)
    known = {path: (len(content), _sha256(content)) for path, content in files.items()}
    known |= {record.shard: (record.size, record.sha256) for record in records}
    run = Run(
        telling.command,
        telling.seconds,
        telling.versions,
        known,
        telling.verification,
        source_born=source.born,
    )
    report, said = make_report(plan, records, run), source_card(source)
    told = Told(report.to_json(), said)
    files |= card_files(told, target, telling.template, pictures=pictures_of(told))
    text = json.dumps(manifest(plan, report, known, said), indent=1, ensure_ascii=False)
    files[MANIFEST] = text.encode() + b"\n"
    present = target.files()
    stale = stale_files(present, target.manifest(), {*known, CARD, MANIFEST})
    # Pictures of an earlier publish show its numbers.
    stale += tuple(path for path in PICTURES if path in present and path not in files)
    title = f"NVFP4 of {report.source}" + (f" at {plan.commit[:12]}" if plan.commit else "")
    return Release(plan.plan_id, title, tuple(records), files, stale), report


def pictures_of(told: Told) -> dict[str, bytes]:
    """Path to PNG of the pictures beside a card; none where matplotlib is not installed."""
    try:
        return draw(told.report)
    except Exception as error:  # noqa: BLE001 - a drawing library's trouble stops no publish
        LOG.warning("The card's pictures could not be drawn: %s: %s", type(error).__name__, error)
        return {}


def card_files(
    told: Told,
    target: Target,
    template: str,
    *,
    pictures: Mapping[str, bytes],
    standing: frozenset[str] = frozenset(),
) -> dict[str, bytes]:
    """README.md and the pictures beside it, with the sections that a person wrote into the old one.

    Args:
        told: What it tells.
        target: Where it goes.
        template: Path of a card template in place of hubconv's own; empty for that.
        pictures: Path to content of the pictures that come with it.
        standing: Pictures of the same publish that stand there already.
    """
    old = _text(target.view(), CARD) if CARD in target.files() else ""
    facts = CardFacts(
        target.ref,
        told.report,
        told.card,
        tuple(kept_sections(old)),
        frozenset(pictures) | standing,
    )
    text = _template_text(template) if template else None
    return {CARD: render_card(facts, text).encode(), **pictures}


def _template_text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The card template {path} cannot be read: {error}.") from error


def source_card(source: Source) -> SourceCard:
    """Licence, tags and the like of the source's card: whitelisted scalars alone."""
    return read_front_matter(_text(source, CARD))


def _text(view: Source, path: str) -> str:
    entry = view.files().get(path)
    if entry is None or entry.size > MAX_CARD_BYTES:
        return ""
    return view.read(path, 0, entry.size).decode("utf-8", "replace")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def stale_files(
    present: Mapping[str, FileEntry], old: Mapping[str, Any] | None, new: set[str]
) -> tuple[str, ...]:
    """Files of the target that the new publish must not leave behind.

    Those of an earlier publish of ours, and weights of anybody, which no index would name.
    """
    ours = set((old or {}).get("files") or ())
    return tuple(
        path
        for path in sorted(present)
        if path not in new and (path in ours or _WEIGHTS.fullmatch(path))
    )


def foreign_files(
    present: Mapping[str, FileEntry], old: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Files of the target that neither an earlier publish nor making a repository put there."""
    ours = {*((old or {}).get("files") or ()), CARD, MANIFEST}
    return tuple(
        path
        for path in sorted(present)
        if path not in ours
        and not _HARMLESS.fullmatch(path)
        and not (old and path.startswith("assets/"))
    )


def other_source(old: Mapping[str, Any] | None, plan: Plan) -> str:
    """The source of what the target holds, where it is another one; else empty."""
    told = (old or {}).get("source")
    made_from = str((told if isinstance(told, dict) else {}).get("repo") or "")
    mine = plan.source if plan.commit else Path(plan.source).name
    return made_from if made_from and made_from != mine else ""


def refuse_reborn(old: Mapping[str, Any] | None, source: Source, *, accepted: bool) -> None:
    """The source must be the repository that the target was made from, not a later one of its name.

    When an account is deleted, somebody else may register its name and serve other weights under
    it; a repository's time of making tells the two apart.

    Args:
        old: The manifest of what the target holds.
        source: As it is now.
        accepted: The user knows and wants it.

    Raises:
        NotAllowedError: It was made at another time.
    """
    told = (old or {}).get("source")
    told = told if isinstance(told, dict) else {}
    then = str(told.get("created_at") or "")
    if accepted or told.get("repo") != source.ref or not (then and source.born):
        return
    if then != source.born:
        raise NotAllowedError(
            f"{source.ref} is another repository than the one this target was made from: it was "
            f"made at {source.born}, that one at {then}. Perhaps it has a new owner.",
            "Look who publishes it now; if you trust them, say --accept-new-owner.",
        )
