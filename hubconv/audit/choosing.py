"""Which weights are looked at, where not all are: spread over roles and layers, always the same."""

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")

_NUMBER: Final = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


def layer_of(module: str) -> int:
    """The first number in a module's name; -1 where there is none."""
    match = _NUMBER.search(module)
    return int(match[1]) if match else -1


def choose(
    items: Iterable[Item],
    count: int,
    seed: int,
    *,
    name_of: Callable[[Item], str],
    role_of: Callable[[str], str],
) -> list[Item]:
    """So many of some weights: each role in turn, and of each role each layer in turn.

    The order within a layer, and of the layers, comes from hashes of the names with the seed: the
    same names and seed give the same choice on every machine.

    Args:
        items: What to choose from.
        count: How many; all where there are fewer.
        seed: Another one chooses others.
        name_of: Module of an item.
        role_of: Role of a module.
    """
    known = list(items)
    if len(known) <= count:
        return known
    roles: dict[str, dict[int, list[Item]]] = {}
    for item in known:
        module = name_of(item)
        layers = roles.setdefault(role_of(module), {})
        layers.setdefault(layer_of(module), []).append(item)
    queues = [
        _in_turn([
            sorted(layer, key=lambda item: rank(seed, name_of(item)))
            for _, layer in sorted(layers.items(), key=lambda each: rank(seed, str(each[0])))
        ])
        for _, layers in sorted(roles.items())
    ]
    return _in_turn(queues)[:count]


def _in_turn(queues: list[list[Item]]) -> list[Item]:
    """One of each, then the next of each, until none is left."""
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def rank(seed: int, name: str) -> bytes:
    """Where a name stands in an order that nothing but the seed and the name decides."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
