"""The content of hubconv.json: written from a report, and read back as one, wherever it was made.

It holds all that a card is made from, so that a card can be made again without any weight. What is
read back may have been changed by anybody since: every value is looked at before it is used.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from hubconv.errors import IntegrityError, SourceError
from hubconv.formats.front_matter import SourceCard, check_source_card
from hubconv.steps.decide import RECIPE_VERSION
from hubconv.steps.facts import Report
from hubconv.steps.plan import Plan

SCHEMA: Final = 1

_SAME: Final = (
    "family", "layout", "policy", "activations", "parameters", "nvfp4_parameters", "shards",
    "partner_sets", "roles", "drops", "recodes", "parallel", "verified", "warnings", "findings",
    "devices", "seconds", "versions", "command",
)  # fmt: skip
"""Keys that the manifest and the report share."""

_QUALITY: Final = ("by_role", "by_layer", "by_layer_and_role", "worst")


def manifest(
    plan: Plan, report: Report, files: Mapping[str, tuple[int, str]], card: SourceCard
) -> dict[str, Any]:
    """The content of hubconv.json.

    Args:
        plan: What was done.
        report: What came out.
        files: Path to (size, sha256) of every published file but hubconv.json, README.md and the
            pictures.
        card: What the source's own card says.
    """
    table = report.to_json()
    return {
        "hubconv": report.run.versions.get("hubconv", plan.facts.version),
        "schema": SCHEMA,
        "plan_id": plan.plan_id,
        "source": {
            "repo": report.source,
            "commit": report.commit,
            "created_at": report.run.source_born,
            "card": {key: value for key, value in asdict(card).items() if value and key != "notes"},
        },
        "recipe": {
            "version": RECIPE_VERSION,
            **asdict(plan.recipe),
            "input_scales_from": report.input_scales_from,
        },
        "bytes": {"before": report.bytes_before, "after": report.bytes_after},
        "bits": {
            "before": report.bits_before,
            "after": report.bits_after,
            "nvfp4": report.nvfp4_bits,
        },
        **{name: table[name] for name in _SAME},
        "quality": {"all": table["quality"], **{name: table[name] for name in _QUALITY}},
        "copies": [row["path"] for row in table["copies"]],
        "files": {
            path: {"size": size, "sha256": sha256} for path, (size, sha256) in sorted(files.items())
        },
    }


@dataclass(frozen=True, slots=True)
class Told:
    """What a manifest tells of a publish.

    Attributes:
        report: The values that the report had, as `Report.to_json` gives them.
        card: What the source's own card said.
    """

    report: Mapping[str, Any]
    card: SourceCard


def read_told(manifest: Mapping[str, Any], ref: str) -> Told:
    """The report that a manifest was written from.

    Args:
        manifest: The content of a hubconv.json.
        ref: Where it stands, for messages.

    Raises:
        SourceError: It was written by a hubconv that did not yet put everything into it.
        IntegrityError: It is not as hubconv writes it.
    """
    lacking = sorted(key for key in _MANIFEST if key not in manifest)
    if "hubconv" in manifest and "plan_id" in manifest and lacking:
        raise SourceError(
            f"hubconv.json of {ref} lacks {', '.join(lacking[:5])}: the hubconv that wrote it kept "
            "less than a card needs.",
            "Convert again with this version; shards come out the same.",
        )
    _check(manifest, _MANIFEST, ref, "")
    source, recipe, sizes = manifest["source"], manifest["recipe"], manifest["files"]
    quality = manifest["quality"]
    copies = [
        {"path": path, "size": sizes[path]["size"], "sha256": sizes[path]["sha256"]}
        for path in manifest["copies"]
        if path in sizes
    ]
    report = {
        "plan_id": manifest["plan_id"],
        "source": source["repo"],
        "commit": source["commit"],
        "scales": recipe["scales"],
        "input_scale": recipe["input_scale"],
        "input_scales_from": recipe["input_scales_from"],
        **{f"bytes_{end}": manifest["bytes"][end] for end in ("before", "after")},
        **{f"bits_{end}": manifest["bits"][end] for end in ("before", "after")},
        "nvfp4_bits": manifest["bits"]["nvfp4"],
        **{name: manifest[name] for name in _SAME},
        "quality": quality["all"],
        **{name: quality[name] for name in _QUALITY},
        "copies": copies,
        "published": None,
    }
    return Told(report, check_source_card(source["card"]))


# ── what it must look like ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Maybe:
    """A value that may be null."""

    of: Any


@dataclass(frozen=True, slots=True)
class _Many:
    """A list of such values, or with `named` a table of them."""

    of: Any
    named: bool = False


_NUMBERED: Final = {"name": str, "count": int}
_SUMS: Final = {
    "name": str, "weights": int, "relative_error": float, "sqnr_db": _Maybe(float), "blocks": int,
    "exact_blocks": int, "flushed_blocks": int, "low_scales": int, "worst_block": float,
}  # fmt: skip
_MANIFEST: Final[Mapping[str, Any]] = {
    "hubconv": str,
    "plan_id": str,
    "source": {"repo": str, "commit": str, "card": dict},
    "family": str,
    "layout": frozenset({"compressed-tensors", "modelopt", "modelopt-v4"}),  # names a template
    "policy": str,
    "activations": frozenset({"w4a16", "w4a4"}),
    "recipe": {
        "scales": frozenset({"search", "amax"}), "input_scale": float, "input_scales_from": str,
    },
    "bytes": {"before": int, "after": int},
    "bits": {"before": float, "after": float, "nvfp4": float},
    "parameters": int,
    "nvfp4_parameters": int,
    "shards": int,
    "partner_sets": int,
    "roles": _Many({
        "role": str, "action": str, "before": str, "after": str, "count": int,
        "bytes_before": int, "bytes_after": int, "reasons": _Many(str),
    }),
    "drops": _Many(_NUMBERED),
    "recodes": _Many(_NUMBERED),
    "parallel": _Many({"name": str, "columns": int, "limit": int}),
    "quality": {
        "all": _SUMS,
        "by_role": _Many(_SUMS),
        "by_layer": _Many(_SUMS),
        "by_layer_and_role": _Many({
            "layer": str, "role": str, "weights": int, "relative_error": float,
        }),
        "worst": _Many(_SUMS),
    },
    "verified": _Maybe({
        "shards": int, "tensors": int, "partner_sets": int, "decoded": int, "notes": _Many(str),
    }),
    "warnings": _Many(str),
    "findings": _Many(str),
    "devices": _Many(str),
    "seconds": float,
    "versions": _Many(str, named=True),
    "command": str,
    "copies": _Many(str),
    "files": _Many({"size": int, "sha256": str}, named=True),
}  # fmt: skip


def _check(value: Any, form: Any, ref: str, where: str) -> None:  # noqa: ANN401 - JSON
    """Hold a value against the form it must have.

    Raises:
        IntegrityError: It has another; says where.
    """
    if isinstance(form, _Maybe):
        if value is not None:
            _check(value, form.of, ref, where)
        return
    if isinstance(form, _Many):
        sound = isinstance(value, dict if form.named else list)
        parts = value.items() if form.named and sound else enumerate(value if sound else ())
        for key, part in parts:
            _check(part, form.of, ref, f"{where}.{key}")
    elif isinstance(form, dict):
        sound = isinstance(value, dict) and set(form) <= set(value)
        for key in form if sound else ():
            _check(value[key], form[key], ref, f"{where}.{key}")
    elif isinstance(form, frozenset):
        sound = isinstance(value, str) and value in form
    else:
        sound = _is_a(value, form)
    if not sound:
        raise IntegrityError(
            f"hubconv.json of {ref} is not as hubconv writes it: {where[1:] or 'all of it'}.",
            "Somebody changed it, or another tool made it: convert again to have a true one.",
        )


def _is_a(value: object, kind: type) -> bool:
    if kind not in {int, float}:
        return isinstance(value, kind)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and (kind is float or (isinstance(value, int) and value >= 0))
