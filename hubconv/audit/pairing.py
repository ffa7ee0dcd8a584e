"""Weights of two results by twos, and whether the results are of one model at all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hubconv.audit.packed import Packed
from hubconv.audit.sides import Matrix, Side, shape_of
from hubconv.profiles.needs import value_of

DIMENSIONS: Final = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "vocab_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
)
"""Keys of config.json that two results of one model agree on."""

ENOUGH: Final = 0.5
"""Share of the smaller side's weights that must be found on the other."""

QUANT: Final = "quantization_config"
MOST_DIFFERENCES: Final = 40
MOST_TEXT: Final = 80
FEW: Final = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """A weight that both results have.

    Attributes:
        module: Its name in the first.
        role: Its role.
        a: As the first has it.
        b: As the second has it.
    """

    module: str
    role: str
    a: Matrix
    b: Matrix

    @property
    def are_nvfp4(self) -> bool:
        """Whether it is NVFP4 in both."""
        return isinstance(self.a, Packed) and isinstance(self.b, Packed)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two results, weight by weight.

    Attributes:
        pairs: Weights that both have, of which one at least is NVFP4.
        kept: Weights that both have and neither has in NVFP4.
        only_a: Weights that the second has under no name.
        only_b: Weights that the first has under no name.
        reasons: Why they are not of one model; empty where they are.
    """

    pairs: tuple[Pair, ...]
    kept: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reasons: tuple[str, ...]


def pair_up(a: Side, b: Side) -> Paired:
    """Find each weight's twin by name, prefixes of wrappers apart."""
    there = b.named()
    here = a.named()
    found = [
        Pair(module, a.result.role_of(module), matrix, twin)
        for module, matrix in a.matrices.items()
        if (twin := there.find(module)) is not None
    ]
    only_a = tuple(m for m in a.matrices if there.find(m) is None)
    only_b = tuple(m for m in b.matrices if here.find(m) is None)
    reasons = tuple(_reasons(a, b, found))
    pairs = [pair for pair in found if shape_of(pair.a) == shape_of(pair.b)]
    any_nvfp4 = [p for p in pairs if isinstance(p.a, Packed) or isinstance(p.b, Packed)]
    kept = [p for p in pairs if not isinstance(p.a, Packed) and not isinstance(p.b, Packed)]
    return Paired(tuple(any_nvfp4), tuple(kept), only_a, only_b, reasons)


def _reasons(a: Side, b: Side, found: list[Pair]) -> Iterator[str]:
    for key in DIMENSIONS:
        ours, theirs = value_of(a.result.config, key), value_of(b.result.config, key)
        if ours is not None and theirs is not None and ours != theirs:
            yield f"{key} is {ours!r} and {theirs!r}"
    wrong = [pair for pair in found if shape_of(pair.a) != shape_of(pair.b)]
    if wrong:
        first = wrong[0]
        shapes = f"{list(shape_of(first.a))} and {list(shape_of(first.b))}"
        more = f", and {len(wrong) - 1} weights more differ" if len(wrong) > 1 else ""
        yield f"{first.module} is {shapes}{more}"
    least = min(len(a.matrices), len(b.matrices))
    if len(found) < ENOUGH * least or not found:
        yield f"only {len(found)} of {least} weights have a name that both know"


def config_differences(a: Side, b: Side) -> list[dict[str, Any]]:
    """Entries of config.json that differ, each with both values in short.

    How two layouts spell the same quantization is not gone into.
    """
    ours, theirs = dict(_flat(a.result.config)), dict(_flat(b.result.config))
    if a.layout != b.layout:
        for table, side in ((ours, a), (theirs, b)):
            for key in [key for key in table if key.startswith(QUANT)]:
                del table[key]
            table[QUANT] = side.layout
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return [
        {"key": key, "a": _short(ours.get(key)), "b": _short(theirs.get(key))}
        for key in sorted(keys)[:MOST_DIFFERENCES]
    ]


def _flat(table: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value and depth < 8 and key != "quantized_layers":
            yield from _flat(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _short(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, list | dict) and len(value) > FEW:
        return f"{len(value)} entries"
    text = str(value)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "..."
