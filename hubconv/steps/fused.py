"""Fused experts: one tensor [experts, rows, columns] read as the matrices it holds.

A matrix of one expert is a run of bytes of the whole, so that it is read, measured and written like
any other weight. Engines that take the fused tensor want NVFP4 expert by expert.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hubconv.errors import ScaleError, SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.dtypes import PLAIN_FLOATS
from hubconv.formats.stored import StoredWeight, Turned
from hubconv.profiles.needs import value_of
from hubconv.profiles.reader import Fused, Profile
from hubconv.profiles.stored_as import READERS, Reader, fp8_block_of, scale_name, stored_weight
from hubconv.steps.weights import Found


def fused_parts(item: Found, profile: Profile, config: Mapping[str, Any]) -> list[Found]:
    """The weights that a fused tensor holds; none for any other tensor.

    Args:
        item: A tensor of the source.
        profile: Says which tensors are fused, and how.
        config: config.json, whose `hidden_size` proves which way the matrices lie.

    Raises:
        SourceError: They lie otherwise than the family's do, or nothing tells.
        ScaleError: Their scales do not fit them.
    """
    data = item.data
    if len(data.shape) != 3 or (data.dtype not in PLAIN_FLOATS and item.scale is None):
        return []
    for fused in profile.fused:
        match = fused.pattern.search(data.name)
        if match is None:
            continue
        _check_orientation(data, fused, config)
        stem = f"{data.name[: match.start(1)]}{fused.under}"
        if item.scale is None:
            return list(_turned(data, fused, stem) if fused.turned else _plain(data, fused, stem))
        reader = next(r for r in _readers(profile) if scale_name(r, data.name) == item.scale.name)
        return list(_scaled(data, item.scale, fused, stem, reader, config))
    return []


def _readers(profile: Profile) -> Iterator[Reader]:
    return (reader for name in profile.readers if (reader := READERS[name]).scale)


def _parts(data: StoredTensor, fused: Fused, stem: str) -> Iterator[tuple[str, int, int]]:
    """(module, expert, part) of every matrix, in the order of their bytes."""
    for number in range(data.shape[0] * len(fused.parts)):
        expert, part = divmod(number, len(fused.parts))
        yield f"{stem}{expert}.{fused.parts[part]}", expert, part


def _plain(data: StoredTensor, fused: Fused, stem: str) -> Iterator[Found]:
    _, rows, cols = data.shape
    rows //= len(fused.parts)
    weight = StoredWeight("plain", data.dtype, rows, cols)
    for module, expert, part in _parts(data, fused, stem):
        number = expert * len(fused.parts) + part
        yield Found(_piece(data, f"{module}.weight", (rows, cols), number), None, weight, module)


def _turned(data: StoredTensor, fused: Fused, stem: str) -> Iterator[Found]:
    """Matrices [inputs, outputs]: those of one expert side by side, in the same rows."""
    _, inputs, outputs = data.shape
    rows = outputs // len(fused.parts)
    for module, expert, part in _parts(data, fused, stem):
        whole = _piece(data, f"{module}.weight", (inputs, outputs), expert)
        weight = StoredWeight(
            "plain", data.dtype, rows, inputs, turned=Turned(part * rows, outputs)
        )
        yield Found(replace(whole, shape=(rows, inputs)), None, weight, module)


def _scaled(
    data: StoredTensor,
    scale: StoredTensor,
    fused: Fused,
    stem: str,
    reader: Reader,
    config: Mapping[str, Any],
) -> Iterator[Found]:
    """Matrices with scales, which are stacked like them."""
    experts, rows, cols = data.shape
    if len(fused.parts) != 1 or fused.turned or len(scale.shape) != 3 or scale.shape[0] != experts:
        raise ScaleError(
            f"{scale.name} in {scale.shard} has shape {list(scale.shape)}; for {data.name} "
            f"{list(data.shape)} it must be the scales of {experts} experts, one after the other.",
            "The checkpoint is damaged, or its scales are laid out in a way hubconv cannot read.",
        )
    block = fp8_block_of(config)
    for module, expert, _ in _parts(data, fused, stem):
        of_one = _piece(data, f"{module}{reader.data}", (rows, cols), expert)
        its_scale = _piece(scale, f"{module}{reader.scale}", scale.shape[1:], expert)
        weight = stored_weight(reader, of_one, its_scale, block)
        yield Found(of_one, its_scale, weight, module)


def _piece(whole: StoredTensor, name: str, shape: tuple[int, ...], number: int) -> StoredTensor:
    """A tensor that is part of another: the one at `number` of as many as fill it."""
    part = StoredTensor(name, whole.dtype, shape, whole.shard, whole.begin, whole.end, whole)
    begin = whole.begin + number * part.nbytes
    return replace(part, begin=begin, end=begin + part.nbytes)


def _check_orientation(data: StoredTensor, fused: Fused, config: Mapping[str, Any]) -> None:
    _, rows, cols = data.shape
    hidden = value_of(config, "hidden_size")
    is_told = rows != cols and (cols if fused.turned else rows) % len(fused.parts) == 0
    if not is_told or hidden != (rows if fused.hidden == "rows" else cols):
        raise SourceError(
            f"{data.name} in {data.shard} is {data.dtype} {list(data.shape)}; each expert's "
            f"{fused.hidden} should be the {hidden} of hidden_size in config.json, and not as many "
            "as there are the other way.",
            "Which way these matrices lie cannot be told: look for an upload of the model with one "
            "tensor for each expert.",
        )
