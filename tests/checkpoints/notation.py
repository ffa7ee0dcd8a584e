"""The notation recipes are written in, and the makers of the tensors it names.

A line is `name kind dimensions`. A quantized kind names the module and gives its weight with the
companions; a plain kind names the tensor. Neighbouring lines with `.E.` in their names repeat
together for each of the four experts.

    fp8    E4M3 weight, one scale per 128x128 block; suffix and type are the recipe's
    fp8x4  the same, quantized as four row chunks with scale rows of their own
    stack  the same for each of several matrices in one tensor, the scales in another
    row    E4M3 weight, one F32 `.weight_scale` per row
    one    E4M3 weight, one scale for it and one for its inputs; names and type are the recipe's
    int4   `.weight_packed`, `.weight_scale`, `.weight_shape` of a symmetric group of 32
    mxfp4  U8 `_blocks` and `_scales` of groups of 32
    bf16, f32    Gaussian numbers; norm, norm32: the same around one
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hubconv.demo import miniature_numbers as numbers
from hubconv.demo.miniature import Entry, in_slices, write_checkpoint

EXPERTS = 4

Body = Sequence[tuple[str, str]]
"""(prefix, lines) in the order of the model."""


@dataclass(frozen=True)
class Recipe:
    """A miniature checkpoint as data.

    `moved` sends tensors to another shard (counted from 0) than their turn would.
    """

    shards: tuple[str, ...]
    body: Body
    config: Mapping[str, Any]
    card: str
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    scale_dtype: str = "F32"
    powers_of_two: bool = False
    static: tuple[str, str] = (".weight_scale", ".input_scale")
    moved: Mapping[str, int] = field(default_factory=dict)
    index: bool = True

    def __call__(self, folder: Path, seed: int = 0) -> None:
        entries = [entry for line in lines(self.body) for entry in self._made(line, seed)]
        slices = in_slices(entries, self.shards)
        for name, number in self.moved.items():
            slices = {shard: [e for e in kept if e.name != name] for shard, kept in slices.items()}
            slices[self.shards[number]] += [entry for entry in entries if entry.name == name]
        files = {"README.md": self.card, **self.files}
        write_checkpoint(folder, slices, config=self.config, files=files, index=self.index)

    def _made(self, line: str, seed: int) -> list[Entry]:
        name, kind, *dims = line.split()
        shape = tuple(map(int, dims))
        random = numbers.generator(seed, name)
        if kind in PLAIN:
            return [PLAIN[kind](name, numbers.gaussian(random, shape))]
        weights = numbers.gaussian(random, shape)
        if kind == "stack":
            return self._stack(name, weights)
        if kind in {"fp8", "fp8x4"}:
            return self._fp8(name, np.split(weights, 4 if kind == "fp8x4" else 1))
        if kind == "one":
            return self._one(name, weights)
        return QUANTIZED[kind](name, weights)

    def _one(self, name: str, weights: np.ndarray) -> list[Entry]:
        rule = "BF16" if self.scale_dtype == "BF16" else "F32"
        codes, scales = numbers.fp8_blocks(weights, rule, weights.shape)
        inputs = np.abs(scales) * np.float32(64)
        named = zip(self.static, (scales, inputs), strict=True)
        return [
            Entry(f"{name}.weight", "F8_E4M3", codes.shape, codes.tobytes()),
            *(
                Entry(name + suffix, rule, (), numbers.scale_bytes(values, rule))
                for suffix, values in named
            ),
        ]

    def _fp8(self, name: str, chunks: Sequence[np.ndarray]) -> list[Entry]:
        rule = "F8_E8M0" if self.powers_of_two else self.scale_dtype
        made = [numbers.fp8_blocks(chunk, rule) for chunk in chunks]
        codes, scales = (np.concatenate(arrays) for arrays in zip(*made, strict=True))
        stored = numbers.scale_bytes(scales, self.scale_dtype)
        return [
            Entry(f"{name}.weight", "F8_E4M3", codes.shape, codes.tobytes()),
            Entry(f"{name}.weight_scale_inv", self.scale_dtype, scales.shape, stored),
        ]

    def _stack(self, name: str, matrices: np.ndarray) -> list[Entry]:
        made = [numbers.fp8_blocks(matrix, self.scale_dtype) for matrix in matrices]
        codes, scales = (np.stack(arrays) for arrays in zip(*made, strict=True))
        stored = numbers.scale_bytes(scales, self.scale_dtype)
        return [
            Entry(f"{name}.weight", "F8_E4M3", codes.shape, codes.tobytes()),
            Entry(f"{name}.weight_scale_inv", self.scale_dtype, scales.shape, stored),
        ]


def lines(body: Body) -> Iterator[str]:
    """Every line of a body with its full name, experts repeated."""
    for prefix, text in body:
        written = [line.strip() for line in text.strip().splitlines() if line.strip()]
        for repeated, group in groupby(written, lambda line: ".E." in line):
            block = list(group)
            for expert in range(EXPERTS if repeated else 1):
                yield from (prefix + line.replace(".E.", f".{expert}.") for line in block)


def row(name: str, weights: np.ndarray) -> list[Entry]:
    codes, scales = numbers.fp8_rows(weights)
    return [
        Entry(f"{name}.weight", "F8_E4M3", codes.shape, codes.tobytes()),
        Entry(f"{name}.weight_scale", "F32", scales.shape, scales.tobytes()),
    ]


def int4(name: str, weights: np.ndarray) -> list[Entry]:
    rows, cols = weights.shape
    groups = weights.reshape(rows, -1, 32)
    stored = numbers.to_bf16(np.abs(groups).max(-1) / np.float32(7))
    units = np.rint(groups / numbers.from_bf16(stored)[..., None])
    # Eight to a word, the first one lowest, each stored with eight added.
    nibbles = (np.clip(units, -8, 7) + 8).astype(np.uint32).reshape(rows, -1, 8)
    packed = (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
    return [
        Entry(f"{name}.weight_packed", "I32", packed.shape, packed.tobytes()),
        Entry(f"{name}.weight_scale", "BF16", stored.shape, stored.tobytes()),
        Entry(f"{name}.weight_shape", "I32", (2,), np.array([rows, cols], "<i4").tobytes()),
    ]


def mxfp4(name: str, weights: np.ndarray) -> list[Entry]:
    codes, exponents = numbers.mxfp4(weights)
    blocks = numbers.pack_nibbles(codes).reshape(*exponents.shape, 16)
    return [
        Entry(f"{name}_blocks", "U8", blocks.shape, blocks.tobytes()),
        Entry(f"{name}_scales", "U8", exponents.shape, numbers.e8m0(exponents).tobytes()),
    ]


def bf16(name: str, weights: np.ndarray) -> Entry:
    return Entry(name, "BF16", weights.shape, numbers.to_bf16(weights).tobytes())


def f32(name: str, weights: np.ndarray) -> Entry:
    return Entry(name, "F32", weights.shape, weights.astype("<f4").tobytes())


PLAIN: dict[str, Callable[[str, np.ndarray], Entry]] = {
    "bf16": bf16,
    "f32": f32,
    "norm": lambda name, weights: bf16(name, weights + np.float32(1)),
    "norm32": lambda name, weights: f32(name, weights + np.float32(1)),
}
QUANTIZED: dict[str, Callable[[str, np.ndarray], list[Entry]]] = {
    "row": row,
    "int4": int4,
    "mxfp4": mxfp4,
}
