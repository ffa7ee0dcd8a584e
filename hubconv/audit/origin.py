"""The source of a result, as far as it can be read: weights by name, and what the result lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hubconv.audit.counterparts import Named, Stored, bare_name, stored_weights
from hubconv.audit.packed import Packed
from hubconv.audit.result import Result, open_result
from hubconv.ends import Source
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.formats.contract.modules import SUFFIXES
from hubconv.profiles import Profile

_COMPANIONS: Final = SUFFIXES - {"weight", "weight_packed"} | {"weight_shape", "activation_scale"}
_SCALE_NAMES: Final = (
    (".weight_scale", ".weight_scale_inv"),
    (".input_scale", ".activation_scale"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a result was made from.

    Attributes:
        view: Where it lies.
        tensors: Every tensor by name.
        weights: Those that can be read as weights, by module.
        names: Their modules.
        profile: The family's rules; None for a family without.
        notes: What of it could not be read.
    """

    view: Source
    tensors: Mapping[str, StoredTensor]
    weights: Named[Stored]
    names: frozenset[str]
    profile: Profile | None
    notes: tuple[str, ...]

    def tensor(self, name: str) -> StoredTensor | None:
        """A tensor under the name it has in the result, or had before it was renamed."""
        if name in self.tensors:
            return self.tensors[name]
        for now, before in _SCALE_NAMES:
            if name.endswith(now):
                return self.tensors.get(name.removesuffix(now) + before)
        return None


def open_origin(view: Source) -> Origin:
    """Read the source's headers.

    Raises:
        SourceError: There is nothing to read.
    """
    source = open_result(view)
    weights = stored_weights(source.tensors, source.config, source.profile)
    notes = tuple(f"of the source: {f.where}: {f.what}" for f in source.findings[:3])
    return Origin(view, source.tensors, Named(weights), frozenset(weights), source.profile, notes)


def lost(origin: Origin, result: Result, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Modules and tensors of the source that the result has under no name.

    Of multi-token-prediction layers it is a warning: some leave them out on purpose.
    """
    here = {bare_name(name) for name in (*result.modules, *result.tensors, *packed)}
    here |= {bare_name(_module(name)) for name in result.hidden}
    whole = tuple(f"{m.container}." for m in result.modules.values() if m.is_fused)
    fused: dict[str, list[str]] = {}
    for name in origin.names:
        found = origin.weights.find(name)
        if found is not None and found.data.of is not None:
            fused.setdefault(found.data.of.name, []).append(name)
    for name in origin.tensors:
        module = _module(name)
        if name.rpartition(".")[2] in _COMPANIONS or bare_name(module) in here:
            continue
        parts = fused.get(name, ())
        if parts and all(bare_name(part) in here for part in parts):
            continue
        if name.startswith(whole):  # one tensor of the result holds all experts of the layer
            continue
        if origin.profile is not None and any(p.search(name) for p, _ in origin.profile.drops):
            continue
        is_mtp = _is_mtp(name, origin.profile)
        what = "The source has it, and the result has not."
        yield Finding("source.lost", name, what, severity="warning" if is_mtp else "error")


def _module(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return stem if stem and last in SUFFIXES else name


def _is_mtp(name: str, profile: Profile | None) -> bool:
    if profile is None or profile.mtp_pattern is None:
        return name.startswith("mtp.") or ".mtp." in name
    return bool(profile.mtp_pattern.search(name))
