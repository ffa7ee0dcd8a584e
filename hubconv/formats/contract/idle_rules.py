"""Entries of a configuration that name nothing in the checkpoint: ignore lists, targets, tables."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import translate
from typing import Any, Final

from hubconv.formats.contract.expressions import compiled
from hubconv.formats.contract.finding import Finding
from hubconv.formats.contract.names import aliases, moved, probed

_NUMBER: Final = re.compile(r"\.\d+(?=\.|$)")
_CLASSES: Final = frozenset({"Linear", "FusedMoE", "LinearBase"})


def idle_findings(
    entry: Mapping[str, Any], names: Iterable[str], *, is_tied: bool
) -> Iterator[Finding]:
    """Entries that match no module under any loader's rule.

    Args:
        entry: The quantization entry that loaders use, its shape sound.
        names: Modules and bare tensors of the checkpoint.
        is_tied: Whether the head is the embedding: then an entry for it names nothing and is right.
    """
    known = _Known(names)
    listed = [*(entry.get("ignore") or []), *(entry.get("exclude_modules") or [])]
    for item in dict.fromkeys(map(str, listed)):
        if is_tied and "lm_head" in item:
            continue
        if not known.any_match(item):
            what = f"{item!r} names nothing in this checkpoint."
            yield Finding("config.ignore-idle", "ignore", what, severity="warning")
    for name, group in (entry.get("config_groups") or {}).items():
        for target in map(str, group.get("targets") or []):
            if target not in _CLASSES and not known.any_match(target):
                what = f"{target!r} names nothing in this checkpoint."
                yield Finding("config.target-idle", f"{name}.targets", what, severity="warning")
    for item in entry.get("quantized_layers") or {}:
        if not known.any_match(str(item)):
            what = f"{item!r} names nothing in this checkpoint."
            yield Finding("config.target-idle", "quantized_layers", what, severity="warning")


class _Known:
    """Names of modules, of all that holds them, and of what engines build of them."""

    def __init__(self, names: Iterable[str]) -> None:
        whole: dict[str, None] = {}
        for name in (each for given in names for each in (given, *moved(given))):
            whole[name] = None
            whole.update(dict.fromkeys((*aliases(name), *probed(name))))
            parent = name.rpartition(".")[0]
            while parent and parent not in whole:
                whole[parent] = None
                parent = parent.rpartition(".")[0]
        self._names: Collection[str] = whole
        # One of each kind, whatever its layer and expert, answers for most entries at once.
        kinds = {_NUMBER.sub(".#", name): name for name in reversed(list(whole))}
        self._first = list(kinds.values())
        self._text = "\n".join(whole)
        self._parts = frozenset(part for name in whole for part in name.split("."))

    def any_match(self, entry: str) -> bool:
        if entry in self._names or entry in self._parts:
            return True
        if entry.startswith("re:"):
            return self._found(compiled(entry[3:]).match)
        if "*" in entry or "?" in entry:
            glob = re.compile(translate(entry)).match
            part = re.compile(translate(entry)).fullmatch
            return self._found(glob) or any(part(each) for each in self._parts)
        return entry in self._text

    def _found(self, test: Any) -> bool:  # noqa: ANN401 - a pattern's method
        return any(test(name) for name in self._first) or any(test(name) for name in self._names)
