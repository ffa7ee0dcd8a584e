"""Units as tasks of a Ray cluster: any number of machines and GPUs, one committer.

Each unit is a task that Ray places where a share of a GPU, or processors, are free. Ray is not
asked to try anything again: which unit was lost with a worker or a machine, and how often, is kept
here. Bytes go from worker to target; what comes back to the driver is a record of a few kilobytes.
"""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hubconv.ends import Staging
from hubconv.engines import forward
from hubconv.engines.cluster_task import Desk, Place, make_unit
from hubconv.engines.ending import counted, saving
from hubconv.engines.ledger import Ledger
from hubconv.engines.post import Post, order_of
from hubconv.engines.stop import Stop
from hubconv.errors import ResourceError, TemporaryError, UsageError
from hubconv.progress import Progress
from hubconv.records import UnitRecord
from hubconv.steps.plan import Plan
from hubconv.steps.shards import Unit

LOOK_S: Final = 0.25
END_S: Final = 4.0
"""Tasks that are told to end give up what they are at; the run waits no longer for that."""

AHEAD: Final = 1
"""Tasks that wait for room: a cluster that grows with its work must see that there is some."""

COUNT_S: Final = 5.0
"""How often the cluster is counted: machines come and go."""

STORE_BYTES: Final = 128 * 1024 * 1024
"""For Ray's own store on this machine: no shard ever comes there."""

_QUIET: Final[Mapping[str, Any]] = {
    "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False,
}  # fmt: skip

_LONGEST_BASE: Final = 28
"""Sockets lie below Ray's folder, and their whole path may not be longer than the system allows."""


