"""Many machines on paper: the estimate of `hubconv plan --rate`, held against a simulation.

    python benchmarks/nodes.py

The formula divides bytes by lines. The simulation plays the run through, event by event: machines
with workers that take shards from one queue; lines on which the shards of a machine come and go one
after the other, at once where they stream; each machine commits its own groups; and a Hub that lets
so many commits through in an hour and so many requests in five minutes. Neither knows how much the
Hub can serve in all, or how long a commit of hundreds of shards takes. No machine computes slower
than its line here.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

from hubconv.steps import budget as asks
from hubconv.steps.budget import Parts
from hubconv.steps.estimate import BEGIN_S, COMMIT_S, READ_BACK_S, Load, estimate

GBIT = 125_000_000


def even(source_gb: float, target_gb: float, shards: int) -> Load:
    """A load in shards of one size."""
    down, up = int(source_gb * 1e9 / shards), int(target_gb * 1e9 / shards)
    return Load([(down, up)] * shards, Parts(shards, shards, 0, copies=8, made=4))


MODELS = {
    "V4-Pro, official MXFP4 (865 -> 913 GB)": even(864.7, 913.06, 173),
    "V4-Pro, FP8 repack (1602 -> 913 GB)": even(1602, 913.06, 320),
    "3 TB of FP8 (-> 1.72 TB)": even(3000, 1720, 600),
    "3 TB in 20,000 shards, where the Hub's patience counts": even(3000, 1720, 20_000),
}


@dataclass
class Quota:
    """So many in a window of fixed times, as the Hub counts."""

    allowed: int
    window_s: float
    used: dict[int, int] = field(default_factory=dict)

    def when(self, now: float, count: int = 1) -> float:
        """The moment at which so many more have been let through."""
        window = int(now // self.window_s)
        while count:
            room = self.allowed - self.used.get(window, 0)
            if room <= 0:
                window += 1
                continue
            taken = min(room, count)
            self.used[window] = self.used.get(window, 0) + taken
            count -= taken
            if count:
                window += 1
        return max(now, window * self.window_s)


@dataclass(eq=False)
class Worker:
    """One of a machine's workers.

    Attributes:
        node: Its machine.
        free_at: When it may take the next shard.
        down: Bytes still to come.
        up: Bytes still to go.
        total: (down, up) of the shard.
    """

    node: int
    free_at: float = 0.0
    down: float = 0.0
    up: float = 0.0
    total: tuple[int, int] = (0, 0)

    @property
    def busy(self) -> bool:
        """Whether a shard is on its way."""
        return self.down > 0 or self.up > 0


@dataclass
class Hub:
    """What the Hub lets through, and what each machine has still to commit."""

    commits: Quota = field(default_factory=lambda: Quota(asks.COMMIT_LIMIT, 3600))
    api: Quota = field(default_factory=lambda: Quota(asks.API_LIMIT, asks.WINDOW_S))
    files: Quota = field(default_factory=lambda: Quota(asks.RESOLVER_LIMIT, asks.WINDOW_S))
    made: int = 0
    asked: int = 0
    pending: dict[int, int] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    free_at: float = 0.0

    def ask(self, now: float, api: int, files: int) -> float:
        """When so many requests have been answered."""
        self.asked += api + files
        return max(self.api.when(now, api), self.files.when(now, files))

    def commit(self, now: float, node: int = 0) -> None:
        """One commit, after the ones before it."""
        start = self.ask(max(now, self.free_at), asks.API_A_COMMIT, 0)
        self.free_at = self.commits.when(start) + COMMIT_S
        self.made += 1
        self.pending[node], self.last[node] = 0, now

    def finished(self, now: float, node: int) -> None:
        """A shard of a machine is there."""
        self.pending[node] = self.pending.get(node, 0) + 1
        if self.pending[node] >= asks.GROUP_UNITS or now - self.last[node] > asks.GROUP_SECONDS:
            self.commit(now, node)


def opened(hub: Hub, load: Load, nodes: int) -> list[float]:
    """When each machine has looked at both ends, and the journal is noted."""
    parts = load.parts
    once = asks.API_ONCE + asks.API_A_PAGE * parts.pages
    now = hub.ask(0.0, once, asks.RESOLVED_ONCE + parts.streams) + BEGIN_S
    hub.commit(now)
    slices = nodes if nodes > 1 else 0
    found = [now] * nodes
    look = asks.RESOLVED_A_SLICE + parts.shards
    if slices:
        now = hub.ask(now, 0, look)  # the plan, written down before
    for node in range(slices):
        found[node] = hub.ask(now, asks.API_A_SLICE, look)
    hub.last = dict.fromkeys(range(nodes), now)
    return found


def published(hub: Hub, load: Load, nodes: int, now: float) -> float:
    """When what is left is committed, read back and published."""
    for node in range(nodes):
        if hub.pending.get(node):
            hub.commit(now, node)
    files = asks.reading_back(load.parts, nodes)
    now = hub.ask(max(now, hub.free_at), 0, files) + load.parts.units * READ_BACK_S
    hub.commit(now)
    return max(hub.free_at, now)


def simulate(
    load: Load, rate: float, nodes: int, workers: int, *, streams: bool
) -> tuple[float, int, int]:
    """(seconds, commits, requests) of a run, played through."""
    hub = Hub()
    waiting = sorted(load.shards, key=max)
    ready = opened(hub, load, nodes)
    crew = [Worker(node, ready[node]) for _ in range(workers) for node in range(nodes)]
    now, left = min(ready), len(waiting)
    of_a_shard = (1 if streams else 1 + asks.LFS_A_SHARD, 1)
    while left:
        for worker in crew:
            if not worker.busy and worker.free_at <= now and waiting:
                worker.free_at = hub.ask(now, *of_a_shard)
                if worker.free_at <= now:
                    worker.total = waiting.pop()
                    worker.down, worker.up = map(float, worker.total)
        step = flows(crew, rate, streams)
        moment = min(
            [now + seconds for _, seconds in step.values()]
            + [worker.free_at for worker in crew if not worker.busy and worker.free_at > now]
        )
        for worker, (speeds, _) in step.items():
            worker.down = max(worker.down - speeds[0] * (moment - now), 0)
            worker.up = max(worker.up - speeds[1] * (moment - now), 0)
            worker.down, worker.up = (0 if each < 1 else each for each in (worker.down, worker.up))
        now = moment
        for worker in step:
            if not worker.busy:
                left -= 1
                worker.free_at = now
                hub.finished(now, worker.node)
    return published(hub, load, nodes, now), hub.made, hub.asked


Flow = tuple[tuple[float, float], float]


def flows(crew: Sequence[Worker], rate: float, streams: bool) -> dict[Worker, Flow]:
    """(speed down, speed up) of each busy worker, and seconds until one of its two changes."""
    found = {}
    for node in {worker.node for worker in crew}:
        mine = [worker for worker in crew if worker.node == node and worker.busy]
        mine.sort(key=lambda worker: worker.free_at)  # as they began
        coming = [worker for worker in mine if worker.down][:1]
        going = [worker for worker in mine if worker.up and (streams or not worker.down)][:1]
        for worker in mine:
            down = rate if worker in coming else 0.0
            up = rate if worker in going else 0.0
            if not (down or up):
                continue
            if streams and down and up:  # what goes up is made of what comes down
                ratio = worker.up / worker.down
                down, up = min(down, up / ratio), min(up, down * ratio)
            ways = ((worker.down, down), (worker.up, up))
            seconds = min(left / speed for left, speed in ways if speed)
            found[worker] = ((down, up), seconds)
    return found


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'':6}{'':>6}{'formula':>9}{'played':>9}{'ratio':>7}{'commits':>9}{'':>7}"
        f"{'requests':>9}{'':>7}  held up by, then"
    )
    for name, load in MODELS.items():
        print(name)
        for nodes in (1, 2, 4, 8, 16):
            for gbit in (1, 5, 10):
                row(load, nodes, gbit, options.workers)


def row(load: Load, nodes: int, gbit: int, workers: int) -> None:
    """One line: hours by formula and by simulation, through Xet."""
    made = estimate(load, gbit * GBIT, nodes)
    seconds, commits, requests = simulate(load, gbit * GBIT, nodes, workers, streams=True)
    print(
        f"{nodes:6}{gbit:>4} G{made.seconds / 3600:>8.2f}h{seconds / 3600:>8.2f}h"
        f"{seconds / made.seconds:>7.2f}{made.commits:>9}{commits:>7}{sum(made.requests):>9}"
        f"{requests:>7}  {made.bottleneck}, {made.next_bottleneck}"
    )


if __name__ == "__main__":
    main()
