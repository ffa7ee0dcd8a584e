"""Miniature DeepSeek V4 checkpoints in both spellings that the Hub holds.

`official` stores routed experts as MXFP4 and everything else that is quantized as FP8 with E8M0
scales. `fp8_repack` stores the same values with FP8 experts and F32 scales, and wo_a as BF16. For
the same seed and size both dequantise to equal numbers, which is what a conversion is held to.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal

import numpy as np

from hubconv.demo import miniature_numbers as numbers
from hubconv.demo import miniature_v4_files as papers
from hubconv.demo.miniature import Entry, in_slices, write_checkpoint
from hubconv.demo.miniature_v4_parts import EXPERTS_PER_TOKEN, Part, Size, parts

Spelling = Literal["official", "fp8_repack"]

TILE: Final = 128
"""Side of an FP8 scale block."""

TILE_HEADROOM: Final = 6
"""The vendor's cast puts the largest group of a tile at 2^6 tile units: 6 * 2^6 = 384 < 448."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the numbers come from.

    Attributes:
        seed: Same seed, same numbers.
        fast: Random codes instead of quantized Gaussian weights: valid, and quick to make.
    """

    seed: int
    fast: bool


def official(folder: Path, *, seed: int = 0, size: Size | None = None, fast: bool = False) -> None:
    """Write a miniature as DeepSeek publishes it, with MXFP4 experts.

    Args:
        folder: Where to write; made if missing.
        seed: Same seed, same numbers.
        size: Dimensions; by default 296 tensors in 4,979,176 bytes.
        fast: Random codes instead of quantized Gaussian weights, for large sizes.
    """
    size = size or Size()
    write_checkpoint(
        folder,
        _sharded(size, "official", Source(seed, fast)),
        config=papers.config(size) | {"expert_dtype": "fp4"},
        files=papers.official(),
    )


def fp8_repack(
    folder: Path, *, seed: int = 0, size: Size | None = None, fast: bool = False
) -> None:
    """Write the values of `official` as an FP8 repack, whose index names scales it lacks.

    Args:
        folder: Where to write; made if missing.
        seed: Same seed, same numbers.
        size: Dimensions; by default 291 tensors in 6,229,216 bytes.
        fast: Random codes instead of quantized Gaussian weights, for large sizes.
    """
    size = size or Size()
    shards = _sharded(size, "fp8_repack", Source(seed, fast))
    # The repack dequantised wo_a, dropped its scale, and forgot it in the index.
    ghosts = {
        entry.name.removesuffix(".weight") + ".scale": shard
        for shard, entries in shards.items()
        for entry in entries
        if entry.name.endswith(".wo_a.weight")
    }
    write_checkpoint(
        folder, shards, config=papers.config(size), index_extra=ghosts, files=papers.fp8_repack()
    )


# --- How they are spelled -------------------------------------------------------------------------


def _sharded(size: Size, spelling: Spelling, source: Source) -> dict[str, list[Entry]]:
    entries = [entry for part in parts(size) for entry in spelled(part, spelling, source)]
    count = size.shards
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    return in_slices(entries, names)


def spelled(part: Part, spelling: Spelling, source: Source) -> list[Entry]:
    """The tensors that store a part, as one or the other repository spells it."""
    if part.role == "mxfp4":
        return _expert(part, spelling, source)
    if part.role in {"fp8", "fp8_grouped"}:
        return _linear(part, spelling, source)
    dtype = {"bf16": "BF16", "norm": "BF16", "f32": "F32", "token_table": "I64"}[part.role]
    return [Entry(part.name, dtype, part.shape, partial(_plain_bytes, part, source))]


def _expert(part: Part, spelling: Spelling, source: Source) -> list[Entry]:
    rows, cols = part.shape
    weight, scale = f"{part.name}.weight", f"{part.name}.scale"
    if spelling == "official":
        return [
            Entry(weight, "I8", (rows, cols // 2), partial(_mxfp4_bytes, part, source)),
            Entry(scale, "F8_E8M0", (rows, cols // 32), partial(_group_bytes, part, source)),
        ]
    return [
        Entry(weight, "F8_E4M3", part.shape, partial(_recast_bytes, part, source)),
        Entry(scale, "F32", (rows // TILE, cols // TILE), partial(_tile_bytes, part, source)),
    ]


def _linear(part: Part, spelling: Spelling, source: Source) -> list[Entry]:
    weight, scale = f"{part.name}.weight", f"{part.name}.scale"
    if spelling == "fp8_repack" and part.role == "fp8_grouped":
        return [Entry(weight, "BF16", part.shape, partial(_dequantised_bytes, part, source))]
    kind: numbers.ScaleKind = "F8_E8M0" if spelling == "official" else "F32"
    blocks = tuple(-(-length // TILE) for length in part.shape)
    return [
        Entry(weight, "F8_E4M3", part.shape, partial(_fp8_bytes, part, source)),
        Entry(scale, kind, blocks, partial(_fp8_scale_bytes, part, source, kind)),
    ]


# --- Their bytes ----------------------------------------------------------------------------------


def _plain_bytes(part: Part, source: Source) -> bytes:
    random = numbers.generator(source.seed, part.name)
    if part.role == "token_table":
        return random.integers(0, EXPERTS_PER_TOKEN, part.shape, np.int64).tobytes()
    weights = numbers.gaussian(random, part.shape)
    if part.role == "f32":
        return weights.tobytes()
    return numbers.to_bf16(weights + np.float32(part.role == "norm")).tobytes()


def _expert_codes(part: Part, source: Source) -> numbers.Bytes:
    """E2M1 codes, two to a byte."""
    if not source.fast:
        return numbers.pack_nibbles(_mxfp4(part, source)[0])
    rows, cols = part.shape
    random = numbers.generator(source.seed, part.name)
    packed = numbers.random_bytes(random, (rows, cols // 2))
    packed[rows // 2, :8] &= 0x88  # one block of zeros of either sign, as the slow way makes
    return packed


def _group_exponents(part: Part, source: Source) -> numbers.Exponents:
    if source.fast:
        rows, cols = part.shape
        random = numbers.generator(source.seed, f"{part.name}.scale")
        low, high = numbers.EXPERT_EXPONENTS
        return random.integers(low, high + 1, (rows, cols // numbers.MX_GROUP), np.int32)
    return _mxfp4(part, source)[1]


@lru_cache(maxsize=2)  # a weight and its scale are often written one after the other
def _mxfp4(part: Part, source: Source) -> tuple[numbers.Bytes, numbers.Exponents]:
    random = numbers.generator(source.seed, part.name)
    rows, cols = part.shape
    return numbers.mxfp4(numbers.uneven_rows(random, rows, cols))


def _mxfp4_bytes(part: Part, source: Source) -> bytes:
    return _expert_codes(part, source).tobytes()


def _group_bytes(part: Part, source: Source) -> bytes:
    return numbers.e8m0(_group_exponents(part, source)).tobytes()


def _recast_bytes(part: Part, source: Source) -> bytes:
    exponents = _group_exponents(part, source)
    units = numbers.spread(_tile_exponents(exponents), (TILE, TILE // numbers.MX_GROUP))
    low, high = numbers.EXPERT_EXPONENTS
    lowest = low - high + TILE_HEADROOM
    table = _recast_table(lowest)
    steps = np.repeat((exponents - units - lowest) * 256, numbers.MX_GROUP // 2, axis=1)
    return table.take(steps + _expert_codes(part, source)).tobytes()


@lru_cache(maxsize=1)
def _recast_table(lowest: int) -> numbers.Halves:
    """Two FP8 codes for every byte of two E2M1 codes, under each power of two from 2^lowest up."""
    steps = np.arange(lowest, TILE_HEADROOM + 1)[:, None]
    exact = numbers.to_e4m3(np.ldexp(numbers.from_e2m1(np.arange(16, dtype=np.uint8)), steps))
    both = exact[:, numbers.unpack_nibbles(np.arange(256, dtype=np.uint8)[:, None])]
    return np.ascontiguousarray(both).view("<u2").reshape(-1)


def _tile_bytes(part: Part, source: Source) -> bytes:
    tiles = _tile_exponents(_group_exponents(part, source))
    return np.ldexp(np.float32(1), tiles).astype("<f4").tobytes()


def _tile_exponents(exponents: numbers.Exponents) -> numbers.Exponents:
    rows, groups = exponents.shape
    wide = TILE // numbers.MX_GROUP
    tiles = exponents.reshape(rows // TILE, TILE, groups // wide, wide)
    units: numbers.Exponents = tiles.max(axis=(1, 3)) - np.int32(TILE_HEADROOM)
    return units


def _fp8_codes(part: Part, source: Source) -> numbers.Bytes:
    if source.fast:
        return numbers.random_e4m3(numbers.generator(source.seed, part.name), part.shape)
    return _fp8(part, source)[0]


def _fp8_scales(part: Part, source: Source) -> numbers.Floats:
    if source.fast:
        random = numbers.generator(source.seed, f"{part.name}.scale")
        blocks = [-(-length // TILE) for length in part.shape]
        scales: numbers.Floats = np.ldexp(np.float32(1), random.integers(-15, -8, blocks, np.int32))
        return scales
    return _fp8(part, source)[1]


@lru_cache(maxsize=2)
def _fp8(part: Part, source: Source) -> tuple[numbers.Bytes, numbers.Floats]:
    random = numbers.generator(source.seed, part.name)
    return numbers.fp8_blocks(numbers.gaussian(random, part.shape), "F8_E8M0")


def _fp8_bytes(part: Part, source: Source) -> bytes:
    return _fp8_codes(part, source).tobytes()


def _fp8_scale_bytes(part: Part, source: Source, kind: numbers.ScaleKind) -> bytes:
    return numbers.scale_bytes(_fp8_scales(part, source), kind)


def _dequantised_bytes(part: Part, source: Source) -> bytes:
    rows, cols = part.shape
    scales = numbers.spread(_fp8_scales(part, source), (TILE, TILE))[:rows, :cols]
    # Four significant bits times a power of two: BF16 holds it without rounding.
    return numbers.to_bf16(numbers.from_e4m3(_fp8_codes(part, source)) * scales).tobytes()
