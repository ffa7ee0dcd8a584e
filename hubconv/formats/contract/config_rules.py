"""Fields that loaders require in config.json and hf_quant_config.json, and traps in them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hubconv.formats.contract.finding import Finding, Severity

HF_QUANT_CONFIG: Final = "hf_quant_config.json"
ALGOS: Final = frozenset({"NVFP4", "W4A16_NVFP4", "MIXED_PRECISION"})
_NESTED_KEYS: Final = ("quant_algo", "group_size", "kv_cache_quant_algo", "exclude_modules")
_NVFP4_WEIGHTS: Final = {
    "num_bits": 4,
    "type": "float",
    "strategy": "tensor_group",
    "group_size": 16,
    "symmetric": True,
    "dynamic": False,
}
"""vLLM 0.33 compressed_tensors.py:420-437, SGLang 0.5.23 compressed_tensors.py:589-631."""

NESTED: Final = 8
"""Tables within tables that are looked into: more than any model has."""

_STALE: Final = frozenset({"quantization_config", "compression_config", "quantization"})
_REGEX_SIGNS: Final = re.compile(r"\.\*|\\|\$|\^|\(|\[|\|")


def stale_findings(config: Mapping[str, Any], is_v4: bool) -> Iterator[Finding]:
    """Entries about the source's quantization that were left behind."""
    if "compression_config" in config:
        yield Finding("config.stale", "compression_config", "Loaders may read it instead.")
    if "expert_dtype" in config and not is_v4:
        yield Finding("config.stale", "expert_dtype", "It describes experts that are gone.")
    for path, key in _nested(config, ""):
        # Kimi K2.5 with an int4 entry left under text_config is read as int4.
        yield Finding("config.stale", f"{path}.{key}", "An engine may read this nested entry.")


def _nested(config: Mapping[str, Any], path: str, depth: int = NESTED) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if not isinstance(value, dict) or name in _STALE:
            continue
        inner = f"{path}.{name}".lstrip(".")
        yield from ((inner, key) for key in sorted(_STALE & value.keys()))
        if depth:
            yield from _nested(value, inner, depth - 1)


def ct_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a compressed-tensors configuration."""
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        yield Finding("config.field", "config_groups", "There is no group.")
        return
    if config.get("quantization_status") != "compressed":
        yield Finding("config.field", "quantization_status", 'It must be "compressed".')
    wanted = "mixed-precision" if len(groups) > 1 else "nvfp4-pack-quantized"
    if config.get("format") != wanted:
        yield Finding("config.field", "format", f'{config.get("format")!r} must be "{wanted}".')
    nvfp4 = [name for name, group in groups.items() if _num_bits(group) == 4]
    if not nvfp4:
        yield Finding("config.field", "config_groups", "No group is NVFP4.")
    for name in nvfp4:
        yield from _nvfp4_group(name, groups[name])
    for name, group in groups.items():
        yield from _group(name, group, mixed=len(groups) > 1)
    yield from _entries("ignore", config.get("ignore") or [])


def _num_bits(group: Any) -> Any:  # noqa: ANN401 - JSON is untyped
    weights = group.get("weights") if isinstance(group, dict) else None
    return weights.get("num_bits") if isinstance(weights, dict) else None


def _nvfp4_group(name: str, group: Mapping[str, Any]) -> Iterator[Finding]:
    weights = group["weights"]
    for key, value in _NVFP4_WEIGHTS.items():
        if weights.get(key) != value:
            where = f"{name}.weights.{key}"
            yield Finding("config.field", where, f"{weights.get(key)!r} must be {value!r}.")
    inputs = group.get("input_activations")
    if inputs and (inputs.get("num_bits"), inputs.get("dynamic")) != (4, "local"):
        where = f"{name}.input_activations"
        yield Finding("config.field", where, 'It must be null, or 4 bits and dynamic "local".')


def _group(name: str, group: Mapping[str, Any], *, mixed: bool) -> Iterator[Finding]:
    targets = group.get("targets") or []
    where = f"{name}.targets"
    if not targets:
        yield Finding("config.field", where, "The group has no target.")
    if mixed and "Linear" in targets:
        # SGLang 0.5.23 tries the class before the fused name, vLLM 0.33 after it.
        what = '"Linear" beside another group is resolved differently by different loaders.'
        yield Finding("config.linear-in-mixed", where, what, ("vllm", "sglang"))
    if mixed and not group.get("format"):
        yield Finding("config.field", f"{name}.format", "A mixed configuration needs it.")
    yield from _entries(where, targets)


def _entries(where: str, entries: Sequence[Any]) -> Iterator[Finding]:
    for entry in entries:
        if not isinstance(entry, str):
            yield Finding("config.field", where, f"{entry!r} is not a string.")
        elif entry.startswith("re:"):
            try:
                re.compile(entry[3:])
            except (re.error, RecursionError, OverflowError) as error:
                yield Finding("config.regex", where, f"{entry[:200]!r} is not valid: {error}.")
        elif _REGEX_SIGNS.search(entry):
            what = f'{entry!r} looks like an expression, but does not begin with "re:".'
            yield Finding("config.regex-prefix", where, what)
        elif entry.endswith(".weight"):
            yield Finding("config.entry", where, f"{entry!r} names a tensor, not a module.")


def is_weight_only(config: Mapping[str, Any]) -> bool:
    """Whether a ModelOpt configuration leaves activations alone: vLLM 0.33 modelopt.py:797-811."""
    algo = str(config.get("quant_algo", "")).upper()
    if algo == "MIXED_PRECISION":
        table = config.get("quantized_layers") or {}
        return all(entry.get("quant_algo") != "NVFP4" for entry in table.values())
    groups = config.get("config_groups") or {}
    idle = all(not group.get("input_activations") for group in groups.values())
    return algo == "W4A16_NVFP4" or (bool(groups) and idle)


def modelopt_findings(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with a flat ModelOpt configuration."""
    algo = str(config.get("quant_algo", "")).upper()
    if algo not in ALGOS:
        yield Finding("config.field", "quant_algo", f"{algo!r} is none of {sorted(ALGOS)}.")
    # SGLang 0.5.23 modelopt_quant.py:1615-1702 needs both.
    if config.get("group_size") != 16 and algo != "MIXED_PRECISION":
        yield Finding("config.field", "group_size", f"{config.get('group_size')!r} must be 16.")
    if not isinstance(config.get("ignore", config.get("exclude_modules")), list):
        yield Finding("config.field", "ignore", "It must be a list.")
    if algo == "MIXED_PRECISION" and not config.get("quantized_layers"):
        yield Finding("config.field", "quantized_layers", "MIXED_PRECISION needs this table.")
    lists = [config.get(key) for key in ("ignore", "exclude_modules")]
    if None not in lists and lists[0] != lists[1]:
        yield Finding("config.lists-differ", "exclude_modules", "It differs from ignore.")
    for entry in lists[0] or lists[1] or []:
        yield from _modelopt_entry(str(entry))


