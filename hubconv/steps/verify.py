"""Reading a result back: tree, headers, loader contract, joint scales, a decoded sample.

Run on staging before anything is published, and by `hubconv verify` on whatever a target holds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hubconv.ends import Source
from hubconv.formats import contract, nvfp4, stored
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.formats.fidelity import Fidelity
from hubconv.formats.layouts import layout
from hubconv.formats.nvfp4 import BLOCK
from hubconv.manifest import compare_tree
from hubconv.records import UnitRecord
from hubconv.steps.decide import Job
from hubconv.steps.inventory import HEADER_THREADS
from hubconv.steps.plan import Plan
from hubconv.steps.promise import Promise, faults_in, seen
from hubconv.steps.readback import Headers, read_planned

SAMPLE_ROWS: Final = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """How much is decoded and compared.

    Attributes:
        tensors: NVFP4 weights of which some rows are compared with the source.
    """

    tensors: int = 8


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what was found.

    Attributes:
        findings: Breaches; empty when everything is right.
        shards: Shards whose headers were read.
        tensors: Tensors in them.
        sets: Partner sets whose scales were compared.
        decoded: Weights of which rows were decoded and compared with the source.
        notes: What could not be checked.
    """

    findings: tuple[Finding, ...]
    shards: int
    tensors: int
    sets: int
    decoded: int
    notes: tuple[str, ...] = field(default=())

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that do not load, or load wrong numbers."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def raise_on_errors(self, saved: str) -> None:
        """Stop where the result is not right.

        Raises:
            IntegrityError: Which names the first three.
        """
        error = faults_in(self.findings, f"{saved} hubconv verify lists them all.")
        if error is not None:
            raise error


def verify_staged(
    plan: Plan,
    records: Sequence[UnitRecord],
    view: Source,
    source: Source,
    sample: Sample,
    promise: Promise | None = None,
) -> Verification:
    """Check staged shards against plan, records, loader contract and source.

    Args:
        plan: What should be there.
        records: What the journal says is there.
        view: The staged files.
        source: Where the weights came from.
        sample: How much is decoded.
        promise: What the plan is to loaders, where it is known already.
    """
    findings = list(_against_records(records, view))
    headers = read_planned(view, plan.units)
    findings += headers.findings
    scales = {q.module: q.global_scale for record in records for q in record.tensors}
    chosen, far = decoded_findings(plan, headers.tensors, view, source, scales, sample)
    findings += far
    findings += _contract_findings(plan, headers, scales, promise)
    joint = sum(len(group.members) > 1 for group in plan.sets.values())
    return Verification(tuple(findings), len(plan.units), len(headers.tensors), joint, len(chosen))


def _contract_findings(
    plan: Plan, headers: Headers, scales: Mapping[str, float], promise: Promise | None
) -> Iterator[Finding]:
    if promise is None or not headers.are_planned:
        promise = seen(plan, headers.tensors)
        expected = {o.name: (o.dtype, o.shape) for unit in plan.units for o in unit.outputs}
        yield from contract.expected_findings(headers.tensors, expected)
    yield from promise.findings
    partners = [[job.module for job in group.members] for group in plan.sets.values()]
    scalars = dict(_recorded_scalars(plan, scales))
    yield from contract.check_scales(promise.modules, partners, scalars)


def verify_tree(view: Source, files: Mapping[str, bytes]) -> list[str]:
    """Compare what is published with the manifest that was published with it.

    Args:
        view: The published state.
        files: What was published; its hubconv.json names every other file.

    Returns:
        One sentence for each difference.
    """
    manifest = json.loads(files["hubconv.json"])
    return compare_tree(view, manifest, files)


def _against_records(records: Sequence[UnitRecord], view: Source) -> Iterator[Finding]:
    files = view.files()
    for record in records:
        entry = files.get(record.shard)
        if entry is None:
            yield Finding("staged.missing", record.shard, "the journal names it, the tree does not")
        elif entry.size != record.size or (entry.sha256 and entry.sha256 != record.sha256):
            yield Finding(
                "staged.content",
                record.shard,
                f"is {entry.size} bytes {entry.sha256[:12]}, recorded as {record.size} "
                f"{record.sha256[:12]}",
            )


