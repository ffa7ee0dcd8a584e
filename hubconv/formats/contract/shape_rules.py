"""The shape of a quantization entry: lists of strings, tables of tables.

Anybody's JSON is read here. What has another shape is told once, and left out of what the other
rules see, so that they need not ask.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from hubconv.formats.contract.finding import Finding

_LISTS: Final = ("ignore", "exclude_modules")
_TABLES: Final = ("config_groups", "quantized_layers")
_SCHEMES: Final = ("weights", "input_activations", "output_activations")

Tell = Callable[[str, object, str], None]


def sound_entry(entry: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Finding]]:
    """An entry without what has no shape that a loader reads, and what that was.

    Args:
        entry: A quantization entry in the flat form.
        where: What to call it.
    """
    found: list[Finding] = []

    def tell(key: str, value: object, wanted: str) -> None:
        what = f"It is {type(value).__name__}, and must be {wanted}."
        found.append(Finding("config.shape", f"{where}: {key}", what))

    sound = dict(entry)
    for key in _LISTS:
        if key in entry:
            sound[key] = _strings(entry[key], key, tell)
    for key in _TABLES:
        if key in entry:
            sound[key] = dict(_rows(entry[key], key, tell))
    for name, group in (sound.get("config_groups") or {}).items():
        sound["config_groups"][name] = _group(group, f"config_groups.{name}", tell)
    for key in ("producer", "quantization"):
        if entry.get(key) is not None and not isinstance(entry[key], Mapping):
            tell(key, entry[key], "a table")
            del sound[key]
    return sound, found


def _strings(value: object, key: str, tell: Tell) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        tell(key, value, "a list")
        return None
    for item in value:
        if not isinstance(item, str):
            tell(key, item, "a string")
    return [item for item in value if isinstance(item, str)]


def _rows(value: object, key: str, tell: Tell) -> Iterator[tuple[str, dict[str, Any]]]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        tell(key, value, "a table")
        return
    for name, row in value.items():
        if isinstance(row, Mapping):
            yield str(name), dict(row)
        else:
            tell(f"{key}.{name}", row, "a table")


def _group(group: Mapping[str, Any], key: str, tell: Tell) -> dict[str, Any]:
    sound = dict(group)
    if "targets" in group:
        sound["targets"] = _strings(group["targets"], f"{key}.targets", tell) or []
    for name in _SCHEMES:
        scheme = group.get(name)
        if scheme is not None and not isinstance(scheme, Mapping):
            tell(f"{key}.{name}", scheme, "a table or null")
            sound[name] = None
    block = (sound.get("weights") or {}).get("block_structure")
    if block is not None and not _is_block(block):
        tell(f"{key}.weights.block_structure", block, "two numbers")
        sound["weights"] = {**sound["weights"], "block_structure": None}
    return sound


def _is_block(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(side, int) and side > 0 for side in value)
    )
