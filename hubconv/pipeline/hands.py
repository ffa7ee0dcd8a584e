"""What makes the units of a run: threads of this process, processes of this machine, a cluster.

It is begun before there is a plan, so that devices wake and libraries load while headers are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from hubconv import allowance, devices
from hubconv.ends import Staging
from hubconv.engines.threads import run_units
from hubconv.errors import UsageError
from hubconv.journal import Ending
from hubconv.pipeline.request import Request
from hubconv.records import UnitRecord
from hubconv.steps.machine import HUB_WORKERS, hub_workers
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import Unit
from hubconv.version import __version__
from hubconv.words import parse_end
from hubconv.work import Bench

if TYPE_CHECKING:
    from hubconv.engines.cluster import Cluster
    from hubconv.engines.post import Post
    from hubconv.engines.processes import Crew
    from hubconv.kernels.starting import Starting
    from hubconv.pipeline.run import Run

HELD_BYTES: Final = 768 * 1024 * 1024
"""Partner sets held between measuring and writing, by all workers together."""

THREADS: Final = 4
"""Units that a process makes at a time: more of them wait for each other at Python's lock."""

WORTH_PROCESSES_BYTES: Final = 4 * 10**9
"""Below it processes take longer to begin than they save."""


class Hands(Protocol):
    """What makes units."""

    @property
    def device(self) -> str:
        """What it computes on, for whoever reads the journal."""
        ...

    def make(
        self, run: "Run", staging: Staging, units: Sequence[Unit], ending: Ending | None
    ) -> list[UnitRecord]:
        """Make units and note each in the journal; see `engines`."""
        ...


class InThreads:
    """Threads of this process."""

    def __init__(self, starting: "Starting") -> None:
        self._starting = starting

    @property
    def device(self) -> str:
        """`cpu` or `cuda:N`."""
        return self._starting.found

    def make(
        self, run: "Run", staging: Staging, units: Sequence[Unit], ending: Ending | None
    ) -> list[UnitRecord]:
        """Make units and note each in the journal."""
        cores = allowance.cores()
        wanted = cores if run.request.is_local else hub_workers(cores, streams=staging.streams)
        workers = run.request.workers or max(1, min(wanted, len(units)))
        kernel = self._starting.kernel(workers, sum(unit.nbytes for unit in units))

        def converted(source_bytes: int) -> None:
            run.progress.converted(source_bytes)
            run.stop.at_once()

        bench = Bench(
            run.plan, run.source, staging, kernel, __version__, converted, _limits(workers)
        )
        return run_units(bench, units, workers, run.progress, run.stop, ending)


class Away:
    """Processes of this machine, or a cluster: whatever opens both ends by itself.

    Args:
        engine: It.
    """

    def __init__(self, engine: "Crew | Cluster") -> None:
        self._engine = engine

    @property
    def device(self) -> str:
        """`cpu`, `cuda:N`, or several of these."""
        return self._engine.device

    def make(
        self, run: "Run", staging: Staging, units: Sequence[Unit], ending: Ending | None
    ) -> list[UnitRecord]:
        """Make units and note each in the journal."""
        post = post_of(run)
        return self._engine.run(post, run.plan, units, staging, run.progress, run.stop, ending)


@contextmanager
def begun(request: Request) -> Iterator[Hands]:
    """What will make the units of a run, loading what it needs.

    Raises:
        ResourceError: The device does not exist here: a run must not find that out late.
        UsageError: An engine that cannot be had.
    """
    engine = request.engine if request.engine != "auto" else _suits(request)
    if request.address and engine != "ray":
        raise UsageError(
            f"--address is for --engine ray; this run's engine is {engine}.", "Say both, or none."
        )
    if engine == "threads":
        from hubconv.kernels.starting import Starting

        yield InThreads(Starting(request.device))
    elif engine == "ray":
        with _cluster(request) as cluster:
            yield Away(cluster)
    else:
        from hubconv.engines.processes import Crew

        found, threads = manned(request)
        with Crew(found, threads) as crew:
            yield Away(crew)


def _cluster(request: Request) -> "Cluster":
    from hubconv.engines.cluster import Cluster

    if request.device not in {"auto", "cpu", "cuda"}:
        raise UsageError(
            f"Ray hands out devices by itself: --device {request.device} cannot be had.",
            "Use auto, cpu or cuda.",
        )
    if request.address.startswith("ray://"):
        raise UsageError(
            f"{request.address} is for clients outside a cluster; shards are noted from within.",
            "Run hubconv on a machine of the cluster, with --address auto or HOST:PORT.",
        )
    return Cluster(
        request.address,
        request.device,
        on_gpu=THREADS if request.is_local else HUB_WORKERS,
        on_machine=0 if request.is_local else HUB_WORKERS,
        most=request.workers,
        work_dir=request.work_dir,
    )


def post_of(run: "Run") -> "Post":
    """What a worker of a run must know."""
    from hubconv.engines.post import Post, without_tensors

    source = f"hf://{run.source.ref}" if run.source.commit else run.source.ref
    is_folder = parse_end(run.request.target).kind == "folder"
    return Post(
        plan=without_tensors(run.plan),
        source=source,
        target=run.target.ref if is_folder else f"hf://{run.target.ref}",
        target_bytes=run.plan.target_bytes,
        largest_bytes=max((unit.nbytes for unit in run.plan.units), default=0),
        held_bytes=HELD_BYTES,
        work_dir=run.request.work_dir,
        max_disk=run.request.max_disk,
    )


def _suits(request: Request) -> str:
    """Between folders Python's lock is what many cores wait for; at the Hub it is the line."""
    workers = request.workers or allowance.cores()
    if not request.is_local or (workers < 2 * THREADS and len(_gpus(request)) < 2):
        return "threads"
    return "processes" if _bytes_of(request.source) >= WORTH_PROCESSES_BYTES else "threads"


def manned(request: Request) -> tuple[list[str], int]:
    """A device for each process, and the units that each makes at a time."""
    every = _gpus(request) or [devices.named(request.device)]
    workers = request.workers or (
        allowance.cores() if request.is_local else hub_workers(allowance.cores()) * len(every)
    )
    count = max(len(every), -(-workers // THREADS))
    return [every[number % len(every)] for number in range(count)], -(-workers // count)


def _gpus(request: Request) -> list[str]:
    """The GPUs of this machine among which the work may be spread."""
    if request.device not in {"auto", "cuda"}:
        return []
    return [f"cuda:{number}" for number in range(len(devices.capabilities()))]


def _limits(workers: int) -> Limits:
    return Limits(held_bytes=min(Limits().held_bytes, HELD_BYTES // workers))


def _bytes_of(word: str) -> int:
    """Bytes of the shards in a folder; none where it cannot be read, which is told elsewhere."""
    try:
        shards = Path(parse_end(word).name).glob("*.safetensors")
        return sum(shard.stat().st_size for shard in shards)
    except OSError:
        return 0
