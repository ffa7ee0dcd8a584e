"""Writes a checkpoint folder: shards, index, config and whatever files go with them.

The makers of miniature checkpoints say what the tensors are; this module only lays them out. The
bytes of a tensor may be made at the last moment, so a checkpoint larger than the memory can be
written shard by shard.
"""

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubconv import allowance
from hubconv.errors import HeaderError
from hubconv.formats.checkpoint import INDEX_NAME, nbytes_of, write_header, write_index
from hubconv.formats.dtypes import alignment

WORTH_PROCESSES_BYTES: Final = 10**9
"""Below it processes take longer to begin than they save."""

_EMPTY: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor to write.

    Attributes:
        name: Its name.
        dtype: The safetensors name of its element type.
        shape: Its shape; empty for a scalar.
        data: Its bytes, or a function that makes them when the shard is written.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | Callable[[], bytes]

    @property
    def nbytes(self) -> int:
        """Size in bytes, known without making the data."""
        return nbytes_of(self.dtype, self.shape)


def write_checkpoint(
    folder: Path,
    shards: Mapping[str, Sequence[Entry]],
    *,
    config: Mapping[str, Any],
    index_extra: Mapping[str, str] = _EMPTY,
    files: Mapping[str, bytes | str] = _EMPTY,
    index: bool = True,
) -> None:
    """Write a checkpoint folder; the same arguments always give the same bytes.

    Args:
        folder: Where to write; made if missing.
        shards: Tensors by the file they go to.
        config: What config.json says.
        index_extra: Tensors that the index names and no shard holds, with the shard it names.
        files: Other files by relative path.
        index: Whether to write an index; a checkpoint of a single file has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total_bytes = sum(entry.nbytes for entries in shards.values() for entry in entries)
    with _writers(total_bytes) as pool:
        list(pool.map(write_shard, (folder / shard for shard in shards), shards.values()))
    if index:
        named = {entry.name: shard for shard, entries in shards.items() for entry in entries}
        text = write_index({**named, **index_extra}, total_bytes)
        (folder / INDEX_NAME).write_bytes(text)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _writers(total_bytes: int) -> Executor:
    """What writes shards: for large ones processes, since numbers are made under Python's lock."""
    cores = allowance.cores()
    if total_bytes < WORTH_PROCESSES_BYTES:
        return ThreadPoolExecutor(cores)
    return ProcessPoolExecutor(cores, multiprocessing.get_context("forkserver"))


def write_shard(path: Path, entries: Sequence[Entry]) -> None:
    """Write one safetensors file, one tensor in memory at a time.

    Wide elements come first, so that every tensor is aligned to its element size.

    Args:
        path: The file to write.
        entries: Its tensors, in any order.

    Raises:
        HeaderError: A name appears twice, or data are not as long as dtype and shape say.
    """
    ordered = sorted(entries, key=lambda entry: (-alignment(entry.dtype), entry.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(write_header([(entry.name, entry.dtype, entry.shape) for entry in ordered]))
        for entry in ordered:
            data = entry.data if isinstance(entry.data, bytes) else entry.data()
            if len(data) != entry.nbytes:
                raise HeaderError(
                    f"{entry.name} is {entry.dtype} {list(entry.shape)}, {entry.nbytes} bytes, "
                    f"but its maker gave {len(data)}."
                )
            file.write(data)


def in_slices(entries: Sequence[Entry], names: Sequence[str]) -> dict[str, list[Entry]]:
    """Deal tensors out to files in order, as many to each as fit evenly.

    Args:
        entries: Tensors in the order of the model.
        names: The files; the last one takes what is left.
    """
    each = -(-len(entries) // len(names))
    return {name: list(entries[n * each : (n + 1) * each]) for n, name in enumerate(names)}
