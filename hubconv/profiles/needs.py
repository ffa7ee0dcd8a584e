"""What a model cannot do without: names that a config and a profile demand.

Engines start without a tensor that is missing, warn of nothing and answer nonsense: whether all is
there, only hubconv asks. A name stands for a module with a weight, or for one bare tensor; the
scales of a weight are the loader contract's business.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hubconv.errors import SourceError

Each = Literal["model", "layer", "dense_layer", "moe_layer", "expert", "mtp_layer"]

_Kind = Literal["dense", "experts", "fused"]

EACH: Final = ("model", "layer", "dense_layer", "moe_layer", "expert", "mtp_layer")

_WHEN: Final = re.compile(
    r"(?P<no>!)?(?P<key>\w+)(?P<of_layer>\[layer\])?(=(?P<value>[^=]+))?"
    r"|layer(?P<sign><|>=)(?P<bound>\w+)"
)

_ROOT: Final = re.compile(r"((?:[a-z_]+\.)*?)layers\.\d")


@dataclass(frozen=True, slots=True)
class Need:
    """Names that go together.

    Attributes:
        each: What there is one of them for; mtp_layer where any tensor of the layer is there.
        names: Below the model's root, the layer or the expert; a slash in front stands for
            the root or any place above it.
        when: Empty, or what config.json must say: `key`, `!key`, `key=a|b`, `key[layer]`,
            `key[layer]=4`, `layer<key`, `layer>=key`.
    """

    each: Each
    names: tuple[str, ...]
    when: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a family demands.

    Attributes:
        model_types: `model_type` values it is known for; empty for all of the profile.
        layers: Key of config.json that counts the layers.
        experts: Key that counts the routed experts; empty for dense models.
        expert_path: Where they are within a layer.
        fused: Found at the beginning of a name within a layer where all its experts are in one
            tensor elsewhere than under `expert_path`; empty where they are nowhere else.
        needs: What each part demands.
    """

    model_types: frozenset[str]
    layers: str
    experts: str
    expert_path: str
    needs: tuple[Need, ...]
    fused: str = ""


def needs_of(data: Mapping[str, Any], profile: str) -> Needs | None:
    """From a profile's file; None where it does not say.

    Raises:
        SourceError: The entry is not as it should be.
    """
    if not data:
        return None
    needs = tuple(
        Need(need["each"], tuple(need["names"]), need.get("when", "")) for need in data["of"]
    )
    wrong = [n for n in needs if n.each not in EACH or not _WHEN.fullmatch(n.when or "x")]
    if wrong:
        raise SourceError(f"The profile {profile} has a need nobody understands: {wrong[0]}.")
    return Needs(
        frozenset(data.get("model_types", ())),
        data["layers"],
        data.get("experts", ""),
        data.get("expert_path", ""),
        needs,
        data.get("fused", ""),
    )


def missing(
    needs: Needs, config: Mapping[str, Any], tensors: Collection[str]
) -> Sequence[str] | None:
    """Names that are demanded and not there.

    Args:
        needs: What the family demands.
        config: config.json.
        tensors: Names of all tensors.

    Returns:
        In the order of the model; None where the config does not tell how large it is.
    """
    layers = value_of(config, needs.layers)
    experts = value_of(config, needs.experts) if needs.experts else 0
    root = _root(tensors)
    served = not needs.model_types or config.get("model_type") in needs.model_types
    if not (isinstance(layers, int) and isinstance(experts, int) and root is not None and served):
        return None
    here = {name.removesuffix(".weight").removesuffix(".weight_packed") for name in tensors}
    demanded = _demanded(needs, config, root, here, (layers, experts))
    return [name for name in dict.fromkeys(demanded) if name not in here]


def _demanded(
    needs: Needs,
    config: Mapping[str, Any],
    root: str,
    here: Collection[str],
    counts: tuple[int, int],
) -> Iterator[str]:
    layers, experts = counts
    seen = _layers(root, needs, here)
    # Where no layer is dense, one without experts has lost them.
    absent: _Kind = "experts" if all(n.each != "dense_layer" for n in needs.needs) else "dense"
    for need in needs.needs:
        if need.each == "model":
            if holds(need.when, config, 0):
                yield from (_placed(root, name, here) for name in need.names)
            continue
        for layer in sorted({*range(layers), *seen}):
            kind = seen.get(layer, "dense")
            kind = absent if kind == "dense" else kind
            if not _fits(need, kind, is_mtp=layer >= layers) or not holds(need.when, config, layer):
                continue
            places = [f"{root}layers.{layer}."]
            if need.each == "expert":
                places = [f"{places[0]}{needs.expert_path}.{n}." for n in range(experts)]
            yield from (place + name for place in places for name in need.names)


def _fits(need: Need, kind: _Kind, *, is_mtp: bool) -> bool:
    return {
        "mtp_layer": is_mtp,
        "moe_layer": kind != "dense",
        "expert": kind == "experts",
        "dense_layer": kind == "dense",
    }.get(need.each, True)


def _placed(root: str, name: str, here: Collection[str]) -> str:
    if not name.startswith("/"):
        return root + name
    above = [match.end() for match in re.finditer(r"^|\.", root)]
    return next((found for end in above if (found := root[:end] + name[1:]) in here), name[1:])


def _root(tensors: Collection[str]) -> str | None:
    """What stands before `layers.` in the names of the language model's layers."""
    roots = Counter(match[1] for name in tensors if (match := _ROOT.match(name)))
    return max(sorted(roots), key=lambda root: roots[root], default=None)


def _layers(root: str, needs: Needs, here: Collection[str]) -> dict[int, _Kind]:
    """Layers of which there is anything, and whether routed experts are, one by one or fused."""
    layer = re.compile(rf"{re.escape(root)}layers\.(\d+)\.(.*)")
    path = re.escape(needs.expert_path)
    expert = re.compile(rf"{path}\.(\d+\.)?" if path else "(?!)")
    stacked = re.compile(needs.fused or "(?!)")
    found: dict[int, _Kind] = {}
    for name in here:
        match = layer.match(name)
        if not match:
            continue
        number, routed = int(match[1]), expert.match(match[2])
        kind: _Kind = "fused" if routed or stacked.match(match[2]) else "dense"
        kind = "experts" if routed and routed[1] else kind
        if kind != "dense" or number not in found:
            found[number] = kind
    return found


def value_of(config: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - JSON is untyped
    """What config.json says under a key, at the top or for its language model."""
    text = config.get("text_config")
    nested = text.get(key) if isinstance(text, Mapping) else None
    return config.get(key, nested)


def holds(when: str, config: Mapping[str, Any], layer: int = 0) -> bool:
    """Whether config.json says what a condition asks for; see `Need.when`."""
    match = _WHEN.fullmatch(when) if when else None
    if match is None:
        return True
    if match["sign"]:
        bound = value_of(config, match["bound"])
        below = isinstance(bound, int) and layer < bound
        return below == (match["sign"] == "<")
    value = value_of(config, match["key"])
    if match["of_layer"]:
        value = value[layer] if isinstance(value, list | str) and layer < len(value) else None
    if match["value"]:
        return str(value) in match["value"].split("|")
    return bool(value) != bool(match["no"])
