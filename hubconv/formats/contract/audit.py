"""The loader contract: what every loader demands of an NVFP4 checkpoint, checked without a loader.

It needs headers and configuration only. The scalars are optional and make the joint scales
checkable. Nothing here knows how hubconv writes, so it judges other people's repositories as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hubconv.formats.contract.config_rules import (
    HF_QUANT_CONFIG,
    ct_findings,
    is_weight_only,
    modelopt_findings,
    nested_findings,
    nested_in_config,
    stale_findings,
)
from hubconv.formats.contract.finding import Finding, Severity
from hubconv.formats.contract.idle_rules import idle_findings
from hubconv.formats.contract.kept_rules import kept_findings
from hubconv.formats.contract.match_rules import ct_readers, match_findings, modelopt_readers
from hubconv.formats.contract.modules import Convention, Module, TensorLike, modules_of
from hubconv.formats.contract.shape_rules import sound_entry
from hubconv.formats.contract.tensor_rules import (
    expected_findings,
    index_findings,
    module_findings,
    orphan_findings,
    partner_findings,
    scalar_findings,
)
from hubconv.formats.contract.v4_rules import (
    is_v4_config,
    v4_config_findings,
    v4_module_findings,
)


def check(
    tensors: Mapping[str, TensorLike],
    config: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    weight_map: Mapping[str, str] | None = None,
    total_size: int | None = None,
    scalars: Mapping[str, float] | None = None,
    partners: Sequence[Sequence[str]] = (),
    expected: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> list[Finding]:
    """Every breach of a loader's rule; an empty list means that the checkpoint loads and is right.

    Args:
        tensors: All tensors by name.
        config: config.json.
        extra: Further JSON files by name; hf_quant_config.json is read.
        weight_map: The index, where there is one.
        total_size: The index's sum of bytes.
        scalars: Stored values of global and input scales by tensor name, as many as are known.
        partners: Modules that must share one global scale and one input scale.
        expected: Element type and shape of every tensor that should be there.
    """
    modules = modules_of(tensors.values())
    findings = check_names(
        modules, tensors, config, extra, weight_map=weight_map, total_size=total_size
    )
    findings += check_scales(modules, partners, scalars or {})
    if expected is not None:
        findings += expected_findings(tensors, expected)
    return findings


def check_names(
    modules: Mapping[str, Module],
    tensors: Mapping[str, TensorLike],
    config: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    weight_map: Mapping[str, str] | None = None,
    total_size: int | None = None,
) -> list[Finding]:
    """The part of `check` that no number is needed for.

    Args:
        modules: What `modules_of` makes of the tensors.
        tensors: All tensors by name.
        config: config.json.
        extra: Further JSON files by name; hf_quant_config.json is read.
        weight_map: The index, where there is one.
        total_size: The index's sum of bytes.
    """
    _, nested, is_flat = _entries(config, extra or {})
    entry, findings = loaders_entry(config, extra or {})
    findings += _by_layout(modules, config, entry)
    findings += idle_findings(entry, _names(modules, tensors), is_tied=_is_tied(config))
    if nested is not None:
        findings += nested_findings(nested, entry if is_flat else None)
    findings += orphan_findings(modules)
    findings += index_findings(tensors, weight_map, total_size)
    return findings


def check_scales(
    modules: Mapping[str, Module],
    partners: Sequence[Sequence[str]],
    scalars: Mapping[str, float],
) -> list[Finding]:
    """The part of `check` that is about global and input scales.

    Args:
        modules: What `modules_of` makes of the tensors.
        partners: Modules that must share one global scale and one input scale.
        scalars: Stored values by tensor name, as many as are known.
    """
    return [*scalar_findings(scalars), *partner_findings(modules, partners, scalars)]


def loaders_entry(
    config: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[Finding]]:
    """The quantization entry that loaders go by, in its flat form, and what is wrong with it.

    Args:
        config: config.json.
        extra: Further JSON files by name; hf_quant_config.json is read.
    """
    raw, _, is_flat = _entries(config, extra)
    entry, findings = sound_entry(raw, "quantization_config" if is_flat else HF_QUANT_CONFIG)
    if is_flat and isinstance(entry.get("quantization"), Mapping):
        findings += nested_in_config(entry)
        entry, told = sound_entry(_flattened(entry), "quantization_config.quantization")
        findings += told
    return entry, findings


def _entries(
    config: Mapping[str, Any], extra: Mapping[str, Mapping[str, Any]]
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, bool]:
    """The entry loaders use, hf_quant_config.json, and whether the entry is config.json's own."""
    nested = extra.get(HF_QUANT_CONFIG)
    entry = config.get("quantization_config")
    if isinstance(entry, dict) and entry:
        return entry, nested, True
    # vLLM 0.33 weight_utils.py:239-290: the file beside counts only where config.json says nothing.
    return _flattened(nested or {}), nested, False


