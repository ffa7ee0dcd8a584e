"""hubconv.json of a published checkpoint, read with distrust: anybody may have written it."""

import json
from typing import Any

from hubconv.ends import MANIFEST, Source


def read_manifest(view: Source) -> dict[str, Any] | None:
    """The manifest of a target; None where there is none that can be used.

    Its `files` is a table of {"size", "sha256"} by path; nothing else of it is checked.
    """
    entry = view.files().get(MANIFEST)
    if entry is None:
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
