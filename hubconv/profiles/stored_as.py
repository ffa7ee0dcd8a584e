"""Readers: how a weight is recognised by its element type and its companion, never by config alone.

A tensor of a quantized element type is a weight only if a companion of the right shape proves it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hubconv.errors import ScaleError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.dtypes import PLAIN_FLOATS
from hubconv.formats.stored import INT4_WORD, MXFP4_GROUP, Kind, StoredWeight

SCALE_FLOATS: Final = frozenset({"F32", "BF16", "F16", "F8_E8M0"})


@dataclass(frozen=True, slots=True)
class Reader:
    """One way to store a weight.

    Attributes:
        kind: What the bytes mean.
        data: Suffix of the data tensor.
        dtypes: Element types of the data tensor.
        scale: Suffix that takes its place in the scale's name; empty for plain weights.
        scale_dtypes: Element types the scale may have.
        shape: Suffix that takes its place in the name of a tensor that may state the weight's
            shape; empty where there is none.
        inputs: Suffixes one of which may take its place in the name of a scale for activations.
    """

    kind: Kind
    data: str
    dtypes: frozenset[str]
    scale: str = ""
    scale_dtypes: frozenset[str] = frozenset()
    shape: str = ""
    inputs: tuple[str, ...] = ()

    def beside(self, data: str) -> list[str]:
        """Names of all that may go with a data tensor besides its scale."""
        stem = data.removesuffix(self.data)
        return [stem + suffix for suffix in (self.shape, *self.inputs) if suffix]


_PER_ELEMENT: Final[Mapping[Kind, int]] = {"mxfp4": 2, "int4": INT4_WORD}
"""Columns of a weight in one element of its data tensor, where that is not one."""

_E4M3: Final = frozenset({"F8_E4M3"})
_INPUTS: Final = (".input_scale", ".activation_scale")

READERS: Final[Mapping[str, Reader]] = {
    "plain": Reader("plain", ".weight", PLAIN_FLOATS),
    "fp8_weight_scale_inv": Reader(
        "fp8", ".weight", _E4M3, ".weight_scale_inv", SCALE_FLOATS, inputs=_INPUTS
    ),
    "fp8_weight_scale": Reader(
        "fp8", ".weight", _E4M3, ".weight_scale", SCALE_FLOATS, inputs=_INPUTS
    ),
    "fp8_scale": Reader("fp8", ".weight", _E4M3, ".scale", SCALE_FLOATS),
    "mxfp4_scale": Reader(
        "mxfp4", ".weight", frozenset({"I8", "U8"}), ".scale", frozenset({"F8_E8M0"})
    ),
    "int4_weight_packed": Reader(
        "int4", ".weight_packed", frozenset({"I32"}), ".weight_scale", PLAIN_FLOATS, ".weight_shape"
    ),
}
"""Stored formats by the name profiles use."""


def scale_name(reader: Reader, data: str) -> str:
    """Name of the scale that belongs to a data tensor; only the suffix changes."""
    return data.removesuffix(reader.data) + reader.scale


def shape_name(reader: Reader, data: str) -> str:
    """Name of the tensor that may state the shape of a data tensor's weight."""
    return data.removesuffix(reader.data) + reader.shape


def stored_weight(
    reader: Reader,
    data: StoredTensor,
    scale: StoredTensor | None,
    fp8_block: tuple[int, int] | None,
    int4_group: int | None = None,
) -> StoredWeight:
    """What a data tensor and its companion are together.

    Args:
        reader: The way it is stored; `data` has one of its element types.
        data: A tensor of rank 2.
        scale: Its companion; None for plain weights.
        fp8_block: `weight_block_size` of config.json, if it names one.
        int4_group: `group_size` of config.json, if it names one for weights of four bits.

    Raises:
        ScaleError: The scale's element type or shape does not fit the weight.
    """
    rows, cols = data.shape
    cols *= _PER_ELEMENT.get(reader.kind, 1)
    if scale is None:
        return StoredWeight("plain", data.dtype, rows, cols)
    if scale.dtype not in reader.scale_dtypes:
        raise ScaleError(
            f"{scale.name} in {scale.shard} is {scale.dtype}; a scale of {data.name} must be one "
            f"of {', '.join(sorted(reader.scale_dtypes))}.",
        )
    stated = fp8_block
    if reader.kind == "int4":
        # Groups begin with a word: of others no writer is known.
        stated = (1, int4_group) if int4_group and int4_group % INT4_WORD == 0 else None
    blocks = [(1, cols), (rows, cols)]
    if reader.kind == "mxfp4":
        blocks = [(1, MXFP4_GROUP)]
    elif stated:
        blocks.insert(0, stated)
    for block in blocks:
        if scale.shape in _scale_shapes(rows, cols, block):
            return StoredWeight(reader.kind, data.dtype, rows, cols, scale.dtype, block)
    expected = [list(_scale_shapes(rows, cols, block)[0]) for block in blocks]
    raise _misshapen(reader, data, scale, expected, is_stated=stated is not None)


