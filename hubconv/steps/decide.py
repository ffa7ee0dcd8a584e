"""Inventory to jobs: what each tensor is, and what happens to it.

Every tensor of the source belongs to exactly one job; a tensor no rule explains stops the plan.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hubconv.errors import SourceError, UnknownTensorError, UsageError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.layouts.base import Activations, Layout
from hubconv.formats.nvfp4 import BLOCK, Scales
from hubconv.formats.stored import StoredWeight
from hubconv.profiles import Profile
from hubconv.profiles.roles import NO_ENGINE, why_never
from hubconv.steps.copies import Code
from hubconv.steps.fused import fused_parts
from hubconv.steps.inventory import Inventory
from hubconv.steps.partners import Action, check_experts, partner_keys, some
from hubconv.steps.spell import Output, kept_outputs, nvfp4_outputs
from hubconv.steps.weights import Found, check_leftovers, find_weights

Mtp = Literal["keep", "nvfp4", "drop"]

RECIPE_VERSION: Final = 2
"""Goes up whenever the same options would give other bytes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the user asked for; together with the source it fixes every byte of the result.

    Attributes:
        layout: Layout name; empty for the profile's default.
        policy: Policy name; empty for the profile's default.
        activations: w4a16 or w4a4; empty for what the layout does by nature.
        scales: How block scales are found.
        mtp: What becomes of multi-token-prediction layers.
        keep: Patterns of tensors that stay as they are.
        quantize: Patterns of tensors that become NVFP4 whatever the policy says of their role.
        input_scale: Activation scale written where a layout wants one.
        input_scales_from: NVFP4 checkpoint whose activation scales are written in its place.
        max_shard_bytes: Regroup output shards to this size; 0 keeps the source's shards.
        allow_flushed: Accept tensors with many blocks flushed to zero.
        code: What becomes of Python files that travel along.
    """

    layout: str = ""
    policy: str = ""
    activations: Activations | Literal[""] = ""
    scales: Scales = "search"
    mtp: Mtp = "keep"
    keep: tuple[str, ...] = ()
    input_scale: float = 1.0
    max_shard_bytes: int = 0
    allow_flushed: bool = False
    code: Code = "copy"
    quantize: tuple[str, ...] = ()
    input_scales_from: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One weight with its companions, or one bare tensor, and what happens to it.

    Attributes:
        action: nvfp4, keep, rename (bytes kept), recode (exact re-spelling) or drop.
        role: What the tensor is.
        module: Its name without the data suffix.
        reads: Source tensors: data first, then its scale, then what else goes with it.
        writes: Output tensors; empty for drop.
        weight: How the source stores it; None for bare tensors.
        linear: Whether engines look the module up in the quantization config.
        partners: Key of the set that shares its global scale; empty unless nvfp4.
        reason: Why it is dropped or stays although the policy names its role.
    """

    action: Action
    role: str
    module: str
    reads: tuple[StoredTensor, ...]
    writes: tuple[Output, ...] = ()
    weight: StoredWeight | None = None
    linear: bool = False
    partners: str = ""
    reason: str = ""

    @property
    def stated_shape(self) -> StoredTensor | None:
        """The tensor that states the shape of a packed weight, where there is one."""
        packed = self.weight is not None and self.weight.kind == "int4"
        return self.reads[2] if packed and len(self.reads) > 2 else None

    @property
    def used(self) -> tuple[StoredTensor, ...]:
        """Tensors whose bytes are read: input scales of a weight that becomes NVFP4 are not."""
        shape = self.stated_shape
        if self.action != "nvfp4":
            return self.reads
        return self.reads[:2] if shape is None else (*self.reads[:2], shape)


@dataclass(frozen=True, slots=True)
class _Rules:
    """Profile, recipe and layout, ready to be asked."""

    profile: Profile
    recipe: Recipe
    layout: Layout
    activations: Activations
    quantized: frozenset[str]
    keep: tuple[re.Pattern[str], ...]
    quantize: tuple[re.Pattern[str], ...]
    mtp_first_layer: int