def _recorded_scalars(plan: Plan, scales: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Stored values of the global scales by tensor name, as the units recorded them."""
    inverse = plan.layout == "compressed-tensors"
    for job in plan.jobs:
        for output in job.writes:
            if output.content == "global_scale" and job.module in scales:
                value = scales[job.module]
                yield output.name, float(np.float32(1) / np.float32(value)) if inverse else value


def _choose(plan: Plan, count: int) -> list[Job]:
    """Weights to decode: spread over the whole checkpoint, always the same for a plan."""
    converted = [job for job in plan.jobs if job.action == "nvfp4"]
    if len(converted) <= count:
        return converted
    step = len(converted) / max(count, 1)
    return [converted[int(number * step)] for number in range(count)]


def decoded_findings(
    plan: Plan,
    tensors: Mapping[str, StoredTensor],
    view: Source,
    source: Source,
    recorded: Mapping[str, float],
    sample: Sample,
) -> tuple[list[Job], list[Finding]]:
    """Decode some rows of some weights and compare them with the source.

    Returns:
        The weights that were looked at, and what was wrong with them.
    """
    chosen = _choose(plan, sample.tensors)

    def look(job: Job) -> list[Finding]:
        return list(_decoded(job, plan, tensors, view, source, recorded.get(job.module)))

    with ThreadPoolExecutor(HEADER_THREADS) as pool:  # a Hub answers a read after a while
        found = [finding for findings in pool.map(look, chosen) for finding in findings]
    return chosen, found


def _decoded(
    job: Job,
    plan: Plan,
    tensors: Mapping[str, StoredTensor],
    view: Source,
    source: Source,
    recorded: float | None,
) -> Iterator[Finding]:
    """Some rows of a weight, decoded from the result and compared with the source."""
    weight = job.weight
    names = {output.content: output.name for output in job.writes}
    if weight is None or any(name not in tensors for name in names.values()):
        return
    block_rows = max(weight.block[0], 1) if weight.kind != "plain" else 1
    rows = min(weight.rows, max(SAMPLE_ROWS // block_rows, 1) * block_rows)
    stored_scalar = _all(view, tensors[names["global_scale"]])
    scalar = np.frombuffer(stored_scalar, np.float32)[0]
    value = float(np.float32(1) / scalar) if plan.layout == "compressed-tensors" else float(scalar)
    if recorded is not None and stored_scalar != layout(plan.layout).scalar(
        "global_scale", recorded
    ):
        yield Finding(
            "scale.recorded",
            names["global_scale"],
            f"decodes with {value}, the journal says {recorded}",
        )
    codes = _rows(view, tensors[names["codes"]], rows, weight.cols // 2)
    scales = _rows(view, tensors[names["scales"]], rows, weight.cols // BLOCK)
    wanted = stored.dequantize(_source_window(job, source, rows)).astype(np.float64)
    fidelity = Fidelity(weight.cols)
    fidelity.add(nvfp4.decode(codes, scales, value), wanted, scales, value)
    yield from fidelity_findings(fidelity, job.module, f"Rows 0-{rows - 1}", is_ours=True)


def fidelity_findings(
    fidelity: Fidelity, module: str, what: str, *, is_ours: bool
) -> Iterator[Finding]:
    """What is wrong with decoded rows, by how they differ from the source's.

    Args:
        fidelity: What was compared.
        module: The weight.
        what: The rows, as a sentence begins.
        is_ours: hubconv wrote them: then nothing but rounding may have touched them.
    """
    error = fidelity.quality.relative_error
    away = f"{error:.3f} (relative Frobenius error) away from the source's"
    if fidelity.nonfinite:
        count = f"{fidelity.nonfinite} values that are no numbers"
        yield Finding("decoded.nan", module, f"{what} decode to {count}.")
        return
    cause = fidelity.cause()
    if cause == "scale":
        times = f"{fidelity.factor:.6g} times the source's"
        yield Finding("decoded.scale", module, f"{what} decode to {times}, all alike.")
    elif cause in {"columns", "rows"} and not is_ours:
        told = (
            f"{what} decode to values {away}, and a factor for each of the {cause} explains them: "
            "scales were moved between layers, as AWQ and SmoothQuant do."
        )
        yield Finding("decoded.smoothed", module, told, severity="warning")
    elif cause:
        yield Finding("decoded.far", module, f"{what} decode to values {away}.")
    elif fidelity.far_blocks and is_ours:
        told = f"{fidelity.far_blocks} of {fidelity.quality.blocks} blocks"
        yield Finding(
            "decoded.blocks", module, f"{what} hold {told} farther away than rounding leaves them."
        )


def _source_window(job: Job, source: Source, rows: int) -> stored.Window:
    weight = job.weight
    if weight is None:
        raise ValueError(f"{job.module} has no weight")
    data = job.reads[0]
    if weight.turned is not None:
        matrix = np.frombuffer(source.read(data.shard, data.begin, data.end), np.uint8)
        room = np.empty(rows * weight.row_bytes, np.uint8)
        ready, content = stored.upright(weight, matrix, 0, room)
        return stored.window(ready, 0, content)
    stored_rows = source.read(data.shard, data.begin, data.begin + rows * weight.row_bytes)
    scale_bytes = b""
    if len(job.reads) > 1:
        scale = job.reads[1]
        size = -(-rows // weight.block[0]) * weight.scale_row_bytes
        scale_bytes = source.read(scale.shard, scale.begin, scale.begin + size)
    return stored.window(weight, 0, stored_rows, scale_bytes)


def _all(view: Source, tensor: StoredTensor) -> bytes:
    return view.read(tensor.shard, tensor.begin, tensor.end)


def _rows(view: Source, tensor: StoredTensor, rows: int, row_bytes: int) -> stored.Bytes2D:
    content = view.read(tensor.shard, tensor.begin, tensor.begin + rows * row_bytes)
    return np.frombuffer(content, np.uint8).reshape(rows, row_bytes)
