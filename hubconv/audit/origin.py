"""The source of a result, as far as it can be read: weights by name, and what the result lost."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hubconv.audit.counterparts import Named, Stored, bare_name, stored_weights
from hubconv.audit.packed import Packed
from hubconv.audit.result import Result, open_result
from hubconv.ends import Source
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.formats.contract.modules import SUFFIXES
from hubconv.profiles import Profile
from hubconv.profiles.needs import value_of

if TYPE_CHECKING:
    from hubconv.formats.contract.finding import Severity

_COMPANIONS: Final = SUFFIXES - {"weight", "weight_packed"} | {"weight_shape", "activation_scale"}
_SCALE_NAMES: Final = (
    (".weight_scale", ".weight_scale_inv"),
    (".input_scale", ".activation_scale"),
)


_RECOMPUTED: Final = re.compile(r"rotary_emb\.inv_freq$|_extra_state$")
_MTP: Final = re.compile(r"(^|\.)mtp\.")
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a result was made from.

    Attributes:
        view: Where it lies.
        tensors: Every tensor by name.
        weights: Those that can be read as weights, by module.
        names: Their modules.
        profile: The family's rules; None for a family without.
        mtp_from: The first layer of those that predict further tokens.
        notes: What of it could not be read.
    """

    view: Source
    tensors: Mapping[str, StoredTensor]
    weights: Named[Stored]
    names: frozenset[str]
    profile: Profile | None
    mtp_from: int
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
    first = value_of(source.config, source.profile.mtp_from) if source.profile else None
    return Origin(
        view,
        source.tensors,
        Named(weights),
        frozenset(weights),
        source.profile,
        first if isinstance(first, int) else 2**31,
        notes,
    )


def lost(origin: Origin, result: Result, packed: Mapping[str, Packed]) -> Iterator[Finding]:
    """Modules and tensors of the source that the result has under no name.

    Of multi-token-prediction layers it is a warning: some leave them out on purpose.
    """
    is_tied = value_of(result.config, "tie_word_embeddings") is True
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
        drops = origin.profile.drops if origin.profile is not None else ()
        if _RECOMPUTED.search(name) or any(pattern.search(name) for pattern, _ in drops):
            continue
        if is_tied and "lm_head" in name:
            continue
        what = "The source has it, and the result has not."
        severity: Severity = "warning" if _is_mtp(name, origin) else "error"
        yield Finding("source.lost", name, what, severity=severity)


def _module(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return stem if stem and last in SUFFIXES else name


def _is_mtp(name: str, origin: Origin) -> bool:
    pattern = origin.profile.mtp_pattern if origin.profile is not None else None
    if (pattern or _MTP).search(name):
        return True
    layer = _LAYER.search(name)
    return layer is not None and int(layer[1]) >= origin.mtp_from
