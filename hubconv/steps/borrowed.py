"""Activation scales of another NVFP4 checkpoint of the same model, read by range.

They are the only numbers of a result that need calibration data; somebody who had some may have
published them. They are taken only where names and shapes prove that they belong to these weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from hubconv.ends import Source
from hubconv.errors import SourceError, UsageError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.steps.decide import Job, Recipe
from hubconv.steps.inventory import HEADER_THREADS, Inventory, take_inventory
from hubconv.steps.partners import some
from hubconv.steps.shards import PartnerSet

GAP_BYTES: Final = 64 * 1024
"""Scalars no farther apart than this are fetched by one request."""

_MULTIPLIER: Final = "input_scale"
_DIVISOR: Final = "input_global_scale"


def asked_scales(
    jobs: Sequence[Job],
    sets: Mapping[str, PartnerSet],
    recipe: Recipe,
    lender: Source | None,
) -> dict[str, float]:
    """Activation scales that are taken from another checkpoint; none where none are asked for.

    Args:
        jobs: Every job of the plan.
        sets: Its partner sets.
        recipe: What was asked for.
        lender: The checkpoint that the recipe names, pinned.

    Raises:
        UsageError: Nothing would be written, or a number is given besides.
        SourceError: The checkpoint's scales do not belong to these weights.
    """
    if not (math.isfinite(recipe.input_scale) and np.float32(recipe.input_scale) > 0):
        raise UsageError(
            f"--input-scale {recipe.input_scale:g} is no scale: engines divide by it.",
            "Give a number above zero; NVIDIA writes 1.",
        )
    if not recipe.input_scales_from:
        return {}
    if lender is None:
        raise ValueError("the recipe takes activation scales from a checkpoint that is not open")
    if recipe.input_scale != Recipe().input_scale:
        raise UsageError(
            "--input-scale and --input-scales-from both say what the activation scales are.",
            "Leave one of them out.",
        )
    if not any(output.content == "input_scale" for job in jobs for output in job.writes):
        raise UsageError(
            "--input-scales-from has nothing to write to: for weights alone compressed-tensors "
            "stores no activation scale, and vLLM and SGLang make no parameter for one.",
            "Add --activations w4a4, or choose --layout modelopt.",
        )
    return borrowed_scales(lender, sets)


def pinned(lender: Source) -> str:
    """The word for a checkpoint as it is now."""
    return f"hf://{lender.ref}@{lender.commit}" if lender.commit else lender.ref


def borrowed_scales(lender: Source, sets: Mapping[str, PartnerSet]) -> dict[str, float]:
    """The activation scale of every NVFP4 weight, as a multiplier, by module.

    Weights that engines fuse share one: the largest of theirs, which clips nothing.

    Args:
        lender: The checkpoint that has them, pinned.
        sets: Every partner set of the plan.

    Raises:
        SourceError: Scales are missing, or belong to weights of other shapes, or are no scales.
    """
    inventory = take_inventory(lender)
    jobs = [job for group in sets.values() for job in group.members]
    found = {job.module: _scale_of(job, inventory) for job in jobs}
    missing = [module for module, tensor in found.items() if tensor is None]
    if missing:
        raise SourceError(
            f"{lender.ref} has no activation scale for {len(missing)} of the {len(jobs)} weights "
            f"that become NVFP4: {some(missing)}.",
            "Choose a --policy that quantizes what it quantizes, --keep the others, or name "
            "another checkpoint with --input-scales-from.",
        )
    tensors = {module: tensor for module, tensor in found.items() if tensor is not None}
    values = _read(lender, list(tensors.values()))
    multipliers = {
        module: _multiplier(tensor, values[tensor.name], lender.ref)
        for module, tensor in tensors.items()
    }
    return {
        job.module: max(multipliers[member.module] for member in group.members)
        for group in sets.values()
        for job in group.members
    }


def _scale_of(job: Job, inventory: Inventory) -> StoredTensor | None:
    """The lender's activation scale for a weight; None where it has none.

    Raises:
        SourceError: It belongs to a weight of another shape, or is not one number.
    """
    tensors, module = inventory.tensors, job.module
    scale = tensors.get(f"{module}.{_MULTIPLIER}") or tensors.get(f"{module}.{_DIVISOR}")
    if scale is None or job.weight is None:
        return None
    if scale.dtype != "F32" or math.prod(scale.shape) != 1:
        raise SourceError(
            f"{scale.name} in {scale.shard} is {scale.dtype} {list(scale.shape)}: an activation "
            "scale is one F32 number.",
            "Name another checkpoint with --input-scales-from.",
        )
    packed = tensors.get(f"{module}.weight_packed") or tensors.get(f"{module}.weight")
    wanted = (job.weight.rows, job.weight.cols // 2)
    if packed is None or packed.dtype != "U8" or packed.shape != wanted:
        stands = f"{packed.dtype} {list(packed.shape)}" if packed else "missing"
        raise SourceError(
            f"The weight of {scale.name} in {scale.shard} is {stands}; that of this model would be "
            f"U8 {list(wanted)}.",
            "It is not NVFP4 of the same model: name another checkpoint with --input-scales-from.",
        )
    return scale


def _read(lender: Source, tensors: Sequence[StoredTensor]) -> dict[str, float]:
    """The numbers of scalars, by name; neighbours are fetched together."""

    def fetch(run: Sequence[StoredTensor]) -> list[tuple[str, float]]:
        begin, end = run[0].begin, run[-1].end
        raw = lender.read(run[0].shard, begin, end)
        if len(raw) != end - begin:
            raise SourceError(f"{run[0].shard} of {lender.ref} ends inside {run[-1].name}.")
        return [(t.name, float(np.frombuffer(raw, "<f4", 1, t.begin - begin)[0])) for t in run]

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return dict(pair for pairs in pool.map(fetch, list(_runs(tensors))) for pair in pairs)


def _runs(tensors: Sequence[StoredTensor]) -> Iterator[list[StoredTensor]]:
    run: list[StoredTensor] = []
    for tensor in sorted(tensors, key=lambda each: (each.shard, each.begin)):
        if run and (tensor.shard != run[-1].shard or tensor.begin > run[-1].end + GAP_BYTES):
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def _multiplier(tensor: StoredTensor, value: float, ref: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise SourceError(
            f"{tensor.name} in {tensor.shard} of {ref} is {value!r}: no activation scale.",
            "The checkpoint is damaged: name another one with --input-scales-from.",
        )
    return 1 / value if tensor.name.endswith(_DIVISOR) else value