def decide(
    inventory: Inventory, profile: Profile, recipe: Recipe, layout: Layout, activations: Activations
) -> list[Job]:
    """What happens to every tensor of the source, in the order of its shards.

    Raises:
        UnknownTensorError: Tensors that match no role.
        ScaleError: A quantized weight without a scale that fits it.
        SourceError: A partner set, or the experts of a layer, are incomplete or would be split.
    """
    profile = profile.for_config(inventory.config)
    check_ghosts(inventory, profile)
    _refuse_unloadable(inventory, profile)
    rules = _rules(inventory.config, profile, recipe, layout, activations)
    found = [
        part
        for item in find_weights(inventory, profile, rules.keep)
        for part in _parted(item, rules, inventory.config)
    ]
    fates = {item.data.name: _fate(item, rules) for item in found}
    _refuse_idle(rules, fates)
    weights = {i.module: fates[i.data.name] for i in found if i.weight is not None}
    check_leftovers(found, {name: fate[0] for name, fate in fates.items()})
    check_experts(weights, layout.name)
    partners = partner_keys(weights, profile)
    return [_job(item, *fates[item.data.name], partners, rules) for item in found]


def check_ghosts(inventory: Inventory, profile: Profile) -> None:
    """Names the index lists in vain must be ones the profile knows of.

    Raises:
        SourceError: Another tensor is missing from the shards.
    """
    missing = [
        name
        for name in inventory.ghosts
        if not any(pattern.search(name) for pattern in profile.index_only)
    ]
    if missing:
        raise SourceError(
            f"The index lists {len(missing)} tensors that no shard holds: {some(missing)}.",
            "The upload of the source is incomplete: wait for its publisher to finish it.",
        )


def _rules(
    config: Mapping[str, Any],
    profile: Profile,
    recipe: Recipe,
    layout: Layout,
    activations: Activations,
) -> _Rules:
    policy = recipe.policy or profile.default_policy
    first = config.get(profile.mtp_from) if profile.mtp_from else None
    return _Rules(
        profile,
        recipe,
        layout,
        activations,
        profile.quantized_roles(policy),
        _compiled("--keep", recipe.keep),
        _compiled("--quantize", recipe.quantize),
        first if isinstance(first, int) else 2**31,
    )


def _compiled(option: str, patterns: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(pattern.removeprefix("re:")) for pattern in patterns)
    except re.error as error:
        raise UsageError(f"{option} is not a regular expression: {error}.") from error


def _refuse_unloadable(inventory: Inventory, profile: Profile) -> None:
    for pattern, reason in profile.unloadable:
        name = next((name for name in inventory.tensors if pattern.search(name)), None)
        if name is not None:
            tensor = inventory.tensors[name]
            raise SourceError(
                f"{name} in {tensor.shard} is {tensor.dtype} {list(tensor.shape)}: {reason}.",
                "Look for an upload of the model without such tensors.",
            )


def _refuse_idle(rules: _Rules, fates: Mapping[str, tuple[Action, str, str]]) -> None:
    """A --quantize that quantizes nothing was meant otherwise.

    Raises:
        UsageError: With what it hits, and why none of that can be NVFP4.
    """
    for pattern in rules.quantize:
        hits = {name: fate for name, fate in fates.items() if pattern.search(name)}
        if any(action == "nvfp4" for action, _, _ in hits.values()):
            continue
        if not hits:
            raise UsageError(
                f"--quantize {pattern.pattern!r} is found in no tensor's name.",
                "hubconv plan shows the roles; names are those of the source.",
            )
        name, (_, role, reason) = next(iter(hits.items()))
        raise UsageError(
            f"--quantize {pattern.pattern!r} hits {len(hits)} tensors, and none of them can become "
            f"NVFP4: {name} is {role} ({reason or 'not a weight'}).",
            "Leave it out, or name linear weights that the policy leaves alone.",
        )


