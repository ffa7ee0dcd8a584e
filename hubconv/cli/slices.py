"""`hubconv work PLAN_FILE` and `hubconv publish PLAN_FILE`: one plan on many machines."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubconv import devices
from hubconv.cli.actions import telling
from hubconv.cli.convert import show_outcome
from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import (
    making_options,
    output_options,
    publish_options,
    target_options,
    work_dir_option,
)
from hubconv.cli.reporting import prepare_report_dir
from hubconv.cli.types import Part

if TYPE_CHECKING:
    from hubconv.pipeline import Request, Slice, Worked

_PLAN_FILE = click.argument("plan_file", type=click.Path(path_type=Path, dir_okay=False))
_TARGET = click.argument("target", default="")


@click.command()
@_PLAN_FILE
@_TARGET
@click.option(
    "--slice",
    "part",
    type=Part(),
    default="1/1",
    metavar="I/N",
    help="Make slice I of N alone, counted from 1.  [default: everything]",
)
@making_options
@target_options
@work_dir_option
@output_options
def work(
    plan_file: Path,
    target: str,
    *,
    part: "Slice",
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the options above, by name
) -> None:
    """Make what is missing of a plan, or of a slice of it, and stage it on the target.

    Slices may run at the same time on any machines, and again: what is staged is not made twice.
    TARGET is needed where the plan file names none. Nothing is published.
    """
    quiet_libraries(verbose)
    devices.ask_early(values["device"])
    from hubconv.pipeline import work as run
    from hubconv.progress import choose_progress

    request = _request(plan_file, target, {**values, "workers": values["workers"] or 0})
    progress = choose_progress(sys.stderr, quiet=quiet, json=as_json)
    try:
        with telling(request.source, request.target):
            done = run(request, part, progress)
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps(worked_json(done)))
    elif not quiet:
        click.echo(render_worked(done, plan_file))


@click.command()
@_PLAN_FILE
@_TARGET
@target_options
@publish_options
@work_dir_option
@output_options
def publish(
    plan_file: Path,
    target: str,
    *,
    report_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the options above, by name
) -> None:
    """Verify what the slices of a plan have staged and publish it, in one commit.

    Exit code 5 says which shards are still missing.
    """
    quiet_libraries(verbose)
    from hubconv.pipeline import publish as run
    from hubconv.progress import choose_progress

    prepare_report_dir(report_dir)
    request = _request(plan_file, target, {**values, "digests": bool(report_dir)})
    progress = choose_progress(sys.stderr, quiet=quiet, json=as_json)
    try:
        with telling(request.source, request.target):
            outcome = run(request, progress)
    finally:
        progress.close()
    show_outcome(outcome, report_dir, as_json=as_json, quiet=quiet)


def _request(plan_file: Path, target: str, values: dict[str, Any]) -> "Request":
    from hubconv.pipeline import PlanFile, Request

    told = PlanFile.read(plan_file)
    return Request(
        source=told.source,
        target=told.for_target(target),
        revision=told.commit,
        recipe=told.recipe,
        command=told.command.replace(" TARGET", f" {shlex.quote(target)}", 1)
        if target
        else told.command,
        expected=told,
        **values,
    )


def worked_json(done: "Worked") -> dict[str, Any]:
    """How a slice ended, as JSON."""
    return {
        "status": "up-to-date" if done.is_published else "staged",
        "plan_id": done.plan.plan_id,
        "slice": str(done.part),
        "target": done.target,
        "shards": done.units,
        "shards_made": done.made,
        "shards_found": done.found,
        "shards_staged": done.staged,
        "shards_total": len(done.plan.units),
        "seconds": round(done.seconds, 1),
    }


def render_worked(done: "Worked", plan_file: Path) -> str:
    """How a slice ended, for a terminal."""
    if done.is_published:
        return f"Plan {done.plan.plan_id} is published on {done.target} already: nothing to make."
    total = len(done.plan.units)
    found = f", {done.found} found finished" if done.found else ""
    lines = [
        f"Slice {done.part}: {done.made} of {done.units} shards made{found}. "
        f"{done.staged} of {total} shards of plan {done.plan.plan_id} are staged on {done.target}."
    ]
    if done.staged == total:
        lines.append(f"All are there: hubconv publish {plan_file}")
    return "\n".join(lines)
