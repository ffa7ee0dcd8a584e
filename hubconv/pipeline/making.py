"""Units that are missing on staging: found, given room, made."""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubconv.ends import Staging
from hubconv.errors import ResourceError, StoppedError
from hubconv.folder import FolderTarget
from hubconv.journal import Ending
from hubconv.pipeline.run import Run
from hubconv.progress import Extent
from hubconv.quantities import human_bytes, human_time
from hubconv.records import UnitRecord
from hubconv.steps.schedule import longest_first
from hubconv.steps.shards import Unit


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


def make(run: Run, staging: Staging, units: Sequence[Unit], ending: Ending | None = None) -> Done:
    """Make those of some units that are not staged yet.

    Args:
        run: The run.
        staging: The journal of its plan.
        units: Units of the plan: all, a slice, or none.
        ending: How the run ends, where it does with these units.

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
        whole = Extent(len(units), total, _written_for(units))
        done = Extent(len(ready), _read_for(ready), _written_for(ready))
        run.progress.plan(whole, done)
    if not missing:
        return Done(found)
    run.progress.phase("Converting")
    began = time.monotonic()
    try:
        return Done(found, _made(run, staging, missing, ending))
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


def _made(
    run: Run, staging: Staging, missing: Sequence[Unit], ending: Ending | None
) -> list[UnitRecord]:
    if run.hands is None:
        raise ValueError("a run that makes units has hands")
    _check_disk(run, staging, missing)
    return run.hands.make(run, staging, longest_first(missing), ending)


def _read_for(units: Iterable[Unit]) -> int:
    """Source bytes behind units."""
    return sum(
        tensor.nbytes
        for unit in units
        for job in (*unit.jobs, *unit.tail)
        for tensor in job.reads
    )  # fmt: skip


def _written_for(units: Iterable[Unit]) -> int:
    return sum(unit.nbytes for unit in units)


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
            f"{run.scratch} has {human_bytes(room)} for this run; this run needs "
            f"{human_bytes(need)}.",
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
            f"{folder} has {human_bytes(free)} free; this run needs {human_bytes(need)}.",
            "Make room, or name another folder.",
        )
    return need if folder.stat().st_dev == run.scratch.stat().st_dev else 0
