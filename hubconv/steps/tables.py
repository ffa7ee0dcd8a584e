"""Plan and report for a terminal: plain text that fits its width."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from hubconv.progress import printable, text_bar
from hubconv.quantities import human_bytes, human_time
from hubconv.steps.budget import hub_budget
from hubconv.steps.facts import QualityRow, Report, RoleRow
from hubconv.steps.machine import Machine, Needs, told
from hubconv.steps.plan import Plan
from hubconv.steps.report import make_report

BAR: Final = 12

_ACTIONS: Final = {
    "nvfp4": "quantize",
    "keep": "keep",
    "rename": "keep, renamed",
    "recode": "re-spell exactly",
    "drop": "leave out",
}


def plan_table(
    plan: Plan, width: int = 100, machine: Machine | None = None, *, is_folder: bool = False
) -> str:
    """What will happen, for a person to read before it does.

    Args:
        plan: The plan.
        width: Columns of the terminal.
        machine: Where it will happen; then it is told whether it fits there.
        is_folder: The target is a folder.
    """
    report = make_report(plan, ())
    lines = [
        f"{report.family}: {_origin(report)}",
        f"Layout {report.layout}, policy {report.policy}, {report.activations.upper()}, "
        f"scales by {report.scales}; plan {report.plan_id}",
        "",
        *_roles(report.roles, width),
        "",
        f"{report.shards} shards, {report.partner_sets} partner sets, "
        f"{human_bytes(plan.twice_bytes)} read twice, {len(report.copies)} files copied",
        *(told(plan, machine, is_folder=is_folder) if machine else []),
        *([hub_budget(plan).words()] if plan.commit else []),
        *_notes(report),
        f"{human_bytes(report.bytes_before)} -> {human_bytes(report.bytes_after)} "
        f"({_change(report)}), {report.bits_after:.2f} bits a parameter "
        f"(NVFP4 weights: {report.nvfp4_bits:.2f})",
    ]
    return _fit(lines, width)


def plan_json(plan: Plan, machine: Machine | None = None) -> dict[str, Any]:
    """The plan for programs: the report's keys as far as they are known before the work.

    Args:
        plan: The plan.
        machine: Where it will happen; then it is told whether it fits there.
    """
    needs = Needs.of(plan)
    table = make_report(plan, ()).to_json()
    for name in (
        "quality", "by_role", "by_layer", "worst", "findings", "devices", "verified", "published",
        "command", "seconds", "versions",
    ):  # fmt: skip
        del table[name]
    table["units"] = [{"shard": unit.shard, "size": unit.nbytes} for unit in plan.units]
    table["twice_bytes"] = plan.twice_bytes
    table["hub"] = hub_budget(plan).to_json() if plan.commit else None
    fits = {"machine": asdict(machine), "fits": needs.fits(machine)} if machine else {}
    return table | {"needs": asdict(needs), **fits}


def before_work(plan: Plan, width: int = 100, *, is_folder: bool = False) -> list[str]:
    """What is about to happen, without the warnings: those are told by themselves.

    Args:
        plan: The plan.
        width: Columns of the terminal.
        is_folder: The target is a folder.
    """
    report = make_report(plan, ())
    lines = [
        "",
        *_roles(report.roles, width),
        "",
        f"{report.shards} shards, {human_bytes(report.bytes_before)} -> "
        f"{human_bytes(report.bytes_after)} ({_change(report)})",
        *([hub_budget(plan).words()] if plan.commit and not is_folder else []),
    ]
    return _fit(lines, width).splitlines()


def render_terminal(report: Report, width: int = 100) -> str:
    """What came out, for a person at a terminal.

    Args:
        report: The report.
        width: Columns of the terminal.
    """
    quality = report.quality.quality
    blocks = max(quality.blocks, 1)
    lines = [
        f"{report.family}: {_origin(report)}",
        f"{human_bytes(report.bytes_before)} -> {human_bytes(report.bytes_after)} "
        f"({_change(report)}), {report.bits_after:.2f} bits a parameter",
        "",
        *_roles(report.roles, width),
    ]
    if report.quality.count:
        lines += [
            "",
            f"{report.quality.count} NVFP4 weights, relative error {quality.relative_error:.4f}, "
            f"{quality.exact_blocks} of {quality.blocks} blocks exact "
            f"({100 * quality.exact_blocks / blocks:.1f} %), {quality.flushed_blocks} flushed to "
            "zero",
            *_qualities("role", report.by_role),
            *_qualities("layer", report.by_layer),
            *_qualities("farthest from the source", report.worst),
        ]
    lines += _notes(report)
    where = f" on {', '.join(report.devices)}" if report.devices else ""
    lines.append(f"{report.shards} shards in {human_time(report.run.seconds)}{where}")
    if report.run.published:
        lines.append(f"Published: {report.run.published.url}")
    return _fit(lines, width)


def _origin(report: Report) -> str:
    return f"{report.source} at {report.commit[:12]}" if report.commit else report.source


def _change(report: Report) -> str:
    share = 100 * (report.bytes_after / max(report.bytes_before, 1) - 1)
    return f"{share:+.1f} %"


def _notes(report: Report) -> list[str]:
    lines = [
        f"Left out: {row.count} tensors ({row.name or 'no reason given'})" for row in report.drops
    ]
    lines += [f"Re-spelled exactly: {row.count} tensors ({row.name})" for row in report.recodes]
    lines += [
        f"{row.role} stays ({row.count}): {'; '.join(row.reasons)}"
        for row in report.roles
        if row.reasons and row.action not in {"nvfp4", "drop"}
    ]
    if report.parallel:
        tightest = min(report.parallel, key=lambda row: row.limit)
        lines.append(
            f"Tensor parallelism up to {tightest.limit} ({tightest.name}: {tightest.columns} "
            "columns in blocks of 16)"
        )
    lines += [f"Warning: {text}" for text in (*report.warnings, *report.findings)]
    return ["", *lines, ""] if lines else [""]


def _roles(rows: Sequence[RoleRow], width: int) -> list[str]:
    largest = max((row.bytes_after for row in rows), default=0)
    cells = [
        [
            row.role,
            _ACTIONS[row.action],
            str(row.count),
            row.before if row.before == row.after else f"{row.before} -> {row.after}",
            human_bytes(row.bytes_before),
            human_bytes(row.bytes_after),
            text_bar(row.bytes_after / max(largest, 1), BAR),
        ]
        for row in rows
    ]
    heads = ["role", "what happens", "tensors", "stored as", "before", "after", ""]
    table = columns([heads, *cells], right={2, 4, 5})
    if max(len(line) for line in table) > width:  # the bar is the first to go
        table = columns([line[:-1] for line in [heads, *cells]], right={2, 4, 5})
    return table


def _qualities(title: str, rows: Sequence[QualityRow]) -> list[str]:
    if not rows:
        return []
    largest = max(row.quality.relative_error for row in rows)
    cells = [
        [
            row.name,
            f"{row.quality.relative_error:.4f}",
            f"{100 * row.quality.exact_blocks / max(row.quality.blocks, 1):.1f} %",
            text_bar(row.quality.relative_error / largest if largest else 0, BAR),
        ]
        for row in rows
    ]
    return ["", *columns([[title, "error", "exact", ""], *cells], right={1, 2})]


def columns(rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    """Lines of a table for a terminal.

    Args:
        rows: Cells, the head among them.
        right: Columns that are set to the right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(size) if number in right else cell.ljust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _fit(lines: Sequence[str], width: int) -> str:
    """Break what is too long at spaces; tables are cut instead, as a broken one reads badly."""
    fitted: list[str] = []
    for line in lines:
        text = printable(line)
        if "  " in text:
            fitted.append(text[:width].rstrip())
            continue
        while len(text) > width:
            cut = text.rfind(" ", 1, width + 1)
            cut = cut if cut > 0 else width
            fitted.append(text[:cut])
            text = text[cut:].lstrip()
        fitted.append(text)
    return "\n".join(fitted).rstrip() + "\n"