def _modelopt_entry(entry: str) -> Iterator[Finding]:
    if entry.startswith("re:"):
        yield Finding("config.regex-prefix", "ignore", f'{entry!r}: ModelOpt knows no "re:".')
    elif entry.endswith(".weight"):
        yield Finding("config.entry", "ignore", f"{entry!r} names a tensor, not a module.")
    elif "." in entry and "*" not in entry:
        # vLLM 0.33 modelopt.py:202-214: `model.layers.1` excludes layer 11 too.
        yield Finding(
            "config.substring",
            "ignore",
            f"{entry!r} has no star: vLLM takes it for a part of longer names.",
            ("vllm",),
            "warning",
        )


def nested_in_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    """The nested form inside config.json, which vLLM reads with fewer algorithms."""
    producer = config.get("producer")
    name = producer.get("name") if isinstance(producer, dict) else None
    algo = str(config["quantization"].get("quant_algo", "")).upper()
    # vLLM 0.33 model_arch_config_convertor.py:246-268.
    fatal = name == "modelopt" and algo == "W4A16_NVFP4"
    what = "The nested form belongs in hf_quant_config.json, the flat one here."
    severity: Severity = "error" if fatal else "warning"
    yield Finding("config.nested", "quantization_config", what, ("vllm",), severity)


def nested_findings(nested: Mapping[str, Any], flat: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What is wrong with hf_quant_config.json, alone and beside config.json."""
    section = nested.get("quantization")
    if not isinstance(section, dict):
        yield Finding("config.hf-quant", HF_QUANT_CONFIG, 'It has no "quantization" entry.')
        return
    for key in _NESTED_KEYS:
        if key not in section:
            # vLLM 0.33 modelopt.py:817-828 raises.
            yield Finding("config.hf-quant", f"{HF_QUANT_CONFIG}: {key}", "It is missing.")
    if flat is None:
        return
    pairs = {"quant_algo": "quant_algo", "group_size": "group_size", "exclude_modules": "ignore"}
    for key, twin in pairs.items():
        if key in section and twin in flat and section[key] != flat[twin]:
            what = f"It differs from {twin} in config.json."
            yield Finding("config.hf-quant", f"{HF_QUANT_CONFIG}: {key}", what)
