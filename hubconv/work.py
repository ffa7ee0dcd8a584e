"""The work on one output shard: fetch, convert, write. What every engine runs.

A unit is stateless and idempotent: the same plan and the same source give the same bytes, on any
machine and any device.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from hubconv.ends import ShardBytes, Sink, Source, Staging, TensorQuality, UnitRecord
from hubconv.errors import IntegrityError
from hubconv.formats import recodes, stored
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.layouts import layout as find_layout
from hubconv.formats.layouts.base import Layout
from hubconv.formats.nvfp4 import Quality, global_scale, global_scale_amax
from hubconv.formats.stored import NonFiniteError, StoredWeight, Window
from hubconv.kernels import Kernel
from hubconv.steps.decide import Job
from hubconv.steps.inventory import check_headers
from hubconv.steps.partners import keep_option
from hubconv.steps.plan import Plan
from hubconv.steps.shards import Unit, tail_order
from hubconv.steps.spell import FP8_BLOCK_SIDE, Output

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Source bytes of a weight that are in memory at a time."""

COPY_BYTES: Final = 16 * 1024 * 1024

HELD_BYTES: Final = 256 * 1024 * 1024
"""Partner sets up to this size are read once and held between amax and encoding."""

FLUSHED_SHARE: Final = 0.001
"""A tensor with a larger share of blocks flushed to zero is refused."""


Write = Callable[[bytes | bytearray | memoryview], object]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a worker has at hand.

    Attributes:
        plan: The plan.
        source: Where to read.
        staging: Where finished shards go.
        kernel: What computes.
        version: hubconv's version.
        converted: Told the source bytes of each finished piece of work.
    """

    plan: Plan
    source: Source
    staging: Staging
    kernel: Kernel
    version: str
    converted: Callable[[int], None] = lambda _: None


def work(bench: Bench, unit: Unit) -> UnitRecord:
    """Make one output shard and hand it to staging.

    Raises:
        IntegrityError: NaN or infinity in a weight, too many flushed blocks, a recode that is not
            exact, or a source shard whose content is not what the source says.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        reader = _Reader(bench.source)
        reads = [tensor for job in (*unit.jobs, *unit.tail) for tensor in job.reads]
        for shard in unit.sources:
            opened = stack.enter_context(bench.source.open(shard))
            entry = bench.source.files()[shard]
            check_headers(opened, entry, (tensor for tensor in reads if tensor.shard == shard))
            reader.opened[shard] = opened
        sink = stack.enter_context(bench.staging.create(unit.shard))
        walk = _Walk(bench, reader, find_layout(bench.plan.layout))
        sink.write(unit.header())
        qualities = walk.run(unit, sink)
        staged = sink.finish()
    if staged.size != unit.nbytes:
        raise IntegrityError(
            f"{unit.shard} came out as {staged.size} bytes where the plan says {unit.nbytes}.",
            "This is a fault in hubconv: please report it with the output of hubconv plan.",
        )
    return UnitRecord(
        bench.plan.plan_id,
        unit.shard,
        staged.size,
        staged.sha256,
        tuple(qualities),
        bench.kernel.name,
        bench.version,
        round(time.monotonic() - started, 3),
    )


