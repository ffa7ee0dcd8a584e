"""Damage a checkpoint folder in one way; each maker returns the name of what it damaged.

The makers look for the first tensor (in shard and byte order) that they can spoil, so they work on
any recipe that has one; `like` narrows the choice.
"""

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

INDEX = "model.safetensors.index.json"
SCALE_SUFFIXES = (".weight_scale_inv", ".weight_scale", ".scale")


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def scale_missing(folder: Path, like: str = "") -> str:
    """An FP8 weight whose scale is in no shard and not in the index. Returns the weight."""
    weight, scale = _scaled(folder, like)
    _drop(folder, scale)
    return weight


def scale_only_in_index(folder: Path, like: str = "") -> str:
    """An FP8 weight whose scale the index still names although no shard holds it."""
    weight, scale = _scaled(folder, like)
    _drop(folder, scale, from_index=False)
    return weight


def scale_of_wrong_shape(folder: Path, like: str = "") -> str:
    """A scale with one row more than its weight has blocks. Returns the scale."""
    _, scale = _scaled(folder, like)
    path, tensor = _find(folder, scale)
    row_bytes = len(tensor.data) // tensor.shape[0]
    shape = (tensor.shape[0] + 1, *tensor.shape[1:])
    longer = replace(tensor, shape=shape, data=tensor.data + tensor.data[-row_bytes:])
    _rewrite(path, [longer if each.name == scale else each for each in read(path)])
    return scale


def index_names_another_shard(folder: Path, like: str = "") -> str:
    """A tensor that the index sends to a shard which exists but lacks it."""
    name = next(each.name for _, each in _all(folder) if re.search(like, each.name))
    index = _index(folder)
    here = index["weight_map"][name]
    index["weight_map"][name] = next(s for s in index["weight_map"].values() if s != here)
    _write_index(folder, index)
    return name


def tensor_missing_from_index(folder: Path, like: str = "") -> str:
    """A tensor that a shard holds and the index does not name."""
    name = next(each.name for _, each in _all(folder) if re.search(like, each.name))
    index = _index(folder)
    del index["weight_map"][name]
    _write_index(folder, index)
    return name


def shard_missing(folder: Path) -> str:
    """The last shard is gone; the index still counts on it."""
    path = shards(folder)[-1]
    path.unlink()
    return path.name


def nan_in_fp8(folder: Path, like: str = "") -> str:
    """The code 0x7F, the NaN of E4M3, in the middle of an FP8 weight."""
    return _spoil(folder, "F8_E4M3", b"\x7f", like)


def nan_in_bf16(folder: Path, like: str = r"\.weight$|_proj$") -> str:
    """A quiet NaN in the middle of a BF16 weight."""
    return _spoil(folder, "BF16", b"\xc0\x7f", like)


def infinity_in_bf16(folder: Path, like: str = r"\.weight$|_proj$") -> str:
    """An infinity in the middle of a BF16 weight."""
    return _spoil(folder, "BF16", b"\x80\x7f", like)


def nan_in_e8m0(folder: Path, like: str = "") -> str:
    """The code 255, the NaN of E8M0, among the scales of a weight."""
    return _spoil(folder, "F8_E8M0", b"\xff", like)


def nan_in_f32_scale(folder: Path, like: str = r"scale(_inv)?$") -> str:
    """A NaN among the F32 scales of a weight."""
    return _spoil(folder, "F32", struct.pack("<f", float("nan")), like)


def unknown_tensor(folder: Path, name: str = "model.layers.0.surprise.weight") -> str:
    """A BF16 matrix under a name no family has, in the first shard and in the index."""
    path = shards(folder)[0]
    _rewrite(path, [*read(path), Tensor(name, "BF16", (16, 16), bytes(512))])
    if (folder / INDEX).exists():
        index = _index(folder)
        index["weight_map"][name] = path.name
        _write_index(folder, index)
    return name


def name_twice(folder: Path) -> str:
    """The first shard's header names its first tensor twice, for the same bytes."""
    path = shards(folder)[0]
    items, data = _raw(path)
    name = items[0][0]
    _write_raw(path, [*items, items[0]], data)
    return name


def overlapping_tensors(folder: Path) -> str:
    """The second tensor of the first shard begins inside the first. Returns the second."""
    path = shards(folder)[0]
    items, data = _raw(path)
    name, place = items[1]
    begin, end = place["data_offsets"]
    items[1] = (name, place | {"data_offsets": [begin - 2, end - 2]})
    _write_raw(path, items, data)
    return name


def hole_between_tensors(folder: Path) -> str:
    """Eight bytes that belong to no tensor lie before the last one of the first shard."""
    path = shards(folder)[0]
    items, data = _raw(path)
    name, place = items[-1]
    begin, end = place["data_offsets"]
    items[-1] = (name, place | {"data_offsets": [begin + 8, end + 8]})
    _write_raw(path, items, data[:begin] + bytes(8) + data[begin:])
    return name


