"""Reads the profile files, and chooses the one that explains a source."""

import re
import tomllib
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from hubconv.errors import SourceError, UsageError
from hubconv.profiles.needs import Needs, holds, needs_of
from hubconv.profiles.stored_as import READERS


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is, told from its name.

    Attributes:
        name: routed_expert, attention, router ...
        pattern: Found anywhere in the tensor's name; the first role of a profile that fits wins.
        linear: Engines look the module up in the quantization config; false for embeddings, norms
            and bare parameters.
    """

    name: str
    pattern: re.Pattern[str]
    linear: bool


@dataclass(frozen=True, slots=True)
class Recode:
    """An exact re-spelling of tensors that are kept.

    Attributes:
        name: The recode of formats/recodes.py.
        roles: Roles it applies to; empty for all.
        kind: Stored kind of weight it applies to; empty for any.
        scale_dtypes: Scale element types it applies to; empty for any.
        unless: What config.json must not say, in the words of `needs.holds`; empty for nothing.
    """

    name: str
    roles: frozenset[str]
    kind: str
    scale_dtypes: frozenset[str]
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Fused:
    """Weights of all experts of a layer in one tensor of three dimensions, one after the other.

    Attributes:
        pattern: Found in its name; the first group is what the parts' names take the place of.
        parts: Modules of one expert, in the order of their outputs.
        hidden: The dimension of one expert's matrix that is `hidden_size` of config.json.
        turned: Each matrix is stored [inputs, outputs], where a weight is [outputs, inputs].
        under: What stands before the number of an expert in the parts' names, such as `experts.`.
    """

    pattern: re.Pattern[str]
    parts: tuple[str, ...]
    hidden: Literal["rows", "columns"]
    turned: bool = False
    under: str = ""


@dataclass(frozen=True, slots=True)
class Hint:
    """Something to say of sources of the family.

    Attributes:
        when: What config.json says of them, in the words of `needs.holds`.
        text: One or two sentences.
    """

    when: str
    text: str


@dataclass(frozen=True, slots=True)
class Profile:
    """A family's rules.

    Attributes:
        name: Its file's name.
        title: What people call the family.
        model_types: `model_type` values of config.json it serves; empty for the generic profile.
        when: What config.json must say besides, in the words of `needs.holds`; empty for nothing.
        signature: Tensor names that prove the family where model_type does not.
        refuses: `model_type` values the generic profile must not touch, and why.
        unloadable: (pattern, reason) of tensors beside which no engine loads NVFP4.
        layouts: Layouts that can spell the result; the first is the default.
        readers: Names of the stored formats to try, in order.
        roles: Ordered; the first whose pattern is found in a tensor's name wins.
        never: Roles that stay as they are whatever the policy.
        policies: Policy name to the roles it turns into NVFP4.
        no_policies: Policy names that other families have, and the reason why this one has not.
        default_policy: The policy where none is asked for.
        partners: Sibling modules that engines fuse: one global scale, one format.
        may_lack: Of them, those that a layer may do without.
        index_only: Tensor names an index may list although no shard holds them.
        drops: (pattern, reason) of tensors left out.
        recodes: Exact re-spellings of kept tensors.
        mtp_from: Key of config.json whose value is the first layer index of the MTP layers.
        mtp_roles: Roles of MTP weights that `--mtp nvfp4` would quantize.
        mtp_pattern: Tensors of the MTP layers where names alone tell them.
        fused: Tensors that hold the weights of many experts.
        needs: Tensors that must be there; None where the profile does not say.
        hints: What to say of some sources.
    """

    name: str
    title: str
    model_types: frozenset[str]
    when: str
    signature: tuple[str, ...]
    refuses: Mapping[str, str]
    layouts: tuple[str, ...]
    readers: tuple[str, ...]
    roles: tuple[Role, ...]
    never: frozenset[str]
    policies: Mapping[str, frozenset[str]]
    default_policy: str
    partners: tuple[tuple[str, ...], ...]
    index_only: tuple[re.Pattern[str], ...] = ()
    drops: tuple[tuple[re.Pattern[str], str], ...] = ()
    recodes: tuple[Recode, ...] = ()
    mtp_from: str = ""
    mtp_roles: frozenset[str] = field(default_factory=frozenset)
    mtp_pattern: re.Pattern[str] | None = None
    fused: tuple[Fused, ...] = ()
    needs: Needs | None = None
    may_lack: frozenset[str] = field(default_factory=frozenset)
    unloadable: tuple[tuple[re.Pattern[str], str], ...] = ()
    no_policies: Mapping[str, str] = field(default_factory=dict)
    hints: tuple[Hint, ...] = ()

    def role_of(self, tensor: str) -> Role | None:
        """The first role whose pattern is found in a tensor's name."""
        for role in self.roles:
            if role.pattern.search(tensor):
                return role
        return None

    def quantized_roles(self, policy: str) -> frozenset[str]:
        """Roles that a policy turns into NVFP4.

        Raises:
            UsageError: The family has no such policy.
        """
        if policy not in self.policies:
            known = ", ".join(sorted(self.policies))
            why = self.no_policies.get(policy)
            raise UsageError(
                f"{self.title} has no policy {policy!r}{f': {why}' if why else ''}.",
                f"It has: {known}.",
            )
        return self.policies[policy] - self.never

    def partners_of(self, module: str, present: Container[str]) -> list[str]:
        """The modules that engines fuse with one, itself among them; empty where there are none.

        Args:
            module: Its name.
            present: Modules that are there; those of `may_lack` are left out where they are not.
        """
        parent, dot, leaf = module.rpartition(".")
        members = next((each for each in self.partners if dot and leaf in each), ())
        names = ((member, f"{parent}.{member}") for member in members)
        return [name for member, name in names if member not in self.may_lack or name in present]

    def for_config(self, config: Mapping[str, Any]) -> "Profile":
        """The profile without what does not apply to a source, by its config.json."""
        recodes = (r for r in self.recodes if not (r.unless and holds(r.unless, config)))
        hints = (hint for hint in self.hints if holds(hint.when, config))
        return replace(self, recodes=tuple(recodes), hints=tuple(hints))


