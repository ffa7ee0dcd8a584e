"""ModelOpt for DeepSeek V4: NVFP4 routed experts inside the source's own fp8 configuration.

The spelling of NVIDIA's published DeepSeek-V4-*-NVFP4. Engines send every linear of this model to
the FP8 loader and only the routed experts to NVFP4, with quantized activations: there is no
weight-only way (vLLM 0.33 models/deepseek_v4/quant_config.py:209-227).
"""

from collections.abc import Mapping
from typing import Any, Final

from hubconv.errors import UsageError
from hubconv.formats.layouts.base import Activations, Content, KeptScale, Linear, ModelFacts, Part
from hubconv.formats.layouts.ignore import cover, lookups
from hubconv.formats.layouts.modelopt import containers, group, modelopt_parts, nested_file
from hubconv.formats.layouts.scalars import input_scale_of, scalar_bytes
from hubconv.formats.layouts.source_config import source_quantization, without_stale
from hubconv.formats.nvfp4 import BLOCK
from hubconv.formats.stored import StoredWeight

_ROUTED: Final = ".ffn.experts."


class ModelOptV4:
    """The layout `modelopt-v4`."""

    name = "modelopt-v4"

    def parts(self, module: str, rows: int, cols: int, activations: Activations) -> list[Part]:
        """The tensors of an NVFP4 weight [rows, cols], in the order they are written."""
        return modelopt_parts(module, rows, cols)

    def scalar(self, content: Content, value: float) -> bytes:
        """Four bytes of `value` itself: loaders multiply by these."""
        return scalar_bytes(content, value)

    def kept_scale(self, module: str, scale_name: str, weight: StoredWeight) -> KeptScale:
        """The source's `.scale` as it stands; engines map its name themselves."""
        return KeptScale(scale_name, weight.scale_dtype, weight.scale_shape)

    def kept_input_scale(self, module: str, dtype: str) -> KeptScale:
        """`X.input_scale` [], F32."""
        return input_scale_of(module, dtype, ())

    def config(self, facts: ModelFacts) -> dict[str, Any]:
        """config.json of the result: the source's fp8 entry, widened by the experts' NVFP4.

        Raises:
            UsageError: Something else than a routed expert is NVFP4.
        """
        # A value "fp8", or none in older vLLM, would send NVFP4 bytes to the FP8 experts.
        return without_stale(facts.config) | {
            "expert_dtype": "fp4",
            "quantization_config": _merged(facts),
        }

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, bytes]:
        """hf_quant_config.json, as beside NVIDIA's releases."""
        merged = config["quantization_config"]
        quantization = {
            "quant_algo": merged["quant_algo"],
            "kv_cache_quant_algo": None,
            "group_size": BLOCK,
            "exclude_modules": merged["ignore"],
            "quantized_layers": merged["quantized_layers"],
        }
        return nested_file(merged["producer"], quantization)


def _merged(facts: ModelFacts) -> dict[str, Any]:
    experts = [linear for linear in facts.linears if linear.fate == "nvfp4"]
    _check_routed(experts)
    layers = containers(experts)
    source = source_quantization(facts.config)
    # It names FP8 experts; those are NVFP4 now.
    source.pop("routed_experts_quant_method", None)
    # Without it SGLang reads MTP's experts as MXFP4: 0.5.23 configs/model_config.py:728-746.
    if any(linear.fate == "fp8_block" and _ROUTED in linear.module for linear in facts.linears):
        source["routed_experts_quant_method"] = "fp8"
    block = facts.fp8_block or source.get("weight_block_size") or (128, 128)
    return source | {
        "quant_method": "fp8",
        "fmt": source.get("fmt", "e4m3"),
        # With fp4 experts vLLM creates the scales of FP8 linears as E8M0: fp8.py:336.
        "scale_fmt": "ue8m0",
        "activation_scheme": "dynamic",
        "weight_block_size": list(block),
        "quant_algo": "MIXED_PRECISION",
        "moe_quant_algo": "NVFP4",
        "kv_cache_quant_algo": None,
        "group_size": BLOCK,
        "config_groups": {"group_0": group("NVFP4", sorted(layers))},
        "quantized_layers": {name: {"quant_algo": "NVFP4", "group_size": BLOCK} for name in layers},
        "ignore": _ignored(facts),
        "producer": {"name": "hubconv", "version": facts.version},
    }


def _check_routed(experts: list[Linear]) -> None:
    for linear in experts:
        if _ROUTED not in linear.module:
            raise UsageError(
                f"{linear.module} cannot be NVFP4: engines load only V4's routed experts so.",
                "Choose --policy experts.",
            )


def _ignored(facts: ModelFacts) -> list[str]:
    """What no NVFP4 loader may take. Routers are left out: no engine gives them a configuration."""
    quantized = [linear.module for linear in facts.linears if linear.fate == "nvfp4"]
    kept = [
        linear.module
        for linear in facts.linears
        if linear.fate != "nvfp4" and not linear.module.endswith(".gate")
    ]
    return [pattern.glob for pattern in cover(kept, lookups(quantized))]