def _misshapen(
    reader: Reader,
    data: StoredTensor,
    scale: StoredTensor,
    expected: list[list[int]],
    *,
    is_stated: bool,
) -> ScaleError:
    key = "group_size" if reader.kind == "int4" else "weight_block_size"
    return ScaleError(
        f"{scale.name} in {scale.shard} has shape {list(scale.shape)}; for {data.name} "
        f"{list(data.shape)} it must be {' or '.join(map(str, expected))}.",
        f"The block size comes from {key} in config.json: see whether it is right, or "
        f"keep the weight as it is with --keep 're:{data.name.removesuffix(reader.data)}$'."
        if not is_stated
        else "The checkpoint is damaged, or its scales are laid out in a way hubconv cannot read.",
    )


def require_shape(weight: StoredWeight, stated: StoredTensor, raw: bytes) -> None:
    """Prove that a tensor that states a weight's shape, as pack-quantized has it, says the truth.

    Headers do not tell: rows that end within a word look like longer ones.

    Args:
        weight: What the data and its scales are by their headers.
        stated: Two integers, I32 or I64, as its header describes it.
        raw: Its bytes.

    Raises:
        ScaleError: It states another shape, or is no shape.
    """
    kinds = {"I32": "<i4", "I64": "<i8"}
    if stated.dtype not in kinds or stated.shape != (2,):
        raise ScaleError(
            f"{stated.name} in {stated.shard} is {stated.dtype} {list(stated.shape)}; the shape of "
            "a weight is two integers, I32 or I64.",
        )
    shape = np.frombuffer(raw, kinds[stated.dtype]).tolist()
    if shape != [weight.rows, weight.cols]:
        raise ScaleError(
            f"{stated.name} in {stated.shard} says {shape}; the packed weight holds "
            f"{[weight.rows, weight.cols]}.",
            "The checkpoint is damaged, or its rows end within a word, which hubconv cannot read.",
        )


def _scale_shapes(rows: int, cols: int, block: tuple[int, int]) -> list[tuple[int, ...]]:
    shape = (math.ceil(rows / block[0]), math.ceil(cols / block[1]))
    if block == (rows, cols):
        return [(), (1,), shape]
    # A per-row scale must be of rank 2: by its length alone a square matrix would not tell
    # rows from columns.
    return [shape]


def fp8_block_of(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """`weight_block_size` from wherever a config keeps its quantization table."""
    for table in _tables(config):
        size = table.get("weight_block_size")
        if (
            isinstance(size, list)
            and len(size) == 2
            and all(isinstance(side, int) and side > 0 for side in size)
        ):
            return (size[0], size[1])
    return None


def int4_group_of(config: Mapping[str, Any]) -> int | None:
    """`group_size` of symmetric weights of four bits, as compressed-tensors writes its groups.

    Raises:
        ScaleError: They are asymmetric, or groups of several sizes.
    """
    found = list(_int4_weights(config))
    if any(weights.get("symmetric", True) is not True for weights in found):
        raise ScaleError(
            "quantization_config in config.json has asymmetric weights of four bits.",
            "hubconv reads symmetric ones: look for another upload of the model.",
        )
    sizes = {size for weights in found if isinstance(size := weights.get("group_size"), int)}
    if len(sizes) > 1:
        raise ScaleError(
            f"quantization_config in config.json has groups of {sorted(sizes)} weights; hubconv "
            "reads weights of four bits in groups of one size.",
        )
    return next((size for size in sizes if size > 0), None)


def _int4_weights(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for table in _tables(config):
        groups = table.get("config_groups")
        for group in groups.values() if isinstance(groups, Mapping) else ():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if not isinstance(weights, Mapping) or weights.get("num_bits") != 4:
                continue
            if weights.get("type", "int") == "int":
                yield weights


def _tables(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (config, config.get("text_config")):
        table = holder.get("quantization_config") if isinstance(holder, Mapping) else None
        if isinstance(table, Mapping):
            yield table
