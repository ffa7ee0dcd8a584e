"""ModelOpt: `X.weight`, `X.weight_scale`, `X.weight_scale_2` and `X.input_scale`, all multipliers.

`input_scale` is always written: vLLM would read uninitialised memory without it as soon as
activations are quantized, and every loader drops it where they are not.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from hubconv.errors import UsageError
from hubconv.formats.contract.names import container_of, moved
from hubconv.formats.layouts.base import (
    Activations,
    Content,
    Fate,
    KeptScale,
    Linear,
    ModelFacts,
    Part,
)
from hubconv.formats.layouts.ignore import Pattern, cover, lookups
from hubconv.formats.layouts.scalars import input_scale_of, scalar_bytes
from hubconv.formats.layouts.source_config import without_stale
from hubconv.formats.nvfp4 import BLOCK
from hubconv.formats.stored import StoredWeight

HF_QUANT_CONFIG: Final = "hf_quant_config.json"
_FP8_ALGOS: Final[dict[Fate, str]] = {
    "fp8_block": "FP8_PB_WO",
    "fp8_channel": "FP8_PER_CHANNEL_PER_TOKEN",
    "fp8_static": "FP8",
}
_SGLANG_EVERYWHERE: Final = frozenset({"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"})
"""An ignore entry that ends in one of these counts in every layer: SGLang 0.5.23
modelopt_quant.py:393-424."""


class ModelOpt:
    """The layout `modelopt`."""

    name = "modelopt"

    def parts(self, module: str, rows: int, cols: int, activations: Activations) -> list[Part]:
        """The tensors of an NVFP4 weight [rows, cols], in the order they are written."""
        return modelopt_parts(module, rows, cols)

    def scalar(self, content: Content, value: float) -> bytes:
        """Four bytes of `value` itself: loaders multiply by these."""
        return scalar_bytes(content, value)

    def kept_scale(self, module: str, scale_name: str, weight: StoredWeight) -> KeptScale:
        """`X.weight_scale`, F32; four dimensions for blocks.

        Raises:
            UsageError: The weight is MXFP4, or FP8 with one scale per row.
        """
        if weight.kind != "fp8" or weight.scale_dtype == "F8_E8M0" or _is_per_row(weight):
            raise UsageError(
                f"{module} stays {weight.kind} with the {weight.scale_dtype} scale {scale_name} "
                f"{list(weight.scale_shape)}, which the modelopt layout cannot hold: beside NVFP4 "
                "its loaders take FP8 with F32 scales, of blocks, or one for the weight and one "
                "for its activations.",
                "Choose --layout compressed-tensors, or modelopt-v4 for DeepSeek V4.",
            )
        recode = "" if weight.scale_dtype == "F32" else "widen_to_f32"
        rows, cols = weight.scale_shape
        # vLLM 0.33 modelopt.py:2253-2306 creates [blocks, 1, blocks, 1] and broadcasts nothing.
        per_tensor = weight.block == (weight.rows, weight.cols)
        shape = () if per_tensor else (rows, 1, cols, 1)
        return KeptScale(f"{module}.weight_scale", "F32", shape, recode)

    def kept_input_scale(self, module: str, dtype: str) -> KeptScale:
        """`X.input_scale` [], F32."""
        return input_scale_of(module, dtype, ())

    def config(self, facts: ModelFacts) -> dict[str, Any]:
        """config.json of the result, without stale quantization entries of the source."""
        return without_stale(facts.config) | {"quantization_config": _flat(facts)}

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, bytes]:
        """hf_quant_config.json, for loaders that read no other: TensorRT-LLM, older vLLM."""
        flat = config["quantization_config"]
        keys = ("quant_algo", "kv_cache_quant_algo", "group_size", "exclude_modules")
        # vLLM 0.33 modelopt.py:817-828 raises unless these four stand there.
        quantization = {key: flat[key] for key in keys}
        if "quantized_layers" in flat:
            quantization["quantized_layers"] = flat["quantized_layers"]
        return nested_file(flat["producer"], quantization)


def modelopt_parts(module: str, rows: int, cols: int) -> list[Part]:
    """The four tensors of an NVFP4 weight [rows, cols].

    The scalars have no dimension: SGLang joins those of q_a and kv_a only then
    (SGLang 0.5.23 deepseek_weight_loader.py:463-478).
    """
    return [
        Part(f"{module}.weight", "U8", (rows, cols // 2), "codes"),
        Part(f"{module}.weight_scale", "F8_E4M3", (rows, cols // BLOCK), "scales"),
        Part(f"{module}.weight_scale_2", "F32", (), "global_scale"),
        Part(f"{module}.input_scale", "F32", (), "input_scale"),
    ]


def nested_file(producer: dict[str, str], quantization: dict[str, Any]) -> dict[str, bytes]:
    """hf_quant_config.json by its name."""
    content = {"producer": producer, "quantization": quantization}
    return {HF_QUANT_CONFIG: json.dumps(content, indent=2).encode() + b"\n"}


def group(algo: str, targets: list[str]) -> dict[str, Any]:
    """An entry of config_groups as ModelOpt 0.47 convert_hf_config.py:30-200 writes it."""
    bits = 4 if "NVFP4" in algo else 8
    values: dict[str, Any] = {"dynamic": False, "num_bits": bits, "type": "float"}
    if bits == 4:
        values["group_size"] = BLOCK
    # vLLM takes a group without input_activations for weight-only: modelopt.py:797-811.
    weight_only = algo in {"W4A16_NVFP4", "FP8_PB_WO"}
    inputs = {} if weight_only else {"input_activations": dict(values)}
    return {**inputs, "weights": dict(values), "targets": targets}


def containers(linears: Iterable[Linear]) -> list[str]:
    """Modules by which an engine finds an algorithm: `mlp.experts` stands for all its experts.

    Where an engine moves a module, its name there too: a table is not renamed with it.
    """
    names = dict.fromkeys(container_of(linear.module) or linear.module for linear in linears)
    return list(dict.fromkeys(place for name in names for place in (name, *moved(name))))


def ignored(facts: ModelFacts) -> list[str]:
    """Entries that exclude every kept module and no quantized one, under every loader's rule."""
    kept = [linear.module for linear in facts.linears if linear.fate == "plain"]
    rest = lookups(linear.module for linear in facts.linears if linear.fate != "plain")
    tails = {name.rpartition(".")[2] for name in rest}
    experts = [name for name in rest if "experts" in name]

    def too_wide(pattern: Pattern) -> bool:
        last = pattern.glob.rpartition(".")[2]
        if last in _SGLANG_EVERYWHERE and any(last in tail for tail in tails):
            return True
        # Both engines exclude whatever stands within an entry about experts: SGLang 0.5.23
        # quantization/utils.py:110-118.
        return "experts" in pattern.glob and any(name in pattern.glob for name in experts)

    return [pattern.glob for pattern in cover(lookups(kept), rest, too_wide)]


