"""How long a plan would take on how many machines, and what holds it up: arithmetic, no promise.

A run has three lines that may be full: bytes down, bytes up, and the Hub's patience. All machines
work at the same time, and both directions of a line at once, so the longest of them is the run;
what comes before the first byte and after the last is added. Many machines are slices, each of
which looks at every header for itself; Ray, whose driver does that for all, asks less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from hubconv.quantities import human_bytes, human_rate, human_time
from hubconv.steps.budget import (
    API_LIMIT,
    COMMIT_LIMIT,
    RESOLVER_LIMIT,
    WINDOW_S,
    HubBudget,
    Parts,
    budget_of,
    commits_of,
    looking,
    reading_back,
)
from hubconv.steps.plan import Plan
from hubconv.steps.shards import foreign_reads

BEGIN_S: Final = 10.0
COMMIT_S: Final = 3.0
READ_BACK_S: Final = 0.05
"""Headers and plan; one commit's answer; one staged shard's header. Guesses, the same for all."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a plan moves.

    Attributes:
        shards: (source bytes that are read, output bytes) of each unit.
        parts: What of it makes requests.
    """

    shards: Sequence[tuple[int, int]]
    parts: Parts

    @classmethod
    def of(cls, plan: Plan) -> "Load":
        """The load of a plan."""
        shards = []
        for unit in plan.units:
            own = sum(t.nbytes for job in (*unit.jobs, *unit.tail) for t in job.reads)
            partners = sum(tensor.nbytes for tensor in foreign_reads(unit, plan.sets))
            shards.append((own + partners, unit.nbytes))
        return cls(shards, Parts.of(plan))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan would take.

    Attributes:
        nodes: Machines.
        rate: Bytes a second of each machine's line, each way.
        seconds: From the first byte to the publish.
        parts: Seconds that each line would take if nothing else held the run up; and those of
            start and end, in which little moves.
        commits: Commits on staging and on main.
        requests: Requests to the Hub's API, and for files by name.
        bottleneck: The part that takes longest.
        next_bottleneck: The one that would take its place, were it gone.
    """

    nodes: int
    rate: int
    seconds: float
    parts: Mapping[str, float]
    commits: int
    requests: tuple[int, int]
    bottleneck: str
    next_bottleneck: str

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def estimate(load: Load, rate: int, nodes: int = 1, *, streams: bool = True) -> Estimate:
    """What a load would take from Hub to Hub.

    Args:
        load: What is moved.
        rate: Bytes a second of each machine's line, each way.
        nodes: Machines.
        streams: Shards go up while they are made, as through Xet; else when they are whole.
    """
    busiest = max(spread(load.shards, nodes), key=max)
    down, up = (nbytes / rate for nbytes in busiest)
    parts = load.parts
    commits = commits_of(parts.units, max(down, up), nodes)
    budget = budget_of(parts, commits, nodes)
    api = budget.api_requests + (0 if streams else budget.lfs_requests)
    files = budget.resolver_requests
    before = waiting(looking(parts, nodes), RESOLVER_LIMIT, WINDOW_S)
    after = waiting(reading_back(parts, nodes), RESOLVER_LIMIT, WINDOW_S)
    takes = {
        "line down": down,
        "line up": up,
        "commits": waiting(commits, COMMIT_LIMIT, 3600),
    }
    # The last groups of all machines come one after the other, then the publish.
    still = BEGIN_S + (nodes + 1) * COMMIT_S + parts.units * READ_BACK_S
    still += 0.0 if streams else _out_of_step(load, rate)
    seconds = before + max(takes.values()) + after + still
    takes["file requests"] = before + after
    takes["API requests"] = waiting(api, API_LIMIT, WINDOW_S)
    seconds = max(seconds, takes["API requests"])
    takes["start and end"] = still
    first, second, *_ = sorted(takes, key=lambda part: -takes[part])
    return Estimate(nodes, rate, seconds, takes, commits, (api, files), first, second)


def spread(shards: Sequence[tuple[int, int]], nodes: int) -> list[tuple[int, int]]:
    """(bytes down, bytes up) of each machine: the largest shards first, each to the idlest."""
    loads = [(0, 0)] * nodes
    for down, up in sorted(shards, key=max, reverse=True):
        idlest = min(range(nodes), key=lambda node: max(loads[node]))
        loads[idlest] = (loads[idlest][0] + down, loads[idlest][1] + up)
    return loads


def waiting(count: int, allowed: int, window_s: int) -> float:
    """Seconds until the last of so many is let through, where all come as early as they can."""
    return float(max(ceil(count / allowed) - 1, 0) * window_s)


def _out_of_step(load: Load, rate: int) -> float:
    """Shards that go up when they are whole: one way stands idle in the beginning or the end."""
    return min(max(load.shards, key=sum, default=(0, 0))) / rate


def told(made: Estimate, *, above: bool = False) -> list[str]:
    """An estimate for a person, in lines.

    Args:
        made: The estimate.
        above: What one machine asks of the Hub is shown above it.
    """
    parts = made.parts
    machines = f"{made.nodes} machine{'s' if made.nodes > 1 else ''}"
    following = parts[made.next_bottleneck]
    then = f", then {made.next_bottleneck} ({human_time(following)})" if following else ""
    lines = [
        f"At {human_rate(made.rate)} each way on {machines}: about {human_time(made.seconds)}, "
        f"where the line is full and nothing else holds it up",
        f"Held up by: {made.bottleneck} ({human_time(parts[made.bottleneck])}){then}",
    ]
    if made.nodes > 1 or not above:
        api, files = made.requests
        lines.insert(1, HubBudget(api, files, made.commits, lfs_requests=0).words())
    if made.nodes > 1:
        lines.append(f"The Hub would serve {human_bytes(made.nodes * made.rate)} a second each way")
    return lines
