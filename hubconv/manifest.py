"""hubconv.json of a published checkpoint: read with distrust, and held against its tree."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from hubconv.ends import MANIFEST, FileEntry, Source

READ_BYTES: Final = 16 * 1024 * 1024
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024


def read_manifest(view: Source) -> dict[str, Any] | None:
    """The manifest of a target; None where there is none that can be used.

    Its `files` is a table of {"size", "sha256"} by path; nothing else of it is checked.
    """
    entry = view.files().get(MANIFEST)
    if entry is None or entry.size > MAX_MANIFEST_BYTES:
        return None
    try:
        manifest = json.loads(view.read(MANIFEST, 0, entry.size))
    except (ValueError, RecursionError):
        return None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    sound = isinstance(files, dict) and all(
        isinstance(told, dict) and {"size", "sha256"} <= set(told) for told in files.values()
    )
    return manifest if sound else None


def compare_tree(
    view: Source, manifest: Mapping[str, Any], small: Mapping[str, bytes] | None = None
) -> list[str]:
    """Differences between a tree and the manifest in it, by size and hash.

    Args:
        view: The tree.
        manifest: hubconv.json of it.
        small: Files whose content may be read where the tree names no hash; None for all.
    """
    wrong = []
    present = view.files()
    for path, wanted in manifest["files"].items():
        entry = present.get(path)
        if entry is None:
            wrong.append(f"{path} is missing")
            continue
        if entry.size != wanted["size"]:
            wrong.append(f"{path} has {entry.size} bytes, not {wanted['size']}")
            continue
        digest = entry.sha256
        if not digest and (small is None or path in small):
            digest = _digest(view, entry)
        if digest and digest != wanted["sha256"]:
            wrong.append(f"{path} has sha256 {digest}, not {wanted['sha256']}")
    return wrong


def _digest(view: Source, entry: FileEntry) -> str:
    digest = hashlib.sha256()
    for begin in range(0, entry.size, READ_BYTES):
        digest.update(view.read(entry.path, begin, min(begin + READ_BYTES, entry.size)))
    return digest.hexdigest()
