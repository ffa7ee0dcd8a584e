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

EACH: Final = ("model", "layer", "dense_layer", "moe_layer", "expert", "mtp_layer")

_WHEN: Final = re.compile(
    r"(?P<no>!)?(?P<key>\w+)(?P<of_layer>\[layer\])?(=(?P<value>\w+(\|\w+)*))?"
    r"|layer(?P<sign><|>=)(?P<bound>\w+)"
)

_ROOT: Final = re.compile(r"((?:[a-z_]+\.)*?)layers\.\d")


@dataclass(frozen=True, slots=True)
class Need:
    """Names that go together.

    Attributes:
        each: What there is one of them for; mtp_layer where any tensor of the layer is there.
        names: Below the model's root, the layer or the expert; a slash in front counts from above
            the root.
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
        needs: What each part demands.
    """

    model_types: frozenset[str]
    layers: str
    experts: str
    expert_path: str
    needs: tuple[Need, ...]


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
    layers = _value(config, needs.layers)
    experts = _value(config, needs.experts) if needs.experts else 0
    root = _root(tensors)
    served = not needs.model_types or config.get("model_type") in needs.model_types
    if not (isinstance(layers, int) and isinstance(experts, int) and root is not None and served):
        return None
    here = {name.removesuffix(".weight").removesuffix(".weight_packed") for name in tensors}
    demanded = _demanded(needs, config, root, tensors, (layers, experts))
    return [name for name in dict.fromkeys(demanded) if name not in here]


def _demanded(
    needs: Needs,
    config: Mapping[str, Any],
    root: str,
    tensors: Collection[str],
    counts: tuple[int, int],
) -> Iterator[str]:
    layers, experts = counts
    seen = _layers(root, needs.expert_path, tensors)
    # Where no layer is dense, one without experts has lost them.
    never_dense = all(need.each != "dense_layer" for need in needs.needs)
    for need in needs.needs:
        if need.each == "model":
            if _holds(need.when, config, 0):
                yield from (_placed(root, name) for name in need.names)
            continue
        for layer in sorted({*range(layers), *seen}):
            is_mtp, is_moe = layer >= layers, never_dense or seen.get(layer, False)
            fits = {
                "mtp_layer": is_mtp,
                "moe_layer": is_moe,
                "expert": is_moe,
                "dense_layer": not is_moe,
            }.get(need.each, True)
            if not fits or not _holds(need.when, config, layer):
                continue
            above = f"{root}layers.{layer}."
            if need.each == "expert":
                places = [f"{above}{needs.expert_path}.{number}." for number in range(experts)]
            else:
                places = [above]
            yield from (place + name for place in places for name in need.names)


def _placed(root: str, name: str) -> str:
    return root.removesuffix("model.") + name[1:] if name.startswith("/") else root + name


def _root(tensors: Collection[str]) -> str | None:
    """What stands before `layers.` in the names of the language model's layers."""
    roots = Counter(match[1] for name in tensors if (match := _ROOT.match(name)))
    return max(sorted(roots), key=lambda root: roots[root], default=None)


def _layers(root: str, expert_path: str, tensors: Collection[str]) -> dict[int, bool]:
    """Layers of which there is any tensor, and whether routed experts are among them."""
    layer = re.compile(rf"{re.escape(root)}layers\.(\d+)\.(.*)")
    found: dict[int, bool] = {}
    for name in tensors:
        match = layer.match(name)
        if match:
            is_expert = bool(expert_path) and match[2].startswith(f"{expert_path}.")
            number = int(match[1])
            found[number] = found.get(number, False) or is_expert
    return found


def _value(config: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - JSON is untyped
    text = config.get("text_config")
    nested = text.get(key) if isinstance(text, Mapping) else None
    return config.get(key, nested)


def _holds(when: str, config: Mapping[str, Any], layer: int) -> bool:
    match = _WHEN.fullmatch(when) if when else None
    if match is None:
        return True
    if match["sign"]:
        bound = _value(config, match["bound"])
        below = isinstance(bound, int) and layer < bound
        return below == (match["sign"] == "<")
    value = _value(config, match["key"])
    if match["of_layer"]:
        value = value[layer] if isinstance(value, list) and layer < len(value) else None
    if match["value"]:
        return str(value) in match["value"].split("|")
    return bool(value) != bool(match["no"])
