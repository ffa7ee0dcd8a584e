"""From windows of source bytes to the tensors of an output shard, in the planned order."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Final

from hubconv.ends import Sink
from hubconv.errors import DamagedError, IntegrityError
from hubconv.formats import recodes, stored
from hubconv.formats.layouts import layout as find_layout
from hubconv.formats.nvfp4 import Encoded, Quality, global_scale, global_scale_amax
from hubconv.formats.stored import NonFiniteError, Window
from hubconv.kernels import Kernel, done, one_ahead
from hubconv.records import TensorQuality
from hubconv.steps.decide import Job
from hubconv.steps.partners import keep_option
from hubconv.steps.plan import Plan
from hubconv.steps.schedule import Read, Task, copies
from hubconv.steps.shards import Unit, tail_order
from hubconv.steps.spell import FP8_BLOCK_SIDE, Output
from hubconv.work.reading import Reader

FLUSHED_SHARE: Final = 0.001
"""A tensor with a larger share of blocks flushed to zero is refused."""

Write = Callable[[bytes | bytearray | memoryview], object]


class Writer:
    """One unit's way from source bytes to the sink.

    Args:
        plan: The plan.
        reader: Gives source bytes.
        kernel: What computes.
        sink: Takes the bytes of the shard, in order.
        converted: Told the source bytes of each finished job.
    """

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        kernel: Kernel,
        sink: Sink,
        converted: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._reader = reader
        self._kernel = kernel
        self._sink = sink
        self._converted = converted
        self._layout = find_layout(plan.layout)
        self._amax: dict[str, Callable[[], float]] = {}
        self._known: set[str] = set()
        self._held: dict[str, list[Window]] = {}
        self._late: frozenset[str] = frozenset()
        self._waiting: dict[str, bytearray] = {}

    def run(self, unit: Unit, tasks: Sequence[Task]) -> list[TensorQuality]:
        """Do every task of a unit; returns how its NVFP4 weights came out."""
        self._late = frozenset(job.module for job in unit.tail)
        qualities: list[TensorQuality] = []
        before: Callable[[], list[TensorQuality]] = done([])
        for after in self._begun(tasks):
            # Where a task cannot begin, the one before it is not written any more: the unit failed.
            qualities += before()
            before = after
        qualities += before()
        for output in tail_order([output for job in unit.tail for output in job.writes]):
            self._sink.write(self._waiting[output.name])
        return qualities

    def _begun(self, tasks: Sequence[Task]) -> Iterator[Callable[[], list[TensorQuality]]]:
        """Begin every task; what is yielded ends it, once a device works on the next one."""
        for task in tasks:
            if task.act == "measure":
                self._measure(task)
                continue
            # What comes before is ended first where this one reads, so that reads keep their order;
            # and where a device has just begun to measure, which takes it less time.
            if not (task.held and self._is_measured(task.job)):
                yield done([])
            yield self._convert(task) if task.held else done(self._done(task))

    def _done(self, task: Task) -> list[TensorQuality]:
        job = task.job
        if job.action == "nvfp4":
            return self._convert(task)()
        data = next((o for o in job.writes if o.content == "recoded_data"), None)
        with self._naming(job), self._room(job) as write:
            if data is not None:
                self._recoded(job, data, write)
                return []
            for output in job.writes:
                if output.recode:
                    self._recoded(job, output, write)
                    continue
                for read in copies(job.reads[output.source], self._reader.limits):
                    write(self._reader.read(read).data)
        return []

    @contextmanager
    def _room(self, job: Job) -> Iterator[Write]:
        """Where the bytes of a job go: into the shard, or aside where they come last in it."""
        if job.module not in self._late:
            yield self._sink.write
        else:
            whole = bytearray()
            yield whole.extend
            position = 0
            for output in job.writes:
                self._waiting[output.name] = whole[position : position + output.nbytes]
                position += output.nbytes
        self._converted(sum(tensor.nbytes for tensor in job.reads))

    @contextmanager
    def _naming(self, job: Job) -> Iterator[None]:
        """Say of which weight something is not finite."""
        try:
            yield
        except NonFiniteError as error:
            raise _named(error, job, self._plan) from error

    # ── NVFP4 ────────────────────────────────────────────────────────────────────────────────

    def _measure(self, task: Task) -> None:
        """Look for the largest weight of a job; hold its windows where the schedule says so."""
        module = task.job.module
        with self._naming(task.job), self._reader.measuring(task) as reader:
            if task.held:
                windows, begun = self._held.setdefault(module, []), []
                for window in reader.windows(task.job):
                    windows.append(window)
                    begun.append(self._kernel.begin_amax(window))
                self._amax[module] = lambda: max((each() for each in begun), default=0.0)
                return
            each = (self._kernel.begin_amax(window) for window in reader.windows(task.job))
            with closing(one_ahead(each)) as found:
                self._amax[module] = done(max(found, default=0.0))

    def _largest(self, job: Job) -> float:
        """The largest weight of a job that was measured; waited for where a device still looks."""
        with self._naming(job):
            found = self._amax[job.module]()
        self._amax[job.module] = done(found)
        self._known.add(job.module)
        return found

    def _is_measured(self, job: Job) -> bool:
        """Whether the largest weight of a job's set is known, without waiting."""
        members = self._plan.sets[job.partners].members
        return all(member.module in self._known for member in members)

    def _convert(self, task: Task) -> Callable[[], list[TensorQuality]]:
        """Begin the first window of a weight; what is returned writes all of them."""
        job, weight = task.job, task.job.weight
        if weight is None:
            raise ValueError(f"{job.module} has no weight")
        scale, seen = self._global_scale(job), [0.0]
        with self._naming(job):
            begun = self._encoding(task, job, scale, seen)
            first = list(islice(begun, 1))

        def end() -> list[TensorQuality]:
            encoding = one_ahead(chain(first, begun))
            with self._naming(job), self._room(job) as write, closing(encoding) as made:
                quality = self._write(job, scale, made, write, [] if task.held else seen)
            shape = (weight.rows, weight.cols)
            return [TensorQuality(job.module, job.role, shape, scale, quality)]

        return end

    def _write(
        self, job: Job, scale: float, made: Iterator[Encoded], write: Write, seen: Sequence[float]
    ) -> Quality:
        """Write a weight's windows, then its scales; `seen` are its largest weights, met again."""
        quality, scales = Quality(), bytearray()
        for encoded in made:
            write(encoded.codes.reshape(-1).data)
            scales += encoded.scales.reshape(-1).data
            quality += encoded.quality
        if seen and max(seen) != self._largest(job):
            raise DamagedError(
                f"The largest weight of {job.module} was {self._largest(job)!r} when its set "
                f"was measured and {max(seen)!r} when it was written.",
                "The line or the memory garbled it: run the same command again.",
            )
        self._check_flushed(job, quality)
        for output in job.writes[1:]:
            is_table = output.content == "scales"
            write(bytes(scales) if is_table else self._scalar(job, output, scale))
        return quality

    def _encoding(
        self, task: Task, job: Job, scale: float, seen: list[float]
    ) -> Iterator[Callable[[], Encoded]]:
        """Begin each window of a weight; `seen` receives the largest weights of those not held."""
        windows = self._held.pop(job.module) if task.held else self._reader.windows(job)
        for window in windows:
            if not task.held:  # measured on bytes that nothing had proven
                seen.append(self._kernel.amax(window))
            yield self._kernel.begin_encode(window, scale, self._plan.recipe.scales)

    def _scalar(self, job: Job, output: Output, scale: float) -> bytes:
        if output.content == "global_scale":
            return self._layout.scalar("global_scale", scale)
        told = self._plan.input_scales.get(job.module, self._plan.recipe.input_scale)
        return self._layout.scalar("input_scale", told)

    def _global_scale(self, job: Job) -> float:
        """From the largest weight of the whole partner set, wherever its members lie."""
        members = self._plan.sets[job.partners].members
        amax = max(self._largest(member) for member in members)
        searched = self._plan.recipe.scales == "search"
        return global_scale(amax) if searched else global_scale_amax(amax)

    def _check_flushed(self, job: Job, quality: Quality) -> None:
        if self._plan.recipe.allow_flushed:
            return
        if quality.flushed_blocks > FLUSHED_SHARE * quality.blocks:
            keep = _keep_option(job, self._plan)
            raise IntegrityError(
                f"{quality.flushed_blocks} of {quality.blocks} blocks of {job.module} would become "
                "zero although their weights are not: a few huge weights set the scale.",
                (f"Leave its set as it is with {keep}, or accept" if keep else "Accept")
                + " it with --allow-flushed.",
            )

    # ── exact re-spellings ───────────────────────────────────────────────────────────────────

    def _recoded(self, job: Job, output: Output, write: Write) -> None:
        try:
            if output.content == "recoded_scale":
                self._recode_scale(job, output, write)
            else:
                self._recode_weight(job, output.recode, write)
        except IntegrityError as error:
            if isinstance(error, NonFiniteError | DamagedError):
                raise
            raise IntegrityError(
                f"{job.module}: {error.what}",
                "Engines load it in no other spelling: the source is damaged, or of a kind that "
                "hubconv does not know yet.",
            ) from error

    def _recode_scale(self, job: Job, output: Output, write: Write) -> None:
        tensor = job.reads[output.source]
        raw = self._reader.read(Read(tensor, 0, tensor.nbytes))
        if output.recode == "widen_to_f32":
            write(recodes.widen_to_f32(raw.data, tensor.dtype))
            return
        count = math.prod(tensor.shape)
        values = stored.scale_values(raw, tensor.dtype, (1, count))
        write(recodes.pow2_to_e8m0(values).tobytes())

    def _recode_weight(self, job: Job, recode: str, write: Write) -> None:
        scales = bytearray()
        for window in self._reader.windows(job):
            if recode == "fp8_to_mxfp4":
                data, scale = self._kernel.fp8_to_mxfp4(window)
            else:
                block = (FP8_BLOCK_SIDE, FP8_BLOCK_SIDE)
                data, scale = self._kernel.bf16_to_fp8_block(window, block)
            write(data.reshape(-1).data)
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
