"""Which files of a source travel with the weights, and which code is among them.

Code is copied, listed and never run: nothing here, and nothing else in the house, imports it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from hubconv.ends import CARD, JOURNAL, MANIFEST, FileEntry, Source
from hubconv.errors import SourceError

Code = Literal["copy", "skip", "refuse"]

COPIED: Final = re.compile(
    r"[^/]+\.(json|py|jinja|model|txt|tiktoken|md)$"
    r"|(LICENSE|LICENCE|NOTICE|USE_POLICY|USAGE_POLICY)[^/]*$"
    r"|(encoding|inference|assets|figures)/.+"
    r"\.(py|json|jsonl|txt|md|jinja|csv|toml|ya?ml|png|jpe?g|gif|svg|webp|pdf)$",
    re.IGNORECASE,
)
"""Files that travel with the weights."""

NEVER_COPIED: Final = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|pkl|npy|npz|joblib|h5|gguf|onnx|msgpack)$"
    r"|\.index\.json$|^(README\.md|config\.json|hf_quant_config\.json|hubconv\.json|SHA256SUMS)$"
    # params.json describes the weights of Mistral's own format, which stay behind.
    r"|^(original|metal|consolidated|params\.json$)|^\.|/\.",
    re.IGNORECASE,
)
"""Weights in any form, what is written anew, and hidden files."""

MAX_COPIED_BYTES: Final = 256 * 1024 * 1024
MAX_ALL_COPIED_BYTES: Final = 512 * 1024 * 1024
"""They are held in memory together when they are published."""

MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
"""A configuration or a module larger than this names no code."""

_CODE: Final = ".py"
_RELATIVE_IMPORT: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+\.([\w.]+)[ \t]+import|import[ \t]+\.([\w.]+))", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Copies:
    """What travels along.

    Attributes:
        entries: Files, as the source lists them.
        warnings: Code that stays behind, and what that means.
    """

    entries: tuple[FileEntry, ...]
    warnings: tuple[str, ...] = ()

    @property
    def paths(self) -> frozenset[str]:
        """Their paths."""
        return frozenset(entry.path for entry in self.entries)


def travels(path: str) -> bool:
    """Whether a file is of a kind that may be copied to the result."""
    if NEVER_COPIED.search(path) or path in {CARD, MANIFEST} or path.startswith(JOURNAL):
        return False
    # What is not printable turns text round or hides it, and a backslash is a path to some.
    return COPIED.fullmatch(path) is not None and path.isprintable() and "\\" not in path


def choose_copies(source: Source, config: Mapping[str, Any], code: Code) -> Copies:
    """The files that travel along.

    Args:
        source: Its tree, and its small files.
        config: Its config.json.
        code: `copy` takes modules that a configuration names, what those import, and the folders
            made for running the model; `skip` takes none; `refuse` stops where there are any.

    Raises:
        SourceError: There is code and it is refused, or a file is too large to travel.
    """
    entries = [entry for path, entry in source.files().items() if travels(path)]
    modules = {entry.path for entry in entries if entry.path.lower().endswith(_CODE)}
    named = _named_code(source, config, {path for path in modules if "/" not in path})
    wanted = named | {path for path in modules if "/" in path}
    if wanted and code == "refuse":
        raise SourceError(
            f"{source.ref} brings Python code along ({_some(wanted)}), and --code refuse forbids "
            "it.",
            "Look at the code, then say --code copy to pass it on or --code skip to leave it out.",
        )
    taken = wanted if code == "copy" else set()
    kept = tuple(entry for entry in entries if entry.path not in modules or entry.path in taken)
    _check_sizes(kept)
    return Copies(kept, tuple(_told(modules - wanted, named - taken)))


def _told(unnamed: Iterable[str], missing: Iterable[str]) -> Iterator[str]:
    if unnamed:
        yield (
            f"Python files that no configuration names stay behind: {_some(unnamed)}. Nothing "
            "that loads the model looks for them."
        )
    if missing:
        yield (
            f"The configuration names code that is left out: {_some(missing)}. Engines without a "
            "class of their own for this model will not load the result."
        )


def _some(paths: Iterable[str]) -> str:
    ordered = sorted(paths)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _named_code(source: Source, config: Mapping[str, Any], modules: set[str]) -> set[str]:
    """Modules that a loader would import: named by `auto_map`, and what those import."""
    if not modules:
        return set()
    tables = [config, *_other_configs(source)]
    waiting = [name for table in tables for name in _auto_map(table) if name in modules]
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        text = _text(source, path).decode("utf-8", "replace")
        for match in _RELATIVE_IMPORT.finditer(text):
            name = f"{match[1] or match[2]}{_CODE}"
            if name in modules:
                waiting.append(name)
    return found


def _other_configs(source: Source) -> Iterator[Mapping[str, Any]]:
    """Configurations of tokenizer and processors; what is none is passed over."""
    for path in source.files():
        if "/" in path or not path.endswith("_config.json"):
            continue
        try:
            table = json.loads(_text(source, path))
        except (ValueError, RecursionError):
            continue
        if isinstance(table, dict):
            yield table


def _auto_map(config: Mapping[str, Any]) -> Iterator[str]:
    """Module files of this repository that a configuration names."""
    table = config.get("auto_map")
    for value in table.values() if isinstance(table, dict) else ():
        for reference in value if isinstance(value, list) else [value]:
            # `repo--module.Class` names a module that lies elsewhere, and elsewhere it stays.
            if isinstance(reference, str) and "--" not in reference:
                yield f"{reference.rpartition('.')[0]}{_CODE}"


def _text(source: Source, path: str) -> bytes:
    size = source.files()[path].size
    return source.read(path, 0, size) if size <= MAX_TEXT_BYTES else b""


def _check_sizes(entries: Iterable[FileEntry]) -> None:
    whole = 0
    for entry in entries:
        whole += entry.size
        if entry.size > MAX_COPIED_BYTES or whole > MAX_ALL_COPIED_BYTES:
            raise SourceError(
                f"{entry.path} ({entry.size} bytes) is too large for a file that travels along: "
                f"{MAX_COPIED_BYTES} bytes each and {MAX_ALL_COPIED_BYTES} together are the cap.",
                "Ask the source's publisher what it is; hubconv converts weights in safetensors.",
            )
