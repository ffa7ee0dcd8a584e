"""What a conversion asks of the Hub: requests and commits, told before the first of them.

The Hub allows an account so many requests in five minutes and so many commits in an hour. The
figures are those of a public source and a new public target on a Hub with Xet; what is counted at
a run never exceeds them by more than the repeats of what failed.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from hubconv.journal import GROUP_SECONDS, GROUP_UNITS
from hubconv.steps.plan import Plan
from hubconv.steps.shards import foreign_reads

API_LIMIT: Final = 1000
RESOLVER_LIMIT: Final = 5000
WINDOW_S: Final = 300
"""What the Hub allows a free account in five minutes; paying ones are allowed more."""

COMMIT_LIMIT: Final = 128
"""Commits that the Hub allows in an hour: it does not document them, its refusal names them."""

API_ONCE: Final = 37
"""Both ends looked at, rights, branch, log, settings, tag; reading staging and main back."""

API_A_COMMIT: Final = 3
"""Where the branch stands, what is to be sent and how, the commit."""

API_A_PAGE: Final = 6
"""Trees are listed again where something may have changed since."""

PAGE: Final = 1000

RESOLVED_ONCE: Final = 10
RESOLVED_A_COPY: Final = 4
"""A file that travels along is read from the source and read back from main: link and bytes."""

RESOLVED_A_FILE: Final = 2
LFS_A_SHARD: Final = 2

API_A_SLICE: Final = 27
RESOLVED_A_SLICE: Final = 9
"""A slice looks at both ends for itself, as the plan did, and at every shard's header."""

RESOLVED_A_RECORD: Final = 2
"""The publish reads what all slices noted."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a plan makes requests.

    Attributes:
        units: Output shards.
        shards: Source shards.
        partners: How often one of them is opened again, for a unit that needs partners of it.
        copies: Files that travel along.
        made: Files that are generated.
    """

    units: int
    shards: int
    partners: int
    copies: int
    made: int

    @classmethod
    def of(cls, plan: Plan) -> "Parts":
        """Those of a plan."""
        shards = len({tensor.shard for job in plan.jobs for tensor in job.reads})
        partners = sum(
            len({tensor.shard for tensor in foreign_reads(unit, plan.sets)}) for unit in plan.units
        )
        return cls(len(plan.units), shards, partners, len(plan.copies), len(plan.files))

    @property
    def streams(self) -> int:
        """How often a source shard is opened."""
        return self.shards + self.partners

    @property
    def pages(self) -> int:
        """Pages of a thousand that the files of both ends fill."""
        return (self.shards + self.units + 2 * self.copies + self.made) // PAGE


@dataclass(frozen=True, slots=True)
class HubBudget:
    """Requests and commits of one conversion from beginning to end.

    Attributes:
        api_requests: To the Hub's API.
        resolver_requests: For links to files; their bytes come from elsewhere and are not counted.
        commits: To the staging branch, in groups of shards, and the one that publishes.
        lfs_requests: What a Hub without Xet is asked besides, of its API.
    """

    api_requests: int
    resolver_requests: int
    commits: int
    lfs_requests: int

    @property
    def windows(self) -> int:
        """Five-minute windows that it takes a free account at least."""
        return math.ceil(
            max(self.api_requests / API_LIMIT, self.resolver_requests / RESOLVER_LIMIT)
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        limits = {
            "api_requests": API_LIMIT,
            "resolver_requests": RESOLVER_LIMIT,
            "window_seconds": WINDOW_S,
            "commits_per_hour": COMMIT_LIMIT,
        }
        return {**asdict(self), "free_account_limits": limits}

    def words(self) -> str:
        """For a person."""
        more = f"; that takes {self.windows} times 5 minutes at least" if self.windows > 1 else ""
        return (
            f"Asks the Hub for about {self.api_requests:,} API and {self.resolver_requests:,} "
            f"resolver requests (a free account has {API_LIMIT:,} and {RESOLVER_LIMIT:,} in 5 "
            f"minutes) and {self.commits} commits (about {COMMIT_LIMIT} an hour){more}"
        )


def hub_budget(plan: Plan) -> HubBudget:
    """What converting a plan from Hub to Hub asks of it, by one machine.

    On a slow line a commit comes every ten minutes, with fewer shards: never more than six an hour.
    A run that was stopped costs its successor the requests of looking again, and one commit.
    """
    parts = Parts.of(plan)
    return budget_of(parts, commits_of(parts.units))


def commits_of(units: int, seconds: float = 0.0, slices: int = 1) -> int:
    """Commits: the journal's note, one for each group of each slice, and the publish.

    Args:
        units: Output shards.
        seconds: How long they take; an unfinished group is committed after ten minutes.
        slices: Each commits its own groups.
    """
    each = math.ceil(units / slices)
    groups = math.ceil(max(each / GROUP_UNITS, min(each, seconds / GROUP_SECONDS)))
    return 1 + slices * groups + 1


def budget_of(parts: Parts, commits: int, slices: int = 1) -> HubBudget:
    """What so many parts ask of the Hub, all machines together.

    Args:
        parts: What makes requests.
        commits: To staging and to main.
        slices: One is a run that also publishes; more leave that to a command of its own.
    """
    return HubBudget(
        # Each stream of a source shard asks for a token of its own.
        api_requests=API_ONCE
        + API_A_COMMIT * commits
        + API_A_PAGE * parts.pages
        + parts.streams
        + (API_A_SLICE * slices if slices > 1 else 0),
        # Links of source shards grow old and are asked for anew.
        resolver_requests=looking(parts, slices) + parts.streams + reading_back(parts, slices),
        commits=commits,
        lfs_requests=LFS_A_SHARD * (parts.units + 1 + parts.copies),
    )


def looking(parts: Parts, slices: int = 1) -> int:
    """Resolver requests before the first byte: every slice looks at every shard's header."""
    again = slices + 1 if slices > 1 else 0
    return RESOLVED_ONCE + parts.streams + again * (RESOLVED_A_SLICE + parts.shards)


def reading_back(parts: Parts, slices: int = 1) -> int:
    """Resolver requests after the last byte: staged shards, and what is published beside them."""
    records = RESOLVED_A_RECORD * parts.units if slices > 1 else 0
    return records + parts.units + RESOLVED_A_COPY * parts.copies + RESOLVED_A_FILE * parts.made
