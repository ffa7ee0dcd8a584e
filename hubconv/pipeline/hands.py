"""What makes the units of a run: threads of this process, processes of this machine, a cluster.

It is begun before there is a plan, so that devices wake and libraries load while headers are read.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from hubconv.ends import Staging
from hubconv.engines import run_units
from hubconv.errors import UsageError
from hubconv.kernels import devices
from hubconv.pipeline.request import Request
from hubconv.records import UnitRecord
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import Unit
from hubconv.version import __version__
from hubconv.words import parse_end
from hubconv.work import Bench

if TYPE_CHECKING:
    from hubconv.engines.post import Post
    from hubconv.engines.processes import Crew
    from hubconv.kernels.starting import Starting
    from hubconv.pipeline.run import Run

HUB_WORKERS: Final = 3
"""One has the line down, one ends its upload, one is between the two."""

HELD_BYTES: Final = 768 * 1024 * 1024
"""Partner sets held between measuring and writing, by all workers together."""

THREADS: Final = 4
"""Units that a process makes at a time: more of them wait for each other at Python's lock."""

WORTH_PROCESSES_BYTES: Final = 4 * 10**9
"""Below it processes take longer to begin than they save."""


class Hands(Protocol):
    """What makes units."""

    def make(self, run: "Run", staging: Staging, units: Sequence[Unit]) -> list[UnitRecord]:
        """Make units and note each in the journal; see `engines`."""
        ...


class InThreads:
    """Threads of this process."""

    def __init__(self, starting: "Starting") -> None:
        self._starting = starting

    def make(self, run: "Run", staging: Staging, units: Sequence[Unit]) -> list[UnitRecord]:
        """Make units and note each in the journal."""
        wanted = _cores() if run.request.is_local else HUB_WORKERS
        workers = run.request.workers or max(1, min(wanted, len(units)))
        kernel = self._starting.kernel(workers, sum(unit.nbytes for unit in units))

        def converted(source_bytes: int) -> None:
            run.progress.converted(source_bytes)
            run.stop.at_once()

        bench = Bench(
            run.plan, run.source, staging, kernel, __version__, converted, _limits(workers)
        )
        return run_units(bench, units, workers, run.progress, run.stop)


class InProcesses:
    """Processes of this machine."""

    def __init__(self, crew: "Crew") -> None:
        self._crew = crew

    def make(self, run: "Run", staging: Staging, units: Sequence[Unit]) -> list[UnitRecord]:
        """Make units and note each in the journal."""
        post = post_of(run, self._crew.workers)
        return self._crew.run(post, units, staging, run.progress, run.stop)


@contextmanager
def begun(request: Request) -> Iterator[Hands]:
    """What will make the units of a run, loading what it needs.

    Raises:
        ResourceError: The device does not exist here: a run must not find that out late.
        UsageError: An engine that cannot be had.
    """
    engine = request.engine if request.engine != "auto" else _suits(request)
    if engine == "threads":
        from hubconv.kernels.starting import Starting

        yield InThreads(Starting(request.device))
        return
    if engine == "ray":
        raise UsageError("There is no engine ray here.")
    from hubconv.engines.processes import Crew

    found, threads = _manned(request)
    with Crew(found, threads) as crew:
        yield InProcesses(crew)


def post_of(run: "Run", workers: int) -> "Post":
    """What a worker of a run must know."""
    from hubconv.engines.post import Post

    source = f"hf://{run.source.ref}" if run.source.commit else run.source.ref
    is_folder = parse_end(run.request.target).kind == "folder"
    return Post(
        plan=run.plan,
        source=source,
        target=run.target.ref if is_folder else f"hf://{run.target.ref}",
        device=run.request.device,
        limits=_limits(workers),
        work_dir=run.request.work_dir,
        max_disk=run.request.max_disk,
    )


def _suits(request: Request) -> str:
    """Between folders Python's lock is what many cores wait for; at the Hub it is the line."""
    workers = request.workers or _cores()
    if not request.is_local or workers < 2 * THREADS:
        return "threads"
    return "processes" if _bytes_of(request.source) >= WORTH_PROCESSES_BYTES else "threads"


def _manned(request: Request) -> tuple[list[str], int]:
    """A device for each process, and the units that each makes at a time."""
    first = devices.named(request.device)
    every = [first]
    if first != "cpu" and request.device in {"auto", "cuda"}:
        every = [f"cuda:{number}" for number in range(len(devices.capabilities()))]
    workers = request.workers or (_cores() if request.is_local else HUB_WORKERS * len(every))
    count = max(len(every), -(-workers // THREADS))
    return [every[number % len(every)] for number in range(count)], -(-workers // count)


def _limits(workers: int) -> Limits:
    return Limits(held_bytes=min(Limits().held_bytes, HELD_BYTES // workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _bytes_of(word: str) -> int:
    """Bytes of the shards in a folder; none where it cannot be read, which is told elsewhere."""
    try:
        shards = Path(parse_end(word).name).glob("*.safetensors")
        return sum(shard.stat().st_size for shard in shards)
    except OSError:
        return 0
