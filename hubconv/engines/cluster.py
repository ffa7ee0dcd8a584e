"""Units as tasks of a Ray cluster: any number of machines and GPUs, one committer.

Each unit is a task that Ray places where a share of a GPU, or processors, are free. Ray is not
asked to try anything again: which unit was lost with a worker or a machine, and how often, is kept
here. Bytes go from worker to target; what comes back to the driver is a record of a few kilobytes.
"""

import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from hubconv import allowance
from hubconv.ends import Staging
from hubconv.engines import forward
from hubconv.engines.cluster_shift import Shift, alive, answering, brief
from hubconv.engines.cluster_task import Place
from hubconv.engines.ending import ended_well, saving
from hubconv.engines.post import Post
from hubconv.engines.stop import Stop
from hubconv.errors import ResourceError, UsageError
from hubconv.journal import Ending
from hubconv.opening import is_alive
from hubconv.progress import Progress
from hubconv.records import UnitRecord
from hubconv.steps.plan import Plan
from hubconv.steps.shards import Unit

KNOCK_S: Final = 10.0

GONE_S: Final = 2.0
"""For processes that Ray has ended to be gone."""

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
        self._shift: Shift | None = None
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

    @property
    def device(self) -> str:
        """What it was asked to compute on, and where."""
        return f"{self._device} by ray"

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
        """Make units and note each in the journal.

        Args:
            post: What each worker must know.
            plan: The whole plan.
            units: Units of it, in order.
            staging: The journal.
            progress: Told of every start and end, on whatever machine.
            stop: Asked before every unit.
            ending: How the run ends, where it does with these units.

        Returns:
            A record for each unit.

        Raises:
            HubconvError: The first failure; or the reason to stop. Finished units are in the
                journal.
        """
        shift = self._shift = Shift(
            post, plan, units, self._place(), self._most, staging, progress, stop
        )
        with saving(staging, progress, shift.ledger.records):
            try:
                with answering():
                    shift.run()
            except BaseException:
                shift.dismiss()
                raise
        made = shift.ledger.records()
        ended_well(staging, stop, ending, made, is_done=shift.ledger.is_done)
        return made

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

            logging.getLogger("ray").setLevel(logging.ERROR)
        except ImportError as error:
            raise UsageError(
                "The engine ray needs Ray, which is not installed here.",
                "Install hubconv[ray] on every machine, or use --engine processes.",
            ) from error
        if ray.is_initialized():  # by the program that called us: its cluster, and its to end
            return
        try:
            if self._address:
                _knock(self._address)
                ray.init(self._address, **_QUIET)
            else:
                self._begin_local()
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f" at {self._address}" if self._address else ""
            raise ResourceError(
                f"There is no Ray cluster{where} to work on: {brief(error)}.",
                "Begin one with `ray start --head` (and `ray start --address HOST:PORT` on the "
                "other machines), or leave --address out to use this machine alone.",
            ) from error
        self._mine = True

    def _begin_local(self) -> None:
        import ray

        folder = self._around.enter_context(_folder(self._work_dir))
        if "RAY_AUTH_MODE" not in os.environ:
            # Ray has it take orders by a token alone: of this run, and not in the home folder.
            token = folder / "token"
            token.touch(0o600)
            token.write_text(secrets.token_hex(32))
            self._around.enter_context(_surrounded({"RAY_AUTH_TOKEN_PATH": str(token)}))
            self._around.callback(os.environ.pop, "RAY_AUTH_MODE", None)
        ray.init(
            "local", include_dashboard=False, object_store_memory=STORE_BYTES,
            num_cpus=allowance.cores(), _temp_dir=str(folder), **_QUIET,
        )  # fmt: skip

    def _close(self) -> None:
        if self._mine:
            import ray

            with _own_signals():
                ray.shutdown()
            self._mine = False
        if self._shift is not None:
            _see_end({pid for host, pid in self._shift.workers if host == platform.node()})
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


def _knock(address: str) -> None:
    """See that somebody listens at HOST:PORT: Ray itself would wait for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _see_end(workers: Collection[int]) -> None:
    """Wait a moment for processes of this machine that Ray has ended.

    What they leave in the work folder can go then; on others it goes when a run begins there.
    """
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline and any(is_alive(pid) for pid in workers):
        time.sleep(0.05)


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
