"""The NVFP4 weights of a result, in whichever convention, as matrices that can be decoded."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Module
from hubconv.formats.nvfp4 import BLOCK

FUSED_HALVES: Final[Mapping[str, tuple[str, ...]]] = {"gate_up_proj": ("gate_proj", "up_proj")}
"""Modules of one expert that stand below one another in a tensor of all experts."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An NVFP4 matrix as a result stores it.

    Attributes:
        module: Its name; of one expert's part of a fused tensor the name it has elsewhere.
        rows: Rows of the matrix.
        cols: Columns of the matrix, in elements.
        codes: Where its codes are; `of` names the whole tensor where this is a part.
        scales: Where its block scales are.
        scalar: Where its global scale is, four bytes.
        is_divisor: Whether the stored global scale divides, as compressed-tensors has it.
        input_scale: Where its input scale is; None where there is none.
    """

    module: str
    rows: int
    cols: int
    codes: StoredTensor
    scales: StoredTensor
    scalar: StoredTensor
    is_divisor: bool
    input_scale: StoredTensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def multiplier(self, stored: float) -> float:
        """The factor that a stored global scale stands for; infinite for a divisor of zero."""
        if not self.is_divisor:
            return stored
        return 1.0 / stored if stored else math.inf


def find_packed(modules: Mapping[str, Module]) -> tuple[dict[str, Packed], list[str]]:
    """Every NVFP4 matrix by module, and the modules that cannot be decoded as they stand."""
    found: dict[str, Packed] = {}
    unread: list[str] = []
    for module in modules.values():
        if module.kind != "nvfp4":
            continue
        matrices = list(_matrices(module))
        if not matrices:
            unread.append(module.name)
        found.update((each.module, each) for each in matrices)
    return found, unread


def _matrices(module: Module) -> Iterator[Packed]:
    is_divisor = module.convention == "compressed-tensors"
    names = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")
    if not is_divisor:
        names = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    codes, scales, scalar, inputs = (_stored(module, name) for name in names)
    if codes is None or scales is None or scalar is None:
        return
    typed = (codes.dtype, scales.dtype, scalar.dtype) in {
        ("U8", "F8_E4M3", "F32"),
        ("I8", "F8_E4M3", "F32"),
    }
    fits = len(codes.shape) in {2, 3} and scales.shape == _scale_shape(codes.shape)
    count = codes.shape[0] if len(codes.shape) == 3 else 1
    if not (typed and fits and math.prod(scalar.shape) in {1, count}) or 0 in codes.shape:
        return
    if len(codes.shape) == 2:
        rows, half = codes.shape
        yield Packed(module.name, rows, 2 * half, codes, scales, scalar, is_divisor, inputs)
        return
    yield from _experts(module.name, (codes, scales, scalar), is_divisor, inputs)


def _scale_shape(codes: Sequence[int]) -> tuple[int, ...]:
    """Shape of the scales of codes in rows; codes of no whole blocks have none."""
    *outer, half = codes
    return (*outer, 2 * half // BLOCK) if 2 * half % BLOCK == 0 else ()


def _stored(module: Module, name: str) -> StoredTensor | None:
    part = module.parts.get(name)
    return part if isinstance(part, StoredTensor) else None


def _experts(
    name: str,
    tensors: tuple[StoredTensor, StoredTensor, StoredTensor],
    is_divisor: bool,
    inputs: StoredTensor | None,
) -> Iterator[Packed]:
    """One expert after the other, and of each its parts."""
    codes, scales, scalar = tensors
    stem, _, leaf = name.rpartition(".")
    experts, rows, half = codes.shape
    parts = FUSED_HALVES.get(leaf, (leaf,))
    if rows % len(parts):
        return
    rows //= len(parts)
    for number in range(experts * len(parts)):
        expert, part = divmod(number, len(parts))
        module = f"{stem}.{expert}.{parts[part]}"
        yield Packed(
            module,
            rows,
            2 * half,
            slice_of(codes, f"{module}.weight", (rows, half), number),
            slice_of(scales, f"{module}.weight_scale", (rows, 2 * half // BLOCK), number),
            _one_of(scalar, expert),
            is_divisor,
            _one_of(inputs, expert) if inputs is not None and inputs.dtype == "F32" else None,
        )


def slice_of(tensor: StoredTensor, name: str, shape: tuple[int, int], number: int) -> StoredTensor:
    """The matrix of `shape` that stands `number`th in a tensor of many."""
    size = tensor.nbytes * math.prod(shape) // max(math.prod(tensor.shape), 1)
    begin = tensor.begin + number * size
    return StoredTensor(name, tensor.dtype, shape, tensor.shard, begin, begin + size, tensor)


def scalars_of(tensor: StoredTensor) -> list[StoredTensor]:
    """Each float32 number of a tensor by itself; the tensor where it holds just one."""
    if tensor.nbytes == 4:
        return [tensor]
    count = tensor.nbytes // 4
    return [replace(_one_of(tensor, n), name=f"{tensor.name}[{n}]") for n in range(count)]


def _one_of(tensor: StoredTensor, number: int) -> StoredTensor:
    if math.prod(tensor.shape) == 1:
        return tensor
    begin = tensor.begin + 4 * number
    return replace(tensor, shape=(), begin=begin, end=begin + 4, of=tensor)
