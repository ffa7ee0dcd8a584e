"""What a conversion asks of the Hub: requests and commits, told before the first of them.

The Hub allows an account so many requests in five minutes and so many commits in an hour. The
figures are those of a public source and a new public target on a Hub with Xet; what is counted at
a run never exceeds them by more than the repeats of what failed.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from hubconv.journal import GROUP_UNITS
from hubconv.steps.plan import Plan
from hubconv.steps.shards import foreign_reads

API_LIMIT: Final = 1000
RESOLVER_LIMIT: Final = 5000
WINDOW_S: Final = 300
"""What the Hub allows a free account in five minutes; paying ones are allowed more."""

COMMIT_LIMIT: Final = 128
"""Commits that the Hub allows in an hour: it does not document them, its refusal names them."""

_API_ONCE: Final = 37
"""Both ends looked at, rights, branch, log, settings, tag; reading staging and main back."""

_API_A_COMMIT: Final = 3
"""Where the branch stands, what is to be sent and how, the commit."""

_RESOLVED_ONCE: Final = 10
_RESOLVED_A_COPY: Final = 4
"""A file that travels along is read from the source and read back from main: link and bytes."""

_RESOLVED_A_FILE: Final = 2
_LFS_A_SHARD: Final = 2


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
    """What converting a plan from Hub to Hub asks of it.

    On a slow line a commit comes every ten minutes, with fewer shards: never more than six an hour.
    A run that was stopped costs its successor the requests of looking again, and one commit.
    """
    units = len(plan.units)
    shards = len({tensor.shard for job in plan.jobs for tensor in job.reads})
    partners = sum(
        len({tensor.shard for tensor in foreign_reads(unit, plan.sets)}) for unit in plan.units
    )
    commits = 1 + math.ceil(units / GROUP_UNITS) + 1  # the journal's note, groups, the publish
    return HubBudget(
        # Each stream of a source shard asks for a token of its own, those for partners too.
        api_requests=_API_ONCE + _API_A_COMMIT * commits + shards + partners,
        # Links of source shards grow old and are asked for anew; staged shards are read back.
        resolver_requests=_RESOLVED_ONCE
        + 2 * shards
        + units
        + _RESOLVED_A_COPY * len(plan.copies)
        + _RESOLVED_A_FILE * len(plan.files),
        commits=commits,
        lfs_requests=_LFS_A_SHARD * (units + 1 + len(plan.copies)),
    )
