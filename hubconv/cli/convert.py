"""`hubconv SOURCE TARGET`."""

import json
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from hubconv import devices
from hubconv.cli.actions import tell_outcome, telling
from hubconv.cli.environment import quiet_libraries
from hubconv.cli.machine import machine_of
from hubconv.cli.options import (
    making_options,
    output_options,
    publish_options,
    recipe_from,
    recipe_options,
    source_options,
    target_options,
)
from hubconv.cli.plan import folder_of, show_plan
from hubconv.cli.reporting import prepare_report_dir, write_report_dir

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome


@click.command()
@click.argument("source")
@click.argument("target")
@recipe_options
@source_options
@making_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@target_options
@publish_options
@output_options
def convert(
    source: str,
    target: str,
    *,
    dry_run: bool,
    report_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the options above, by name
) -> None:
    """Convert SOURCE to NVFP4 and publish it as TARGET.

    Each is a Hub repository (org/name) or a folder (./name). A run that was stopped or killed goes
    on where it ended when the same command runs again.
    """
    quiet_libraries(verbose)
    if not dry_run:
        devices.ask_early(values["device"])
    from hubconv.opening import refuse_same
    from hubconv.pipeline import Request, plan
    from hubconv.pipeline import convert as run

    recipe = recipe_from(values)
    if dry_run:
        refuse_same(source, target)
        place = folder_of(target) or values["work_dir"]
        machine = machine_of(0, 0, values["max_disk"], place)
        made = plan(source, recipe, revision=values["revision"])
        show_plan(made, target, machine, as_json=as_json)
        return
    from hubconv.progress import choose_progress

    prepare_report_dir(report_dir)
    request = Request(
        source=source,
        target=target,
        recipe=recipe,
        command=shlex.join(["hubconv", *sys.argv[1:]]),
        workers=values.pop("workers") or 0,
        digests=bool(report_dir),
        **values,
    )
    progress = choose_progress(sys.stderr, quiet=quiet, json=as_json)
    try:
        with telling(source, target):
            outcome = run(request, progress)
    finally:
        progress.close()
    show_outcome(outcome, report_dir, as_json=as_json, quiet=quiet)


def show_outcome(outcome: "Outcome", report_dir: str = "", *, as_json: bool, quiet: bool) -> None:
    """Tell how a run ended: a person or a program, a CI job's page, a report folder.

    Args:
        outcome: How it ended.
        report_dir: Folder for report, checksums and provenance; empty for none.
        as_json: For a program.
        quiet: Print nothing for a person.
    """
    tell_outcome(outcome)
    if report_dir:
        write_report_dir(report_dir, outcome, outcome_json(outcome))
    if as_json:
        click.echo(json.dumps(outcome_json(outcome)))
    elif not quiet:
        click.echo(render_outcome(outcome, shutil.get_terminal_size((100, 24)).columns))


def outcome_json(outcome: "Outcome") -> dict[str, Any]:
    """How a run ended, as JSON."""
    published = outcome.published
    return {
        "status": outcome.status,
        "plan_id": outcome.plan.plan_id,
        "source": outcome.plan.source,
        "source_commit": outcome.plan.commit,
        "target": published.ref,
        "commit": published.commit,
        "url": published.url,
        "pull_request": published.pull_request or None,
        "collection": outcome.collection or None,
        "shards_made": outcome.units_made,
        "shards_found": outcome.units_found,
        "seconds": round(outcome.seconds, 1),
        "report": outcome.report.to_json() if outcome.report else None,
    }


def render_outcome(outcome: "Outcome", width: int) -> str:
    """How a run ended, for a terminal."""
    published = outcome.published
    if outcome.report is None:
        return f"{published.ref} is up to date: {published.url}"
    from hubconv.steps.tables import render_terminal

    found = f", {outcome.units_found} found finished" if outcome.units_found else ""
    where = f"pull request {published.pull_request}" if published.pull_request else published.url
    collection = f"\nIn the collection {outcome.collection}" if outcome.collection else ""
    return (
        f"{render_terminal(outcome.report, width)}\n\n"
        f"Published: {where}  ({outcome.units_made} shards made{found}){collection}"
    )
