"""What reads a stranger's JSON and YAML: index, manifest of a target, front matter of a card.

The first byte of an input chooses the reader. Only our own errors may come out; no name that an
index sends anywhere leaves the tree; what is written of a front matter is read back as it was.
"""

import re
from collections.abc import Callable, Mapping

import yaml

from fuzz.target import run
from hubconv.errors import HeaderError
from hubconv.formats import checkpoint
from hubconv.formats import front_matter as matter
from hubconv.formats.checkpoint import parse_index, stated_size
from hubconv.formats.front_matter import MAX_ITEMS, read_front_matter, write_front_matter
from hubconv.records import UnitRecord

LISTED = ("a.safetensors", "b/c.safetensors", "../a.safetensors", "/a.safetensors", "x.bin")
SOUND = re.compile(r"[\w.\-]+(/[\w.\-]+)*\.safetensors", re.ASCII)


class BreachError(Exception):
    """Raised when a reader lets through what it must not."""


def index(data: bytes) -> None:
    """An index leads into the tree, and to shards alone.

    Raises:
        BreachError: It does not.
    """
    try:
        found = parse_index(data, LISTED)
    except HeaderError:
        return
    for name, shard in found.items():
        if shard not in LISTED or not SOUND.fullmatch(shard) or ".." in shard.split("/"):
            raise BreachError(f"{name!r} is sent to {shard!r}")
    size = stated_size(data)
    if size is not None and size < 0:
        raise BreachError(f"a size of {size} bytes")


def front_matter(data: bytes) -> None:
    """Values of a card are short, plain, and the same after writing.

    Raises:
        BreachError: They are not.
    """
    said = read_front_matter(data.decode("utf-8", "replace"))
    lists: Mapping[str, tuple[str, ...]] = {
        "language": said.language,
        "base_model": said.base_model,
        "datasets": said.datasets,
        "tags": said.tags,
    }
    scalars = {"license": said.license, "license_link": said.license_link}
    for key, values in lists.items():
        if len(values) > MAX_ITEMS or any(not value.isprintable() for value in values):
            raise BreachError(f"{key} is {values!r}")
    values = {key: value for key, value in (scalars | lists).items() if value}
    written = write_front_matter(values).split("---\n")[1]
    read = yaml.safe_load(written) or {}
    if {key: tuple(v) if isinstance(v, list) else v for key, v in read.items()} != values:
        raise BreachError(f"{values!r} was read back as {read!r}")


def record(data: bytes) -> None:
    """A journal's record is one, or a ValueError."""
    try:
        UnitRecord.from_json(data)
    except ValueError:
        return


READERS: tuple[Callable[[bytes], None], ...] = (index, front_matter, record)


def check(data: bytes) -> None:
    """Give an input to the reader that its first byte chooses."""
    READERS[data[0] % len(READERS) if data else 0](data[1:])


if __name__ == "__main__":
    run(check, "index", [checkpoint, matter])
