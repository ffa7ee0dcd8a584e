"""The report: what came out, computed from the plan and the records of the units alone.

Nothing here is typed in or guessed: a number that is in neither is not in the report. It is made
without records too, before the work: then it says what will come out.
"""

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import Final

from hubconv.card import render_template
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.nvfp4 import Quality
from hubconv.formats.stored import StoredWeight
from hubconv.records import TensorQuality, UnitRecord
from hubconv.steps.decide import Job
from hubconv.steps.facts import (
    CopiedFile,
    LayerRole,
    Named,
    QualityRow,
    Report,
    RoleRow,
    Run,
    tensor_parallel_limits,
)
from hubconv.steps.plan import Plan

__all__ = [
    "Report",
    "Run",
    "job_summary",
    "make_report",
    "tensor_details",
]

TENSOR_DETAILS: Final = "hubconv-tensors.jsonl.gz"
"""Beside the manifest, which stays small."""

WORST_TENSORS: Final = 10

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.")
_MTP: Final = re.compile(r"^mtp\.(\d+)\.")
_FIGURES: Final = tuple(field.name for field in fields(Quality))
_DTYPES: Final = {"F64": "FP64", "F32": "FP32", "F16": "FP16", "F8_E4M3": "FP8"}


def make_report(plan: Plan, records: Sequence[UnitRecord], run: Run | None = None) -> Report:
    """What came out, or, without records, what will.

    Args:
        plan: What was done.
        records: One for each output shard; empty before the work.
        run: What else is known.
    """
    run = run or Run()
    tensors = [tensor for record in records for tensor in record.tensors]
    written = [job for job in plan.jobs if job.writes]
    converted = [job for job in plan.jobs if job.action == "nvfp4"]
    parameters, of_nvfp4 = parameters_of(written), parameters_of(converted)
    nvfp4_bytes = sum(output.nbytes for job in converted for output in job.writes)
    checked = run.verification
    return Report(
        plan_id=plan.plan_id,
        source=plan.source if plan.commit else PurePath(plan.source).name,
        commit=plan.commit,
        family=plan.title,
        layout=plan.layout,
        policy=plan.policy,
        activations=plan.activations,
        scales=plan.recipe.scales,
        input_scale=plan.recipe.input_scale,
        bytes_before=plan.source_bytes,
        bytes_after=plan.target_bytes,
        parameters=parameters,
        bits_before=8 * plan.source_bytes / max(parameters_of(plan.jobs), 1),
        bits_after=8 * plan.target_bytes / max(parameters, 1),
        nvfp4_parameters=of_nvfp4,
        nvfp4_bits=8 * nvfp4_bytes / max(of_nvfp4, 1),
        shards=len(plan.units),
        partner_sets=sum(len(partners.members) > 1 for partners in plan.sets.values()),
        roles=role_rows(plan.jobs),
        quality=_total("all", tensors),
        by_role=_grouped((tensor.role, tensor) for tensor in tensors),
        by_layer=_grouped((_layer_of(tensor.module), tensor) for tensor in tensors),
        by_layer_and_role=_by_layer_and_role(tensors),
        worst=_worst(tensors),
        drops=_named(job.reason for job in plan.jobs if job.action == "drop"),
        recodes=_named(_recode_of(job) for job in written),
        parallel=tensor_parallel_limits(converted),
        copies=_copies(plan, run.files),
        warnings=plan.warnings,
        findings=tuple(f"{f.where}: {f.what}" for f in checked.findings) if checked else (),
        devices=tuple(sorted({record.device for record in records})),
        run=run,
        input_scales_from=_lender(plan.recipe.input_scales_from),
    )


def _lender(word: str) -> str:
    """A checkpoint as a report names it; of a folder its last name only."""
    return word.removeprefix("hf://") if word.startswith("hf://") else PurePath(word).name


def parameters_of(jobs: Iterable[Job]) -> int:
    """Numbers the model computes with: no scales, and no tables of integers."""
    count = 0
    for job in jobs:
        if job.weight is not None:
            count += job.weight.rows * job.weight.cols
        elif job.reads[0].dtype.startswith(("F", "BF")):
            count += math.prod(job.reads[0].shape)
    return count


def role_rows(jobs: Iterable[Job]) -> tuple[RoleRow, ...]:
    """Every tensor grouped by role and fate: NVFP4 first, then by size."""
    groups: dict[tuple[str, str, str, str], list[Job]] = {}
    for job in jobs:
        before = _stored_words(job.weight, job.reads[0])
        groups.setdefault((job.role, job.action, before, _written_words(job)), []).append(job)
    rows = [
        RoleRow(
            *key,
            len(group),
            sum(tensor.nbytes for job in group for tensor in job.reads),
            sum(output.nbytes for job in group for output in job.writes),
            tuple(dict.fromkeys(job.reason for job in group if job.reason)),
        )
        for key, group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.action != "nvfp4", -row.bytes_before)))


