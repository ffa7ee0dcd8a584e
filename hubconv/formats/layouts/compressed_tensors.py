"""compressed-tensors: `X.weight_packed`, and global scales as divisors.

The default layout. Weights that keep the source's FP8 stay FP8 beside NVFP4 in one
`mixed-precision` configuration, which vLLM and SGLang read alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hubconv.errors import UsageError
from hubconv.formats.layouts.base import Activations, Content, Fate, KeptScale, ModelFacts, Part
from hubconv.formats.layouts.ignore import Pattern, cover, file_names, lookups
from hubconv.formats.layouts.scalars import input_scale_of, scalar_bytes
from hubconv.formats.layouts.source_config import without_stale
from hubconv.formats.nvfp4 import BLOCK
from hubconv.formats.stored import StoredWeight

NVFP4_FORMAT: Final = "nvfp4-pack-quantized"
FP8_FORMAT: Final = "float-quantized"
_EXPERTS: Final = ".experts."
_FP8_STRATEGIES: Final[dict[Fate, str]] = {
    "fp8_block": "block",
    "fp8_channel": "channel",
    "fp8_tensor": "tensor",
    "fp8_static": "tensor",
}


class CompressedTensors:
    """The layout `compressed-tensors`."""

    name = "compressed-tensors"

    def parts(self, module: str, rows: int, cols: int, activations: Activations) -> list[Part]:
        """The tensors of an NVFP4 weight [rows, cols], in the order they are written."""
        parts = [
            Part(f"{module}.weight_packed", "U8", (rows, cols // 2), "codes"),
            Part(f"{module}.weight_scale", "F8_E4M3", (rows, cols // BLOCK), "scales"),
            # [1], not []: transformers 5.23 refuses a scalar of no dimension.
            Part(f"{module}.weight_global_scale", "F32", (1,), "global_scale"),
        ]
        if activations == "w4a4":
            parts.append(Part(f"{module}.input_global_scale", "F32", (1,), "input_scale"))
        return parts

    def scalar(self, content: Content, value: float) -> bytes:
        """Four bytes of 1 / `value`: loaders divide by these (compressed_tensors_w4a4_nvfp4.py)."""
        return scalar_bytes(content, 1 / value if value else 0.0)

    def kept_scale(self, module: str, scale_name: str, weight: StoredWeight) -> KeptScale:
        """`X.weight_scale`, F32; [rows, columns] of blocks, [rows, 1] per row or [1] per tensor.

        Raises:
            UsageError: The weight is MXFP4, which this layout would spell otherwise.
        """
        if weight.kind != "fp8" or weight.scale_dtype == "F8_E8M0":
            raise UsageError(
                f"{module} stays {weight.kind} with the {weight.scale_dtype} scale {scale_name}, "
                "which the compressed-tensors layout cannot hold: its loaders make scales of FP8 "
                "as F32.",
                "Choose --layout modelopt-v4, or quantize it.",
            )
        per_tensor = weight.block == (weight.rows, weight.cols) and weight.rows > 1
        shape = (1,) if per_tensor else weight.scale_shape
        recode = "" if weight.scale_dtype == "F32" else "widen_to_f32"
        return KeptScale(f"{module}.weight_scale", "F32", shape, recode)

    def kept_input_scale(self, module: str, dtype: str) -> KeptScale:
        """`X.input_scale` [1], F32."""
        return input_scale_of(module, dtype, (1,))

    def config(self, facts: ModelFacts) -> dict[str, Any]:
        """config.json of the result, without stale quantization entries of the source."""
        return without_stale(facts.config) | {"quantization_config": _quantization(facts)}

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, bytes]:
        """None: config.json says everything."""
        return {}


def _quantization(facts: ModelFacts) -> dict[str, Any]:
    fates = dict.fromkeys(linear.fate for linear in facts.linears)
    if "mxfp4" in fates:
        raise UsageError(
            "Some weights stay MXFP4, which the compressed-tensors layout cannot hold.",
            "Choose --layout modelopt-v4, or quantize them.",
        )
    groups = _groups(facts, [fate for fate in _FP8_STRATEGIES if fate in fates])
    return {
        "quant_method": "compressed-tensors",
        "format": NVFP4_FORMAT if len(groups) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
        # Complete, because SGLang raises on a linear that is neither targeted nor ignored
        # (SGLang 0.5.23 compressed_tensors/utils.py:138).
        "ignore": _spelled(_patterns(facts, ["plain"])),
    }


def _groups(facts: ModelFacts, fp8: Sequence[Fate]) -> list[dict[str, Any]]:
    in_experts = all(
        _EXPERTS in linear.module for linear in facts.linears if linear.fate == "nvfp4"
    )
    # "Linear" beside expressions resolves in another order in SGLang than in vLLM, so it stands
    # alone or not at all.
    by_name = bool(fp8) or in_experts
    targets = _spelled(_patterns(facts, ["nvfp4"])) if by_name else ["Linear"]
    groups = [_nvfp4_group(targets, facts.activations)]
    groups += [_fp8_group(_spelled(_patterns(facts, [fate])), fate, facts) for fate in fp8]
    return groups


def _patterns(facts: ModelFacts, fates: Sequence[Fate]) -> list[Pattern]:
    wanted = [linear.module for linear in facts.linears if linear.fate in fates]
    others = [linear.module for linear in facts.linears if linear.fate not in fates]
    # Readers of this format resolve a fused module by the file's names of its parts.
    # Its own converters go by names alone, so norms between the linears must not be hit either
    # (compressed-tensors 0.20 entrypoints/convert/converters/ct_dequantizer.py).
    return cover(file_names(wanted), [*file_names(others), *lookups(others), *facts.bare])


def _spelled(patterns: Sequence[Pattern]) -> list[str]:
    return [pattern.regex for pattern in patterns]


def _nvfp4_group(targets: list[str], activations: Activations) -> dict[str, Any]:
    # vLLM 0.33 compressed_tensors.py:420-437 and SGLang 0.5.23 :589-631 want exactly these.
    weights = {
        "num_bits": 4,
        "type": "float",
        "symmetric": True,
        "strategy": "tensor_group",
        "group_size": BLOCK,
        "dynamic": False,
        "scale_dtype": "torch.float8_e4m3fn",
        "zp_dtype": "torch.float8_e4m3fn",
    }
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": weights | {"dynamic": "local"} if activations == "w4a4" else None,
        "output_activations": None,
        "format": NVFP4_FORMAT,
    }


def _fp8_group(targets: list[str], fate: Fate, facts: ModelFacts) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "num_bits": 8,
        "type": "float",
        "symmetric": True,
        "strategy": _FP8_STRATEGIES[fate],
        "dynamic": False,
    }
    inputs: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": True}
    if fate == "fp8_block":
        rows, cols = facts.fp8_block or (128, 128)
        weights["block_structure"] = [rows, cols]
        inputs |= {"strategy": "group", "group_size": cols}
    elif fate == "fp8_static":
        inputs |= {"strategy": "tensor", "dynamic": False}
    else:
        inputs |= {"strategy": "token"}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
        "format": FP8_FORMAT,
    }
