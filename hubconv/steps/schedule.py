"""What a unit reads and writes, in order: known before the first byte moves.

A code needs its global scale, and that needs the largest weight of the whole partner set. So a set
is measured before its first member is written: held in memory between the two where it is small
enough, read twice where it is not, or where a member belongs to another unit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hubconv.formats.checkpoint import LENGTH_BYTES, StoredTensor
from hubconv.formats.stored import StoredWeight
from hubconv.steps.decide import Job
from hubconv.steps.shards import PartnerSet, Unit
from hubconv.steps.spell import FP8_BLOCK_SIDE

MIB: Final = 1024 * 1024

WORK_STEPS: Final = 8
"""Work of units is compared in so many parts of the largest."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a unit is in memory at a time.

    Attributes:
        window_bytes: Source bytes of a weight that are worked on at a time.
        copy_bytes: Bytes of a kept tensor that are copied at a time.
        held_bytes: Weights of all partner sets held between measuring and writing.
    """

    window_bytes: int = 16 * MIB
    copy_bytes: int = 16 * MIB
    held_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a unit.

    Attributes:
        act: `measure` finds the largest weight of a job, `write` writes its tensors.
        job: Of this unit, or for `measure` a partner from another.
        held: The windows stay in memory from `measure` to `write`.
    """

    act: Literal["measure", "write"]
    job: Job
    held: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes [begin, end) of a tensor."""

    tensor: StoredTensor
    begin: int
    end: int

    @property
    def in_file(self) -> tuple[int, int]:
        """The same bytes, counted from the start of the shard."""
        return self.tensor.begin + self.begin, self.tensor.begin + self.end


@dataclass(frozen=True, slots=True)
class WindowReads:
    """What one window of a weight takes.

    Attributes:
        first_row: Its first row.
        data: Bytes of its rows.
        scales: Bytes of the scales they need; None where the weight has none.
    """

    first_row: int
    data: Read
    scales: Read | None


def longest_first(units: Sequence[Unit]) -> list[Unit]:
    """Units in the order in which several workers are done soonest: the most work first.

    Units of about the same work stay in their order.
    """
    work = {unit.shard: _work(unit) for unit in units}
    most = max(work.values(), default=0) or 1
    return sorted(units, key=lambda unit: -(work[unit.shard] * WORK_STEPS // most))


def _work(unit: Unit) -> int:
    """Source bytes; what is re-spelled counts twice: a worker waits for every window of it."""
    work = 0
    for job in (*unit.jobs, *unit.tail):
        respelled = any(output.content == "recoded_data" for output in job.writes)
        work += _bytes(job) * (2 if respelled else 1)
    return work


def schedule(unit: Unit, sets: Mapping[str, PartnerSet], limits: Limits) -> tuple[Task, ...]:
    """The steps of a unit, in order.

    Args:
        unit: The output shard to make.
        sets: Every partner set of the plan.
        limits: How much may be held.
    """
    mine = frozenset(job.module for job in (*unit.jobs, *unit.tail))
    tasks: list[Task] = []
    measured: dict[str, bool] = {}  # module: whether it is held
    held_bytes = 0
    for job in (*unit.jobs, *unit.tail):
        if job.action == "nvfp4":
            members = [m for m in sets[job.partners].members if m.module not in measured]
            total = sum(_bytes(member) for member in members)
            fits = held_bytes + total <= limits.held_bytes
            for member in members:
                held = fits and member.module in mine
                measured[member.module] = held
                held_bytes += _bytes(member) if held else 0
                tasks.append(Task("measure", member, held))
        held = measured.get(job.module, False)
        held_bytes -= _bytes(job) if held else 0
        tasks.append(Task("write", job, held))
    return tuple(tasks)


def _bytes(job: Job) -> int:
    return sum(tensor.nbytes for tensor in job.reads)


def reads_of(task: Task, limits: Limits) -> Iterator[Read]:
    """Every read of a task, in order."""
    if task.act == "write" and task.held:
        return
    job = task.job
    if task.act == "measure" or job.action == "nvfp4":
        yield from _of_windows(job, limits)
        return
    if any(output.content == "recoded_data" for output in job.writes):
        yield from _of_windows(job, limits)
        return
    for output in job.writes:
        tensor = job.reads[output.source]
        if output.content == "copy":
            yield from copies(tensor, limits)
        else:
            yield Read(tensor, 0, tensor.nbytes)


def _of_windows(job: Job, limits: Limits) -> Iterator[Read]:
    stated = job.stated_shape
    if stated is not None:
        yield Read(stated, 0, stated.nbytes)
    last = None
    if _is_turned(job):
        # Rows of a turned weight are spread over the whole matrix, which is read in one piece.
        yield Read(job.reads[0], 0, job.reads[0].span)
        return
    for window in windows(job, limits):
        if window.scales is not None and window.scales != last:
            yield window.scales
            last = window.scales
        yield window.data


def _is_turned(job: Job) -> bool:
    return job.weight is not None and job.weight.turned is not None


def copies(tensor: StoredTensor, limits: Limits) -> Iterator[Read]:
    """A kept tensor, piece by piece."""
    for begin in range(0, tensor.nbytes, limits.copy_bytes):
        yield Read(tensor, begin, min(begin + limits.copy_bytes, tensor.nbytes))


def windows(job: Job, limits: Limits) -> Iterator[WindowReads]:
    """A weight in windows of whole rows.

    Neighbours that need the same scales (one for the whole weight) name the same read.
    """
    weight = job.weight
    if weight is None:
        return
    for first, rows in window_rows(weight, limits.window_bytes):
        size = weight.row_bytes
        data = Read(job.reads[0], first * size, (first + rows) * size)
        scales = None
        if len(job.reads) > 1:
            of_window = weight.scale_rows(first, rows)
            size = weight.scale_row_bytes
            scales = Read(job.reads[1], of_window.start * size, of_window.stop * size)
        yield WindowReads(first, data, scales)


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


def announced(
    unit: Unit, tasks: Sequence[Task], limits: Limits
) -> dict[str, list[tuple[int, int]]]:
    """What a unit reads from each shard that it opens, in order, its header first.

    Measuring without holding is left out: its bytes come once more, and are announced then.
    """
    found: dict[str, list[Read]] = {shard: [] for shard in unit.sources}
    for task in tasks:
        if task.act == "write" or task.held:
            for read in reads_of(task, limits):
                before = found.get(read.tensor.shard, [])[-1:]
                is_kept = _is_turned(task.job) and [each.in_file for each in before] == [
                    read.in_file
                ]
                if read.tensor.shard in found and not is_kept:
                    found[read.tensor.shard].append(read)
    ranges: dict[str, list[tuple[int, int]]] = {}
    for shard, reads in found.items():
        header_end = min((read.tensor.begin for read in reads), default=LENGTH_BYTES)
        ranges[shard] = [(0, LENGTH_BYTES), (LENGTH_BYTES, header_end)]
        ranges[shard] += [read.in_file for read in reads]
    return ranges
