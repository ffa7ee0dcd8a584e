"""The names engines use for a checkpoint's modules: fused linears and whole layers of experts."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

FUSED: Final[dict[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
    "fused_qkv_a_proj_with_mqa": ("q_a_proj", "kv_a_proj_with_mqa"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
"""Modules that engines build from several of the file's: vLLM 0.33 deepseek_v2.py:1601 and
qwen3_5.py:307; SGLang 0.5.23 deepseek_v2.py:3266 for the name that ends in _with_mqa."""

PROBED: Final = ("gate_proj", "up_proj", "down_proj")
"""SGLang asks for `experts.0.gate_proj` even where the file says w1: SGLang 0.5.23
compressed_tensors.py:883-888."""

EXPERT: Final = re.compile(r"(.*\.experts)\.\d+\.[^.]+")
"""One expert's module; the group is the container that engines build."""

_MOVED: Final = re.compile(r"(\.layers\.\d+)\.(experts|share_expert)\.")
"""Modules that stand elsewhere in an engine's model: those of Gemma 4 (vLLM gemma4.py) and of Step
(vLLM step3p5.py, hf_to_vllm_mapper)."""

_FUSED_BY_PART: Final[dict[str, tuple[str, ...]]] = {
    part: tuple(name for name, parts in FUSED.items() if part in parts)
    for parts in FUSED.values()
    for part in parts
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A module that an engine builds and looks up in the configuration.

    Attributes:
        name: The engine's name, before any renaming of prefixes.
        members: The file's modules that it holds.
        is_experts: Whether it is a whole layer of routed experts.
    """

    name: str
    members: tuple[str, ...]
    is_experts: bool = False


def moved(module: str) -> list[str]:
    """Where else an engine has a module of the file; nowhere for most."""
    name, count = _MOVED.subn(r"\1.moe.\2.", module)
    return [name] if count else []


def aliases(module: str) -> Iterator[str]:
    """Engines' modules that hold the file's `module`: its layer of experts, a fused linear."""
    container = container_of(module)
    if container:
        yield container
        return
    parent, dot, last = module.rpartition(".")
    for fused in _FUSED_BY_PART.get(last, ()):
        yield f"{parent}{dot}{fused}"


def probed(module: str) -> list[str]:
    """The fixed names by which SGLang asks for a layer of experts; empty for other modules."""
    container = container_of(module)
    return [f"{container}.0.{name}" for name in PROBED] if container else []


def container_of(module: str) -> str:
    """`X.experts` for a module of one expert; empty for any other."""
    expert = EXPERT.fullmatch(module)
    return expert[1] if expert else ""


def parts_of(name: str) -> list[str]:
    """The file's names of the parts of an engine's fused module; empty for any other."""
    parent, dot, last = name.rpartition(".")
    return [f"{parent}{dot}{part}" for part in FUSED.get(last, ())]


def asked(modules: Iterable[str]) -> list[Asked]:
    """Every module that some engine may build from the file's `modules`."""
    names = {name: module for module in modules for name in (module, *moved(module))}
    experts: dict[str, list[str]] = {}
    found: list[Asked] = []
    fused: dict[str, None] = {}
    for name, module in names.items():
        container = container_of(name)
        if container:
            experts.setdefault(container, []).append(module)
            continue
        found.append(Asked(name, (module,)))
        fused.update(dict.fromkeys(aliases(name)))
    for name in fused:
        parts = parts_of(name)
        if all(part in names for part in parts):
            found.append(Asked(name, tuple(names[part] for part in parts)))
    found += [Asked(name, tuple(members), True) for name, members in experts.items()]
    return found
