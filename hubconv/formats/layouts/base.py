"""What a layout decides, and what it is told: the records between the plan and the layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hubconv.formats.stored import StoredWeight

Activations = Literal["w4a16", "w4a4"]
Content = Literal["codes", "scales", "global_scale", "input_scale"]
Fate = Literal["nvfp4", "fp8_block", "fp8_channel", "fp8_tensor", "fp8_static", "mxfp4", "plain"]
"""How a weight stands in the result; all but nvfp4 as in the source. fp8_static is fp8_tensor with
a stored scale for its activations."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of an NVFP4 weight: `X.weight_packed`, `X.weight_scale` ...

    Attributes:
        name: Full tensor name.
        dtype: Its safetensors element type.
        shape: Its shape.
        content: What its bytes are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content


@dataclass(frozen=True, slots=True)
class KeptScale:
    """How the scale of a kept quantized weight is spelled in this layout.

    Attributes:
        name: Full tensor name.
        dtype: Element type in the result; where it differs from the source's, `recode` says how.
        shape: Shape in the result; the bytes keep their order.
        recode: Empty, or the name of a recode (`widen_to_f32`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    recode: str = ""


@dataclass(frozen=True, slots=True)
class Linear:
    """A module with a matrix that an engine may look up in the quantization config.

    Attributes:
        module: Name without `.weight`, as in the checkpoint.
        role: Its role in the profile.
        fate: How its weight stands in the result.
    """

    module: str
    role: str
    fate: Fate


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Everything a layout needs to write the configuration files.

    Attributes:
        config: The source's config.json.
        linears: Every linear module, quantized or kept; embeddings and norms are not among them.
        activations: Weight-only (w4a16) or with FP4 activations (w4a4).
        fp8_block: Rows and columns of the source's FP8 blocks, if it has any.
        version: hubconv's version, for the producer entry.
        bare: Names without `.weight` of everything else: norms, embeddings, parameters. Tools that
            go by names alone must not take them for linears.
    """

    config: Mapping[str, Any]
    linears: Sequence[Linear]
    activations: Activations
    fp8_block: tuple[int, int] | None
    version: str
    bare: Sequence[str] = ()


class Layout(Protocol):
    """How an NVFP4 checkpoint is spelled for the engines that load it."""

    @property
    def name(self) -> str:
        """Its name on the command line: compressed-tensors, modelopt, modelopt-v4."""
        ...

    def parts(self, module: str, rows: int, cols: int, activations: Activations) -> list[Part]:
        """The tensors of an NVFP4 weight [rows, cols], in the order they are written."""
        ...

    def scalar(self, content: Content, value: float) -> bytes:
        """Four bytes of a global scale or an input scale; `value` is the multiplier."""
        ...

    def kept_scale(self, module: str, scale_name: str, weight: StoredWeight) -> KeptScale:
        """How the scale of a kept quantized weight is spelled; may keep the source's name."""
        ...

    def kept_input_scale(self, module: str, dtype: str) -> KeptScale:
        """How the stored activation scale of a kept FP8 weight with one scale is spelled."""
        ...

    def config(self, facts: ModelFacts) -> dict[str, Any]:
        """config.json of the result, without stale quantization entries of the source."""
        ...

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, bytes]:
        """Further configuration files by name, from what config.json says: hf_quant_config.json."""
        ...
