"""Units that are missing on staging: found, given room, made."""

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubconv.ends import Staging
from hubconv.engines import run_units
from hubconv.errors import ResourceError, StoppedError
from hubconv.folder import FolderTarget
from hubconv.pipeline.run import Run
from hubconv.progress import human_time
from hubconv.records import UnitRecord
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import Unit
from hubconv.version import __version__
from hubconv.work import Bench

HUB_WORKERS: Final = 3
"""One has the line down, one ends its upload, one is between the two."""

HELD_BYTES: Final = 768 * 1024 * 1024
"""Partner sets held between measuring and writing, by all workers together."""


@dataclass(frozen=True, slots=True)
class Done:
    """What is staged of a plan.

    Attributes:
        found: Units that were finished before, by shard.
        made: Units of this run.
    """

    found: Mapping[str, UnitRecord]
    made: Sequence[UnitRecord] = ()

    @property
    def records(self) -> Mapping[str, UnitRecord]:
        """All of them."""
        return {**self.found, **{record.shard: record for record in self.made}}


def make(run: Run, staging: Staging, units: Sequence[Unit]) -> Done:
    """Make those of some units that are not staged yet.

    Args:
        run: The run.
        staging: The journal of its plan.
        units: Units of the plan: all, a slice, or none.

    Raises:
        HubconvError: What is finished is staged.
    """
    wanted = {unit.shard for unit in run.plan.units}
    found = {shard: record for shard, record in staging.records().items() if shard in wanted}
    missing = [unit for unit in units if unit.shard not in found]
    ready = [unit for unit in units if unit.shard in found]
    everything = len(units) == len(run.plan.units)
    total = run.plan.source_bytes if everything else _read_for(units)
    if units:
        run.progress.plan(len(units), total, len(ready), _read_for(ready))
    if not missing:
        return Done(found)
    run.progress.phase("Converting")
    began = time.monotonic()
    try:
        return Done(found, _made(run, staging, missing))
    except StoppedError as stopped:
        _tell_how_far(run, stopped, len(found), time.monotonic() - began)
        raise


def _tell_how_far(run: Run, stopped: StoppedError, found: int, seconds: float) -> None:
    """Have a run that was stopped tell what is staged, and how long the rest takes."""
    stopped.staged, stopped.of = found + stopped.made, len(run.plan.units)
    stopped.what += f" {stopped.staged} of {stopped.of} shards are staged on {run.target.ref}."
    left = stopped.of - stopped.staged
    if stopped.made and left:
        stopped.seconds_left = left * seconds / stopped.made
        stopped.what += f" The rest takes about {human_time(stopped.seconds_left)} at this rate."


def _made(run: Run, staging: Staging, missing: Sequence[Unit]) -> list[UnitRecord]:
    if run.kernel is None:
        raise ValueError("a run that makes units has a kernel")
    workers = _workers(run, missing)
    _check_disk(run, staging, missing)
    kernel = run.kernel.kernel(workers, sum(unit.nbytes for unit in missing))

    def converted(source_bytes: int) -> None:
        run.progress.converted(source_bytes)
        run.stop.at_once()

    bench = Bench(
        run.plan, run.source, staging, kernel, __version__, converted,
        Limits(held_bytes=min(Limits().held_bytes, HELD_BYTES // workers)),
    )  # fmt: skip
    return run_units(bench, missing, workers, run.progress, run.stop)


def _workers(run: Run, missing: Sequence[Unit]) -> int:
    """Shards to make at a time: a line is full with three, cores want one each."""
    local = not run.source.commit and isinstance(run.target, FolderTarget)
    wanted = len(os.sched_getaffinity(0)) if local else HUB_WORKERS
    return run.request.workers or max(1, min(wanted, len(missing)))


def _read_for(units: Iterable[Unit]) -> int:
    """Source bytes behind units."""
    return sum(
        tensor.nbytes
        for unit in units
        for job in (*unit.jobs, *unit.tail)
        for tensor in job.reads
    )  # fmt: skip


def _check_disk(run: Run, staging: Staging, missing: Sequence[Unit]) -> None:
    """Lend the source the disk that output shards leave, before the first byte.

    A source with little of it streams; without room for the output there is no way.
    """
    room = shutil.disk_usage(run.scratch).free
    if isinstance(run.target, FolderTarget):
        room -= _check_folder(run, Path(run.target.ref), missing)
    room = min(room, run.request.max_disk or room)
    need = staging.disk_bytes(max((unit.nbytes for unit in missing), default=0), room)
    if room < need:
        raise ResourceError(
            f"{run.scratch} has {room / 2**30:.1f} GiB for this run; this run needs "
            f"{need / 2**30:.1f} GiB.",
            "Make room, raise --max-disk, or name another folder with --work-dir.",
        )
    run.source.allow_disk(room - need)


def _check_folder(run: Run, folder: Path, missing: Sequence[Unit]) -> int:
    """Bytes that the result will take of the work folder's disk."""
    need = sum(unit.nbytes for unit in missing)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ResourceError(
            f"{folder} has {free / 2**30:.1f} GiB free; this run needs {need / 2**30:.1f} GiB.",
            "Make room, or name another folder.",
        )
    return need if folder.stat().st_dev == run.scratch.stat().st_dev else 0
