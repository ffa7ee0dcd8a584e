"""Which group of a compressed-tensors configuration a module falls into, as each reader decides."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from hubconv.formats.contract.expressions import compiled
from hubconv.formats.contract.finding import MixedPartsError, NoSchemeError
from hubconv.formats.contract.names import PROBED, parts_of

LINEAR: Final = "ColumnParallelLinear"
"""A class of both engines; the target "Linear" is found within its name."""


def vllm_ct_scheme(module: str, config: Mapping[str, Any], *, whole: bool = False) -> str | None:
    """Name of the group, or None for a module that stays unquantized.

    Ignored: exact, or `re:` anchored at the start (vLLM 0.33 compressed_tensors/utils.py:53-70).
    Targets: name, then fused parts, then class (config_utils.py:384-420).

    Args:
        module: Its name.
        config: The configuration.
        whole: The file has it in one piece, whatever parts its name stands for elsewhere.

    Raises:
        MixedPartsError: Parts of a fused module are treated differently.
    """
    ignore = config.get("ignore") or []
    parts = [] if whole else parts_of(module)
    if _ignored(module, parts, ignore, ct_library_match):
        return None
    targets = _targets(config)
    found = _first(module, targets) or _fused(module, parts, targets) or _by_class(targets)
    return targets[found] if found else None


def sglang_ct_scheme(module: str, config: Mapping[str, Any], *, whole: bool = False) -> str | None:
    """Name of the group, or None for an ignored module.

    Ignored: exact, a dotted suffix, or `re:` anchored at the start; targets: name, then class, then
    fused parts (SGLang 0.5.23 compressed_tensors/utils.py:24-215).

    Args:
        module: Its name.
        config: The configuration.
        whole: The file has it in one piece, whatever parts its name stands for elsewhere.

    Raises:
        MixedPartsError: Parts of a fused module are treated differently.
        NoSchemeError: The module is neither targeted nor ignored.
    """
    ignore = config.get("ignore") or []
    parts = [] if whole else parts_of(module)
    if _ignored(module, parts, ignore, _sglang_match):
        return None
    targets = _targets(config)
    found = _first(module, targets) or _by_class(targets) or _fused(module, parts, targets)
    if not found:
        raise NoSchemeError(f"{module} is neither targeted nor ignored")
    return targets[found]


def ct_library_match(module: str, entries: Iterable[str]) -> bool:
    """Exact, or `re:` anchored at the start: compressed-tensors 0.20 utils/match.py:422-445."""
    return any(matches(module, entry) for entry in entries)


def ct_library_scheme(module: str, config: Mapping[str, Any]) -> str | None:
    """Group of a torch Linear called `module`: exact names first, then expressions, then class."""
    if ct_library_match(module, config.get("ignore") or []):
        return None
    targets = _targets(config)
    if module in targets:
        return targets[module]
    found = _first(module, targets) or ("Linear" if "Linear" in targets else "")
    return targets[found] if found else None


def probes(container: str, members: Sequence[str]) -> list[str]:
    """Names by which engines look up a layer of experts: SGLang's fixed ones and the file's."""
    first = f"{container}.0."
    fixed = [first + name for name in PROBED]
    return [*fixed, *(name for name in members if name.startswith(first) and name not in fixed)]


def matches(module: str, entry: str) -> bool:
    """Whether one entry is the module's name, or an expression that begins it."""
    if entry.startswith("re:"):
        return compiled(entry[3:]).match(module) is not None
    return entry == module


def _sglang_match(module: str, entries: Iterable[str]) -> bool:
    return any(
        matches(module, entry) or (entry[:3] != "re:" and module.endswith(f".{entry}"))
        for entry in entries
    )


def _ignored(
    module: str,
    parts: Sequence[str],
    ignore: Sequence[str],
    match: Callable[[str, Sequence[str]], bool],
) -> bool:
    if not parts or module in ignore:
        return match(module, ignore)
    hits = [match(part, ignore) for part in parts]
    if any(hits) != all(hits):
        raise MixedPartsError(f"only some parts of {module} are ignored")
    return all(hits)


def _targets(config: Mapping[str, Any]) -> dict[str, str]:
    """Target to group, in the order of the file; a later group wins where two name the same."""
    groups = config.get("config_groups")
    found: dict[str, str] = {}
    for name, group in groups.items() if isinstance(groups, dict) else ():
        for target in group.get("targets") or []:
            found[target] = name
    return found


def _first(module: str, targets: Iterable[str]) -> str:
    return next((target for target in targets if matches(module, target)), "")


def _by_class(targets: Iterable[str]) -> str:
    named = (target for target in targets if not target.startswith("re:"))
    return next((target for target in named if target.lower() in LINEAR.lower()), "")


def _fused(module: str, parts: Sequence[str], targets: Mapping[str, str]) -> str:
    found = [_first(part, targets) for part in parts]
    if not found or not all(found):
        return ""
    if len({targets[target] for target in found}) > 1:
        # Loaders take the first part's group for all; the others would be read wrongly.
        raise MixedPartsError(f"the parts of {module} fall into different groups")
    return found[0]
