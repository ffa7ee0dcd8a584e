"""What source weights mean, in float64 and from raw bytes: a second reading, made for the tests.

It shares nothing with the code under test: block sizes come from the families' own documents, and
codes are decoded by the makers of the miniatures.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from checkpoints.broken import Tensor

from hubconv.demo import miniature_numbers as numbers

FP8_BLOCK = 128
HIDDEN = 256
INT4_GROUP = 32

Doubles = npt.NDArray[np.float64]

_FLOATS = {"F32": "<f4", "F16": "<f2"}


def floats(tensor: Tensor) -> Doubles:
    """The numbers of a tensor of floats, in its own shape."""
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64).reshape(tensor.shape)
    narrow = np.frombuffer(tensor.data, _FLOATS[tensor.dtype])
    return narrow.astype(np.float64).reshape(tensor.shape)


def weights(module: str, source: Mapping[str, Tensor]) -> Doubles:
    """[rows, cols] of a module, whatever the spelling of its companions."""
    if f"{module}.weight_packed" in source:
        return _int4(module, source)
    if f"{module}.weight" not in source:
        return _fused(module, source)
    data = source[f"{module}.weight"]
    if data.dtype != "F8_E4M3":
        return floats(data)
    codes = numbers.from_e4m3(np.frombuffer(data.data, np.uint8)).astype(np.float64)
    scale = source.get(f"{module}.weight_scale_inv") or source[f"{module}.weight_scale"]
    return codes.reshape(data.shape) * _spread(floats(scale), data.shape)


def _fused(module: str, source: Mapping[str, Tensor]) -> Doubles:
    """One expert's matrix from a tensor of three dimensions; outputs of up follow those of gate.

    Every miniature has HIDDEN inputs for gate and up, and as many outputs for down.
    """
    stem, expert, leaf = module.rsplit(".", 2)
    alone = f"{stem.removesuffix('.experts')}.{leaf}.weight"
    if alone in source:
        return _stacked(source[alone], source.get(f"{alone}_scale_inv"), int(expert))
    name = "down_proj" if leaf == "down_proj" else "gate_up_proj"
    matrix = floats(source[f"{stem}.{name}"])[int(expert)]
    if matrix.shape[0 if leaf == "down_proj" else 1] != HIDDEN:  # [inputs, outputs]
        matrix = matrix.T
    if leaf == "down_proj":
        return matrix
    gate, up = np.split(matrix, 2)
    return gate if leaf == "gate_proj" else up


def _stacked(data: Tensor, scales: Tensor | None, expert: int) -> Doubles:
    if scales is None:
        return floats(data)[expert]
    codes = numbers.from_e4m3(np.frombuffer(data.data, np.uint8)).astype(np.float64)
    matrix = codes.reshape(data.shape)[expert]
    return matrix * _spread(floats(scales)[expert], matrix.shape)


def _spread(scales: Doubles, shape: tuple[int, ...]) -> Doubles:
    rows, cols = shape
    if scales.size == 1:
        return np.full(shape, scales.reshape(()))
    if scales.shape == (rows, 1):
        return np.repeat(scales, cols, 1)
    assert scales.shape == (math.ceil(rows / FP8_BLOCK), math.ceil(cols / FP8_BLOCK))
    tall = np.repeat(scales, FP8_BLOCK, 0)[:rows]
    return np.repeat(tall, FP8_BLOCK, 1)[:, :cols]


def _int4(module: str, source: Mapping[str, Tensor]) -> Doubles:
    packed = source[f"{module}.weight_packed"]
    words = np.frombuffer(packed.data, "<u4").reshape(packed.shape)
    integers = np.stack([(words >> shift & 15).astype(np.float64) - 8 for shift in range(0, 32, 4)])
    wide = np.moveaxis(integers, 0, -1).reshape(packed.shape[0], -1)
    return wide * np.repeat(floats(source[f"{module}.weight_scale"]), INT4_GROUP, 1)
