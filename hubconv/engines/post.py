"""A worker's post: what a process, here or on another machine, must know to make units.

It goes there by pickle, through pipes or a cluster's own store, from a hubconv to one of the same
version. No client and no token is in it: a worker opens both ends itself, with what its own
environment holds.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import disk_usage

from hubconv.ends import Staging, TargetOptions
from hubconv.errors import HubconvError, ResourceError, of_this_machine
from hubconv.kernels import Kernel
from hubconv.opening import Scratch, caches_in, open_source, open_target
from hubconv.progress.tally import Lumps, Stage
from hubconv.records import UnitRecord
from hubconv.steps.plan import Plan
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import PartnerSet, Unit
from hubconv.version import __version__
from hubconv.work import Bench, work


@dataclass(frozen=True, slots=True)
class Post:
    """Where and how a worker works.

    Attributes:
        plan: What every unit needs of the plan; tensors come with each order.
        source: SOURCE word, without a revision: the plan's commit is the one that is opened.
        target: TARGET word.
        target_bytes: Of all output shards.
        largest_bytes: Of the largest one.
        threads: Units that one worker makes at a time.
        workers: Units that all workers of its machine make at a time: they share its cores.
        held_bytes: Partner sets that all workers of its machine may hold together.
        work_dir: Folder for what is on its way; empty for the system's.
        max_disk: Bytes that all workers of its machine may take there; 0 for what is free.
        version: Of the hubconv that wrote it.
    """

    plan: Plan
    source: str
    target: str
    target_bytes: int
    largest_bytes: int
    threads: int = 1
    workers: int = 1
    held_bytes: int = Limits().held_bytes
    work_dir: str = ""
    max_disk: int = 0
    version: str = __version__

    @property
    def limits(self) -> Limits:
        """How much of a unit is in memory at a time."""
        return Limits(held_bytes=min(Limits().held_bytes, self.held_bytes // max(self.workers, 1)))

    @property
    def weight_bytes(self) -> int:
        """About what one worker will convert; tells whether a device is worth waking."""
        return self.target_bytes * self.threads // max(self.workers, 1)


@dataclass(frozen=True, slots=True)
class Order:
    """One unit, with what belongs to it of a plan that may be millions of lines.

    Attributes:
        unit: What is to be made.
        sets: Partner sets of its weights.
    """

    unit: Unit
    sets: Mapping[str, PartnerSet]


def without_tensors(plan: Plan) -> Plan:
    """What every unit needs of a plan."""
    facts = replace(plan.facts, linears=(), bare=())
    return replace(plan, jobs=(), units=(), sets={}, files={}, copies=(), facts=facts)


def order_of(plan: Plan, unit: Unit) -> Order:
    """What a worker must know to make a unit of a plan."""
    keys = {job.partners for job in (*unit.jobs, *unit.tail) if job.action == "nvfp4"}
    return Order(unit, {key: plan.sets[key] for key in keys})


@contextmanager
def at_post(
    post: Post,
    kernel: Callable[[], Kernel],
    at_once: Callable[[], None],
    passed: Callable[[Stage, int], None] = lambda _stage, _nbytes: None,
) -> Iterator[Bench]:
    """Open both ends of a post.

    Args:
        post: The post.
        kernel: Gives what computes, once the ends are open.
        at_once: Asked in every wait; raises where the worker must end now.
        passed: Told of bytes that came and went by a line, now and then.

    Raises:
        ResourceError: The post was written by another hubconv, whose shards may differ.
    """
    if post.version != __version__:
        raise ResourceError(
            f"A worker of this run is hubconv {__version__}; the run is hubconv {post.version}.",
            "Install the same version on every machine, then run the same command again.",
        )
    with Scratch(post.work_dir) as scratch, caches_in(scratch):
        lumps = Lumps(passed)
        source = open_source(
            post.source, post.plan.commit, scratch, at_once, partial(lumps.passed, "fetch")
        )
        target = open_target(
            post.target, TargetOptions(), scratch, at_once, at_once,
            partial(lumps.passed, "upload"),
        )  # fmt: skip
        staging = target.join(post.plan.plan_id)
        source.allow_disk(_lent(post, staging, scratch))
        yield Bench(
            post.plan, source, staging, kernel(), __version__,
            converted=lambda _: at_once(), limits=post.limits,
        )  # fmt: skip


def make(bench: Bench, order: Order, told: Callable[[int], None] = lambda _: None) -> UnitRecord:
    """Make a unit, and wait until its bytes have arrived: the journal is kept by somebody else.

    Args:
        bench: From `at_post`.
        order: Which unit.
        told: Told the source bytes of each finished piece of work.
    """

    def converted(source_bytes: int) -> None:
        bench.converted(source_bytes)
        told(source_bytes)

    plan = replace(bench.plan, sets=order.sets)
    record = work(replace(bench, plan=plan, converted=converted), order.unit)
    bench.staging.flush()
    return record


def as_told(error: BaseException) -> BaseException:
    """An error as it can travel: hubconv's own as they are, others with where they happened."""
    where = "".join(traceback.format_exception(error))
    known = error if isinstance(error, HubconvError) else of_this_machine(error)
    if known is None:
        return RuntimeError(f"a worker failed:\n{where}")
    known.add_note(f"In a worker:\n{where}")
    return known


def _lent(post: Post, staging: Staging, scratch: Path) -> int:
    """Disk that sources may take: what output shards leave of the worker's share."""
    free = disk_usage(scratch).free
    room = min(free, post.max_disk or free) * post.threads // max(post.workers, 1)
    return max(0, room - staging.disk_bytes(post.largest_bytes, room))
