"""What engines fuse must have one fate: partner sets, and the routed experts of a layer.

A split that no engine can load is refused while only headers have been read, with the `--keep`
that would leave the whole of it as it is.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from hubconv.errors import SourceError, UsageError
from hubconv.profiles import Profile

Action = Literal["nvfp4", "keep", "rename", "recode", "drop"]
Fate = tuple[Action, str, str]
"""(action, role, reason) of a weight."""

_EXPERT: Final = re.compile(r"(.+\.experts)\.\d+\.")


def keep_option(modules: Sequence[str]) -> str:
    """The --keep that leaves modules of one parent, and what is fused with them, as they are."""
    parent, _, leaf = modules[0].rpartition(".")
    expert = _EXPERT.match(modules[0])
    if expert:
        # One method serves all experts of a layer: they stay together.
        return rf"--keep 're:^{re.escape(expert[1])}\.'"
    leaves = "|".join(re.escape(module.rpartition(".")[2]) for module in modules)
    leaves = f"({leaves})" if len(modules) > 1 else re.escape(leaf)
    above = re.escape(parent) + r"\." if parent else ""
    return rf"--keep 're:^{above}{leaves}\.'"


def check_experts(weights: Mapping[str, Fate], layout: str) -> None:
    """All routed experts of a layer become NVFP4, or none.

    Args:
        weights: What happens to each weight, by module.
        layout: Name of the layout; that of DeepSeek V4 has no way to leave any as it is.

    Raises:
        SourceError: Some experts of a layer would stay as they are.
        UsageError: The layout needs every routed expert.
    """
    converted: dict[str, str] = {}
    staying: dict[str, str] = {}
    for module, (action, _, _) in weights.items():
        expert = _EXPERT.match(module)
        if expert and action != "drop":
            (converted if action == "nvfp4" else staying).setdefault(expert[1], module)
    for container, module in staying.items():
        why = weights[module][2] or "its format"
        if layout == "modelopt-v4" and weights[module][1] == "routed_expert":
            raise UsageError(
                f"{module} would stay as it is ({why}); engines take every routed expert of this "
                "model for NVFP4.",
                "Leave routed experts out of --keep.",
            )
        if container in converted:
            raise SourceError(
                f"{module} would stay as it is ({why}) while {converted[container]} becomes "
                "NVFP4; engines run all experts of a layer in one format.",
                f"Keep all of them: {keep_option([module])}.",
            )


def partner_keys(weights: Mapping[str, Fate], profile: Profile) -> dict[str, str]:
    """Module to the key of its partner set, for every NVFP4 module that has partners.

    Args:
        weights: What happens to each weight, by module.
        profile: Says which sibling modules engines fuse.

    Raises:
        SourceError: A member is missing, or the set would be split between formats.
    """
    keys: dict[str, str] = {}
    for module, fate in weights.items():
        members = profile.partners_of(module, weights) if fate[0] == "nvfp4" else []
        if members:
            _check_set(members, weights)
            leaves = (member.rpartition(".")[2] for member in members)
            keys[module] = f"{module.rpartition('.')[0]}.{'+'.join(leaves)}"
    return keys


def _check_set(here: Sequence[str], weights: Mapping[str, Fate]) -> None:
    present = [module for module in here if module in weights]
    converted = [module for module in present if weights[module][0] == "nvfp4"]
    if len(present) < len(here):
        missing = [module for module in here if module not in weights]
        raise SourceError(
            f"{converted[0]} must share its global scale with {some(missing)}, which is missing.",
            f"Keep the rest of the set as it is: {keep_option(converted)}.",
        )
    if len(converted) < len(here):
        module = next(module for module in present if weights[module][0] != "nvfp4")
        raise SourceError(
            f"{module} would stay as it is ({weights[module][2] or 'its format'}) while its "
            f"partner {converted[0]} becomes NVFP4; engines fuse the two.",
            f"Keep the whole set: {keep_option(here)}.",
        )


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of many, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
