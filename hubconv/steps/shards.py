"""Jobs to output shards: final names, the exact order of bytes, exact sizes.

Torch views a tensor inside a mapped file only at an offset that is a multiple of its element size,
so the order within a shard keeps every tensor aligned: jobs with 8-byte elements first, then jobs
whose tensors all fill whole 4-byte words in the order of the source, then the few others sorted by
element size.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hubconv.formats.checkpoint import StoredTensor, write_header
from hubconv.formats.dtypes import alignment
from hubconv.steps.decide import Job
from hubconv.steps.spell import Output

WORD: Final = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """One output shard: the unit of work.

    Attributes:
        shard: Its path in the target.
        jobs: Jobs whose tensors are written one after the other, in this order.
        tail: Jobs whose tensors are held back and written last, by element size.
        outputs: Every tensor of the shard in the order of its bytes.
        data_bytes: Bytes of all tensors.
        header_bytes: Bytes before the first tensor byte.
        sources: Source shards its weights lie in, in order of reading.
        header_sha256: Hash of those bytes, by which the shard is known again when it is read back.
    """

    shard: str
    jobs: tuple[Job, ...]
    tail: tuple[Job, ...]
    outputs: tuple[Output, ...]
    data_bytes: int
    header_bytes: int
    sources: tuple[str, ...]
    header_sha256: bytes = b""

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.header_bytes + self.data_bytes

    def header(self) -> bytes:
        """The file's beginning, up to the first tensor byte."""
        return write_header([(o.name, o.dtype, o.shape) for o in self.outputs])

    def tensors(self) -> list[StoredTensor]:
        """What that header describes, in the order of the bytes."""
        found = []
        end = self.header_bytes
        for output in self.outputs:
            begin, end = end, end + output.nbytes
            found.append(
                StoredTensor(output.name, output.dtype, output.shape, self.shard, begin, end)
            )
        return found


def plan_shards(jobs: Sequence[Job], max_shard_bytes: int) -> tuple[Unit, ...]:
    """Group jobs into output shards.

    Args:
        jobs: In the order of the source.
        max_shard_bytes: 0 keeps the source's shards and names; otherwise jobs are regrouped in
            order, and a shard is larger only where one job alone is.
    """
    writing = [job for job in jobs if job.writes]
    if not max_shard_bytes:
        by_shard: dict[str, list[Job]] = {}
        for job in writing:
            by_shard.setdefault(job.reads[0].shard, []).append(job)
        return tuple(_unit(shard, group) for shard, group in by_shard.items())
    groups = list(_regroup(writing, max_shard_bytes))
    if len(groups) == 1:
        return (_unit("model.safetensors", groups[0]),)
    return tuple(
        _unit(f"model-{number:05d}-of-{len(groups):05d}.safetensors", group)
        for number, group in enumerate(groups, 1)
    )


def slice_units(units: Sequence[Unit], number: int, count: int) -> tuple[Unit, ...]:
    """One of several slices of a plan's units: the same on every machine, about equal in bytes.

    Args:
        units: All units of the plan.
        number: The slice, from 1 to `count`.
        count: Slices; where there are more of them than units, some are empty.

    Returns:
        Its units, in the order of the plan. The slices together are the plan, none twice.
    """
    taken = [0] * count
    mine: set[str] = set()
    # The largest first, each to the slice that has least so far.
    for unit in sorted(units, key=lambda unit: (-unit.nbytes, unit.shard)):
        lightest = min(range(count), key=lambda each: (taken[each], each))
        taken[lightest] += unit.nbytes
        if lightest == number - 1:
            mine.add(unit.shard)
    return tuple(unit for unit in units if unit.shard in mine)


def _regroup(jobs: Sequence[Job], limit: int) -> Iterator[list[Job]]:
    group: list[Job] = []
    size = 0
    for job in jobs:
        job_bytes = sum(output.nbytes for output in job.writes)
        if group and size + job_bytes > limit:
            yield group
            group, size = [], 0
        group.append(job)
        size += job_bytes
    if group:
        yield group


def _unit(shard: str, jobs: Sequence[Job]) -> Unit:
    straight: list[Job] = []
    tail: list[Job] = []
    for job in jobs:
        (straight if _fills_words(job) else tail).append(job)
    straight.sort(key=lambda job: all(alignment(o.dtype) <= WORD for o in job.writes))
    outputs = [output for job in straight for output in job.writes]
    outputs += tail_order([output for job in tail for output in job.writes])
    header = write_header([(o.name, o.dtype, o.shape) for o in outputs])
    return Unit(
        shard,
        tuple(straight),
        tuple(tail),
        tuple(outputs),
        sum(output.nbytes for output in outputs),
        len(header),
        tuple(dict.fromkeys(job.reads[0].shard for job in jobs)),
        hashlib.sha256(header).digest(),
    )


def _fills_words(job: Job) -> bool:
    return all(output.nbytes % WORD == 0 for output in job.writes)


def tail_order(outputs: Sequence[Output]) -> list[Output]:
    """Tensors by element size, widest first; the order of equals stays."""
    return sorted(outputs, key=lambda output: -alignment(output.dtype))


@dataclass(frozen=True, slots=True)
class PartnerSet:
    """Weights that must share one global scale.

    Attributes:
        key: Its name: the parent module and the members.
        members: Their jobs, in the order of the source.
    """

    key: str
    members: tuple[Job, ...]


def partner_sets(jobs: Sequence[Job]) -> Mapping[str, PartnerSet]:
    """Every partner set by key; a weight without partners is a set of one."""
    members: dict[str, list[Job]] = {}
    for job in jobs:
        if job.action == "nvfp4":
            members.setdefault(job.partners, []).append(job)
    return {key: PartnerSet(key, tuple(found)) for key, found in members.items()}


def foreign_reads(unit: Unit, sets: Mapping[str, PartnerSet]) -> list[StoredTensor]:
    """Tensors a unit reads from shards it does not open: companions, partners for their amax."""
    opened = frozenset(unit.sources)
    reads: dict[str, StoredTensor] = {}
    for job in (*unit.jobs, *unit.tail):
        members = sets[job.partners].members if job.action == "nvfp4" else (job,)
        for member in members:
            for tensor in member.used:
                if tensor.shard not in opened:
                    reads[tensor.name] = tensor
    return list(reads.values())
