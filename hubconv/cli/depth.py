"""Options about how much of a result is read back."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hubconv.errors import UsageError

if TYPE_CHECKING:
    from hubconv.audit import Depth

Command = TypeVar("Command", bound=Callable[..., Any])


def depth_options(command: Command) -> Command:
    """Options about how much is decoded."""
    full = click.option(
        "--full", is_flag=True, help="Read every byte: hash every shard, decode every weight."
    )
    sample = click.option(
        "--sample",
        type=click.IntRange(1),
        default=None,
        metavar="N",
        help="Decode N whole weights, spread over roles and layers.  [default: rows of some]",
    )
    seed = click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Decides which weights are decoded.",
    )
    return full(sample(seed(command)))


def depth_from(*, full: bool, sample: int | None, seed: int, fast: bool = False) -> "Depth":
    """What the options ask for.

    Raises:
        UsageError: Two of them contradict each other.
    """
    from hubconv.audit import Depth

    asked = {"--full": full, "--sample": sample is not None, "--fast": fast}
    named = [name for name, is_set in asked.items() if is_set]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} contradict each other.", "Say one of them.")
    if full:
        return Depth("full")
    if fast:
        return Depth("fast")
    return Depth("weights", sample, seed) if sample is not None else Depth(seed=seed)
