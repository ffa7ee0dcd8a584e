"""A comparison as a program or a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hubconv.audit.comparing import Comparison, Scalars
from hubconv.audit.kept import Kept
from hubconv.audit.likeness import Likeness
from hubconv.audit.packed import Packed
from hubconv.audit.sides import Side
from hubconv.progress import printable
from hubconv.quantities import human_bytes
from hubconv.steps.tables import columns

SHOWN: Final = 3
LISTED: Final = 20
SHOWN_CONFIG: Final = 12


def comparison_json(done: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""
    paired = done.paired
    return {
        "status": "compared",
        "a": done.a.to_json(),
        "b": done.b.to_json(),
        "depth": done.depth.kind,
        "seed": done.depth.seed if done.depth.kind != "full" else None,
        "source": done.source or None,
        "nvfp4_in_both": sum(pair.are_nvfp4 for pair in paired.pairs),
        "nvfp4_only_in_a": _names_json(_one_sided(done, of_a=True)),
        "nvfp4_only_in_b": _names_json(_one_sided(done, of_a=False)),
        "weights_only_in_a": _names_json(paired.only_a),
        "weights_only_in_b": _names_json(paired.only_b),
        "global_scales": _scalars_json(done.global_scales),
        "input_scales": _scalars_json(done.input_scales),
        "by_role": [_role_json(role, row) for role, row in done.by_role.items()],
        "recorded": [{"name": role, "a": a, "b": b} for role, (a, b) in done.recorded.items()],
        "kept": _kept_json(done.kept),
        "config": list(done.config),
        "not_compared": list(done.notes),
    }


def _one_sided(done: Comparison, *, of_a: bool) -> list[str]:
    """Weights that both have and only one has in NVFP4."""
    return [
        pair.module
        for pair in done.paired.pairs
        if not pair.are_nvfp4 and isinstance(pair.a if of_a else pair.b, Packed)
    ]


def _names_json(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "names": list(names[:LISTED])}


def _scalars_json(scalars: Scalars) -> dict[str, Any]:
    return {
        "compared": scalars.compared,
        "equal": scalars.equal,
        "quotient_least": scalars.least,
        "quotient_most": scalars.most,
    }


def _role_json(role: str, row: Likeness) -> dict[str, Any]:
    return {
        "name": role,
        "weights": row.weights,
        "distance": row.distance,
        "equal_codes": _share(row.equal_codes, row.codes),
        "equal_scales": _share(row.equal_scales, row.scales),
        "error_a": row.a.relative_error if row.a.elements else None,
        "error_b": row.b.relative_error if row.b.elements else None,
    }


def _kept_json(kept: Kept) -> dict[str, Any]:
    return {
        "same_type": kept.same_type,
        "other_type": [{"a": a, "b": b, "count": count} for a, b, count in kept.other_type],
        "bytes_compared": kept.compared,
        "differing": _names_json(kept.differing),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# ── for a terminal ───────────────────────────────────────────────────────────────────────────


def render_comparison(done: Comparison) -> str:
    """A comparison for a terminal: both side by side, then error by role, then what differs."""
    lines = [
        f"A  {_name(done.a)}",
        f"B  {_name(done.b)}",
        "",
        *columns([["", "A", "B"], *_facts(done.a, done.b)], right={1, 2}),
        "",
        *_role_lines(done),
        *_recorded_lines(done),
        *_difference_lines(done),
    ]
    lines += [f"not compared: {note}" for note in done.notes]
    return "\n".join(printable(line) if line else "" for line in lines)


def _name(side: Side) -> str:
    at = f" at {side.result.view.commit[:12]}" if side.result.view.commit else ""
    manifest = side.result.manifest
    made = f", made by hubconv {manifest.get('hubconv', '')}".rstrip() if manifest else ""
    return f"{side.result.view.ref}{at}{made}"


def _facts(a: Side, b: Side) -> list[list[str]]:
    def row(name: str, *cells: object) -> list[str]:
        return [name, *map(str, cells)]

    return [
        row("layout", a.layout, b.layout),
        row("activations", a.activations.upper(), b.activations.upper()),
        row("weight files", human_bytes(a.shard_bytes), human_bytes(b.shard_bytes)),
        row("shards", len(a.result.shards), len(b.result.shards)),
        row("bits a parameter", f"{a.bits:.2f}", f"{b.bits:.2f}"),
        row("NVFP4 weights", len(a.packed) + len(a.unread), len(b.packed) + len(b.unread)),
        row("bits of these", f"{a.nvfp4_bits:.2f}", f"{b.nvfp4_bits:.2f}"),
    ]


def _role_lines(done: Comparison) -> list[str]:
    if not done.by_role:
        return ["No weight was compared.", ""]
    heads = ["role", "weights", "distance", "equal codes", "equal scales"]
    if done.source:
        heads += ["error of A", "error of B"]
    rows = [heads]
    for role, row in done.by_role.items():
        cells = [
            role,
            str(row.weights),
            f"{row.distance:.4f}",
            _percent(row.equal_codes, row.codes),
            _percent(row.equal_scales, row.scales),
        ]
        if done.source:
            cells += [
                f"{each.relative_error:.4f}" if each.elements else "-" for each in (row.a, row.b)
            ]
        rows.append(cells)
    against = f", errors against {done.source}" if done.source else ""
    return [
        f"Decoded ({done.depth.words}){against}:",
        *columns(rows, right=set(range(1, len(heads)))),
        "",
    ]


def _recorded_lines(done: Comparison) -> list[str]:
    if not done.recorded:
        return []
    rows = [["role", "error of A", "error of B"]]
    rows += [[role, _number(a), _number(b)] for role, (a, b) in done.recorded.items()]
    heading = "Errors against the source, as hubconv recorded them when it converted:"
    return [heading, *columns(rows, right={1, 2}), ""]


def _difference_lines(done: Comparison) -> list[str]:
    paired = done.paired
    lines = []
    for what, names in (
        ("NVFP4 in A, not in B", _one_sided(done, of_a=True)),
        ("NVFP4 in B, not in A", _one_sided(done, of_a=False)),
        ("only in A", paired.only_a),
        ("only in B", paired.only_b),
        ("kept, and other bytes in B", done.kept.differing),
    ):
        if names:
            lines.append(f"{what}: {len(names)} ({_some(names)})")
    for name, scalars in (("global", done.global_scales), ("input", done.input_scales)):
        if scalars.compared:
            line = f"{name} scales: {scalars.equal} of {scalars.compared} equal"
            if scalars.equal < scalars.compared:
                line += f"; A / B from {scalars.least:.4g} to {scalars.most:.4g}"
            lines.append(line)
    lines.append(_kept_line(done.kept))
    lines += _config_lines(done.config)
    return lines


def _kept_line(kept: Kept) -> str:
    line = f"other tensors: {kept.same_type} of one type and size in both"
    if kept.compared:
        line += f", {kept.compared - len(kept.differing)} equal byte for byte"
    spelled = ", ".join(f"{count} {a} in A and {b} in B" for a, b, count in kept.other_type)
    return f"{line}; {spelled}" if spelled else line


def _config_lines(config: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"config.json {row['key']}: {row['a'] if row['a'] is not None else '-'} | "
        f"{row['b'] if row['b'] is not None else '-'}"
        for row in config[:SHOWN_CONFIG]
    ]
    if len(config) > SHOWN_CONFIG:
        lines.append(f"config.json: {len(config) - SHOWN_CONFIG} entries more (--json lists them)")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
