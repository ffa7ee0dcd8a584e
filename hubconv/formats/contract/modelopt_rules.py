"""Which modules a ModelOpt ignore list excludes, as each loader decides it, and the mixed table."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any, Final

from hubconv.formats.contract.expressions import Expression, compiled
from hubconv.formats.contract.finding import MixedPartsError
from hubconv.formats.contract.names import parts_of

_SGLANG_FUSED: Final = frozenset({"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"})


def vllm_modelopt_excluded(module: str, patterns: Sequence[str]) -> bool:
    """As vLLM 0.33 modelopt.py:191-226 does: exact with parts, then substring, then fnmatch.

    Raises:
        MixedPartsError: Only some parts of a fused module are listed by their exact names.
    """
    if _vllm_listed(module, patterns):
        return True
    bare = module.removeprefix("language_model.")
    if any(p != module and (p in module or p in bare) for p in patterns):
        return True
    return any(_glob(pattern).match(module) for pattern in patterns)


def vllm_mapped(patterns: Sequence[str]) -> list[str]:
    """The list after vLLM's name mapper, which models with renamed prefixes apply.

    `x*` becomes `x` and `x.*`, and then `x` is a substring (vLLM 0.33 modelopt.py:275-297).
    """
    mapped: list[str] = []
    for pattern in patterns:
        if len(pattern) > 1 and pattern[-1] == "*" and pattern[-2] != ".":
            mapped += [pattern[:-1], f"{pattern[:-1]}.*"]
        else:
            mapped.append(pattern)
    return mapped


def sglang_modelopt_excluded(
    module: str, patterns: Sequence[str], is_experts: bool = False
) -> bool:
    """SGLang 0.5.23 modelopt_quant.py:336-424 and quantization/utils.py:48-124.

    A star is a regular expression's `.*`, matched against the whole path and against every single
    part of it; a plain entry matches any run of whole parts, except for a layer of experts.

    Raises:
        MixedPartsError: Only some parts of a fused module are listed.
    """
    if not is_experts and _sglang_listed(module, patterns):
        return True
    variants = {module, module.removeprefix("language_model.")}
    for pattern in patterns:
        glob = _sglang_glob(pattern)
        tail = pattern.rpartition(".")[2]
        for name in variants:
            parts = name.split(".")
            if glob.fullmatch(name) or any(glob.fullmatch(part) for part in parts):
                return True
            if tail in _SGLANG_FUSED and tail in parts[-1]:
                return True
    return False


def trtllm_excluded(module: str, patterns: Sequence[str]) -> bool:
    """TensorRT-LLM: fnmatch on the module's name (inferred, not read)."""
    return any(_glob(pattern).match(module) for pattern in patterns)


def mixed_algo(module: str, layers: Mapping[str, Mapping[str, Any]]) -> str:
    """The algorithm of a MIXED_PRECISION table for `module`; empty if unquantized.

    vLLM 0.33 modelopt.py:1574-1921 and SGLang 0.5.23 modelopt_quant.py:986-1040 agree: the name
    itself, its parts, then any entry below it.

    Raises:
        MixedPartsError: The parts of a fused module have different algorithms.
    """
    if module in layers:
        return str(layers[module].get("quant_algo", "")).upper()
    found = {
        str(layers[part].get("quant_algo", "")).upper()
        for part in parts_of(module)
        if part in layers
    }
    if len(found) > 1:
        raise MixedPartsError(f"{module} is built from parts of {sorted(found)}")
    if found:
        return found.pop()
    below = next((name for name in layers if name.startswith(f"{module}.")), "")
    return str(layers[below].get("quant_algo", "")).upper() if below else ""


@lru_cache(maxsize=8192)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def _sglang_glob(pattern: str) -> Expression:
    # SGLang stops at one that is not valid; the rule on entries reports it.
    return compiled(pattern.replace(".", r"\.").replace("*", ".*"))


def _vllm_listed(module: str, patterns: Sequence[str]) -> bool:
    parts = parts_of(module)
    if parts:
        return _all_or_none(module, [part in patterns for part in parts])
    if "experts" in module:
        return any(module in pattern for pattern in patterns if "experts" in pattern)
    return module in patterns


def _sglang_listed(module: str, patterns: Sequence[str]) -> bool:
    parts = parts_of(module)
    if parts:
        return _all_or_none(module, [any(_in_path(p, part) for p in patterns) for part in parts])
    if any(_in_path(pattern, module) for pattern in patterns):
        return True
    return "experts" in module and any(module in p for p in patterns if "experts" in p)


def _in_path(entry: str, module: str) -> bool:
    return f".{entry.rstrip('.')}." in f".{module}."


def _all_or_none(module: str, hits: Sequence[bool]) -> bool:
    if any(hits) != all(hits):
        raise MixedPartsError(f"only some parts of {module} are excluded")
    return all(hits)
