"""Checkpoint headers: read strictly, written exactly.

A safetensors file is 8 bytes (little-endian header length), a JSON header, and the tensor bytes.
The reader rejects whatever the safetensors library rejects, and duplicate names besides: the
library takes the last of two, so another reader could see another model.
"""

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from hubconv.errors import HeaderError
from hubconv.formats.dtypes import BITS

MAX_HEADER_BYTES: Final = 100_000_000
"""The cap of the safetensors format; checked before anything is allocated."""

MAX_TENSORS: Final = 2_000_000
MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 2**60
LENGTH_BYTES: Final = 8
INDEX_NAME: Final = "model.safetensors.index.json"

_ENTRY: Final = frozenset({"dtype", "shape", "data_offsets"})
_TENSOR_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,512}")
_SHARD_NAME: Final = re.compile(r"[\w.\-]+(?:/[\w.\-]+)*\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a shard's header describes it.

    Attributes:
        name: Its name.
        dtype: The safetensors name of its element type.
        shape: Its shape; empty for a scalar.
        shard: The file that holds it.
        begin: First byte within the file (not within the data section).
        end: One past its last byte.
        of: The tensor of the header that this is a part of; None for a whole one. Parts whose
            bytes alternate with those of others share the bytes from `begin` to `end`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    begin: int
    end: int
    of: "StoredTensor | None" = None

    @property
    def nbytes(self) -> int:
        """Size in bytes; of a part, without the bytes of others between its own."""
        return self.span if self.of is None else nbytes_of(self.dtype, self.shape)

    @property
    def span(self) -> int:
        """Bytes from its first to its last."""
        return self.end - self.begin


@lru_cache(maxsize=4096)  # a checkpoint has few shapes, and a plan asks for each again and again
def nbytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that `shape` elements of `dtype` occupy; the bit count must fill whole bytes."""
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8:
        raise HeaderError(f"{list(shape)} elements of {dtype} do not fill whole bytes.")
    return bits // 8


def header_length(first_bytes: bytes, file_bytes: int, shard: str) -> int:
    """Length of the JSON header, from the first eight bytes of a shard.

    Args:
        first_bytes: At least the first eight bytes of the file.
        file_bytes: Size of the whole file.
        shard: Its name, for messages.

    Raises:
        HeaderError: The file is too short, or the length is beyond the format's cap or the file.
    """
    if len(first_bytes) < LENGTH_BYTES:
        raise HeaderError(f"{shard} is {len(first_bytes)} bytes long: not a safetensors file.")
    (length,) = struct.unpack("<Q", first_bytes[:LENGTH_BYTES])
    if length > MAX_HEADER_BYTES or length + LENGTH_BYTES > file_bytes:
        raise HeaderError(
            f"{shard} announces a header of {length} bytes; the file has {file_bytes} and the "
            f"format allows {MAX_HEADER_BYTES}.",
            "The file is damaged or not safetensors: upload it again at the source.",
        )
    return int(length)


def parse_header(header: bytes, file_bytes: int, shard: str) -> list[StoredTensor]:
    """Tensors of a shard, in the order of their bytes.

    Args:
        header: The JSON header, without the eight length bytes.
        file_bytes: Size of the whole file; the tensors must cover it exactly.
        shard: Its name, for messages and for the records.

    Raises:
        HeaderError: Anything the safetensors format forbids, or a duplicate or unusable name.
    """
    if header[:1] != b"{":
        raise HeaderError(f"The header of {shard} does not begin with '{{'.")
    entries = _parse_json(header, shard)
    if not isinstance(entries, dict):
        raise HeaderError(f"The header of {shard} is not a JSON object.")
    _check_metadata(entries.pop("__metadata__", {}), shard)
    if len(entries) > MAX_TENSORS:
        raise HeaderError(f"{shard} lists {len(entries)} tensors; the cap is {MAX_TENSORS}.")
    data_begin = LENGTH_BYTES + len(header)
    tensors = [_tensor(name, entry, shard, data_begin) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_cover(tensors, data_begin, file_bytes, shard)
    return tensors


def _parse_json(text: bytes, where: str) -> Any:  # noqa: ANN401 - JSON is untyped until checked
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys, parse_int=_natural)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{where} holds no valid JSON: {error}.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def _natural(digits: str) -> int:
    """No number here may be negative; to the library even -0 is none."""
    if digits.startswith("-"):
        raise ValueError(f"the number {digits[:80]} is negative")
    return int(digits)


def _check_metadata(metadata: object, shard: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderError(f"__metadata__ of {shard} is not a table of strings.")
    try:
        "".join((*metadata, *metadata.values())).encode()
    except UnicodeEncodeError as error:
        # Python reads half of a surrogate pair from an escape; the library refuses it.
        raise HeaderError(f"__metadata__ of {shard} holds what is no text.") from error


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63  # a bool is no size


def _tensor(name: str, entry: object, shard: str, data_begin: int) -> StoredTensor:
    if not _TENSOR_NAME.fullmatch(name):
        raise HeaderError(f"{shard} names a tensor {name[:80]!r}: not a usable name.")
    where = f"{name} in {shard}"
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise HeaderError(f"{where} must have exactly dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise HeaderError(f"{where} has the unknown dtype {str(dtype)[:40]!r}.")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        raise HeaderError(f"{where} has the unusable shape {str(shape)[:80]}.")
    sides = tuple(shape)
    if math.prod(filter(None, sides)) >= MAX_ELEMENTS:
        # The library multiplies from the left and refuses what overflows, a later 0 or not.
        raise HeaderError(f"{where} has a shape of more elements than any file: {shape}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise HeaderError(f"{where} has the unusable data_offsets {str(offsets)[:80]}.")
    begin, end = offsets
    if end - begin != nbytes_of(dtype, sides):
        raise HeaderError(
            f"{where} is {dtype} {shape}, {nbytes_of(dtype, sides)} bytes, but its data_offsets "
            f"span {end - begin}."
        )
    return StoredTensor(name, dtype, sides, shard, data_begin + begin, data_begin + end)


def _check_cover(
    tensors: Sequence[StoredTensor], data_begin: int, file_bytes: int, shard: str
) -> None:
    position = data_begin
    for tensor in tensors:
        if tensor.begin != position:
            fault = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole"
            raise HeaderError(f"{tensor.name} in {shard} {fault} (byte {tensor.begin}).")
        position = tensor.end
    if position != file_bytes:
        raise HeaderError(
            f"The tensors of {shard} end at byte {position}, the file at {file_bytes}.",
            "The file is truncated or damaged: upload it again at the source.",
        )


def parse_index(text: bytes, present: Iterable[str]) -> dict[str, str]:
    """Tensor name to shard, from an index file.

    Args:
        text: The index file.
        present: Files that the pinned tree really holds.

    Raises:
        HeaderError: Not an index, an unusable name, or a shard that the tree does not hold.
    """
    index = _parse_json(text, INDEX_NAME)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise HeaderError(f"{INDEX_NAME} has no weight_map.")
    if len(weight_map) > MAX_TENSORS:
        raise HeaderError(f"{INDEX_NAME} lists {len(weight_map)} tensors; cap is {MAX_TENSORS}.")
    files = frozenset(present)
    proven: set[str] = set()
    for name, shard in weight_map.items():
        if not _TENSOR_NAME.fullmatch(name):
            raise HeaderError(f"{INDEX_NAME} names a tensor {name[:80]!r}: not a usable name.")
        if not isinstance(shard, str) or shard not in proven:
            proven.add(_proven_shard(name, shard, files))
    return weight_map


def _proven_shard(name: str, shard: object, files: frozenset[str]) -> str:
    if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard) or ".." in shard:
        raise HeaderError(f"{INDEX_NAME} sends {name[:80]!r} to {str(shard)[:80]!r}.")
    if shard not in files:
        raise HeaderError(
            f"{INDEX_NAME} sends {name} to {shard}, which is not in the repository.",
            "The upload of the source is incomplete: wait for its publisher to finish it.",
        )
    return shard


def stated_size(index: bytes) -> int | None:
    """`total_size` of an index that `parse_index` has accepted; None where it states none."""
    metadata = _parse_json(index, INDEX_NAME).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(size) if isinstance(size, int) and _is_size(size) else None


def write_header(tensors: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    """The beginning of a safetensors file, up to the first tensor byte.

    Args:
        tensors: (name, dtype, shape) in the order of their bytes.

    Returns:
        Length field and JSON header, padded with spaces to a multiple of eight bytes.

    Raises:
        HeaderError: A name appears twice.
    """
    # By hand, as the index: json takes three times as long over the largest models.
    entries = ['"__metadata__":{"format":"pt"}']
    written = {"__metadata__"}
    position = 0
    for name, dtype, shape in tensors:
        if name in written:
            raise HeaderError(f"{name} would be written twice.")
        written.add(name)
        end = position + nbytes_of(dtype, tuple(shape))
        sides = ",".join(map(str, shape))
        entries.append(
            f'{encode_basestring_ascii(name)}:{{"dtype":"{dtype}","shape":[{sides}],'
            f'"data_offsets":[{position},{end}]}}'
        )
        position = end
    text = f"{{{','.join(entries)}}}".encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """An index file with its tensors in sorted order.

    Args:
        weight_map: Tensor name to shard.
        total_size: Bytes of all tensors, headers not counted.
    """
    # By hand: the json module indents in Python, slow for the 350,000 names of the largest models.
    spell = encode_basestring_ascii
    entries = ",\n".join(
        f"    {spell(name)}: {spell(shard)}" for name, shard in sorted(weight_map.items())
    )
    text = f'{{\n  "metadata": {{\n    "total_size": {total_size}\n  }},\n  "weight_map": {{\n'
    return f"{text}{entries}\n  }}\n}}\n".encode()
