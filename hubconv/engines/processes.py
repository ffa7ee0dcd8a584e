"""Units in processes of this machine: each has a lock of Python's of its own, and perhaps a GPU.

The processes are begun before there is a plan, and load what their device needs meanwhile. Each
makes several units at a time, in threads. One that is lost is replaced, and its units begin again.
"""

import contextlib
import fcntl
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from hubconv.ends import Staging
from hubconv.engines import forward
from hubconv.engines.ending import ended_well, saving
from hubconv.engines.ledger import Ledger
from hubconv.engines.post import Post, order_of
from hubconv.engines.stop import Stop
from hubconv.journal import Ending
from hubconv.progress import Progress
from hubconv.records import UnitRecord
from hubconv.steps.plan import Plan
from hubconv.steps.shards import Unit

LOOK_S: Final = 0.25
END_S: Final = 4.0
"""Workers that are told to end give up what they are at; after this time they are killed."""

AHEAD_BYTES: Final = 1024 * 1024
"""Orders that are on their way to a worker: nobody waits for one that is still importing."""

Event = tuple["Hand", tuple[Any, ...]]


class Hand:
    """One worker process: `python -m hubconv.engines.process_child`.

    Args:
        device: What it computes on.
        events: Where what it says goes, with itself; `("lost", how)` comes last.
    """

    def __init__(self, device: str, events: "queue.SimpleQueue[Event]") -> None:
        self.device = device
        self._process = subprocess.Popen(
            # -P: a module of the user's working folder must not stand in for one of Python's.
            [sys.executable, "-P", "-m", "hubconv.engines.process_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            # Ctrl-C is for this process, which ends in order.
            start_new_session=True,
        )
        self._in = cast("BinaryIO", self._process.stdin)
        with contextlib.suppress(OSError):  # a system may allow less
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, AHEAD_BYTES)
        self._out = cast("BinaryIO", self._process.stdout)
        self._events = events
        self.tell({"parent": os.getpid(), "device": device, "levels": forward.levels()})
        threading.Thread(target=self._listen, name="hand", daemon=True).start()

    def tell(self, order: object) -> None:
        """Send an order; one that cannot be sent is a worker that is lost, and says so itself."""
        with contextlib.suppress(OSError, ValueError):
            pickle.dump(order, self._in, pickle.HIGHEST_PROTOCOL)
            self._in.flush()

    def _listen(self) -> None:
        # Whatever half a word from a dying process may lead to, it is that process which is lost.
        with contextlib.suppress(Exception):
            while True:
                self._events.put((self, pickle.load(self._out)))  # noqa: S301 - our own process
        self._process.kill()
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        self._events.put((self, ("lost", f"ended {how}")))

    def dismiss(self) -> None:
        """Tell it to end: it gives up what it is at, and leaves nothing half written."""
        with contextlib.suppress(OSError, ValueError):
            self._in.close()

    def end(self, deadline: float) -> None:
        """See that it ends by a monotonic second."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Crew:
    """Processes that make units. They end with its `with` block.

    Args:
        devices: One for each process.
        threads: Units that each makes at a time.
    """

    def __init__(self, devices: Sequence[str], threads: int) -> None:
        self.threads = threads
        self.workers = threads * len(devices)
        self._devices = tuple(devices)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._hands: list[Hand] = []

    def __enter__(self) -> Self:
        try:
            for device in self._devices:
                self._hands.append(Hand(device, self._events))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.dismiss()
        deadline = time.monotonic() + END_S
        for hand in self._hands:
            hand.end(deadline)

    @property
    def device(self) -> str:
        """`cpu`, `cuda:N`, or several of these."""
        return ", ".join(dict.fromkeys(self._devices))

    def run(
        self,
        post: Post,
        plan: Plan,
        units: Sequence[Unit],
        staging: Staging,
        progress: Progress,
        stop: Stop,
        ending: Ending | None = None,
    ) -> list[UnitRecord]:
        """Make units and note each in the journal; the processes end with it.

        Args:
            post: What each worker must know; the numbers of workers are filled in here.
            plan: The whole plan.
            units: Units of it, in order.
            staging: The journal.
            progress: Told of every start and end.
            stop: Asked before every unit.
            ending: How the run ends, where it does with these units.

        Returns:
            A record for each unit.

        Raises:
            HubconvError: The first failure; or the reason to stop. Finished units are in the
                journal.
        """
        full = replace(post, threads=self.threads, workers=self.workers)
        shift = _Shift(self, full, plan, units, staging, progress, stop)
        with saving(staging, progress, shift.ledger.records):
            try:
                shift.run()
            finally:
                self.dismiss()
        made = shift.ledger.records()
        ended_well(staging, stop, ending, made, is_done=shift.ledger.is_done)
        return made

    def dismiss(self) -> None:
        """Tell all processes to end, without waiting for that."""
        for hand in self._hands:
            hand.dismiss()

    # ── for a shift ──────────────────────────────────────────────────────────────────────────

    @property
    def hands(self) -> tuple[Hand, ...]:
        """The processes that live, as far as is known."""
        return tuple(self._hands)

    def event(self) -> Event | None:
        """What one of them says next; None where nobody says anything for a moment."""
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=LOOK_S)
        return None

    def forget(self, lost: Hand) -> None:
        """One of them is gone."""
        lost.dismiss()
        self._hands.remove(lost)

    def hire(self, device: str) -> Hand:
        """Another process, in place of one that is gone."""
        self._hands.append(Hand(device, self._events))
        return self._hands[-1]


class _Shift:
    """One run of a crew."""

    def __init__(
        self,
        crew: Crew,
        post: Post,
        plan: Plan,
        units: Sequence[Unit],
        staging: Staging,
        progress: Progress,
        stop: Stop,
    ) -> None:
        self.ledger = Ledger(units)
        self._crew = crew
        self._post = post
        self._plan = plan
        self._staging = staging
        self._progress = progress
        self._stop = stop
        self._failure: BaseException | None = None
        self._acts: dict[str, Callable[..., None]] = {
            "begun": lambda _, shard: progress.unit_started(shard),
            "converted": self._converted,
            "passed": lambda _, stage, nbytes: progress.passed(stage, nbytes),
            "made": self._made,
            "failed": self._failed,
            "log": lambda _, *told: forward.show(*told),
            "lost": self._lost,
        }

    def run(self) -> None:
        for hand in self._crew.hands:
            hand.tell(self._post)
        while not self.ledger.is_done:
            if not self._stop.begun_enough:
                self._give()
            if not self.ledger.running:
                break
            self._stop.at_once()
            event = self._crew.event()
            if event is not None:
                hand, (act, *told) = event
                self._acts[act](hand, *told)
        if self._failure is not None:
            raise self._failure

    def _give(self) -> None:
        """Fill every worker, one unit each in turn."""
        for load in range(self._crew.threads):
            for hand in self._crew.hands:
                if self.ledger.load(hand) == load:
                    unit = self.ledger.give(hand)
                    if unit is None:
                        return
                    hand.tell(order_of(self._plan, unit))

    def _converted(self, _: Hand, shard: str, source_bytes: int) -> None:
        if self.ledger.converted(shard, source_bytes):
            self._progress.converted(source_bytes)

    def _made(self, hand: Hand, record: UnitRecord) -> None:
        if self.ledger.made(hand, record):
            self._staging.adopt(record)
            self._progress.unit_finished(record.shard, record.size, record.seconds)

    def _failed(self, hand: Hand, shard: str, error: BaseException) -> None:
        self.ledger.failed(hand, shard)
        self._failure = self._failure or error
        self._stop.fail()

    def _lost(self, hand: Hand, how: str) -> None:
        self._crew.forget(hand)
        vain = self.ledger.lost(hand, how)
        self._progress.converted(-vain)
        if self._failure is None:
            self._progress.warn(f"A worker process {how}; what it was at begins again.")
        if self.ledger.next is not None and not self._stop.begun_enough:
            self._crew.hire(hand.device).tell(self._post)


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
