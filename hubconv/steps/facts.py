"""The records of a report: what came out, in numbers that card, terminal and manifest share."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from hubconv.ends import Published
from hubconv.formats.nvfp4 import BLOCK, Quality
from hubconv.steps.decide import Job
from hubconv.steps.verify import Verification

ROW_PARALLEL: Final = frozenset({"down_proj", "w2", "o_proj", "wo", "out_proj"})
"""Modules whose columns engines divide between the GPUs of a tensor-parallel group."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run besides plan and records.

    Attributes:
        command: The command line as typed.
        seconds: Wall time.
        versions: Program to version.
        files: Every published file that is known, by path: (size, sha256).
        verification: What was looked at before publishing; None before it was.
        published: Where the result stands; None before it does.
        source_born: When the source's repository was made; empty where nobody knows.
    """

    command: str = ""
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    verification: Verification | None = None
    published: Published | None = None
    source_born: str = ""


@dataclass(frozen=True, slots=True)
class RoleRow:
    """Tensors of one role that meet the same fate.

    Attributes:
        role: What they are.
        action: nvfp4, keep, rename, recode or drop.
        before: How the source stores them, in words.
        after: How the result stores them, in words.
        count: How many, companions not counted.
        bytes_before: Their bytes in the source, with companions.
        bytes_after: Their bytes in the result, with companions.
        reasons: Why, where the policy alone does not say it.
    """

    role: str
    action: str
    before: str
    after: str
    count: int
    bytes_before: int
    bytes_after: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QualityRow:
    """How far a group of NVFP4 weights is from the source.

    Attributes:
        name: The role, the layer, or the module.
        count: Weights in it.
        quality: Their sums.
    """

    name: str
    count: int
    quality: Quality

    def to_json(self) -> dict[str, Any]:
        """Shares and ratios; `sqnr_db` is None where every block is exact."""
        quality = self.quality
        finite = math.isfinite(quality.sqnr_db)
        return {
            "name": self.name,
            "weights": self.count,
            "relative_error": quality.relative_error,
            "sqnr_db": quality.sqnr_db if finite else None,
            "blocks": quality.blocks,
            "exact_blocks": quality.exact_blocks,
            "flushed_blocks": quality.flushed_blocks,
            "low_scales": quality.low_scales,
            "worst_block": quality.worst_block,
        }


@dataclass(frozen=True, slots=True)
class LayerRole:
    """How far the NVFP4 weights of one role in one layer are from the source.

    Attributes:
        layer: Its number, `mtp.N`, or what is in no layer.
        role: What they are.
        count: Weights in it.
        quality: Their sums.
    """

    layer: str
    role: str
    count: int
    quality: Quality

    def to_json(self) -> dict[str, Any]:
        """What a picture needs, in few bytes: there may be a thousand of these."""
        error = float(f"{self.quality.relative_error:.6g}")
        return {
            "layer": self.layer,
            "role": self.role,
            "weights": self.count,
            "relative_error": error,
        }


@dataclass(frozen=True, slots=True)
class Named:
    """Something that befell `count` tensors: a recode, or a reason for leaving them out."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file of the source that travels along; sha256 is empty where nobody computed it."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ParallelLimit:
    """How far engines can divide the columns of some NVFP4 weights.

    Attributes:
        name: Last word of the modules' names.
        columns: Of each weight.
        limit: Largest power of two that leaves every GPU whole blocks of 16.
    """

    name: str
    columns: int
    limit: int