class _Reader:
    """Reads tensors: from opened shards by position, from others by range."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.opened: dict[str, ShardBytes] = {}

    def read(self, tensor: StoredTensor, begin: int, end: int) -> bytes | bytearray | memoryview:
        """Bytes [begin, end) of a tensor.

        Raises:
            IntegrityError: The source gave fewer.
        """
        first, last = tensor.begin + begin, tensor.begin + end
        shard = self.opened.get(tensor.shard)
        if shard is None:
            data: bytes | bytearray | memoryview = self._source.read(tensor.shard, first, last)
        else:
            data = shard.read(first, last)
        if len(data) != end - begin:
            raise IntegrityError(
                f"{tensor.shard} ends inside {tensor.name}: {len(data)} of {end - begin} bytes.",
                "The file changed or was cut short: run the same command again.",
            )
        return data

    def windows(self, job: Job) -> Iterator[Window]:
        """A weight in windows of whole rows, each with its scales."""
        weight = job.weight
        if weight is None:
            return
        scales = job.reads[1] if len(job.reads) > 1 else None
        for first, rows in window_rows(weight, WINDOW_BYTES):
            data = self.read(
                job.reads[0], first * weight.row_bytes, (first + rows) * weight.row_bytes
            )
            scale_bytes: bytes | bytearray | memoryview = b""
            if scales is not None:
                top = first // weight.block[0]
                bottom = -(-(first + rows) // weight.block[0])
                size = weight.scale_row_bytes
                scale_bytes = self.read(scales, top * size, bottom * size)
            yield stored.window(weight, first, data, scale_bytes)


def window_rows(weight: StoredWeight, window_bytes: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of a weight's windows; none cuts a block of its scales.

    One scale for the whole weight is no such block: its windows stay small all the same.
    """
    step = max(weight.block[0], 1) if weight.block[0] < weight.rows else 1
    # BF16 weights may be spelled back into FP8 blocks, which must not be cut either.
    step = step if weight.kind != "plain" else FP8_BLOCK_SIDE
    rows = max(window_bytes // max(weight.row_bytes, 1) // step, 1) * step
    if step >= weight.rows:
        rows = weight.rows
    for first in range(0, weight.rows, rows):
        yield first, min(rows, weight.rows - first)


class _Walk:
    """One unit's way from source bytes to the sink."""

    def __init__(self, bench: Bench, reader: _Reader, layout: Layout) -> None:
        self._bench = bench
        self._reader = reader
        self._layout = layout
        self._amax: dict[str, float] = {}
        self._held: dict[str, list[Window]] = {}
        self._held_bytes = 0
        self._mine: frozenset[str] = frozenset()

    def run(self, unit: Unit, sink: Sink) -> list[TensorQuality]:
        """Write every tensor of a unit in the planned order."""
        self._mine = frozenset(job.module for job in (*unit.jobs, *unit.tail))
        qualities: list[TensorQuality] = []
        for job in unit.jobs:
            qualities += self._write(job, sink.write)
            self._bench.converted(sum(tensor.nbytes for tensor in job.reads))
        held: dict[str, bytearray] = {}
        for job in unit.tail:
            whole = bytearray()
            qualities += self._write(job, whole.extend)
            position = 0
            for output in job.writes:
                held[output.name] = whole[position : position + output.nbytes]
                position += output.nbytes
            self._bench.converted(sum(tensor.nbytes for tensor in job.reads))
        for output in tail_order([output for job in unit.tail for output in job.writes]):
            sink.write(held[output.name])
        return qualities

    def _write(self, job: Job, write: Write) -> list[TensorQuality]:
        try:
            if job.action == "nvfp4":
                return [self._convert(job, write)]
            for output in job.writes:
                if output.content == "copy":
                    self._copy(job.reads[output.source], write)
            if job.action == "recode":
                self._recode(job, write)
        except NonFiniteError as error:
            raise _named(error, job, self._bench.plan) from error
        return []

    def _copy(self, tensor: StoredTensor, write: Write) -> None:
        for begin in range(0, tensor.nbytes, COPY_BYTES):
            end = min(begin + COPY_BYTES, tensor.nbytes)
            write(self._reader.read(tensor, begin, end))

    # ── NVFP4 ────────────────────────────────────────────────────────────────────────────────

    def _convert(self, job: Job, write: Write) -> TensorQuality:
        scale = self._global_scale(job)
        mode = self._bench.plan.recipe.scales
        quality = Quality()
        scales = bytearray()
        held = self._held.pop(job.module, None)
        self._held_bytes -= sum(window.data.nbytes for window in held or ())
        for window in held if held is not None else self._reader.windows(job):
            encoded = self._bench.kernel.encode(window, scale, mode)
            write(encoded.codes.reshape(-1).data)
            scales += encoded.scales.reshape(-1).data
            quality += encoded.quality
        weight = job.weight
        if weight is None:
            raise ValueError(f"{job.module} has no weight")
        self._check_flushed(job, quality)
        for output in job.writes[1:]:
            if output.content == "scales":
                write(bytes(scales))
            elif output.content == "global_scale":
                write(self._layout.scalar("global_scale", scale))
            else:
                write(self._layout.scalar("input_scale", self._bench.plan.recipe.input_scale))
        shape = (weight.rows, weight.cols)
        return TensorQuality(job.module, job.role, shape, scale, quality)

    def _global_scale(self, job: Job) -> float:
        """From the largest weight of the whole partner set, wherever its members lie."""
        members = self._bench.plan.sets[job.partners].members
        total = sum(tensor.nbytes for member in members for tensor in member.reads)
        for member in members:
            if member.module in self._amax:
                continue
            keep = self._held_bytes + total <= HELD_BYTES and member.module in self._mine
            self._amax[member.module] = self._member_amax(member, keep=keep)
        amax = max(self._amax[member.module] for member in members)
        searched = self._bench.plan.recipe.scales == "search"
        return global_scale(amax) if searched else global_scale_amax(amax)

    def _member_amax(self, member: Job, *, keep: bool) -> float:
        amax = 0.0
        held: list[Window] = []
        try:
            for window in self._reader.windows(member):
                amax = max(amax, self._bench.kernel.amax(window))
                if keep:
                    held.append(window)
        except NonFiniteError as error:
            raise _named(error, member, self._bench.plan) from error
        if keep:
            self._held[member.module] = held
            self._held_bytes += sum(window.data.nbytes for window in held)
        return amax

    def _check_flushed(self, job: Job, quality: Quality) -> None:
        if self._bench.plan.recipe.allow_flushed:
            return
        if quality.flushed_blocks > FLUSHED_SHARE * quality.blocks:
            keep = _keep_option(job, self._bench.plan)
            raise IntegrityError(
                f"{quality.flushed_blocks} of {quality.blocks} blocks of {job.module} would become "
                "zero although their weights are not: a few huge weights set the scale.",
                (f"Leave its set as it is with {keep}, or accept" if keep else "Accept")
                + " it with --allow-flushed.",
            )

    # ── exact re-spellings ───────────────────────────────────────────────────────────────────

    def _recode(self, job: Job, write: Write) -> None:
        spelled = [output for output in job.writes if output.recode]
        if not spelled or job.weight is None:
            return
        try:
            if spelled[0].content == "recoded_scale":
                self._recode_scale(job, spelled[0], write)
            else:
                self._recode_weight(job, spelled[0].recode, write)
        except IntegrityError as error:
            if isinstance(error, NonFiniteError):
                raise
            raise IntegrityError(
                f"{job.module}: {error.what}",
                "Engines load it in no other spelling: the source is damaged, or of a kind that "
                "hubconv does not know yet.",
            ) from error

    def _recode_scale(self, job: Job, output: Output, write: Write) -> None:
        tensor = job.reads[output.source]
        raw = self._reader.read(tensor, 0, tensor.nbytes)
        if output.recode == "widen_to_f32":
            write(recodes.widen_to_f32(raw, tensor.dtype))
            return
        count = math.prod(tensor.shape)
        values = stored.scale_values(raw, tensor.dtype, (1, count))
        write(recodes.pow2_to_e8m0(values).tobytes())

    def _recode_weight(self, job: Job, recode: str, write: Write) -> None:
        scales = bytearray()
        for window in self._reader.windows(job):
            if recode == "fp8_to_mxfp4":
                data, scale = recodes.fp8_to_mxfp4(window)
            else:
                data, scale = recodes.bf16_to_fp8_block(window, (FP8_BLOCK_SIDE, FP8_BLOCK_SIDE))
            write(data.tobytes())
            scales += scale.tobytes()
        write(bytes(scales))


def _keep_option(job: Job, plan: Plan) -> str:
    """The --keep that leaves a job's set unquantized; empty where none is of use."""
    if job.action != "nvfp4" or plan.layout == "modelopt-v4":
        return ""
    return keep_option([member.module for member in plan.sets[job.partners].members])


def _named(error: NonFiniteError, job: Job, plan: Plan) -> IntegrityError:
    keep = _keep_option(job, plan)
    return IntegrityError(
        f"{job.module}.weight in {job.reads[0].shard} holds {error.count} values that are NaN or "
        f"infinite, the first at [{error.row}, {error.col}].",
        "The checkpoint is damaged at its source."
        + (f" To leave the set as it is: {keep}." if keep else " Its publisher must mend it."),
    )
