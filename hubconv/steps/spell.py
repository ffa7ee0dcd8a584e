"""How a tensor is spelled in the result: names, element types and shapes of what is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hubconv.errors import UsageError
from hubconv.formats.checkpoint import StoredTensor, nbytes_of
from hubconv.formats.layouts.base import Activations, Fate, KeptScale, Layout
from hubconv.formats.stored import MXFP4_GROUP, StoredWeight
from hubconv.profiles import Profile, Recode

Content = Literal[
    "codes", "scales", "global_scale", "input_scale", "copy", "recoded_data", "recoded_scale"
]


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the result.

    Attributes:
        name: Its name.
        dtype: Its safetensors element type.
        shape: Its shape.
        content: What its bytes are.
        source: Index into the job's reads, for copies.
        recode: The exact re-spelling that makes its bytes, if any.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content
    source: int = 0
    recode: str = ""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return nbytes_of(self.dtype, self.shape)


def nvfp4_outputs(
    module: str, weight: StoredWeight, layout: Layout, activations: Activations
) -> tuple[Output, ...]:
    """The tensors of an NVFP4 weight."""
    parts = layout.parts(module, weight.rows, weight.cols, activations)
    return tuple(Output(part.name, part.dtype, part.shape, part.content) for part in parts)


def kept_outputs(
    module: str,
    reads: Sequence[StoredTensor],
    weight: StoredWeight | None,
    role: str,
    profile: Profile,
    layout: Layout,
) -> tuple[tuple[Output, ...], Literal["keep", "rename", "recode"]]:
    """The tensors of a weight that stays, and whether its bytes or names change.

    Raises:
        UsageError: No layout holds it as it is.
    """
    data = reads[0]
    copied = Output(data.name, data.dtype, data.shape, "copy")
    if weight is None:
        return ((copied,), "keep")
    if weight.kind == "int4":
        raise UsageError(
            f"{data.name} would stay INT4, which no layout here can hold beside NVFP4.",
            "Leave it out of --keep, and choose a --policy that quantizes it.",
        )
    recode = _profile_recode(weight, role, profile)
    if recode is not None and recode.name == "fp8_to_mxfp4":
        return (_as_mxfp4(module, data.name, weight, reads[1].name), "recode")
    if recode is not None and recode.name == "bf16_to_fp8_block":
        return (_as_fp8_block(module, data.name, weight), "recode")
    if len(reads) == 1:
        return ((copied,), "keep")
    scale = reads[1]
    if recode is not None:
        spelled = Output(scale.name, "F8_E8M0", scale.shape, "recoded_scale", 1, recode.name)
        return ((copied, spelled), "recode")
    kept = [layout.kept_scale(module, scale.name, weight)]
    # Engines read a stored activation scale only where the weight has one scale too.
    if len(reads) > 2 and _has_one_scale(weight):
        kept.append(layout.kept_input_scale(module, reads[2].dtype))
    scales = tuple(_companion(each, number) for number, each in enumerate(kept, 1))
    if any(each.recode for each in kept):
        return ((copied, *scales), "recode")
    same = all(each.name == read.name for each, read in zip(kept, reads[1:], strict=False))
    return ((copied, *scales), "keep" if same else "rename")


def _companion(kept: KeptScale, source: int) -> Output:
    content: Content = "recoded_scale" if kept.recode else "copy"
    return Output(kept.name, kept.dtype, kept.shape, content, source, kept.recode)


def _has_one_scale(weight: StoredWeight) -> bool:
    return weight.block == (weight.rows, weight.cols)


def _profile_recode(weight: StoredWeight, role: str, profile: Profile) -> Recode | None:
    for recode in profile.recodes:
        if recode.roles and role not in recode.roles:
            continue
        if recode.kind and weight.kind != recode.kind:
            continue
        if recode.scale_dtypes and weight.scale_dtype not in recode.scale_dtypes:
            continue
        return recode
    return None


def _as_mxfp4(module: str, data: str, weight: StoredWeight, scale: str) -> tuple[Output, ...]:
    rows, cols = weight.rows, weight.cols
    recode = "fp8_to_mxfp4"
    return (
        Output(data, "I8", (rows, cols // 2), "recoded_data", 0, recode),
        Output(scale, "F8_E8M0", (rows, cols // MXFP4_GROUP), "recoded_scale", 1, recode),
    )


FP8_BLOCK_SIDE = 128
"""Side of the FP8 blocks a BF16 weight is spelled back into; DeepSeek's own."""


def _as_fp8_block(module: str, data: str, weight: StoredWeight) -> tuple[Output, ...]:
    side = FP8_BLOCK_SIDE
    shape = (-(-weight.rows // side), -(-weight.cols // side))
    recode = "bf16_to_fp8_block"
    return (
        Output(data, "F8_E4M3", (weight.rows, weight.cols), "recoded_data", 0, recode),
        Output(f"{module}.scale", "F8_E8M0", shape, "recoded_scale", 0, recode),
    )


def stands_as(weight: StoredWeight, writes: Sequence[Output]) -> Fate:
    """The fate of a kept weight, as layouts name it: fp8_block, fp8_channel ... or plain."""
    recode = writes[0].recode
    if recode == "fp8_to_mxfp4" or weight.kind == "mxfp4":
        return "mxfp4"
    if recode == "bf16_to_fp8_block":
        return "fp8_block"
    if weight.kind == "plain":
        return "plain"
    if _has_one_scale(weight):
        return "fp8_static" if len(writes) > 2 else "fp8_tensor"
    return "fp8_channel" if weight.block == (1, weight.cols) else "fp8_block"