def tensor_parallel_limits(jobs: Iterable[Job]) -> tuple[ParallelLimit, ...]:
    """How far engines can divide NVFP4 weights between GPUs, by the kinds of weights it concerns.

    A block of 16 columns has one scale and is never divided, so a GPU's part of the columns must be
    whole blocks. All other weights are divided by rows, partner sets among them: every part of a
    set has the set's one global scale, so rows set no limit beyond being divisible.

    Args:
        jobs: The plan's jobs.
    """
    seen = {
        (job.module.rpartition(".")[2], job.weight.cols)
        for job in jobs
        if job.action == "nvfp4" and job.weight is not None
    }
    return tuple(
        ParallelLimit(name, columns, blocks & -blocks)
        for name, columns in sorted(seen)
        if name in ROW_PARALLEL and (blocks := columns // BLOCK)
    )


_ROWS: Final = ("by_role", "by_layer", "by_layer_and_role", "worst")


@dataclass(frozen=True, slots=True)
class Report:
    """What came out.

    Attributes:
        plan_id: The plan it came from.
        source: `org/name`; of a folder its last name only, as paths say much about a machine.
        commit: Of the source; empty for a folder.
        family: What people call the model family.
        layout: compressed-tensors, modelopt or modelopt-v4.
        policy: Which roles were to become NVFP4.
        activations: w4a16 or w4a4.
        scales: search or amax.
        input_scale: Written for activations; only W4A4 reads it.
        input_scales_from: Checkpoint whose activation scales are written in its place, or empty.
        bytes_before: Weight files of the source.
        bytes_after: Weight files of the result.
        parameters: Numbers in the result's tensors, scales and tables of integers not counted.
        bits_before: Bits a parameter in the source's weight files.
        bits_after: Bits a parameter in the result's weight files.
        nvfp4_parameters: Numbers in NVFP4 weights.
        nvfp4_bits: Bits for each of them, scales included.
        shards: Output shards.
        partner_sets: Sets of two weights and more that share a global scale.
        roles: Every tensor, grouped.
        quality: All NVFP4 weights together; count 0 before anything is converted.
        by_role: The same by role.
        by_layer: The same by layer.
        by_layer_and_role: The errors by both, for a picture.
        worst: The tensors farthest from the source.
        drops: Reasons for leaving tensors out.
        recodes: Exact re-spellings of tensors that stayed.
        parallel: Tensor-parallel limits of the NVFP4 weights.
        copies: Files that travel along.
        warnings: Of the plan.
        findings: Of the verification.
        devices: What computed.
        run: Command, time, versions, verification, where it stands.
    """

    plan_id: str
    source: str
    commit: str
    family: str
    layout: str
    policy: str
    activations: str
    scales: str
    input_scale: float
    bytes_before: int
    bytes_after: int
    parameters: int
    bits_before: float
    bits_after: float
    nvfp4_parameters: int
    nvfp4_bits: float
    shards: int
    partner_sets: int
    roles: tuple[RoleRow, ...]
    quality: QualityRow
    by_role: tuple[QualityRow, ...]
    by_layer: tuple[QualityRow, ...]
    by_layer_and_role: tuple[LayerRole, ...]
    worst: tuple[QualityRow, ...]
    drops: tuple[Named, ...]
    recodes: tuple[Named, ...]
    parallel: tuple[ParallelLimit, ...]
    copies: tuple[CopiedFile, ...]
    warnings: tuple[str, ...]
    findings: tuple[str, ...]
    devices: tuple[str, ...]
    run: Run
    input_scales_from: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable keys."""
        table: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in {"run", "quality", *_ROWS}
        }
        for name in ("roles", "drops", "recodes", "parallel", "copies"):
            table[name] = [asdict(row) for row in table[name]]
        for row in table["roles"]:
            row["reasons"] = list(row["reasons"])
        for name in ("warnings", "findings", "devices"):
            table[name] = list(table[name])
        table["quality"] = self.quality.to_json()
        for name in _ROWS:
            table[name] = [row.to_json() for row in getattr(self, name)]
        checked = self.run.verification
        table["verified"] = checked and {
            "shards": checked.shards,
            "tensors": checked.tensors,
            "partner_sets": checked.sets,
            "decoded": checked.decoded,
            "notes": list(checked.notes),
        }
        table["published"] = self.run.published and asdict(self.run.published)
        table |= {"command": self.run.command, "seconds": self.run.seconds}
        table["versions"] = dict(self.run.versions)
        return table
