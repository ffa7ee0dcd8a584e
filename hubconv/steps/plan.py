"""The plan: everything that will happen, computed from headers alone.

Names, sizes, index and configuration of the result are exact before the first weight byte moves.
"""

import gc
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from hubconv.ends import FileEntry, Source
from hubconv.errors import SourceError, UsageError
from hubconv.formats.checkpoint import INDEX_NAME, write_index
from hubconv.formats.layouts import layout as find_layout
from hubconv.formats.layouts.base import Activations, Layout, ModelFacts
from hubconv.profiles import Profile, choose_profile
from hubconv.profiles.needs import missing
from hubconv.steps.borrowed import asked_scales, pinned
from hubconv.steps.copies import choose_copies
from hubconv.steps.decide import RECIPE_VERSION, Job, Recipe, decide
from hubconv.steps.inventory import Inventory, take_inventory
from hubconv.steps.linears import facts_of
from hubconv.steps.partners import some
from hubconv.steps.shards import PartnerSet, Unit, foreign_reads, partner_sets, plan_shards


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversion will do.

    Attributes:
        plan_id: Sixteen hex digits that stand for source state, recipe and recipe version.
        source: The source's name.
        commit: Its pinned commit; empty for a folder.
        profile: Name of the profile.
        title: What people call the family.
        layout: Name of the layout.
        policy: Name of the policy.
        activations: w4a16 or w4a4.
        recipe: What was asked for.
        jobs: Every tensor of the source, in order.
        units: Output shards.
        sets: Partner sets by key.
        facts: What the configuration files were written from.
        files: Generated files by path: configuration and index.
        copies: Files of the source that travel along unchanged.
        source_bytes: Bytes of the source's weight files.
        warnings: What the user should know before it starts.
        input_scales: Activation scales by module, where they come from another checkpoint.
    """

    plan_id: str
    source: str
    commit: str
    profile: str
    title: str
    layout: str
    policy: str
    activations: Activations
    recipe: Recipe
    jobs: tuple[Job, ...]
    units: tuple[Unit, ...]
    sets: Mapping[str, PartnerSet]
    facts: ModelFacts
    files: Mapping[str, bytes]
    copies: tuple[FileEntry, ...]
    source_bytes: int
    warnings: tuple[str, ...]
    input_scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def target_bytes(self) -> int:
        """Bytes of the result's weight files."""
        return sum(unit.nbytes for unit in self.units)

    @property
    def twice_bytes(self) -> int:
        """Bytes read from shards other than the unit's own: foreign scales and partners."""
        return sum(tensor.span for unit in self.units for tensor in foreign_reads(unit, self.sets))


def make_plan(source: Source, recipe: Recipe, version: str, lender: Source | None = None) -> Plan:
    """Plan a conversion; reads headers, config and index, nothing else of the source.

    Args:
        source: Pinned.
        recipe: What the user asked for.
        version: hubconv's version, written into the result.
        lender: The checkpoint that the recipe takes activation scales from, pinned.

    Raises:
        SourceError: The source cannot be converted as it stands.
        UsageError: The recipe asks for something the family does not have.
    """
    with _no_collection():
        return _make_plan(source, recipe, version, lender)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A plan of 150,000 tensors is a million small records, all of them needed: nothing to find."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _make_plan(source: Source, recipe: Recipe, version: str, lender: Source | None) -> Plan:
    inventory = take_inventory(source)
    _refuse_nvfp4(inventory, source.ref)
    profile = choose_profile(inventory.config, inventory.tensors)
    chosen = choose_layout(profile, recipe)
    activations = _activations(chosen, recipe)
    jobs = tuple(decide(inventory, profile, recipe, chosen, activations))
    units = plan_shards(jobs, recipe.max_shard_bytes)
    facts = facts_of(inventory, profile, jobs, activations, version)
    copies = choose_copies(source, inventory.config, recipe.code)
    _refuse_nothing_to_do(jobs, profile)
    files = _generated_files(inventory, chosen, facts, units)
    if recipe.mtp == "drop":
        files["config.json"] = _without_mtp(files["config.json"])
    source_bytes = sum(source.files()[shard].size for shard in inventory.shards)
    sets = partner_sets(jobs)
    scales = asked_scales(jobs, sets, recipe, lender)
    if lender is not None:
        recipe = replace(recipe, input_scales_from=pinned(lender))
    return Plan(
        plan_id=plan_id(source, inventory, profile, chosen.name, recipe, copies.paths, scales),
        source=source.ref,
        commit=source.commit,
        profile=profile.name,
        title=profile.title,
        layout=chosen.name,
        policy=recipe.policy or profile.default_policy,
        activations=activations,
        recipe=recipe,
        jobs=jobs,
        units=units,
        sets=sets,
        facts=facts,
        files=files,
        copies=copies.entries,
        source_bytes=source_bytes,
        warnings=(
            *_warnings(inventory, jobs, units, source_bytes),
            *_absent(inventory, profile),
            *(hint.text for hint in profile.for_config(inventory.config).hints),
            *copies.warnings,
        ),
        input_scales=scales,
    )


_V4_RULE: Final = (
    "vLLM and SGLang take this model's NVFP4 from an fp8 configuration with moe_quant_algo alone"
)
_OTHERS_RULE: Final = "vLLM takes fp8 with moe_quant_algo for model_type deepseek_v4 alone"


