"""From staged units to a published checkpoint: verify, compose, publish, compare, tidy up."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from hubconv.ends import MANIFEST, Published, Staging, Target
from hubconv.errors import IntegrityError, TemporaryError
from hubconv.manifest import compare_tree, read_manifest
from hubconv.opening import refuse_hidden
from hubconv.pipeline.making import Done
from hubconv.pipeline.request import Outcome
from hubconv.pipeline.run import Run, versions
from hubconv.steps.promise import Promise
from hubconv.steps.publish import Telling, compose
from hubconv.steps.shards import Unit
from hubconv.steps.verify import Sample, verify_staged, verify_tree

_NAMED: Final = 20


def release(run: Run, staging: Staging, done: Done, promise: Promise | None = None) -> Outcome:
    """Publish what is staged, once it is found right.

    Args:
        run: The run.
        staging: The journal of its plan.
        done: What is staged.
        promise: What the plan is to loaders, where it is known already.

    Raises:
        TemporaryError: A unit of the plan is not staged yet.
        IntegrityError: What is staged, or what was published, is not right.
        ConflictError: The target received something else meanwhile.
    """
    records = done.records
    missing = [unit for unit in run.plan.units if unit.shard not in records]
    if missing:
        raise missing_shards(run, missing)
    ordered = [records[unit.shard] for unit in run.plan.units]
    run.stop.at_once()
    run.progress.phase("Verifying what is staged")
    view = staging.view()
    verification = verify_staged(run.plan, ordered, view, run.source, Sample(), promise)
    verification.raise_on_errors("Nothing was published; every shard is kept.")
    # Shards of earlier runs, and of other machines, count with the time that they took there.
    seconds = run.seconds + sum(record.seconds for record in done.found.values())
    telling = Telling(run.request.command, run.request.template, seconds, versions(), verification)
    composed, report = compose(run.plan, ordered, run.source, run.target, telling)
    run.stop.at_once()
    run.progress.phase("Publishing")
    if not run.request.allow_public:
        refuse_hidden(run.source, run.restricted)
    published = staging.publish(composed)
    compare_published(run.target, published, composed.files)
    staging.discard()
    return Outcome(
        "published", run.plan, published, report, len(done.made), len(done.found), run.seconds
    )


def missing_shards(run: Run, missing: Sequence[Unit]) -> TemporaryError:
    """What is said where a plan is to be published before it is whole."""
    names = [unit.shard for unit in missing[:_NAMED]]
    if len(missing) > _NAMED:
        names.append(f"and {len(missing) - _NAMED} more")
    return TemporaryError(
        f"{len(missing)} of {len(run.plan.units)} shards are not staged on {run.target.ref} yet: "
        f"{', '.join(names)}.",
        "Nothing was published. Make them with hubconv work PLAN_FILE (--slice i/n for a part of "
        "them on each of several machines), then publish again.",
    )


def compare_published(target: Target, published: Published, files: Mapping[str, bytes]) -> None:
    """Hold what a publish shows against its manifest.

    Args:
        target: Where it was published.
        published: The publish: ours, or that of another run of the same plan that was first.
        files: The small files that this run wanted to show.

    Raises:
        IntegrityError: Something is missing or another.
    """
    view = target.view(
        f"refs/pr/{published.pull_request}" if published.pull_request else published.commit
    )
    shown = read_manifest(view)
    mine = json.loads(files[MANIFEST])
    if shown is not None and shown != mine and shown.get("plan_id") == mine["plan_id"]:
        # Made on another machine: its figures and versions are its own.
        wrong = compare_tree(view, shown)
    else:
        wrong = verify_tree(view, files)
    if wrong:
        raise IntegrityError(
            f"{published.ref} does not show what was published: {'; '.join(wrong[:3])}.",
            f"Look at {published.url}; the commit before it is the last good one.",
        )
