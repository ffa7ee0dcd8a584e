"""`hubconv SOURCE TARGET`."""

import json
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import (
    Duration,
    Size,
    output_options,
    recipe_from,
    recipe_options,
    source_options,
)
from hubconv.cli.plan import show_plan

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome


@click.command()
@click.argument("source")
@click.argument("target")
@recipe_options
@source_options
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda or cuda:N.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=None,
    help="Output shards made at the same time.  [default: 2; between folders one a core]",
)
@click.option(
    "--max-disk",
    type=Size(),
    default=0,
    metavar="SIZE",
    help="Disk that shards on their way may take together.  [default: what is free]",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option(
    "--private/--no-private",
    default=None,
    help="Visibility of a new target.  [default: as the source]",
)
@click.option("--create-pr", is_flag=True, help="Publish to a pull request instead of main.")
@click.option("--replace", is_flag=True, help="Put the result in place of the target's content.")
@click.option(
    "--allow-publish-private",
    "allow_public",
    is_flag=True,
    help="Publish content of a private or gated source in a public target.",
)
@click.option(
    "--accept-new-owner",
    "new_owner",
    is_flag=True,
    help="Take a source whose repository was made anew since the last publish.",
)
@click.option("--tag/--no-tag", default=True, help="Tag the publish commit.")
@click.option(
    "--time-limit",
    type=Duration(),
    default=0,
    metavar="TIME",
    help="Stop in order after this time (5h30m) with exit code 10.",
)
@click.option(
    "--card-template",
    "template",
    type=click.Path(exists=True, dir_okay=False),
    help="Template to use in place of hubconv's card.",
)
@output_options
def convert(
    source: str,
    target: str,
    *,
    dry_run: bool,
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
    from hubconv.opening import refuse_same
    from hubconv.pipeline import Request, plan
    from hubconv.pipeline import convert as run

    recipe = recipe_from(values)
    if dry_run:
        refuse_same(source, target)
        show_plan(plan(source, recipe, revision=values["revision"]), as_json=as_json)
        return
    from hubconv.progress import choose_progress

    template = values.pop("template")
    request = Request(
        source=source,
        target=target,
        recipe=recipe,
        time_limit_s=values.pop("time_limit"),
        command=shlex.join(["hubconv", *sys.argv[1:]]),
        template=template or "",
        workers=values.pop("workers") or 0,
        **values,
    )
    progress = choose_progress(sys.stderr, quiet=quiet, json=as_json)
    try:
        outcome = run(request, progress)
    finally:
        progress.close()
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
    return (
        f"{render_terminal(outcome.report, width)}\n\n"
        f"Published: {where}  ({outcome.units_made} shards made{found})"
    )
