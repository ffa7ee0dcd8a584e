"""Whether a plan fits a machine, and why.

Shards pass through in pieces: what is in memory at a time depends on the size of no shard, and what
lies on the disk depends on how the Hub takes uploads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hubconv.hub.room import out_bytes
from hubconv.quantities import human_bytes
from hubconv.steps.plan import Plan

MEMORY_BYTES: Final = 1_500_000_000
"""Beside the import of torch and the plan: windows, sets held between measuring and writing,
streams and the processes behind them. Runs in `benchmarks/` took 0.4 to 1.45 GB of it, with shards
of 6 GB as with shards of 0.2; between folders sixteen workers took 0.65 with all."""

TORCH_BYTES: Final = 550_000_000
"""Its bare import took 222 MB without CUDA and 504 MB with it."""

TENSOR_BYTES: Final = 2_000
"""A plan took 1.5 to 1.7 kB for each tensor of the source."""

HUB_WORKERS: Final = 3
"""One has the line down, one ends its upload, one is between the two."""

FEW_CORES: Final = 4
"""Three workers keep these busy."""

MANY_CORES_WORKERS: Final = 4
"""With three a fast line has pauses: 16 cores, 400 MB/s by Xet, 1.14 x the line, and 1.08."""

WHOLE_SHARD_WORKERS: Final = 5
"""Where a shard goes up only when it is whole: 1.12 x that line with four, 1.11 with five."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, or what a run may take of one.

    Attributes:
        cores: Processors.
        memory_bytes: Memory.
        disk_bytes: Disk that is free.
    """

    cores: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What a plan takes of a machine at a time, at most.

    Attributes:
        memory_bytes: Of memory, with one device: more of them were not measured.
        disk_bytes: Of disk, where output shards go up through Xet.
        lfs_disk_bytes: Of disk, where they go up by plain LFS: the largest of them.
        folder_bytes: Of disk, where the target is a folder: all of them.
    """

    memory_bytes: int
    disk_bytes: int
    lfs_disk_bytes: int
    folder_bytes: int

    @classmethod
    def of(cls, plan: Plan) -> "Needs":
        """Those of a plan."""
        tensors = sum(len(job.reads) for job in plan.jobs)
        # A turned weight is read with the whole matrix that it is stored in, by two at a time.
        turned = (job.reads[0].span for job in plan.jobs if job.weight and job.weight.turned)
        largest = max((unit.nbytes for unit in plan.units), default=0)
        return cls(
            MEMORY_BYTES + TORCH_BYTES + TENSOR_BYTES * tensors + 2 * max(turned, default=0),
            out_bytes(largest, 0, streams=True),
            out_bytes(largest, 0, streams=False),
            plan.target_bytes,
        )

    def fits(self, machine: Machine) -> Mapping[str, bool]:
        """Whether there is enough, by the way that the result goes."""
        enough = self.memory_bytes <= machine.memory_bytes
        disks = {
            "xet": self.disk_bytes, "lfs": self.lfs_disk_bytes, "folder": self.folder_bytes,
        }  # fmt: skip
        return {way: enough and need <= machine.disk_bytes for way, need in disks.items()}


def hub_workers(cores: int, *, streams: bool = True) -> int:
    """Output shards made at the same time at the Hub, by each device of a machine.

    Args:
        cores: Its processors.
        streams: Whether shards go up while they are made.
    """
    if cores <= FEW_CORES:
        return HUB_WORKERS
    return MANY_CORES_WORKERS if streams else WHOLE_SHARD_WORKERS


def told(plan: Plan, machine: Machine, *, is_folder: bool = False) -> list[str]:
    """For a person: whether a plan fits a machine, and why.

    Args:
        plan: The plan.
        machine: The machine, or what may be taken of it.
        is_folder: The target is a folder.
    """
    needs = Needs.of(plan)
    verdict = "Fits" if needs.fits(machine)["folder" if is_folder else "xet"] else "Does not fit"
    is_local = is_folder and not plan.commit
    shards = machine.cores if is_local else hub_workers(machine.cores)
    return [
        f"{verdict} {machine.cores} cores, {human_bytes(machine.memory_bytes)} of memory and "
        f"{human_bytes(machine.disk_bytes)} of disk:",
        f"  memory: {human_bytes(needs.memory_bytes)} at most, with one device; shards of any size "
        f"pass in pieces, {shards} at a time",
        *([_of_folder(needs, machine)] if is_folder else _of_hub(needs, machine)),
    ]


def _of_folder(needs: Needs, machine: Machine) -> str:
    more = needs.folder_bytes - machine.disk_bytes
    missing = f", {human_bytes(more)} more than there is" if more > 0 else ""
    return f"  disk: {human_bytes(needs.folder_bytes)}, the result{missing}"


def _of_hub(needs: Needs, machine: Machine) -> list[str]:
    largest = needs.lfs_disk_bytes
    taken = out_bytes(largest, machine.disk_bytes, streams=False)
    if largest > machine.disk_bytes:
        plainly = (
            f"{human_bytes(largest)}, the largest output shard: too much without --max-shard-size"
        )
    else:
        count = "two output shards" if taken > largest else "one output shard"
        plainly = f"{human_bytes(taken)}, {count}; the source streams where no more is left"
    return [
        f"  disk: {human_bytes(needs.disk_bytes)} through Xet, where no shard lies on it",
        f"        as plain LFS {plainly}",
    ]