def header_length_bomb(folder: Path) -> str:
    """The first shard announces a header of an exbibyte."""
    path = shards(folder)[0]
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    return path.name


def header_not_json(folder: Path) -> str:
    """The first shard's header ends in the middle of its JSON."""
    path = shards(folder)[0]
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[8 + length // 2 : 8 + length] = b" " * (length - length // 2)
    path.write_bytes(content)
    return path.name


def shard_truncated(folder: Path) -> str:
    """The first shard lacks its last hundred bytes."""
    path = shards(folder)[0]
    path.write_bytes(path.read_bytes()[:-100])
    return path.name


def shard_empty(folder: Path) -> str:
    """The first shard is a file of three bytes."""
    path = shards(folder)[0]
    path.write_bytes(b"{}\n")
    return path.name


def no_safetensors(folder: Path) -> str:
    """Only pytorch_model.bin is left."""
    for path in shards(folder):
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    return "pytorch_model.bin"


BROKEN: dict[str, Callable[[Path], str]] = {
    maker.__name__: maker
    for maker in (
        scale_missing,
        scale_only_in_index,
        scale_of_wrong_shape,
        index_names_another_shard,
        tensor_missing_from_index,
        shard_missing,
        nan_in_fp8,
        nan_in_bf16,
        infinity_in_bf16,
        nan_in_e8m0,
        nan_in_f32_scale,
        unknown_tensor,
        name_twice,
        overlapping_tensors,
        hole_between_tensors,
        header_length_bomb,
        header_not_json,
        shard_truncated,
        shard_empty,
        no_safetensors,
    )
}


# --- Reading and writing without the code under test ----------------------------------------------


def shards(folder: Path) -> list[Path]:
    """The weight files of a folder, but for a second copy under its makers' own names."""
    return sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated"))


def read(path: Path) -> list[Tensor]:
    """The tensors of a shard in the order of their bytes."""
    items, data = _raw(path)
    return [
        Tensor(name, place["dtype"], tuple(place["shape"]), data[slice(*place["data_offsets"])])
        for name, place in items
    ]


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a sound checkpoint."""
    return {tensor.name: tensor for _, tensor in _all(folder)}


def _raw(path: Path) -> tuple[list[tuple[str, dict]], bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    items = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return items, content[8 + length :]


def _write_raw(path: Path, items: Sequence[tuple[str, dict]], data: bytes) -> None:
    pairs = [("__metadata__", {"format": "pt"}), *items]
    text = ",".join(f"{json.dumps(name)}:{json.dumps(place)}" for name, place in pairs)
    header = f"{{{text}}}".encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _rewrite(path: Path, tensors: Sequence[Tensor]) -> None:
    items, position = [], 0
    for each in tensors:
        end = position + len(each.data)
        place = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [position, end]}
        items.append((each.name, place))
        position = end
    _write_raw(path, items, b"".join(each.data for each in tensors))


def _all(folder: Path) -> Iterator[tuple[Path, Tensor]]:
    for path in shards(folder):
        for tensor in read(path):
            yield path, tensor


def _find(folder: Path, name: str) -> tuple[Path, Tensor]:
    return next((path, tensor) for path, tensor in _all(folder) if tensor.name == name)


def _scaled(folder: Path, like: str) -> tuple[str, str]:
    tensors = read_folder(folder)
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if tensor.dtype != "F8_E4M3" or not re.search(like, name):
            continue
        for suffix in SCALE_SUFFIXES:
            if stem + suffix in tensors:
                return name, stem + suffix
    raise LookupError(f"no FP8 weight with a scale like {like!r} in {folder}")


def _spoil(folder: Path, dtype: str, pattern: bytes, like: str) -> str:
    for path, tensor in _all(folder):
        if tensor.dtype == dtype and len(tensor.shape) > 1 and re.search(like, tensor.name):
            middle = len(tensor.data) // 2 // len(pattern) * len(pattern)
            data = tensor.data[:middle] + pattern + tensor.data[middle + len(pattern) :]
            spoiled = replace(tensor, data=data)
            kept = [spoiled if each.name == tensor.name else each for each in read(path)]
            _rewrite(path, kept)
            return tensor.name
    raise LookupError(f"no {dtype} tensor like {like!r} in {folder}")


def _drop(folder: Path, name: str, *, from_index: bool = True) -> None:
    path, _ = _find(folder, name)
    _rewrite(path, [each for each in read(path) if each.name != name])
    if from_index and (folder / INDEX).exists():
        index = _index(folder)
        del index["weight_map"][name]
        _write_index(folder, index)


def _index(folder: Path) -> dict:
    return json.loads((folder / INDEX).read_text())


def _write_index(folder: Path, index: dict) -> None:
    (folder / INDEX).write_text(json.dumps(index, indent=2))
