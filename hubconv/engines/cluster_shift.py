"""One run on a Ray cluster: units to tasks, tasks to records, and what was lost begins again."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from hubconv.ends import Staging
from hubconv.engines import forward
from hubconv.engines.cluster_task import Desk, Place, make_unit
from hubconv.engines.ledger import Ledger
from hubconv.engines.post import Post, order_of
from hubconv.engines.stop import Stop
from hubconv.errors import ResourceError, TemporaryError
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


class Shift:
    """One run on a cluster.

    Args:
        post: What each worker must know.
        plan: The whole plan.
        units: What is to be made, in order.
        place: What each task is lent.
        most: Units that the cluster may make at a time; 0 for what fits.
        staging: The journal.
        progress: Told of every start and end.
        stop: Asked before every unit.

    Attributes:
        ledger: Which unit is where.
        workers: Machine and number of each process that has made something.
    """

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
        self._begun: dict[str, str] = {}  # unit: machine
        self.workers: set[tuple[str, int]] = set()  # machine, process
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
        """Make the units, as far as nothing ends that.

        Raises:
            HubconvError: The first failure.
        """
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
                self._begun[what[0]] = what[1]
                self.workers.add((what[1], what[2]))
                self._progress.unit_started(what[0])
            elif act == "converted" and self.ledger.converted(*what):
                self._progress.converted(what[1])
            elif act == "passed":
                self._progress.passed(*what)
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
        how, machine = _how(error), self._begun.pop(unit.shard, "a machine of the cluster")
        self._counted_at = -COUNT_S
        vain = self.ledger.lost(task, f"on {machine} {how}")
        self._progress.converted(-vain)
        self._progress.warn(f"A worker on {machine} {how}; {unit.shard} begins again.")

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


@contextmanager
def answering() -> Iterator[None]:
    """Work that needs the cluster's answers.

    Raises:
        TemporaryError: It does not give them.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise TemporaryError(
            f"The Ray cluster does not answer: {brief(error)}.",
            "Finished shards are kept; run the same command again when it does.",
        ) from error


def alive() -> list[dict[str, float]]:
    """What each machine of the cluster lends, of those that live."""
    import ray

    with answering():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]


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
        f"A machine of the cluster cannot load hubconv: {brief(error)}.",
        "Install the same version of hubconv, with what it needs, on every machine.",
    )


def brief(error: BaseException) -> str:
    """The last line of what Ray says: the ones before it are a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]
