"""One of two results that are compared: what it holds, how it is spelled, how large it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hubconv.audit.counterparts import Named, Stored, stored_weights
from hubconv.audit.packed import Packed, find_packed
from hubconv.audit.result import HF_QUANT_CONFIG, Result, open_result
from hubconv.ends import Source
from hubconv.formats import contract
from hubconv.formats.contract.config_rules import is_weight_only
from hubconv.formats.contract.modules import SUFFIXES
from hubconv.formats.contract.v4_rules import is_v4_config

_COMPANIONS: Final = SUFFIXES - {"weight", "weight_packed"}

Matrix = Packed | Stored


@dataclass(frozen=True, slots=True)
class Side:
    """A result that is compared with another.

    Attributes:
        result: What was read of it.
        packed: Its NVFP4 weights by module.
        stored: Its other weights by module.
        entry: The quantization entry that loaders go by.
        layout: compressed-tensors, modelopt or modelopt-v4; what the entry says where it is none.
        activations: w4a16 or w4a4.
        shard_bytes: Of its weight files.
        parameters: Numbers the model computes with.
        nvfp4_parameters: Those in NVFP4 weights.
        nvfp4_bytes: Codes, scales and scalars of these.
        unread: NVFP4 modules that cannot be decoded as they stand.
    """

    result: Result
    packed: Mapping[str, Packed]
    stored: Mapping[str, Stored]
    entry: Mapping[str, Any]
    layout: str
    activations: str
    shard_bytes: int
    parameters: int
    nvfp4_parameters: int
    nvfp4_bytes: int
    unread: tuple[str, ...]

    @property
    def bits(self) -> float:
        """Bits a parameter, in the weight files."""
        return 8 * self.shard_bytes / max(self.parameters, 1)

    @property
    def nvfp4_bits(self) -> float:
        """Bits for each number of an NVFP4 weight, scales included."""
        return 8 * self.nvfp4_bytes / max(self.nvfp4_parameters, 1)

    @property
    def matrices(self) -> dict[str, Matrix]:
        """Every weight matrix by module."""
        return {**self.stored, **self.packed}

    def named(self) -> Named[Matrix]:
        """The same, to look up."""
        return Named(self.matrices)

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable keys."""
        manifest = self.result.manifest or {}
        return {
            "ref": self.result.view.ref,
            "commit": self.result.view.commit or None,
            "hubconv": manifest.get("hubconv"),
            "source": manifest.get("source"),
            "layout": self.layout,
            "activations": self.activations,
            "bytes": self.shard_bytes,
            "shards": len(self.result.shards),
            "parameters": self.parameters,
            "bits": self.bits,
            "nvfp4_weights": len(self.packed) + len(self.unread),
            "nvfp4_parameters": self.nvfp4_parameters,
            "nvfp4_bits": self.nvfp4_bits,
        }


def shape_of(matrix: Matrix) -> tuple[int, int]:
    """(rows, columns) in elements."""
    return (matrix.rows, matrix.cols) if isinstance(matrix, Packed) else matrix.shape


def open_side(view: Source) -> Side:
    """Read headers and configuration of a result.

    Raises:
        SourceError: There is nothing to read.
    """
    result = open_result(view)
    packed, unread = find_packed(result.modules)
    stored = stored_weights(result.tensors, result.config, result.profile)
    extra = {HF_QUANT_CONFIG: result.hf_quant} if result.hf_quant else {}
    entry, _ = contract.loaders_entry(result.config, extra)
    nvfp4 = sum(weight.rows * weight.cols for weight in packed.values())
    others = sum(math.prod(weight.shape) for weight in stored.values())
    files = view.files()
    return Side(
        result,
        packed,
        stored,
        entry,
        _layout(entry),
        _activations(entry),
        sum(files[shard].size for shard in result.shards if shard in files),
        nvfp4 + others + _bare_parameters(result, stored),
        nvfp4,
        sum(weight.nbytes + 4 for weight in packed.values())
        + sum(4 for weight in packed.values() if weight.input_scale is not None),
        tuple(unread),
    )


def _bare_parameters(result: Result, stored: Mapping[str, Stored]) -> int:
    """Numbers in tensors that are no weight matrices: norms, biases, sinks."""
    matrices = {(w.data.of or w.data).name for w in stored.values()}
    nvfp4 = {
        part.name
        for module in result.modules.values()
        if module.kind == "nvfp4"
        for part in module.parts.values()
    }
    return sum(
        math.prod(tensor.shape)
        for name, tensor in result.tensors.items()
        if name not in matrices | nvfp4
        and tensor.dtype.startswith(("F", "BF"))
        and name.rpartition(".")[2] not in _COMPANIONS
    )


def _layout(entry: Mapping[str, Any]) -> str:
    if is_v4_config(entry):
        return "modelopt-v4"
    method = str(entry.get("quant_method", ""))
    return "modelopt" if method.startswith("modelopt") else method or "none"


def _activations(entry: Mapping[str, Any]) -> str:
    if is_v4_config(entry):
        return "w4a4"
    if str(entry.get("quant_method", "")).startswith("modelopt"):
        return "w4a16" if is_weight_only(entry) else "w4a4"
    groups = (entry.get("config_groups") or {}).values()
    four = [g for g in groups if (g.get("weights") or {}).get("num_bits") == 4]
    return "w4a4" if any(group.get("input_activations") for group in four) else "w4a16"
