"""Where compiled kernels are kept, under a name that changes with any line they come from.

So is what takes a compiled kernel to know.
"""

import functools
import hashlib
import os
import tempfile
from pathlib import Path


@functools.cache
def cache_folder(what: str, sources: Path, *versions: str, asked: str = "") -> Path | None:
    """A folder for what was compiled from these sources; None where none can be written.

    Args:
        what: Which kernels, for its name.
        sources: Folder of the modules that they are compiled from.
        versions: Of whatever else decides what comes out.
        asked: A folder that the user named; the user's cache if empty.
    """
    digest = hashlib.sha256(repr(versions).encode())
    for file in sorted(sources.glob("*.py")):
        digest.update(file.read_bytes())
    try:
        home = asked or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "hubconv" / f"{what}-{digest.hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def keep(place: Path, content: bytes) -> None:
    """Write a file whole or not at all; where that fails, the next run makes it again."""
    try:
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(place)
    except OSError:
        return
