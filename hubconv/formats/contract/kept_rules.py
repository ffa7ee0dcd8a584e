"""FP8 weights that stay: the names and shapes of their scales."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hubconv.formats.contract.ct_rules import ct_library_scheme
from hubconv.formats.contract.finding import Finding
from hubconv.formats.contract.modelopt_rules import mixed_algo
from hubconv.formats.contract.modules import Convention, Module


def kept_findings(
    modules: Mapping[str, Module], convention: Convention, config: Mapping[str, Any]
) -> Iterator[Finding]:
    """FP8 modules whose scale the loaders of this convention do not find or cannot use."""
    block = _block(config)
    static = _static(convention, config)
    for module in modules.values():
        if module.kind != "fp8":
            continue
        scale = module.parts.get("weight_scale")
        if scale is None:
            # vLLM 0.33 starts without it and answers nonsense; it knows no other name here.
            yield Finding("kept.scale", module.name, "This FP8 weight has no weight_scale.")
            continue
        for name in sorted({"weight_scale_inv", "scale"} & module.parts.keys()):
            yield Finding("part.leftover", f"{module.name}.{name}", "It is weight_scale here.")
        if static(module.name) and "input_scale" not in module.parts:
            # vLLM 0.33 and SGLang 0.5.23 compute with whatever the memory held.
            yield Finding("kept.input-scale", f"{module.name}.input_scale", "It is missing.")
        if scale.dtype != "F32":
            yield Finding("kept.scale", scale.name, f"It is {scale.dtype}, not F32.")
        wanted = _wanted(module, convention, block)
        if wanted and scale.shape not in wanted:
            what = f"Its shape is {list(scale.shape)}, not {list(wanted[0])}."
            yield Finding("kept.scale", scale.name, what)


def _static(convention: Convention, config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a configuration promises a stored activation scale for an FP8 module."""
    if convention == "modelopt":
        table = config.get("quantized_layers") or {}
        return lambda name: mixed_algo(name, table) == "FP8"
    groups = config.get("config_groups") or {}
    inputs = {name: group.get("input_activations") or {} for name, group in groups.items()}
    promised = {name for name, each in inputs.items() if each.get("dynamic") is False}
    if not promised:
        return lambda _: False
    return lambda name: ct_library_scheme(name, config) in promised


def _block(config: Mapping[str, Any]) -> tuple[int, int]:
    groups = config.get("config_groups") or {}
    for group in groups.values():
        structure = (group.get("weights") or {}).get("block_structure")
        if structure:
            return (structure[0], structure[1])
    return (128, 128)


def _wanted(
    module: Module, convention: Convention, block: tuple[int, int]
) -> list[tuple[int, ...]]:
    weight = module.parts.get("weight")
    if weight is None or len(weight.shape) != 2:
        return []
    rows, cols = weight.shape
    blocks = (math.ceil(rows / block[0]), math.ceil(cols / block[1]))
    if convention == "modelopt":
        # vLLM 0.33 modelopt.py:2253-2306: four dimensions, nothing is broadcast.
        return [(blocks[0], 1, blocks[1], 1), ()]
    return [blocks, (rows, 1), (1,)]
