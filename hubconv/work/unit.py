"""One unit of work, from opened shards to a record.

It is stateless and idempotent: the same plan and the same source give the same bytes, on any
machine and any device.
"""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from hubconv.ends import Source, StagedFile, Staging
from hubconv.errors import BrokenLineError, DamagedError, IntegrityError, ScaleError
from hubconv.kernels import Kernel
from hubconv.records import TensorQuality, UnitRecord
from hubconv.steps.inventory import check_headers
from hubconv.steps.plan import Plan
from hubconv.steps.schedule import Limits, announced, schedule
from hubconv.steps.shards import Unit
from hubconv.work.reading import Reader
from hubconv.work.writing import Writer

ATTEMPTS: Final = 3
"""A shard whose bytes are lost on their way to the Hub is made again twice."""

DAMAGED_ATTEMPTS: Final = 2
"""A shard that arrives damaged is fetched again once; then both hashes are shown."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a worker has at hand.

    Attributes:
        plan: The plan.
        source: Where to read.
        staging: Where finished shards go.
        kernel: What computes.
        version: hubconv's version.
        converted: Told the source bytes of each finished piece of work; fewer than none where a
            unit is begun again.
        limits: How much of a unit is in memory at a time.
    """

    plan: Plan
    source: Source
    staging: Staging
    kernel: Kernel
    version: str
    converted: Callable[[int], None] = lambda _: None
    limits: Limits = field(default_factory=Limits)


def work(bench: Bench, unit: Unit) -> UnitRecord:
    """Make one output shard and hand it to staging.

    Raises:
        IntegrityError: NaN or infinity in a weight, too many flushed blocks, a recode that is not
            exact, or a source shard whose content is not what the source says, twice.
        BrokenLineError: What was written was lost, three times.
    """
    started = time.monotonic()
    staged, qualities = _tried(bench, unit)
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


def _tried(bench: Bench, unit: Unit) -> tuple[StagedFile, list[TensorQuality]]:
    damaged = 0
    for attempt in range(1, ATTEMPTS + 1):
        done = _Count(bench.converted)
        try:
            return _once(bench, unit, done)
        except (DamagedError, BrokenLineError) as error:
            damaged += isinstance(error, DamagedError)
            if attempt == ATTEMPTS or damaged == DAMAGED_ATTEMPTS:
                raise
            _LOG.warning("%s is made again: %s", unit.shard, error)
            done(-done.total)
    raise DamagedError(f"{unit.shard} was not tried.")


@dataclass(slots=True)
class _Count:
    """Passes figures on, and keeps their sum."""

    told: Callable[[int], None]
    total: int = 0

    def __call__(self, source_bytes: int) -> None:
        self.total += source_bytes
        self.told(source_bytes)


def _once(
    bench: Bench, unit: Unit, converted: Callable[[int], None]
) -> tuple[StagedFile, list[TensorQuality]]:
    tasks = schedule(unit, bench.plan.sets, bench.limits)
    reads = announced(unit, tasks, bench.limits)
    with ExitStack() as stack:
        reader = Reader(bench.source, bench.limits, bench.kernel.stage)
        for shard in unit.sources:
            reader.opened[shard] = stack.enter_context(bench.source.open(shard, reads[shard]))
        try:
            _check_headers(bench.source, reader, unit)
            sink = stack.enter_context(bench.staging.create(unit.shard))
            writer = Writer(bench.plan, reader, bench.kernel, sink, converted)
            sink.write(unit.header())
            qualities = writer.run(unit, tasks)
            reader.prove()
        except (IntegrityError, ScaleError) as error:
            reason = reader.explain(error)
            if reason is error:
                raise
            raise reason from error
        return sink.finish(), qualities


def _check_headers(source: Source, reader: Reader, unit: Unit) -> None:
    wanted = [tensor for job in (*unit.jobs, *unit.tail) for tensor in job.reads]
    for shard in unit.sources:
        here = (tensor for tensor in wanted if tensor.shard == shard)
        check_headers(reader.opened[shard], source.files()[shard], here)