def _stored_words(weight: StoredWeight | None, tensor: StoredTensor) -> str:
    if weight is None or weight.kind == "plain":
        return _DTYPES.get(tensor.dtype, tensor.dtype)
    if weight.kind == "mxfp4":
        return "MXFP4"
    if weight.kind == "int4":
        return f"INT4, groups of {weight.block[1]}"
    if weight.block == (weight.rows, weight.cols):
        return "FP8, one scale"
    if weight.block == (1, weight.cols):
        return "FP8, a scale per row"
    return f"FP8 {weight.block[0]}x{weight.block[1]}"


def _written_words(job: Job) -> str:
    recode = _recode_of(job)
    if job.action in {"nvfp4", "drop"}:
        return "NVFP4" if job.writes else "left out"
    if recode == "fp8_to_mxfp4":
        return "MXFP4"
    return (
        "FP8 128x128" if recode == "bf16_to_fp8_block" else _stored_words(job.weight, job.reads[0])
    )


def _recode_of(job: Job) -> str:
    return next((output.recode for output in job.writes if output.recode), "")


def _named(names: Iterable[str]) -> tuple[Named, ...]:
    return tuple(Named(name, count) for name, count in sorted(Counter(names).items()) if name)


def _total(name: str, tensors: Sequence[TensorQuality]) -> QualityRow:
    return QualityRow(name, len(tensors), Quality.total([tensor.quality for tensor in tensors]))


def _grouped(named: Iterable[tuple[str, TensorQuality]]) -> tuple[QualityRow, ...]:
    groups: dict[str, list[TensorQuality]] = {}
    for name, tensor in named:
        groups.setdefault(name, []).append(tensor)
    return tuple(_total(name, groups[name]) for name in sorted(groups, key=_in_order))


def _by_layer_and_role(tensors: Iterable[TensorQuality]) -> tuple[LayerRole, ...]:
    groups: dict[tuple[str, str], list[TensorQuality]] = {}
    for tensor in tensors:
        groups.setdefault((_layer_of(tensor.module), tensor.role), []).append(tensor)
    order = sorted(groups, key=lambda key: (_in_order(key[0]), key[1]))
    totals = {key: _total("", groups[key]) for key in order}
    return tuple(LayerRole(*key, row.count, row.quality) for key, row in totals.items())


def _in_order(name: str) -> tuple[bool, str]:
    """Layers in the order of their numbers, whatever the order of the shards."""
    return not name.isdigit(), name.zfill(6)


def _layer_of(module: str) -> str:
    mtp, layer = _MTP.search(module), _LAYER.search(module)
    if mtp:
        return f"mtp.{mtp[1]}"
    return layer[1] if layer else "outside the layers"


def _worst(tensors: Iterable[TensorQuality]) -> tuple[QualityRow, ...]:
    inexact = (tensor for tensor in tensors if tensor.quality.error_sq)
    ranked = sorted(inexact, key=lambda t: (-t.quality.relative_error, t.module))
    return tuple(QualityRow(t.module, 1, t.quality) for t in ranked[:WORST_TENSORS])


def _copies(plan: Plan, files: Mapping[str, tuple[int, str]]) -> tuple[CopiedFile, ...]:
    return tuple(
        CopiedFile(entry.path, *files.get(entry.path, (entry.size, entry.sha256)))
        for entry in sorted(plan.copies, key=lambda entry: entry.path)
    )


def tensor_details(records: Iterable[UnitRecord]) -> bytes:
    """The content of hubconv-tensors.jsonl.gz: a line for each NVFP4 weight.

    The same records give the same bytes, in whatever order they come.
    """
    tensors = sorted((t for record in records for t in record.tensors), key=lambda t: t.module)
    spell = json.JSONEncoder(separators=(",", ":")).encode
    lines = [
        spell({
            "module": tensor.module,
            "role": tensor.role,
            "shape": tensor.shape,
            "global_scale": tensor.global_scale,
            **{name: getattr(tensor.quality, name) for name in _FIGURES},
        })
        for tensor in tensors
    ]
    # The highest level takes twice as long for one hundredth less.
    return gzip.compress("".join(line + "\n" for line in lines).encode(), 6, mtime=0)


def job_summary(report: Report) -> str:
    """Markdown for the summary page of a CI job."""
    return render_template("job_summary.md.jinja", {"report": report.to_json()})
