"""An audit as a program or a person reads it: findings of one kind together, and what to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hubconv.audit.advice import ADVICE
from hubconv.audit.verifying import Audit
from hubconv.formats.contract import Finding
from hubconv.formats.nvfp4 import Quality
from hubconv.progress import printable

SHOWN_NAMES: Final = 3
LISTED_NAMES: Final = 20


@dataclass(frozen=True, slots=True)
class Group:
    """Findings of one code, severity and set of engines.

    Attributes:
        findings: In the order of their names; at least one.
    """

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that speaks for all."""
        return self.findings[0]

    @property
    def advice(self) -> str:
        """What to do."""
        return ADVICE.get(self.first.rule, "")

    def where(self, most: int) -> list[str]:
        """The first names."""
        return list(dict.fromkeys(f.where for f in self.findings))[:most]

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable keys."""
        told = list(dict.fromkeys(f.what for f in self.findings))
        return {
            "code": self.first.rule,
            "severity": self.first.severity,
            "what": told[0],
            "more": told[1:LISTED_NAMES],
            "where": self.where(LISTED_NAMES),
            "count": len(self.findings),
            "engines": list(self.first.engines),
            "do": self.advice,
        }


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Errors first, each code by itself, names in order."""
    groups: dict[tuple[bool, str, tuple[str, ...]], list[Finding]] = {}
    for finding in findings:
        key = (finding.severity != "error", finding.rule, finding.engines)
        groups.setdefault(key, []).append(finding)
    return [
        Group(tuple(sorted(found, key=lambda finding: (finding.where, finding.what))))
        for _, found in sorted(groups.items())
    ]


def audit_json(done: Audit) -> dict[str, Any]:
    """An audit as JSON."""
    whole = done.whole
    return {
        "status": "faulty" if done.errors else "sound",
        "target": done.ref,
        "commit": done.commit or None,
        "depth": done.depth.kind,
        "seed": done.depth.seed if done.depth.kind in {"rows", "weights"} else None,
        "tensors": done.tensors,
        "nvfp4_weights": done.modules,
        "scales_read": done.scalars,
        "decoded": done.decoded,
        "by_role": [
            {"name": role, "weights": count, **quality_json(quality)}
            for role, (count, quality) in done.by_role.items()
        ],
        "shards_hashed": whole.hashed if whole else 0,
        "kept_as_in_source": whole.kept if whole else None,
        "kept_not_compared": whole.kept_other if whole else None,
        "errors": len(done.errors),
        "warnings": len(done.findings) - len(done.errors),
        "findings": [group.to_json() for group in grouped(done.findings)],
        "not_checked": list(done.notes),
    }


def quality_json(quality: Quality) -> dict[str, Any]:
    """How far some weights are from others, as JSON."""
    return {
        "relative_error": quality.relative_error,
        "blocks": quality.blocks,
        "exact_blocks": quality.exact_blocks,
        "flushed_blocks": quality.flushed_blocks,
        "worst_block": quality.worst_block,
    }


def render_audit(done: Audit, most: int = 40) -> str:
    """An audit for a terminal: what was checked, then every kind of finding."""
    at = f" at {done.commit[:12]}" if done.commit else ""
    lines = [
        f"{done.ref}{at}: {done.tensors} tensors, {done.modules} NVFP4 weights, {done.scalars} "
        f"scales read, {done.decoded} weights compared with the source ({done.depth.words})."
    ]
    if done.whole is not None:
        lines.append(_whole_line(done))
    lines += _roles(done)
    groups = grouped(done.findings)
    for group in groups[:most]:
        lines += _group_lines(group)
    if len(groups) > most:
        lines.append(f"  ... and {len(groups) - most} kinds more (--json lists all)")
    lines += [f"  not checked: {note}" for note in done.notes]
    if not done.findings:
        lines.append("  Nothing wrong found.")
    return "\n".join(printable(line) for line in lines)


def _whole_line(done: Audit) -> str:
    whole = done.whole
    if whole is None:
        return ""
    line = f"  {whole.hashed} shards hashed"
    if whole.kept or whole.kept_other:
        line += f", {whole.kept} kept tensors as in the source byte for byte"
    if whole.kept_other:
        line += f", {whole.kept_other} spelled otherwise there and not compared"
    return f"{line}."


def _roles(done: Audit) -> list[str]:
    return [
        f"  {role:18} {count:6} weights  relative error {quality.relative_error:.4f}  "
        f"{100 * quality.exact_blocks / max(quality.blocks, 1):.1f} % of the blocks exact"
        for role, (count, quality) in done.by_role.items()
    ]


def _group_lines(group: Group) -> list[str]:
    first, count = group.first, len(group.findings)
    times = f"  ({count} times)" if count > 1 else ""
    lines = [
        f"  {first.severity:7} {first.rule}{times}",
        f"          {first.what} ({', '.join(first.engines)})",
        f"          where: {_some(group.where(SHOWN_NAMES), count)}",
    ]
    if group.advice:
        lines.append(f"          do:    {group.advice}")
    return lines


def _some(names: Sequence[str], count: int) -> str:
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return ", ".join(names) + more
