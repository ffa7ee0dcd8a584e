"""A worker's post: what a process, here or on another machine, must know to make units.

It goes there by pickle, through pipes or a cluster's own store, from a hubconv to one of the same
version. No client and no token is in it: a worker opens both ends itself, with what its own
environment holds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage

from hubconv.ends import Staging, TargetOptions
from hubconv.errors import IntegrityError
from hubconv.kernels import Kernel
from hubconv.opening import Scratch, caches_in, open_source, open_target
from hubconv.records import UnitRecord
from hubconv.steps.plan import Plan
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import Unit
from hubconv.version import __version__
from hubconv.work import Bench, work


@dataclass(frozen=True, slots=True)
class Post:
    """Where and how a worker works.

    Attributes:
        plan: The plan; its source commit is the one that is opened.
        source: SOURCE word, without a revision.
        target: TARGET word.
        device: auto, cpu or cuda:N.
        threads: Units that one worker makes at a time.
        workers: Units that all workers of its machine make at a time: they share its cores.
        limits: How much of a unit is in memory at a time.
        work_dir: Folder for what is on its way; empty for the system's.
        max_disk: Bytes that this may take there for one worker; 0 for what is free.
        version: Of the hubconv that wrote it.
    """

    plan: Plan
    source: str
    target: str
    device: str
    threads: int = 1
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    work_dir: str = ""
    max_disk: int = 0
    version: str = __version__

    @property
    def weight_bytes(self) -> int:
        """About what one worker will convert; tells whether a device is worth waking."""
        return self.plan.target_bytes * self.threads // max(self.workers, 1)


@contextmanager
def at_post(
    post: Post, kernel: Callable[[], Kernel], at_once: Callable[[], None]
) -> Iterator[Bench]:
    """Open both ends of a post.

    Args:
        post: The post.
        kernel: Gives what computes, once the ends are open.
        at_once: Asked in every wait; raises where the worker must end now.

    Raises:
        IntegrityError: The post was written by another hubconv, whose plans may differ.
    """
    if post.version != __version__:
        raise IntegrityError(
            f"This worker is hubconv {__version__}; the run is hubconv {post.version}.",
            "Install the same version on every machine, then run the same command again.",
        )
    with Scratch(post.work_dir) as scratch, caches_in(scratch):
        source = open_source(post.source, post.plan.commit, scratch, at_once)
        target = open_target(post.target, TargetOptions(), scratch, at_once, at_once)
        staging = target.stage(post.plan.plan_id)
        source.allow_disk(_lent(post, staging, scratch))
        yield Bench(
            post.plan, source, staging, kernel(), __version__,
            converted=lambda _: at_once(), limits=post.limits,
        )  # fmt: skip


def make(bench: Bench, unit: Unit, told: Callable[[int], None] = lambda _: None) -> UnitRecord:
    """Make a unit, and wait until its bytes have arrived: the journal is kept by somebody else.

    Args:
        bench: From `at_post`.
        unit: Which.
        told: Told the source bytes of each finished piece of work.
    """

    def converted(source_bytes: int) -> None:
        bench.converted(source_bytes)
        told(source_bytes)

    record = work(replace(bench, converted=converted), unit)
    bench.staging.flush()
    return record


def _lent(post: Post, staging: Staging, scratch: Path) -> int:
    """Disk that sources may take: what output shards leave of the worker's share."""
    room = disk_usage(scratch).free * post.threads // max(post.workers, 1)
    room = min(room, post.max_disk or room)
    largest = max((unit.nbytes for unit in post.plan.units), default=0)
    return max(0, room - staging.disk_bytes(largest, room))