def _flattened(nested: Mapping[str, Any]) -> dict[str, Any]:
    section = nested.get("quantization")
    if not isinstance(section, dict):
        return {}
    ignore = section.get("exclude_modules")
    return {"quant_method": "modelopt", "ignore": ignore, **section}


def _names(modules: Mapping[str, Module], tensors: Mapping[str, TensorLike]) -> Iterator[str]:
    """Modules, and tensors that belong to none, without `.weight` and `.bias`."""
    yield from modules
    for name in tensors:
        module = name.rpartition(".")[0]
        if module not in modules:
            yield name


def _is_tied(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    holders = (config, text if isinstance(text, dict) else {})
    return any(holder.get("tie_word_embeddings") is True for holder in holders)


def _by_layout(
    modules: Mapping[str, Module], config: Mapping[str, Any], entry: Mapping[str, Any]
) -> Iterator[Finding]:
    method = str(entry.get("quant_method", ""))
    is_v4 = is_v4_config(entry)
    yield from stale_findings(config, is_v4)
    if not any(module.kind == "nvfp4" for module in modules.values()):
        yield Finding("part.none", "the tensors", "No module is NVFP4.")
    if is_v4:
        yield from v4_config_findings(config, entry)
        yield from v4_module_findings(modules, entry)
        yield from _nvfp4(modules, "modelopt", "error")
    elif method == "compressed-tensors":
        yield from _compressed_tensors(modules, entry)
    elif method.startswith("modelopt"):
        yield from _modelopt(modules, entry)
    else:
        what = f"quant_method {method!r} is none that loads NVFP4."
        yield Finding("config.method", "quantization_config", what)


def _compressed_tensors(
    modules: Mapping[str, Module], entry: Mapping[str, Any]
) -> Iterator[Finding]:
    yield from ct_findings(entry)
    groups = entry.get("config_groups")
    if not groups:
        return
    w4a4 = any(
        (group.get("weights") or {}).get("num_bits") == 4 and group.get("input_activations")
        for group in groups.values()
    )
    yield from _nvfp4(modules, "compressed-tensors", "error" if w4a4 else None)
    yield from kept_findings(modules, "compressed-tensors", entry)
    yield from match_findings(modules, ct_readers(entry))


def _modelopt(modules: Mapping[str, Module], entry: Mapping[str, Any]) -> Iterator[Finding]:
    yield from modelopt_findings(entry)
    # A warning for weight-only: on Blackwell SGLang 0.5.23 quantizes the activations of experts
    # all the same (modelopt_quant.py:1722-1727), and takes 1.0 where it is missing.
    yield from _nvfp4(modules, "modelopt", "warning" if is_weight_only(entry) else "error")
    yield from kept_findings(modules, "modelopt", entry)
    yield from match_findings(modules, modelopt_readers(entry))


def _nvfp4(
    modules: Mapping[str, Module], convention: Convention, input_missing: Severity | None
) -> Iterator[Finding]:
    for module in modules.values():
        if module.kind == "nvfp4":
            yield from module_findings(module, convention, input_missing)
