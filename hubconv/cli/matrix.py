"""What is due as the matrix of a GitHub workflow: one job a target."""

import math
from collections.abc import Sequence
from typing import Any, Final

from hubconv.cli.options import recipe_words
from hubconv.watch import Look, Wish, in_order

MOST_JOBS: Final = 256
"""GitHub takes no larger matrix."""

GRACE_MINUTES: Final = 20
"""What is on its way when a time limit is reached may take so long to arrive."""


def matrix(looked: Sequence[Look]) -> dict[str, Any]:
    """`{"include": [...]}`: what is due, in order, as many as one matrix may hold."""
    return {"include": [_job(each) for each in in_order(looked)[:MOST_JOBS]]}


def _job(found: Look) -> dict[str, Any]:
    wish = found.wish
    limit = wish.time_limit_s
    return {
        "key": key_of(found.target),
        "source": found.source,
        "revision": wish.revision,
        "target": found.target,
        # One word a line: nothing is split, and nothing expanded by a shell.
        "options": "\n".join(option_words(wish)),
        "runner": wish.runner if isinstance(wish.runner, str) else list(wish.runner),
        "time-limit": f"{limit:.0f}s",
        "timeout-minutes": math.ceil(limit / 60) + GRACE_MINUTES,
        "state": found.state,
    }


def key_of(target: str) -> str:
    """A name for the concurrency group of a target: spellings that the Hub takes for one share it.

    Names that differ in case alone are one repository, for the Hub and for GitHub's groups.
    """
    return target.casefold()


def option_words(wish: Wish) -> list[str]:
    """The options of `hubconv SOURCE TARGET` that ask for what an entry says."""
    words = recipe_words(wish.recipe)
    if wish.private is not None:
        words.append("--private" if wish.private else "--no-private")
    return [*words, "--max-disk", str(wish.max_disk)] if wish.max_disk else words


def command_of(found: Look) -> list[str]:
    """The command line that makes a target."""
    revision = ["--revision", found.wish.revision] if found.wish.revision else []
    return ["hubconv", found.source, found.target, *option_words(found.wish), *revision]