def _flat(facts: ModelFacts) -> dict[str, Any]:
    ignore = ignored(facts)
    algo = "NVFP4" if facts.activations == "w4a4" else "W4A16_NVFP4"
    mixed = _quantized_layers(facts, algo)
    config: dict[str, Any] = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION" if mixed else algo,
        "group_size": BLOCK,
        "kv_cache_quant_algo": None,
        "config_groups": {"group_0": group(algo, ["Linear"])},
        "ignore": ignore,
        "exclude_modules": ignore,
        # Not "modelopt": vLLM 0.33 model_arch_config_convertor.py:246-268 trusts that name with
        # fewer algorithms.
        "producer": {"name": "hubconv", "version": facts.version},
    }
    if mixed:
        config["config_groups"] = _mixed_groups(mixed)
        config["quantized_layers"] = mixed
    return config


def _quantized_layers(facts: ModelFacts, algo: str) -> dict[str, dict[str, Any]]:
    """Algorithm by module; empty where NVFP4 is the only one."""
    fates = dict.fromkeys(linear.fate for linear in facts.linears)
    # FP8 without a stored activation scale: vLLM 0.33 modelopt.py would read memory it never set.
    for fate in ("mxfp4", "fp8_channel", "fp8_tensor"):
        if fate in fates:
            raise UsageError(
                f"Some weights stay {fate}, which the modelopt layout cannot hold beside NVFP4: "
                "vLLM (modelopt.py) would compute with an activation scale that nobody has set.",
                "Choose --layout compressed-tensors, or modelopt-v4 for DeepSeek V4.",
            )
    if not any(fate in _FP8_ALGOS for fate in fates):
        return {}
    layers: dict[str, dict[str, Any]] = {}
    for fate in fates:
        if fate != "plain":
            entry = _entry(facts, fate, algo)
            members = (linear for linear in facts.linears if linear.fate == fate)
            layers.update({name: dict(entry) for name in containers(members)})
    return layers


def _entry(facts: ModelFacts, fate: Fate, algo: str) -> dict[str, Any]:
    if fate == "nvfp4":
        return {"quant_algo": algo, "group_size": BLOCK}
    entry: dict[str, Any] = {"quant_algo": _FP8_ALGOS[fate]}
    if fate == "fp8_block":
        # SGLang 0.5.23 modelopt_quant.py:899-908 takes the block's size from here.
        entry["group_size"] = (facts.fp8_block or (128, 128))[1]
    return entry


def _mixed_groups(layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    members: dict[str, list[str]] = {}
    for name, entry in layers.items():
        members.setdefault(entry["quant_algo"], []).append(name)
    groups = [group(algo, sorted(names)) for algo, names in members.items()]
    return {f"group_{i}": entry for i, entry in enumerate(groups)}


def _is_per_row(weight: StoredWeight) -> bool:
    return weight.block[0] == 1 and weight.block[1] == weight.cols and weight.rows > 1
