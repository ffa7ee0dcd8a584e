"""What the SOURCE and TARGET words of a command line name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hubconv.errors import UsageError

_REPO_ID: Final = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class EndRef:
    """What a SOURCE or TARGET word on the command line names.

    Attributes:
        kind: hub or folder.
        name: `org/name`, or the folder's path as written.
        revision: Branch, tag or commit after `@`; empty for the default.
    """

    kind: Literal["hub", "folder"]
    name: str
    revision: str = ""


def parse_end(word: str) -> EndRef:
    """Tell a repository from a folder.

    A folder is written `./x`, `../x`, `~/x` or `/x`; `org/x` is a Hub repository, and where a
    folder of that name exists too the word is refused rather than guessed at (`hf://org/x` says
    which is meant).

    Raises:
        UsageError: Neither, or both.
    """
    if word.startswith(("./", "../", "/", "~/")) or word in {".", ".."}:
        return EndRef("folder", str(Path(word).expanduser()))
    name, _, revision = word.removeprefix("hf://").partition("@")
    if not _REPO_ID.fullmatch(name) or ".." in name or "--" in name:
        if word and Path(word).is_dir():
            return EndRef("folder", word)
        raise UsageError(
            f"{word!r} is neither a repository (org/name) nor a folder.",
            "Write a folder as ./name or /path.",
        )
    if Path(name).is_dir() and not word.startswith("hf://"):
        raise UsageError(
            f"{name!r} may be the Hub repository or the folder of that name here.",
            f"Write hf://{name} for the repository, ./{name} for the folder.",
        )
    return EndRef("hub", name, revision)