class Cluster:
    """A Ray cluster. A local one ends with its `with` block.

    Args:
        address: `auto` or HOST:PORT of one that runs; empty to begin one on this machine.
        device: auto, cpu or cuda.
        on_gpu: Units that one GPU makes at a time.
        on_machine: Units that a machine without GPUs makes at a time; 0 for one a core.
        most: Units that the whole cluster may make at a time; 0 for what fits.
        work_dir: Folder for Ray's files, where its path is short enough.
    """

    def __init__(
        self, address: str, device: str, on_gpu: int, on_machine: int, most: int, work_dir: str
    ) -> None:
        self._address = address
        self._device = device
        self._on_gpu = on_gpu
        self._on_machine = on_machine
        self._most = most
        self._work_dir = work_dir
        self._mine = False
        self._shift: _Shift | None = None
        self._around = ExitStack()

    def __enter__(self) -> Self:
        try:
            with _own_signals():
                self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shift is not None:
            self._shift.end()
        self._close()

    def run(
        self,
        post: Post,
        plan: Plan,
        units: Sequence[Unit],
        staging: Staging,
        progress: Progress,
        stop: Stop,
    ) -> list[UnitRecord]:
        """Make units and note each in the journal.

        Args:
            post: What each worker must know.
            plan: The whole plan.
            units: Units of it, in order.
            staging: The journal.
            progress: Told of every start and end, on whatever machine.
            stop: Asked before every unit.

        Returns:
            A record for each unit.

        Raises:
            HubconvError: The first failure; or the reason to stop. Finished units are in the
                journal.
        """
        shift = self._shift = _Shift(
            post, plan, units, self._place(), self._most, staging, progress, stop
        )
        with saving(staging, progress, shift.ledger.records):
            try:
                shift.run()
            except BaseException:
                shift.dismiss()
                raise
        staging.flush()
        reason = stop.reason()
        if reason is not None and not shift.ledger.is_done:
            raise counted(reason, shift.ledger.records())
        return shift.ledger.records()

    # ── Ray itself ───────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        self._around.enter_context(
            _surrounded({
                "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told of its use
                "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            })
        )
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "The engine ray needs Ray, which is not installed here.",
                "Install hubconv[ray] on every machine, or use --engine processes.",
            ) from error
        if ray.is_initialized():  # by the program that called us: its cluster, and its to end
            return
        try:
            if self._address:
                ray.init(self._address, **_QUIET)
            else:
                self._begin_local()
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f" at {self._address}" if self._address else ""
            raise ResourceError(
                f"There is no Ray cluster{where} to work on: {_brief(error)}.",
                "Begin one with `ray start --head` (and `ray start --address HOST:PORT` on the "
                "other machines), or leave --address out to use this machine alone.",
            ) from error
        self._mine = True

    def _begin_local(self) -> None:
        import ray

        folder = self._around.enter_context(_folder(self._work_dir))
        if "RAY_AUTH_MODE" not in os.environ:
            # It takes orders from this run alone, and no token is left in the home folder.
            token = folder / "token"
            token.touch(0o600)
            token.write_text(secrets.token_hex(32))
            ways = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
            self._around.enter_context(_surrounded(ways))
        ray.init(
            "local", include_dashboard=False, object_store_memory=STORE_BYTES,
            num_cpus=len(os.sched_getaffinity(0)), _temp_dir=str(folder), **_QUIET,
        )  # fmt: skip

    def _close(self) -> None:
        if self._mine:
            import ray

            with _own_signals():
                ray.shutdown()
            self._mine = False
        self._around.close()

    def _place(self) -> Place:
        """What each task is lent.

        Raises:
            ResourceError: The cluster has no such thing.
        """
        machines = alive()
        gpus = sum(each.get("GPU", 0) for each in machines)
        if self._device == "cuda" and not gpus:
            raise ResourceError(
                "No machine of the cluster has a GPU.", "Use --device cpu, or add one that has."
            )
        if gpus and self._device != "cpu":
            return Place("cuda", 0, 1 / self._on_gpu, forward.levels())
        cores = [int(each["CPU"]) for each in machines if each.get("CPU", 0) >= 1]
        if not cores:
            raise ResourceError(
                "No machine of the cluster lends a processor.", "Start them with --num-cpus."
            )
        cpus = max(1, min(cores) // self._on_machine) if self._on_machine else 1
        return Place("cpu", cpus, 0.0, forward.levels())


class _Shift:
    """One run on a cluster."""

    def __init__(
        self,
        post: Post,
        plan: Plan,
        units: Sequence[Unit],
        place: Place,
        most: int,
        staging: Staging,
        progress: Progress,
        stop: Stop,
    ) -> None:
        import ray

        self.ledger = Ledger(units)
        self._ray = ray
        self._run = secrets.token_hex(8)
        self._post = ray.put(post)
        self._plan = plan
        self._place = place
        self._most = most
        self._staging = staging
        self._progress = progress
        self._stop = stop
        self._failure: BaseException | None = None
        self._tasks: dict[Any, Unit] = {}
        self._begun: set[str] = set()
        self._recalled: set[Any] = set()
        self._counted_at = -COUNT_S
        self._room = 0
        self._desk = self._open_desk()
        self._task = ray.remote(make_unit).options(
            num_cpus=place.cpus, num_gpus=place.gpus, max_retries=0
        )

    def _open_desk(self) -> Any:  # noqa: ANN401 - a handle of Ray's
        """Beside this driver: it must not be lost with a worker's machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = self._ray.remote(Desk)
        return actor.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def run(self) -> None:
        while not self.ledger.is_done:
            if self._stop.begun_enough:
                self._recall()
            else:
                self._give()
            if not self.ledger.running:
                break
            self._stop.at_once()
            ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=LOOK_S)
            self._hear()  # what a task has said before it ended comes first
            for task in ready:
                self._ended(task)
        if self._failure is not None:
            raise self._failure

    def _give(self) -> None:
        while len(self._tasks) < self._width():
            unit = self.ledger.next
            if unit is None:
                return
            order = order_of(self._plan, unit)
            task = self._task.remote(self._run, self._post, self._place, order, self._desk)
            self.ledger.give(task)
            self._tasks[task] = unit

    def _width(self) -> int:
        """Tasks that Ray may have at a time."""
        if time.monotonic() - self._counted_at >= COUNT_S:
            self._counted_at = time.monotonic()
            self._room = room(alive(), self._place)
        fits = self._room + AHEAD
        return min(fits, self._most) if self._most else fits

    def _recall(self) -> None:
        """Take back what no worker has begun."""
        for task, unit in self._tasks.items():
            if unit.shard not in self._begun and task not in self._recalled:
                self._recalled.add(task)
                self._ray.cancel(task, force=False)

    def _hear(self) -> None:
        try:
            told = self._ray.get(self._desk.fetch.remote(), timeout=LOOK_S * 4)
        except self._ray.exceptions.RayError:
            return  # it is begun again by itself; what is lost is a line of progress
        for act, *what in told:
            if act == "begun":
                self._begun.add(what[0])
                self._progress.unit_started(what[0])
            elif act == "converted" and self.ledger.converted(*what):
                self._progress.converted(what[1])
            elif act == "log":
                forward.show(*what)

    def _ended(self, task: Any) -> None:  # noqa: ANN401 - a reference of Ray's
        unit = self._tasks.pop(task)
        errors = self._ray.exceptions
        try:
            act, told = self._ray.get(task)
        except errors.TaskCancelledError:
            self.ledger.back(task)
        except errors.RayTaskError as error:
            # Tasks answer for themselves: this one could not even be loaded.
            self._failed(task, unit, _unloadable(error))
        except errors.RayError as error:
            self._lost(task, unit, error)
        else:
            if act == "made":
                self._made(task, told)
            elif task in self._recalled:
                self.ledger.back(task)
            else:
                self._failed(task, unit, told)

    def _made(self, task: Any, record: UnitRecord) -> None:  # noqa: ANN401
        if self.ledger.made(task, record):
            self._staging.adopt(record)
            self._progress.unit_finished(record.shard, record.size, record.seconds)

    def _failed(self, task: Any, unit: Unit, error: BaseException) -> None:  # noqa: ANN401
        self.ledger.failed(task, unit.shard)
        self._failure = self._failure or error
        self._stop.fail()

    def _lost(self, task: Any, unit: Unit, error: BaseException) -> None:  # noqa: ANN401
        how = _how(error)
        self._begun.discard(unit.shard)
        self._counted_at = -COUNT_S
        vain = self.ledger.lost(task, how)
        self._progress.converted(-vain)
        self._progress.warn(f"A worker {how}; {unit.shard} begins again.")

    def dismiss(self) -> None:
        """Tell every worker to give up what it is at."""
        with suppress(self._ray.exceptions.RayError):
            self._desk.end.remote()
            for task in self._tasks:
                if self._tasks[task].shard not in self._begun:
                    self._ray.cancel(task, force=False)

    def end(self) -> None:
        """Wait a moment until workers have given up what they were at."""
        self.dismiss()
        if self._tasks:
            tasks = list(self._tasks)
            with suppress(self._ray.exceptions.RayError):
                self._ray.wait(tasks, num_returns=len(tasks), timeout=END_S)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._desk)


def alive() -> list[dict[str, float]]:
    """What each machine of the cluster lends, of those that live."""
    import ray

    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except ray.exceptions.RayError as error:
        raise TemporaryError(
            f"The Ray cluster does not answer: {_brief(error)}.",
            "Finished shards are kept; run the same command again when it does.",
        ) from error


def room(machines: Sequence[dict[str, float]], place: Place) -> int:
    """Units that machines can make at a time."""
    kind, each = ("GPU", place.gpus) if place.gpus else ("CPU", place.cpus)
    return sum(int(machine.get(kind, 0) / each + 1e-6) for machine in machines)


def _how(error: BaseException) -> str:
    import ray

    errors = ray.exceptions
    if isinstance(error, errors.OutOfMemoryError):
        return "was ended for want of memory"
    if isinstance(error, errors.NodeDiedError | errors.LocalRayletDiedError):
        return "was lost with its machine"
    if isinstance(error, errors.WorkerCrashedError):
        return "died"
    return f"was lost ({type(error).__name__})"


def _unloadable(error: BaseException) -> ResourceError:
    return ResourceError(
        f"A machine of the cluster cannot load hubconv: {_brief(error)}.",
        "Install the same version of hubconv, with what it needs, on every machine.",
    )


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]


@contextmanager
def _folder(work_dir: str) -> Iterator[Path]:
    """A folder for the files of a local Ray, which goes with it."""
    bases = [Path(base).absolute() for base in (work_dir, tempfile.gettempdir()) if base]
    short = [base for base in bases if len(str(base)) <= _LONGEST_BASE]
    base = short[0] if short else Path("/tmp")  # noqa: S108 - mkdtemp makes one of our own there
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="hubconv-ray-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _surrounded(ways: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment that are set where the user has not set them."""
    ours = {name: value for name, value in ways.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts its own handlers in place of those by which a run stops in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
