"""Readers: how a weight is recognised by its element type and its companion, never by config alone.

A tensor of a quantized element type is a weight only if a companion of the right shape proves it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hubconv.errors import ScaleError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.dtypes import PLAIN_FLOATS
from hubconv.formats.stored import MXFP4_GROUP, Kind, StoredWeight

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
    """

    kind: Kind
    data: str
    dtypes: frozenset[str]
    scale: str = ""
    scale_dtypes: frozenset[str] = frozenset()


_E4M3: Final = frozenset({"F8_E4M3"})

READERS: Final[Mapping[str, Reader]] = {
    "plain": Reader("plain", ".weight", PLAIN_FLOATS),
    "fp8_weight_scale_inv": Reader("fp8", ".weight", _E4M3, ".weight_scale_inv", SCALE_FLOATS),
    "fp8_weight_scale": Reader("fp8", ".weight", _E4M3, ".weight_scale", SCALE_FLOATS),
    "fp8_scale": Reader("fp8", ".weight", _E4M3, ".scale", SCALE_FLOATS),
    "mxfp4_scale": Reader(
        "mxfp4", ".weight", frozenset({"I8", "U8"}), ".scale", frozenset({"F8_E8M0"})
    ),
}
"""Stored formats by the name profiles use."""


def scale_name(reader: Reader, data: str) -> str:
    """Name of the scale that belongs to a data tensor; only the suffix changes."""
    return data.removesuffix(reader.data) + reader.scale


def stored_weight(
    reader: Reader,
    data: StoredTensor,
    scale: StoredTensor | None,
    fp8_block: tuple[int, int] | None,
) -> StoredWeight:
    """What a data tensor and its companion are together.

    Args:
        reader: The way it is stored; `data` has one of its element types.
        data: A tensor of rank 2.
        scale: Its companion; None for plain weights.
        fp8_block: `weight_block_size` of config.json, if it names one.

    Raises:
        ScaleError: The scale's element type or shape does not fit the weight.
    """
    rows, cols = data.shape
    if scale is None:
        return StoredWeight("plain", data.dtype, rows, cols)
    if scale.dtype not in reader.scale_dtypes:
        raise ScaleError(
            f"{scale.name} in {scale.shard} is {scale.dtype}; a scale of {data.name} must be one "
            f"of {', '.join(sorted(reader.scale_dtypes))}.",
        )
    if reader.kind == "mxfp4":
        cols *= 2
        blocks = [(1, MXFP4_GROUP)]
    else:
        blocks = [fp8_block] if fp8_block else []
        blocks += [(1, cols), (rows, cols)]
    for block in blocks:
        if block is not None and scale.shape in _scale_shapes(rows, cols, block):
            return StoredWeight(reader.kind, data.dtype, rows, cols, scale.dtype, block)
    expected = [list(_scale_shapes(rows, cols, block)[0]) for block in blocks if block is not None]
    raise ScaleError(
        f"{scale.name} in {scale.shard} has shape {list(scale.shape)}; for {data.name} "
        f"{list(data.shape)} it must be {' or '.join(map(str, expected))}.",
        "The block size comes from weight_block_size in config.json: see whether it is right, or "
        f"keep the weight as it is with --keep 're:{data.name.removesuffix(reader.data)}$'."
        if not fp8_block
        else "The checkpoint is damaged, or its scales are laid out in a way hubconv cannot read.",
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
    for holder in (config, config.get("text_config")):
        table = holder.get("quantization_config") if isinstance(holder, Mapping) else None
        size = table.get("weight_block_size") if isinstance(table, Mapping) else None
        if (
            isinstance(size, list)
            and len(size) == 2
            and all(isinstance(side, int) and side > 0 for side in size)
        ):
            return (size[0], size[1])
    return None
