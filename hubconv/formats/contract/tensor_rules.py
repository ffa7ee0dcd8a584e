"""Every NVFP4 module complete, every tensor of the right type and shape, every scale usable."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hubconv.formats.checkpoint import nbytes_of
from hubconv.formats.contract.finding import Engine, Finding, Severity
from hubconv.formats.contract.modules import Convention, Module, TensorLike
from hubconv.formats.nvfp4 import BLOCK

_NAMES: Final[Mapping[Convention, tuple[str, str, str]]] = {
    "compressed-tensors": ("weight_packed", "weight_global_scale", "input_global_scale"),
    "modelopt": ("weight", "weight_scale_2", "input_scale"),
}
"""Codes, global scale, input scale."""

_SCALES: Final = frozenset({
    "weight_scale",
    "weight_scale_2",
    "weight_global_scale",
    "weight_scale_inv",
    "input_scale",
    "input_global_scale",
    "scale",
})


def module_findings(
    module: Module, convention: Convention, input_missing: Severity | None
) -> Iterator[Finding]:
    """What is wrong with one NVFP4 module.

    Args:
        module: A module of kind nvfp4.
        convention: Whose names the configuration promises.
        input_missing: How bad it is if the input scale is missing; None where nobody reads it.
    """
    if module.convention != convention:
        yield Finding(
            "part.convention",
            module.name,
            f"It bears the names of {module.convention}, the configuration is {convention}'s.",
        )
    codes, global_scale, input_scale = _NAMES[module.convention]
    join = "_" if module.is_fused and module.convention == "modelopt" else "."
    for name in (codes, "weight_scale", global_scale):
        if name not in module.parts:
            # vLLM does not count what it loaded and runs on whatever the memory held: vLLM 0.33
            # default_loader.py:510-520.
            yield Finding("part.missing", f"{module.name}{join}{name}", "It is missing.")
    if input_missing and input_scale not in module.parts:
        where = f"{module.name}{join}{input_scale}"
        yield Finding("part.input-scale", where, "It is missing.", severity=input_missing)
    allowed = {codes, "weight_scale", global_scale, input_scale}
    for name in sorted(module.parts.keys() - allowed):
        yield Finding("part.leftover", f"{module.name}.{name}", "It does not belong to NVFP4.")
    yield from _types(module, codes, (global_scale, input_scale))
    yield from _shapes(module, codes)


def _types(module: Module, codes: str, scalars: Sequence[str]) -> Iterator[Finding]:
    wanted = {codes: "U8", "weight_scale": "F8_E4M3", **dict.fromkeys(scalars, "F32")}
    for name, dtype in wanted.items():
        tensor = module.parts.get(name)
        if tensor is not None and tensor.dtype != dtype:
            yield Finding("part.dtype", tensor.name, f"It is {tensor.dtype}, not {dtype}.")
    if module.is_fused:
        yield from _fused_scalars(module, codes, scalars)
        return
    # transformers 5.23 refuses [] where compressed-tensors says [1]; SGLang 0.5.23 joins q_a and
    # kv_a wrongly unless ModelOpt's are []: deepseek_weight_loader.py:463-478.
    shape = (1,) if module.convention == "compressed-tensors" else ()
    for name in scalars:
        tensor = module.parts.get(name)
        if tensor is None or tensor.shape == shape:
            continue
        what = f"Its shape is {list(tensor.shape)}, not {list(shape)}."
        if math.prod(tensor.shape) == 1:
            engines: tuple[Engine, ...] = ("compressed-tensors",) if shape else ("sglang",)
            yield Finding("part.scalar", tensor.name, what, engines)
        else:
            yield Finding("part.scalar", tensor.name, what)


def _fused_scalars(module: Module, codes: str, scalars: Sequence[str]) -> Iterator[Finding]:
    """Of all experts there is one scalar, or one for each."""
    packed = module.parts.get(codes)
    experts = packed.shape[0] if packed is not None and packed.shape else 1
    for name in scalars:
        tensor = module.parts.get(name)
        if tensor is not None and math.prod(tensor.shape) not in {1, experts}:
            what = f"Its shape is {list(tensor.shape)}; there are {experts} experts."
            yield Finding("part.scalar", tensor.name, what)


def _fused_shapes(packed: TensorLike, scale: TensorLike | None) -> Iterator[Finding]:
    """A tensor of all experts: rows as everywhere, or the other way round as Llama 4 has it."""
    experts, rows, cols = packed.shape
    what = (
        "The experts of a layer are one tensor: only loaders of models that are published so, such "
        "as Llama 4, read it."
    )
    yield Finding("part.fused", packed.name, what, severity="warning")
    wanted = [(experts, rows, cols // 8), (experts, rows // 8, cols)]
    if scale is None or (scale.shape in wanted and (cols % 8 == 0 or rows % 8 == 0)):
        return
    what = f"Its shape is {list(scale.shape)}, not {list(wanted[0])} or {list(wanted[1])}."
    yield Finding("part.shape", scale.name, what)


def _shapes(module: Module, codes: str) -> Iterator[Finding]:
    packed, scale = module.parts.get(codes), module.parts.get("weight_scale")
    if packed is None:
        return
    if module.is_fused and len(packed.shape) == 3:
        yield from _fused_shapes(packed, scale)
        return
    if len(packed.shape) != 2:
        yield Finding("part.shape", packed.name, f"{list(packed.shape)} is not a matrix.")
        return
    rows, half = packed.shape
    if half * 2 % BLOCK:
        yield Finding(
            "part.columns", packed.name, f"{half * 2} columns are not a multiple of {BLOCK}."
        )
    wanted = (rows, half * 2 // BLOCK)
    if scale is not None and scale.shape != wanted:
        yield Finding(
            "part.shape", scale.name, f"Its shape is {list(scale.shape)}, not {list(wanted)}."
        )


def orphan_findings(modules: Mapping[str, Module]) -> Iterator[Finding]:
    """Scales without a weight."""
    for module in modules.values():
        if module.kind == "nvfp4" or "weight" in module.parts or "weight_packed" in module.parts:
            continue
        for name in sorted(_SCALES & module.parts.keys()):
            tensor = module.parts[name]
            if name == "scale" and len(tensor.shape) < 2:
                continue  # a parameter of that name, as Gemma 4's routers have: scales are tables
            yield Finding("part.orphan", tensor.name, "No weight goes with this scale.")


def scalar_findings(scalars: Mapping[str, float]) -> Iterator[Finding]:
    """Global and input scales that are not finite and above zero."""
    for name, value in scalars.items():
        if not (math.isfinite(value) and value > 0):
            yield Finding("scale.value", name, f"{value!r} is not a finite number above zero.")


def partner_findings(
    modules: Mapping[str, Module],
    partners: Sequence[Sequence[str]],
    scalars: Mapping[str, float],
) -> Iterator[Finding]:
    """Partner sets that are not all NVFP4, or whose scales are not exactly equal.

    TensorRT-LLM linear.py asserts equality, SGLang 0.5.23 w4a16_nvfp4.py:199-210 raises, vLLM 0.33
    modelopt.py:2085-2095 takes one of the scales for all and computes wrong numbers.
    """
    for members in partners:
        where = ", ".join(members)
        known = [modules[name] for name in members if name in modules]
        kinds = {module.kind for module in known}
        if len(known) < len(members):
            yield Finding("partner.absent", where, "Not all of these modules are there.")
        if "nvfp4" not in kinds:
            continue
        if len(kinds) > 1:
            yield Finding("partner.mixed", where, f"They are {', '.join(sorted(kinds))}.")
            continue
        for place, what in ((1, "global"), (2, "input")):
            values = _values(known, place, scalars)
            if len(set(values)) > 1:
                seen = ", ".join(map(repr, values))
                yield Finding("partner.scale", where, f"Their {what} scales differ: {seen}.")


def _values(modules: Sequence[Module], place: int, scalars: Mapping[str, float]) -> list[float]:
    names = [f"{module.name}.{_NAMES[module.convention][place]}" for module in modules]
    return [scalars[name] for name in names if name in scalars]


def expected_findings(
    tensors: Mapping[str, TensorLike], expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Iterator[Finding]:
    """Differences between the tensors there and those that should be."""
    for name, (dtype, shape) in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            yield Finding("expected.missing", name, "It should be there.")
        elif (tensor.dtype, tuple(tensor.shape)) != (dtype, tuple(shape)):
            what = f"{tensor.dtype} {list(tensor.shape)} should be {dtype} {list(shape)}."
            yield Finding("expected.differs", name, what)
    for name in tensors.keys() - expected.keys():
        yield Finding("expected.extra", name, "It should not be there.")


def index_findings(
    tensors: Mapping[str, TensorLike], weight_map: Mapping[str, str] | None, total_size: int | None
) -> Iterator[Finding]:
    """An index that does not tell of exactly these tensors, their shards and their bytes."""
    if weight_map is not None:
        for name in weight_map.keys() - tensors.keys():
            yield Finding("index.ghost", name, "The index names it, no shard holds it.")
        for name in tensors.keys() - weight_map.keys():
            yield Finding("index.missing", name, "No loader looks for it: not in the index.")
        for name, shard in weight_map.items():
            holder = getattr(tensors.get(name), "shard", shard)
            if holder != shard:
                yield Finding("index.shard", name, f"The index says {shard}; {holder} holds it.")
    if total_size is not None:
        size = sum(_nbytes(tensor) for tensor in tensors.values())
        if size != total_size:
            yield Finding(
                "index.total-size",
                "total_size",
                f"It says {total_size} bytes, the tensors have {size}.",
                severity="warning",
            )


def _nbytes(tensor: TensorLike) -> int:
    return nbytes_of(tensor.dtype, tensor.shape)
