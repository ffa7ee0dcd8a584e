"""The modules of a checkpoint as its tensors show them, whatever its configuration says."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Kind = Literal["nvfp4", "fp8", "mxfp4", "plain", "other"]
Convention = Literal["compressed-tensors", "modelopt", ""]

SUFFIXES: Final = frozenset({
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_scale_2",
    "weight_global_scale",
    "weight_scale_inv",
    "input_scale",
    "input_global_scale",
    "scale",
})
FUSED_SUFFIXES: Final = ("_weight_scale_2", "_weight_scale", "_input_scale")
"""Ends of names beside a tensor of all experts, which has no `.weight` of its own: ModelOpt's
export of models that keep their experts in one tensor."""

_CT_ONLY: Final = frozenset({"weight_packed", "weight_global_scale", "input_global_scale"})
_NOT_LINEAR: Final = ("embed", "norm", "conv", "rotary", "wte", "wpe", "markov")
_PLAIN: Final = frozenset({"BF16", "F16", "F32"})
_STACK: Final = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")


class TensorLike(Protocol):
    """A tensor of a header, or of a plan."""

    @property
    def name(self) -> str:
        """Full name."""
        ...

    @property
    def dtype(self) -> str:
        """Element type by its safetensors name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape; empty for a scalar."""
        ...


@dataclass(frozen=True, slots=True)
class Module:
    """One module and its tensors.

    Attributes:
        name: Name without the last part.
        kind: What its weight is.
        convention: Whose names an NVFP4 module bears; empty for other kinds.
        parts: Tensors by their last part, those of `SUFFIXES` only.
        is_fused: Whether its tensors hold all experts of a layer.
    """

    name: str
    kind: Kind
    convention: Convention
    parts: Mapping[str, TensorLike]
    is_fused: bool = False

    @property
    def container(self) -> str:
        """`X.experts` of a module that holds all experts; empty for any other."""
        return self.name.rpartition(".")[0] if self.is_fused else ""

    @property
    def is_linear(self) -> bool:
        """Whether an engine builds a linear of it; by name, so embeddings called otherwise pass."""
        weight = self.parts.get("weight") or self.parts.get("weight_packed")
        if self.kind == "nvfp4":
            return True
        if weight is None or len(weight.shape) != (3 if _STACK.fullmatch(weight.name) else 2):
            return False
        return not any(word in self.name for word in _NOT_LINEAR)


def modules_of(tensors: Iterable[TensorLike]) -> dict[str, Module]:
    """Modules by name; tensors that belong to none of `SUFFIXES` are left out.

    A stack of all experts' weights, `X.experts.down_proj`, counts as the first expert's module.
    """
    parts: dict[str, dict[str, TensorLike]] = {}
    bare: dict[str, TensorLike] = {}
    fused: dict[str, dict[str, TensorLike]] = {}
    for tensor in tensors:
        stack = _STACK.fullmatch(tensor.name)
        if stack and len(tensor.shape) == 3 and tensor.dtype in _PLAIN:
            parts.setdefault(f"{stack[1]}.0.{stack[2]}", {})["weight"] = tensor
        module, _, last = tensor.name.rpartition(".")
        if module and last in SUFFIXES:
            parts.setdefault(module, {})[last] = tensor
            continue
        end = next((end for end in FUSED_SUFFIXES if last.endswith(end)), "")
        if end and last != end:
            fused.setdefault(tensor.name.removesuffix(end), {})[end[1:]] = tensor
        else:
            bare[tensor.name] = tensor
    for name, beside in fused.items():
        if name in bare:
            parts.setdefault(name, {}).update({"weight": bare[name], **beside})
    return {name: _module(name, found, name in fused) for name, found in parts.items()}


def _module(name: str, parts: Mapping[str, TensorLike], is_beside: bool) -> Module:
    kind = _kind(parts)
    convention: Convention = ""
    if kind == "nvfp4":
        convention = "compressed-tensors" if _CT_ONLY & parts.keys() else "modelopt"
    codes = parts.get("weight_packed") or parts.get("weight")
    is_fused = is_beside or (kind == "nvfp4" and codes is not None and len(codes.shape) == 3)
    return Module(name, kind, convention, parts, is_fused)


def _kind(parts: Mapping[str, TensorLike]) -> Kind:
    weight = parts.get("weight")
    dtype = weight.dtype if weight else ""
    if _is_nvfp4(parts):
        return "nvfp4"
    if dtype == "F8_E4M3":
        return "fp8"
    if dtype in {"U8", "I8", "F4"}:
        return "mxfp4"
    return "plain" if dtype in _PLAIN else "other"


def _is_nvfp4(parts: Mapping[str, TensorLike]) -> bool:
    if "weight_scale_2" in parts or "weight_global_scale" in parts:
        return True
    packed = parts.get("weight_packed") or parts.get("weight")
    scale = parts.get("weight_scale")
    if scale is None or scale.dtype != "F8_E4M3":
        return packed is not None and "weight_packed" in parts and packed.dtype == "U8"
    return packed is None or packed.dtype in {"U8", "I8"}
