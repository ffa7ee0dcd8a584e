"""What runs on the machines of a Ray cluster: one task makes one unit.

Tasks of one run that come to the same process find both ends open. No token comes with a task: a
worker uses what the environment of its own machine holds.
"""

import atexit
import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from hubconv import allowance
from hubconv.engines.forward import Forward
from hubconv.engines.post import Order, Post, as_told, at_post, make
from hubconv.errors import StoppedError
from hubconv.kernels.starting import Starting
from hubconv.progress.tally import Stage
from hubconv.work import Bench

TELL_S: Final = 0.5
PATIENCE_S: Final = 10.0

Told = tuple[Any, ...]


class Desk:
    """Takes what workers tell until the driver fetches it; tells them whether to go on."""

    def __init__(self) -> None:
        self._told: list[Told] = []
        self._is_over = False

    def tell(self, told: list[Told]) -> bool:
        """Take what a worker tells; whether the run goes on."""
        self._told += told
        return not self._is_over

    def fetch(self) -> list[Told]:
        """What was told since the last time, in order."""
        told, self._told = self._told, []
        return told

    def end(self) -> None:
        """Have every worker give up what it is at."""
        self._is_over = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task computes.

    Attributes:
        device: auto, cpu or cuda: what the cluster lent is all that the process sees of it.
        cpus: Processors that one unit was given; 0 where GPUs are what is shared out.
        gpus: Share of a GPU that one unit was given.
        levels: Of the driver's loggers.
    """

    device: str
    cpus: int
    gpus: float
    levels: Mapping[str, int] = field(default_factory=dict)

    @property
    def on_machine(self) -> int:
        """Units that this machine may make at a time."""
        cores = allowance.cores()
        return max(1, cores // self.cpus) if self.cpus else max(1, round(1 / self.gpus))


class Line:
    """Brings what happens in a task to the desk now and then, and hears whether to go on.

    Args:
        desk: The desk's handle.
    """

    def __init__(self, desk: Any) -> None:  # noqa: ANN401 - a handle of Ray's
        self._desk = desk
        self._lock = threading.Lock()
        self._waiting: list[Told] = []
        self._over = threading.Event()
        self._ended = threading.Event()

    def say(self, *told: Any) -> None:  # noqa: ANN401 - whatever the act has to tell
        """Tell of an act, soon."""
        with self._lock:
            last = self._waiting[-1] if self._waiting else ("",)
            if told[0] == last[0] in {"converted", "passed"} and told[1] == last[1]:
                self._waiting[-1] = (told[0], told[1], last[2] + told[2])
            else:
                self._waiting.append(told)

    def check(self) -> None:
        """Go on where the run does.

        Raises:
            StoppedError: It does not.
        """
        if self._over.is_set():
            raise StoppedError("The run has ended.")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Tell at once that the task has begun, and the rest before it ends."""
        self._bring()
        thread = threading.Thread(target=self._run, name="line", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._bring()

    def _run(self) -> None:
        while not self._ended.wait(TELL_S):
            self._bring()

    def _bring(self) -> None:
        import ray

        with self._lock:
            told, self._waiting = self._waiting, []
        # What is lost here is a line of progress; a unit is not worth less for it.
        with suppress(ray.exceptions.RayError):
            if not ray.get(self._desk.tell.remote(told), timeout=PATIENCE_S):
                self._over.set()


class _Opened:
    """Both ends of the run that this process works for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._run = ""
        self._bench: Bench | None = None
        self._line: Line | None = None
        self._forward: Forward | None = None
        atexit.register(self._stack.close)

    def bench(self, run: str, post: Post, place: Place, line: Line) -> Bench:
        """The ends of a run, opened where they are not; waits now ask this line."""
        self._line = line
        if self._bench is None or self._run != run:
            self._stack.close()
            self._bench, self._run = None, run
            self._listen(place)
            workers = place.on_machine
            full = replace(post, threads=1, workers=workers)
            starting = Starting(place.device)
            kernel = lambda: starting.kernel(workers, post.target_bytes)  # noqa: E731 - so short
            self._bench = self._stack.enter_context(
                at_post(full, kernel, self._check, self._passed)
            )
        return self._bench

    def _check(self) -> None:
        if self._line is not None:
            self._line.check()

    def _passed(self, stage: Stage, nbytes: int) -> None:
        if self._line is not None:
            self._line.say("passed", stage, nbytes)

    def _log(self, *told: Any) -> None:  # noqa: ANN401 - a log line
        if self._line is not None:
            self._line.say("log", *told)

    def _listen(self, place: Place) -> None:
        if self._forward is not None:
            logging.getLogger().removeHandler(self._forward)
        self._forward = Forward(self._log)
        self._forward.listen(place.levels)


_OPENED: Final = _Opened()


def make_unit(run: str, post: Post, place: Place, order: Order, desk: Any) -> Told:  # noqa: ANN401
    """Make one unit: `("made", record)` or `("failed", error)`.

    Args:
        run: Stands for the run.
        post: Where and how to work.
        place: What the cluster lends to a task.
        order: The unit.
        desk: Handle of the desk.
    """
    shard = order.unit.shard
    line = Line(desk)
    line.say("begun", shard, platform.node(), os.getpid())
    try:
        with line.open():
            bench = _OPENED.bench(run, post, place, line)
            return "made", make(bench, order, lambda done: line.say("converted", shard, done))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the driver is told
        return "failed", as_told(error)


Task = Callable[[str, Post, Place, Order, Any], Told]
