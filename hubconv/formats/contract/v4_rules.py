"""DeepSeek V4: NVFP4 routed experts inside an fp8 configuration."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hubconv.formats.contract.finding import Finding
from hubconv.formats.contract.modelopt_rules import sglang_modelopt_excluded
from hubconv.formats.contract.modules import Module
from hubconv.formats.contract.names import container_of

_REQUIRED: Final[Mapping[str, Any]] = {
    "quant_algo": "MIXED_PRECISION",
    "moe_quant_algo": "NVFP4",
    "group_size": 16,
}
"""SGLang 0.5.23 configs/model_config.py:774-795 recognises the hybrid by these."""


def is_v4_config(config: Mapping[str, Any]) -> bool:
    """Whether the quantization entry is the hybrid of fp8 and NVFP4 experts."""
    return config.get("quant_method") == "fp8"


def v4_config_findings(config: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with config.json.

    Args:
        config: The whole of it.
        entry: Its quantization_config.
    """
    for key, value in _REQUIRED.items():
        if entry.get(key) != value:
            yield Finding("v4.field", key, f"{entry.get(key)!r} must be {value!r}.")
    # vLLM 0.33 models/deepseek_v4/quant_config.py:209-227: "fp8" goes round NVFP4.
    if config.get("expert_dtype", "fp4") != "fp4":
        what = f'{config["expert_dtype"]!r} must be "fp4".'
        yield Finding("v4.expert-dtype", "expert_dtype", what, ("vllm", "sglang"))
    if config.get("model_type") != "deepseek_v4":
        what = f'{config.get("model_type")!r}: vLLM takes this way for "deepseek_v4" only.'
        yield Finding("v4.model-type", "model_type", what, ("vllm",), "warning")
    if not isinstance(entry.get("weight_block_size"), list):
        yield Finding("v4.field", "weight_block_size", "FP8 linears need it.")


def v4_module_findings(
    modules: Mapping[str, Module], entry: Mapping[str, Any]
) -> Iterator[Finding]:
    """Modules in a format that no engine loads in this model."""
    yield from _mtp_method(modules, entry)
    ignore = [str(item) for item in entry.get("ignore") or []]
    containers: dict[str, None] = {}
    for module in modules.values():
        container = container_of(module.name)
        if module.kind == "nvfp4":
            if container:
                containers[container] = None
            else:
                # vLLM 0.33 nvidia/ops/o_proj.py:61-104 for wo_a; every linear is an FP8 one.
                what = "Only routed experts can be NVFP4 in DeepSeek V4."
                yield Finding("v4.not-routed", module.name, what, ("vllm", "sglang"))
        elif container and not module.name.startswith("mtp."):
            what = f"It is {module.kind}; vLLM takes every routed expert for NVFP4."
            yield Finding("v4.expert-kept", module.name, what, ("vllm",))
        elif module.kind == "fp8":
            yield from _kept_scale(module)
    for container in containers:
        if any(sglang_modelopt_excluded(name, ignore, True) for name in (container,)):
            what = "The ignore list excludes these experts."
            yield Finding("match.quantized", container, what, ("sglang",))


def _mtp_method(modules: Mapping[str, Module], entry: Mapping[str, Any]) -> Iterator[Finding]:
    """SGLang takes MTP's experts for MXFP4 unless told: 0.5.23 configs/model_config.py:728-746."""
    key = "routed_experts_quant_method"
    mtp_is_fp8 = any(
        module.kind == "fp8" and name.startswith("mtp.") and container_of(name)
        for name, module in modules.items()
    )
    if mtp_is_fp8 and entry.get(key) != "fp8":
        what = 'It must be "fp8": MTP\'s experts are read as MXFP4 without it.'
        yield Finding("v4.field", key, what, ("sglang",))
    elif not mtp_is_fp8 and key in entry:
        yield Finding("v4.field", key, "It would send the experts to another loader.", ("sglang",))


def _kept_scale(module: Module) -> Iterator[Finding]:
    scale = module.parts.get("scale") or module.parts.get("weight_scale_inv")
    if scale is None:
        yield Finding("v4.kept-scale", module.name, "This FP8 weight has no scale.")
    elif scale.dtype != "F8_E8M0":
        # With fp4 experts vLLM 0.33 fp8.py:336 creates these scales as E8M0.
        yield Finding("v4.kept-scale", scale.name, f"It is {scale.dtype}, not F8_E8M0.", ("vllm",))