@cache
def load_profiles() -> tuple[Profile, ...]:
    """Every profile of the package, the generic ones last."""
    files = [
        entry
        for entry in resources.files("hubconv.profiles").iterdir()
        if entry.name.endswith(".toml")
    ]
    profiles = [
        _profile(entry.name.removesuffix(".toml"), tomllib.loads(entry.read_text()))
        for entry in sorted(files, key=lambda entry: entry.name)
    ]
    return tuple(sorted(profiles, key=lambda profile: not profile.model_types))


def choose_profile(config: Mapping[str, Any], tensors: Collection[str]) -> Profile:
    """The profile that explains a source: by model_type, then by signature, then generic.

    Args:
        config: The source's config.json.
        tensors: Names of all its tensors.

    Raises:
        SourceError: No profile serves it.
    """
    model_type = str(config.get("model_type", ""))
    for profile in load_profiles():
        if model_type in profile.model_types and (not profile.when or holds(profile.when, config)):
            return profile
    for profile in load_profiles():
        if profile.signature and all(name in tensors for name in profile.signature):
            return profile
    why = ""
    for profile in load_profiles():
        if not profile.model_types and model_type not in profile.refuses:
            return profile
        why = why or profile.refuses.get(model_type, "")
    served = sorted({t for profile in load_profiles() for t in profile.model_types})
    raise SourceError(
        f"Models of type {model_type!r} are not converted: {why}.",
        f"Model types with a profile: {', '.join(served)}.",
    )


_KEYS = frozenset({
    "title", "match", "layouts", "readers", "roles", "never", "policies", "no_policies",
    "default_policy", "partners", "index_only", "drops", "unloadable", "recodes", "mtp", "fused",
    "needs", "hints",
})  # fmt: skip


def _profile(name: str, data: Mapping[str, Any]) -> Profile:
    unknown = sorted(set(data) - _KEYS) + sorted(set(data["readers"]) - set(READERS))
    if unknown:
        raise SourceError(f"The profile {name} has entries nobody reads: {', '.join(unknown)}.")
    match, mtp = data.get("match", {}), data.get("mtp", {})
    roles = tuple(_role(role) for role in data["roles"])
    partners = data.get("partners", ())
    return Profile(
        name=name,
        title=data["title"],
        model_types=frozenset(match.get("model_types", ())),
        when=match.get("when", ""),
        signature=tuple(match.get("signature", ())),
        refuses=dict(match.get("refuses", {})),
        layouts=tuple(data["layouts"]),
        readers=tuple(data["readers"]),
        roles=roles,
        never=frozenset(data["never"]),
        policies={
            policy: frozenset(_known(chosen, roles, name))
            for policy, chosen in data["policies"].items()
        },
        default_policy=data["default_policy"],
        no_policies=dict(data.get("no_policies", {})),
        partners=tuple(tuple(m.removesuffix("?") for m in each) for each in partners),
        may_lack=frozenset(m[:-1] for each in partners for m in each if m.endswith("?")),
        index_only=tuple(re.compile(pattern) for pattern in data.get("index_only", ())),
        drops=tuple((re.compile(d["pattern"]), d["reason"]) for d in data.get("drops", ())),
        unloadable=tuple(
            (re.compile(u["pattern"]), u["reason"]) for u in data.get("unloadable", ())
        ),
        recodes=tuple(_recode(recode) for recode in data.get("recodes", ())),
        mtp_from=mtp.get("from_key", ""),
        mtp_roles=frozenset(mtp.get("roles", ())),
        mtp_pattern=re.compile(mtp["pattern"]) if "pattern" in mtp else None,
        fused=tuple(_fused(fused) for fused in data.get("fused", ())),
        needs=needs_of(data.get("needs", {}), name),
        hints=tuple(Hint(hint["when"], hint["text"]) for hint in data.get("hints", ())),
    )


def _fused(data: Mapping[str, Any]) -> Fused:
    return Fused(
        re.compile(data["pattern"]),
        tuple(data["parts"]),
        data["hidden"],
        data.get("turned", False),
        data.get("under", ""),
    )


def _role(data: Mapping[str, Any]) -> Role:
    return Role(data["role"], re.compile(data["pattern"]), data.get("linear", True))


def _recode(data: Mapping[str, Any]) -> Recode:
    return Recode(
        data["name"],
        frozenset(data.get("roles", ())),
        data.get("kind", ""),
        frozenset(data.get("scale_dtypes", ())),
        data.get("unless", ""),
    )


def _known(chosen: Sequence[str], roles: Sequence[Role], profile: str) -> Sequence[str]:
    names = {role.name for role in roles}
    for role in chosen:
        if role not in names:
            raise SourceError(f"A policy of the profile {profile} names no role: {role!r}.")
    return chosen
