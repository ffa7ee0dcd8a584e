"""The walk: from two words on the command line to a published checkpoint.

source → plan → (nothing to do?) → units → verify staging → publish → compare main → tidy up

`convert` walks it in one process. `work` and `publish` are parts of the same walk, for many
machines: each plans again from headers, makes what is missing of its slice, and leaves the rest to
others. The journal on the target is all that they share.
"""

import shutil

from hubconv.folder import FolderTarget
from hubconv.journal import DONE
from hubconv.opening import Scratch, open_lender, open_source
from hubconv.pipeline.beforehand import Beforehand
from hubconv.pipeline.finishing import finished
from hubconv.pipeline.making import make
from hubconv.pipeline.planfile import PlanFile
from hubconv.pipeline.releasing import missing_shards, release
from hubconv.pipeline.request import Outcome, Request, Slice, Worked
from hubconv.pipeline.run import Run, opened
from hubconv.progress import Progress
from hubconv.steps.decide import Recipe
from hubconv.steps.plan import Plan, make_plan
from hubconv.steps.shards import slice_units
from hubconv.steps.tables import before_work
from hubconv.version import __version__

__all__ = [
    "FolderTarget",
    "Outcome",
    "Plan",
    "PlanFile",
    "Recipe",
    "Request",
    "Slice",
    "Worked",
    "convert",
    "plan",
    "publish",
    "work",
]  # fmt: skip


def plan(
    source: str, recipe: Recipe | None = None, *, revision: str = "", work_dir: str = ""
) -> Plan:
    """What a conversion would do; reads headers, configuration and index only.

    Args:
        source: SOURCE word.
        recipe: What becomes of each tensor.
        revision: Branch, tag or commit.
        work_dir: Folder for temporary files.
    """
    with Scratch(work_dir) as scratch:
        recipe = recipe or Recipe()
        opened_source = open_source(source, revision, scratch)
        lender = open_lender(recipe.input_scales_from, scratch)
        return make_plan(opened_source, recipe, __version__, lender)


def convert(request: Request, progress: Progress | None = None) -> Outcome:
    """Convert a checkpoint and publish it.

    Raises:
        HubconvError: With its exit code; what is finished stays in the target's journal.
    """
    with opened(request, progress, computes=True) as run:
        if run.published is not None:
            return finished(run, _up_to_date(run))
        width = shutil.get_terminal_size((100, 24)).columns
        is_folder = isinstance(run.target, FolderTarget)
        run.progress.table(lambda: before_work(run.plan, width, is_folder=is_folder))
        with run.staged() as staging:
            with Beforehand(run.plan, run.stop) as beforehand:
                done = make(run, staging, run.plan.units)
            outcome = release(run, staging, done, beforehand.promise)
        return finished(run, outcome)


def work(request: Request, part: Slice, progress: Progress | None = None) -> Worked:
    """Make what is missing of a slice, and stage it; nothing is published.

    Any number of slices may be at work at the same time, and a slice more than once.

    Args:
        request: What the user asks for.
        part: Which units are meant.
        progress: Told how it goes.

    Raises:
        HubconvError: With its exit code; what is finished stays in the target's journal.
    """
    with opened(request, progress, computes=True) as run:
        units = slice_units(run.plan.units, part.number, part.count)
        if run.published is not None:
            return Worked(run.plan, part, run.target.ref, len(units), 0, 0, 0, run.seconds)
        with run.staged(str(part)) as staging:
            done = make(run, staging, units, DONE)
        return Worked(
            run.plan, part, run.target.ref, len(units), len(done.made),
            len(done.found.keys() & {unit.shard for unit in units}), len(done.records),
            run.seconds, is_published=False,
        )  # fmt: skip


def publish(request: Request, progress: Progress | None = None) -> Outcome:
    """Publish a plan whose every unit is staged.

    Raises:
        TemporaryError: Some are not; says which, and how to make them.
        HubconvError: With its exit code; what is finished stays in the target's journal.
    """
    with opened(request, progress, computes=False) as run:
        if run.published is not None:
            return finished(run, _up_to_date(run))
        if not run.target.begun(run.plan.plan_id):
            raise missing_shards(run, run.plan.units)
        with run.staged() as staging:
            outcome = release(run, staging, make(run, staging, ()))
        return finished(run, outcome)


def _up_to_date(run: Run) -> Outcome:
    if run.published is None:
        raise ValueError("a run that is up to date has been published")
    run.target.tidy(run.plan.plan_id)
    return Outcome("up-to-date", run.plan, run.published, None, 0, 0, run.seconds)