def choose_layout(profile: Profile, recipe: Recipe) -> Layout:
    """The layout asked for, or the family's default.

    Raises:
        UsageError: No engine could load the family in that layout.
    """
    name = recipe.layout or profile.layouts[0]
    chosen = find_layout(name)
    if name not in profile.layouts:
        rule = _V4_RULE if "modelopt-v4" in profile.layouts else _OTHERS_RULE
        raise UsageError(
            f"{profile.title} cannot be written in the layout {name}, no engine would load it: "
            f"{rule}.",
            f"Layouts it has: {', '.join(profile.layouts)}.",
        )
    return chosen


def plan_id(
    source: Source,
    inventory: Inventory,
    profile: Profile,
    layout: str,
    recipe: Recipe,
    copied: Collection[str],
    input_scales: Mapping[str, float] | None = None,
) -> str:
    """Stands for everything that decides the bytes of the result, and nothing besides.

    Two runs with the same id may go on with each other's shards: whether a default was named, or
    flushed blocks are accepted, makes no difference to them.
    """
    files = source.files()
    asked = asdict(recipe) | {"layout": layout, "policy": recipe.policy or profile.default_policy}
    del asked["allow_flushed"], asked["code"]  # the latter shows in what is copied
    del asked["input_scales_from"]  # the numbers count, wherever they come from
    if not recipe.quantize:  # younger than the plans of older versions
        del asked["quantize"]
    read = {*inventory.shards, *copied, "config.json"}
    inputs = sorted(
        (entry.path, entry.size, entry.sha256 or entry.stamp)
        for entry in files.values()
        if entry.path in read
    )
    facts = {
        "source": source.ref,
        "commit": source.commit,
        "inputs": inputs,
        "profile": profile.name,
        "recipe": asked,
        "recipe_version": RECIPE_VERSION,
    }
    if input_scales:
        facts["input_scales"] = sorted(input_scales.items())
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _activations(layout: Layout, recipe: Recipe) -> Activations:
    if layout.name == "modelopt-v4":
        if recipe.activations == "w4a16":
            raise UsageError(
                "The layout modelopt-v4 has no weight-only form: vLLM runs its experts as W4A4 "
                "alone (models/deepseek_v4/quant_config.py:209-227).",
                "Leave --activations out.",
            )
        return "w4a4"
    return recipe.activations or "w4a16"


def _refuse_nvfp4(inventory: Inventory, ref: str) -> None:
    packed = next(
        (n for n in inventory.tensors if n.endswith((".weight_packed", ".weight_scale_2"))), None
    )
    if packed is None:
        return
    table = json.dumps(inventory.config.get("quantization_config", {})).lower()
    if "nvfp4" in table or packed.endswith(".weight_scale_2"):
        raise SourceError(f"{ref} is NVFP4 already ({packed}).", "Name its own source instead.")


def _refuse_nothing_to_do(jobs: tuple[Job, ...], profile: Profile) -> None:
    if not any(job.action == "nvfp4" for job in jobs):
        raise SourceError(
            f"No tensor of this {profile.title} would become NVFP4.",
            "Choose another --policy, or fewer --keep patterns.",
        )


def _generated_files(
    inventory: Inventory, layout: Layout, facts: ModelFacts, units: tuple[Unit, ...]
) -> dict[str, bytes]:
    config = layout.config(facts)
    files = {"config.json": json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"}
    files.update(layout.extra_files(config))
    if inventory.has_index or len(units) > 1:
        weight_map = {output.name: unit.shard for unit in units for output in unit.outputs}
        files[INDEX_NAME] = write_index(weight_map, sum(unit.data_bytes for unit in units))
    return files


def _without_mtp(config: bytes) -> bytes:
    """Engines that find MTP layers announced insist on loading them."""
    table: dict[str, Any] = json.loads(config)
    for holder in (table, table.get("text_config")):
        for key in ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers"):
            if isinstance(holder, dict) and key in holder:
                holder[key] = 0
    return json.dumps(table, indent=2, ensure_ascii=False).encode() + b"\n"


def _warnings(
    inventory: Inventory, jobs: tuple[Job, ...], units: tuple[Unit, ...], source_bytes: int
) -> tuple[str, ...]:
    warnings = list(inventory.warnings)
    target_bytes = sum(unit.nbytes for unit in units)
    if target_bytes > source_bytes:
        share = 100 * (target_bytes / source_bytes - 1)
        warnings.append(
            f"The result will be {share:.1f} % larger than the source."
            + (
                " Its experts are 4-bit already: NVFP4 has a scale for 16 weights where MXFP4 has "
                "one for 32."
                if any(job.weight is not None and job.weight.kind == "mxfp4" for job in jobs)
                else ""
            )
        )
    if inventory.ghosts:
        warnings.append(
            f"The index lists {len(inventory.ghosts)} tensors that no shard holds "
            f"({inventory.ghosts[0]} ...); this spelling is known, nothing is missing."
        )
    if any(job.action == "nvfp4" and job.weight and job.weight.kind == "int4" for job in jobs):
        warnings.append(
            "The source's weights are integers of four bits, evenly spaced; the numbers of NVFP4 "
            "are not, so this conversion rounds them once more and loses accuracy."
        )
    if any(job.reason == "MTP layer" or job.role == "mtp_expert" for job in jobs if job.writes):
        warnings.append(
            "Multi-token-prediction layers keep their source format; vLLM may not be able to use "
            "them for speculative decoding beside NVFP4 experts."
        )
    return tuple(warnings)


def _absent(inventory: Inventory, profile: Profile) -> tuple[str, ...]:
    """What the model needs and the source lacks: engines would start, and answer nonsense."""
    absent = missing(profile.needs, inventory.config, inventory.tensors) if profile.needs else None
    if not absent:
        return ()
    return (
        f"The source lacks {len(absent)} tensors that its config.json calls for: {some(absent)}. "
        "Engines may start without them and compute nonsense.",
    )