def _fate(item: Found, rules: _Rules) -> tuple[Action, str, str]:
    """(action, role, reason) of a weight or bare tensor, its partners not yet considered."""
    name = item.data.name
    for pattern, reason in rules.profile.drops:
        if pattern.search(name):
            return ("drop", "dropped", reason)
    role = rules.profile.role_of(name)
    if role is None:
        if any(pattern.search(name) for pattern in rules.keep):
            return ("keep", "other", "--keep")
        raise UnknownTensorError(
            f"{name} in {item.data.shard} ({item.data.dtype} {list(item.data.shape)}) is not a "
            f"tensor the profile {rules.profile.name} knows.",
            f"If it should stay as it is: --keep 're:^{re.escape(name)}$'.",
        )
    is_mtp = _is_mtp(name, rules)
    if is_mtp and rules.recipe.mtp == "drop":
        return ("drop", role.name, "--mtp drop")
    why = _why_kept(item, role.name, is_mtp, rules)
    return ("nvfp4", role.name, "") if why is None else ("keep", role.name, why)


def _why_kept(item: Found, role: str, is_mtp: bool, rules: _Rules) -> str | None:
    """Why a tensor stays, empty where its role says it; None where it becomes NVFP4."""
    quantized = rules.quantized
    if is_mtp:
        quantized = rules.profile.mtp_roles if rules.recipe.mtp == "nvfp4" else frozenset()
    kept = any(pattern.search(item.data.name) for pattern in rules.keep)
    asked = any(pattern.search(item.data.name) for pattern in rules.quantize)
    if asked and item.weight is not None and not kept and role not in quantized:
        refused = _never(role, is_mtp, rules)
        if refused:
            return refused
        quantized |= {role}
    if role not in quantized or item.weight is None:
        return "MTP layer" if is_mtp and role in rules.quantized else ""
    if kept:
        return "--keep"
    whole = item.weight.cols % BLOCK == 0
    return None if whole else f"{item.weight.cols} columns are no multiple of {BLOCK}"


def _never(role: str, is_mtp: bool, rules: _Rules) -> str:
    """Why a role cannot be NVFP4 whatever is asked for; empty where it can."""
    profile = rules.profile
    if role in profile.never:
        return why_never(role)
    if not any(role in roles for roles in (*profile.policies.values(), profile.mtp_roles)):
        return profile.no_policies.get("linears", NO_ENGINE)
    # That MTP layers are like others in their names is no reason to quantize them unasked.
    return "--mtp decides of MTP layers" if is_mtp else ""


def _parted(item: Found, rules: _Rules, config: Mapping[str, Any]) -> list[Found]:
    """The experts of a fused tensor, where they become NVFP4; where not, it stays in one piece.

    One with scales is always taken apart: no layout has names for a stack of scales.
    """
    parts = fused_parts(item, rules.profile, config)
    is_split = item.scale is not None or any(_fate(part, rules)[0] == "nvfp4" for part in parts)
    return parts if parts and is_split else [item]


def _is_mtp(name: str, rules: _Rules) -> bool:
    if rules.profile.mtp_pattern is not None:
        return bool(rules.profile.mtp_pattern.search(name))
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return layer is not None and int(layer[1]) >= rules.mtp_first_layer


def _job(
    item: Found,
    action: Action,
    role: str,
    reason: str,
    partners: Mapping[str, str],
    rules: _Rules,
) -> Job:
    known = rules.profile.role_of(item.data.name)
    linear = known is not None and known.linear and item.weight is not None
    if action == "drop":
        return Job("drop", role, item.module, item.reads, weight=item.weight, reason=reason)
    if action == "nvfp4" and item.weight is not None:
        writes = nvfp4_outputs(item.module, item.weight, rules.layout, rules.activations)
        # A weight without partners is a set of one: the same walk serves both.
        key = partners.get(item.module, item.module)
        return Job("nvfp4", role, item.module, item.reads, writes, item.weight, linear, key)
    writes, changed = kept_outputs(
        item.module, item.reads, item.weight, role, rules.profile, rules.layout
    )
    return Job(changed, role, item.module, item.reads, writes, item.weight, linear, "", reason)
