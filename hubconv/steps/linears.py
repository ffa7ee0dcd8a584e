"""Every linear module of the result and how its weight stands, for the layouts to write down."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hubconv.formats.layouts.base import Activations, Linear, ModelFacts
from hubconv.profiles import Profile
from hubconv.profiles.stored_as import fp8_block_of
from hubconv.steps.decide import Job
from hubconv.steps.fused import fused_parts
from hubconv.steps.inventory import Inventory
from hubconv.steps.spell import stands_as
from hubconv.steps.weights import Found


def facts_of(
    inventory: Inventory,
    profile: Profile,
    jobs: Sequence[Job],
    activations: Activations,
    version: str,
) -> ModelFacts:
    """What the configuration files are written from.

    Args:
        inventory: The source.
        profile: Its family.
        jobs: What happens to each of its tensors.
        activations: Weight-only, or FP4 activations too.
        version: hubconv's version.
    """
    stacks = dict(_stacks(jobs, profile, inventory.config))
    linears = [
        Linear(
            job.module,
            job.role,
            "nvfp4" if job.action == "nvfp4" else stands_as(job.weight, job.writes),
        )
        for job in jobs
        if job.linear and job.weight is not None and job.writes
    ]
    # Engines build their experts of a stack that stays, and ask for them as for any others.
    linears += [Linear(each, job.role, "plain") for job, parts in stacks.values() for each in parts]
    bare = [
        job.module
        for job in jobs
        if job.writes and not job.linear and job.reads[0].name not in stacks
    ]
    return ModelFacts(
        inventory.config, linears, activations, fp8_block_of(inventory.config), version, bare
    )


def _stacks(
    jobs: Sequence[Job], profile: Profile, config: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Job, list[str]]]]:
    """Tensors that stay with the weights of many experts in them, by name, with those weights."""
    for job in jobs if profile.fused else ():
        if job.weight is None and job.writes and len(job.reads[0].shape) > 2:
            parts = fused_parts(Found(job.reads[0], None, None, job.module), profile, config)
            if parts:
                yield job.reads[0].name, (job, [part.module for part in parts])
