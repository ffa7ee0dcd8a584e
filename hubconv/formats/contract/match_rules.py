"""Every quantized module quantized and every kept one left alone, under every loader's own rule."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hubconv.formats.contract.ct_rules import (
    ct_library_scheme,
    probes,
    sglang_ct_scheme,
    vllm_ct_scheme,
)
from hubconv.formats.contract.finding import Engine, Finding, MixedPartsError, NoSchemeError
from hubconv.formats.contract.modelopt_rules import (
    mixed_algo,
    sglang_modelopt_excluded,
    trtllm_excluded,
    vllm_mapped,
    vllm_modelopt_excluded,
)
from hubconv.formats.contract.modules import Kind, Module
from hubconv.formats.contract.names import Asked, asked, container_of

Reading = Callable[[Asked], set[str]]
"""Kinds a loader would take a module for; more than one where it depends on the model's names."""

_HARMLESS: Final = (".gate", ".router", ".shared_expert_gate", "shared_head.head")
"""Modules that engines build without a quantization configuration."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One loader's way of looking a module up.

    Attributes:
        engine: Its name.
        reads: Its rule.
        fuses: Whether it asks for fused modules and whole layers of experts, or one by one.
    """

    engine: Engine
    reads: Reading
    fuses: bool


def ct_readers(config: Mapping[str, Any]) -> list[Reader]:
    """The readers of a compressed-tensors configuration."""
    kinds = {name: _group_kind(group) for name, group in config["config_groups"].items()}

    def through(scheme: Callable[..., str | None], *, fuses: bool) -> Reading:
        def read(module: Asked) -> set[str]:
            names = probes(module.name, module.members) if module.is_experts else [module.name]
            how = {"whole": module.members == (module.name,)} if fuses else {}
            groups = (scheme(name, config, **how) for name in names)
            return {kinds[group] if group else "plain" for group in groups}

        return read

    return [
        Reader("vllm", through(vllm_ct_scheme, fuses=True), True),
        Reader("sglang", through(sglang_ct_scheme, fuses=True), True),
        Reader("compressed-tensors", through(ct_library_scheme, fuses=False), False),
    ]


def modelopt_readers(config: Mapping[str, Any]) -> list[Reader]:
    """The readers of a ModelOpt configuration in its flat form."""
    patterns = [str(entry) for entry in config.get("ignore") or []]
    others = [str(entry) for entry in config.get("exclude_modules", patterns) or []]
    mapped = vllm_mapped(patterns)
    table = config.get("quantized_layers") or {}
    mixed = str(config.get("quant_algo", "")).upper() == "MIXED_PRECISION"

    def kind(module: Asked) -> str:
        if not mixed:
            return "nvfp4"
        # A table may name a layer of experts or each of them; loaders ask for the layer.
        listed_alone = module.is_experts or module.name in table
        name = module.name if listed_alone else container_of(module.name) or module.name
        return _algo_kind(mixed_algo(name, table))

    def vllm(module: Asked) -> set[str]:
        lists = (patterns,) if mapped == patterns else (patterns, mapped)
        hits = {vllm_modelopt_excluded(module.name, entries) for entries in lists}
        return {"plain" if hit else kind(module) for hit in hits}

    def sglang(module: Asked) -> set[str]:
        hit = sglang_modelopt_excluded(module.name, patterns, module.is_experts)
        return {"plain" if hit else kind(module)}

    def trtllm(module: Asked) -> set[str]:
        return {"plain" if trtllm_excluded(module.name, others) else kind(module)}

    return [
        Reader("vllm", vllm, True),
        Reader("sglang", sglang, True),
        Reader("trtllm", trtllm, False),
    ]


def match_findings(modules: Mapping[str, Module], readers: Sequence[Reader]) -> Iterator[Finding]:
    """Modules that some loader takes for something else than they are."""
    kinds = {name: module.kind for name, module in modules.items() if module.is_linear}
    layers: dict[str, list[str]] = {}
    for name in kinds:
        if modules[name].container:
            layers.setdefault(modules[name].container, []).append(name)
    alone = {name for members in layers.values() for name in members}
    # Of a tensor of all experts engines ask for the layer, whatever the tensor is called.
    whole = asked(name for name in kinds if name not in alone)
    whole += [Asked(name, tuple(members), True) for name, members in layers.items()]
    single = [Asked(name, (name,)) for name in kinds]
    yield from _mixed_findings(whole, kinds)
    faults: dict[tuple[str, str, str], list[Engine]] = {}
    for reader in readers:
        for module in whole if reader.fuses else single:
            members = {kinds[name] for name in module.members}
            fault = _judge(module, reader, members.pop()) if len(members) == 1 else None
            if fault:
                faults.setdefault((fault[0], module.name, fault[1]), []).append(reader.engine)
    for (rule, where, what), engines in faults.items():
        harmless = rule in {"match.kept", "match.unresolved"} and where.endswith(_HARMLESS)
        yield Finding(rule, where, what, tuple(engines), "warning" if harmless else "error")


def _mixed_findings(whole: Sequence[Asked], kinds: Mapping[str, Kind]) -> Iterator[Finding]:
    for module in whole:
        found = {kinds[name] for name in module.members}
        if len(found) > 1:
            what = f"Engines load it as one; its parts are {', '.join(sorted(found))}."
            yield Finding("fused.mixed", module.name, what, ("vllm", "sglang", "trtllm"))


def _judge(module: Asked, reader: Reader, kind: Kind) -> tuple[str, str] | None:
    """(rule, sentence) where the loader stops or takes the module for something else."""
    try:
        read = reader.reads(module)
    except MixedPartsError as error:
        return "match.parts", f"The loader stops: {error}."
    except NoSchemeError as error:
        return "match.unresolved", f"The loader stops: {error}."
    if read == {kind}:
        return None
    rule = "match.quantized" if kind == "nvfp4" else "match.kept"
    return rule, f"It is {kind} in the files and {' or '.join(sorted(read))} by the configuration."


def _group_kind(group: Mapping[str, Any]) -> str:
    weights = group.get("weights") or {}
    kind = (weights.get("type"), weights.get("num_bits"), weights.get("group_size"))
    if kind == ("float", 4, 16):
        return "nvfp4"
    if kind[:2] == ("float", 8):
        return "fp8"
    return "mxfp4" if kind == ("float", 4, 32) else "other"


def _algo_kind(algo: str) -> str:
    if "NVFP4" in algo:
        return "nvfp4"
    return "fp8" if algo.startswith("FP8") else "plain"
