"""Headers to inventory: every tensor of the source, read by range and reconciled with the index."""

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from hubconv.ends import FileEntry, ShardBytes, Source
from hubconv.errors import HeaderError, IntegrityError, SourceError
from hubconv.formats.checkpoint import (
    INDEX_NAME,
    LENGTH_BYTES,
    MAX_TENSORS,
    StoredTensor,
    header_length,
    parse_header,
    parse_index,
    stated_size,
)

FIRST_READ_BYTES: Final = 256 * 1024
"""One request fetches the whole header of nearly every shard."""

MAX_JSON_BYTES: Final = 128 * 1024 * 1024
"""The index of the largest model known takes a fifth of it."""

MAX_CONFIG_BYTES: Final = 16 * 1024 * 1024
MAX_SHARDS: Final = 10_000
LARGE_HEADER_BYTES: Final = 4 * 1024 * 1024
"""Parsed, a header takes ten times its bytes: of those above this size one at a time is read."""

HEADER_THREADS: Final = 8

_ROOT_SHARD: Final = re.compile(r"(?!consolidated)[\w.\-]+\.safetensors", re.ASCII)
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the source holds.

    Attributes:
        config: config.json.
        shards: Names of its weight files, in order.
        tensors: Every tensor by name, in the order of the shards and of their bytes.
        ghosts: Names the index lists although no shard holds them.
        has_index: Whether the source has an index file.
        warnings: What is odd but harmless.
    """

    config: Mapping[str, Any]
    shards: tuple[str, ...]
    tensors: Mapping[str, StoredTensor]
    ghosts: tuple[str, ...]
    has_index: bool
    warnings: tuple[str, ...]


def take_inventory(source: Source) -> Inventory:
    """Read config, index and every shard's header; refuse what contradicts itself.

    Raises:
        SourceError: No config, no safetensors, or index and headers disagree.
    """
    files = source.files()
    config = read_config(source)
    index_text = _read_index(source, files)
    index = parse_index(index_text, files) if index_text is not None else None
    shards = _shards(files, index, source.ref)
    tensors = _read_headers(source, shards)
    ghosts = _reconcile(tensors, index)
    warnings = _size_warning(index_text, tensors)
    return Inventory(config, shards, tensors, ghosts, index is not None, warnings)


def _read_headers(source: Source, shards: Sequence[str]) -> dict[str, StoredTensor]:
    """Every tensor by name.

    Raises:
        HeaderError: A name stands in two shards, or there are more tensors than any model has.
    """
    files = source.files()
    tensors: dict[str, StoredTensor] = {}
    one_large = threading.Lock()
    pool = ThreadPoolExecutor(HEADER_THREADS)
    try:
        for header in pool.map(lambda each: read_header(source, files[each], one_large), shards):
            if len(tensors) + len(header) > MAX_TENSORS:
                raise HeaderError(
                    f"The shards up to {header[0].shard} list more than {MAX_TENSORS} tensors.",
                    "No model has so many: the source is damaged or means harm.",
                )
            for tensor in header:
                if tensor.name in tensors:
                    raise HeaderError(
                        f"{tensor.name} stands in {tensors[tensor.name].shard} and in "
                        f"{tensor.shard}.",
                        "One of the two files does not belong to this checkpoint: remove it.",
                    )
                tensors[tensor.name] = tensor
    finally:
        pool.shutdown(cancel_futures=True)
    return tensors


def read_config(source: Source) -> dict[str, Any]:
    """config.json of a source.

    Raises:
        SourceError: There is none, or it is not a JSON object.
    """
    entry = source.files().get("config.json")
    if entry is None:
        raise SourceError(
            f"{source.ref} has no config.json: it is not a model that transformers names describe.",
            "Check the repository's name and revision.",
        )
    if entry.size > MAX_CONFIG_BYTES:
        raise SourceError(f"config.json of {source.ref} is {entry.size} bytes long.")
    try:
        config = json.loads(source.read("config.json", 0, entry.size))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"config.json of {source.ref} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise SourceError(f"config.json of {source.ref} is not a JSON object.")
    return config


def read_header(
    source: Source, entry: FileEntry, one_large: AbstractContextManager[Any] | None = None
) -> list[StoredTensor]:
    """The tensors of one shard, in the order of their bytes; fetched by range.

    Args:
        source: Where it lies.
        entry: The shard.
        one_large: Held while a large header is in memory, by whoever reads several.

    Raises:
        HeaderError: The file is not valid safetensors.
    """
    first = source.read(entry.path, 0, min(entry.size, FIRST_READ_BYTES))
    end = LENGTH_BYTES + header_length(first, entry.size, entry.path)
    with one_large if one_large and end > LARGE_HEADER_BYTES else nullcontext():
        if end > len(first):
            first += source.read(entry.path, len(first), end)
        return parse_header(first[LENGTH_BYTES:end], entry.size, entry.path)


def check_headers(shard: ShardBytes, entry: FileEntry, planned: Iterable[StoredTensor]) -> None:
    """Compare what was planned with the header of the shard itself, now that its hash is proven.

    Headers are planned from by range, and nothing proves a range.

    Raises:
        IntegrityError: A tensor is not where, or not what, the plan says.
    """
    first = bytes(shard.read(0, LENGTH_BYTES))
    end = LENGTH_BYTES + header_length(first, entry.size, entry.path)
    header = bytes(shard.read(LENGTH_BYTES, end))
    proven = {tensor.name: tensor for tensor in parse_header(header, entry.size, entry.path)}
    for tensor in planned:
        whole = tensor.of or tensor
        if proven.get(whole.name) != whole:
            raise IntegrityError(
                f"{tensor.name} in {entry.path} is not what its header said when it was planned.",
                "The line garbled the header, or the file changed: run the same command again.",
            )


def _size_warning(index: bytes | None, tensors: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    stated = stated_size(index) if index is not None else None
    held = sum(tensor.nbytes for tensor in tensors.values())
    if stated is None or stated == held:
        return ()
    return (
        f"{INDEX_NAME} of the source states {stated} bytes of tensors; its shards hold {held}. "
        "The result states what it holds.",
    )


def _read_index(source: Source, files: Mapping[str, FileEntry]) -> bytes | None:
    entry = files.get(INDEX_NAME)
    if entry is None:
        return None
    if entry.size > MAX_JSON_BYTES:
        raise HeaderError(f"{INDEX_NAME} is {entry.size} bytes long.")
    return source.read(INDEX_NAME, 0, entry.size)


def _shards(
    files: Mapping[str, FileEntry], index: Mapping[str, str] | None, ref: str
) -> tuple[str, ...]:
    if index is not None:
        return _countable(sorted(set(index.values())))
    found = tuple(sorted(path for path in files if _ROOT_SHARD.fullmatch(path)))
    if not found:
        pickles = sorted(path for path in files if path.endswith(_PICKLES))
        seen = f" It has {', '.join(pickles[:3])}, which hubconv never opens." if pickles else ""
        raise SourceError(
            f"{ref} holds no safetensors weights.{seen}",
            "Ask its publisher for a safetensors version, or convert it with its own tools.",
        )
    return _countable(found)


def _countable(shards: Sequence[str]) -> tuple[str, ...]:
    if len(shards) > MAX_SHARDS:
        raise SourceError(
            f"The source has {len(shards)} shards; the cap is {MAX_SHARDS}.",
            "Ask its publisher for a version in fewer files.",
        )
    return tuple(shards)


def _reconcile(
    tensors: Mapping[str, StoredTensor], index: Mapping[str, str] | None
) -> tuple[str, ...]:
    if index is None:
        return ()
    for name, tensor in tensors.items():
        stated = index.get(name)
        if stated != tensor.shard:
            said = f"sends it to {stated}" if stated else "does not list it"
            raise HeaderError(
                f"{name} lies in {tensor.shard}, but {INDEX_NAME} {said}.",
                "Index and shards are of different uploads: wait for the publisher, or pin an "
                "earlier revision with --revision.",
            )
    return tuple(name for name in index if name not in tensors)
