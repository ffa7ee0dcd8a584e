"""`hubconv plan SOURCE`."""

import json
import shutil
from typing import TYPE_CHECKING, Any

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, recipe_from, recipe_options, source_options

if TYPE_CHECKING:
    from hubconv.steps.plan import Plan


@click.command()
@click.argument("source")
@recipe_options
@source_options
@output_options
def plan(
    source: str,
    *,
    revision: str,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the recipe's options, by name
) -> None:
    """Show what converting SOURCE would do; reads headers only."""
    del quiet
    quiet_libraries(verbose)
    from hubconv.pipeline import plan as make

    made = make(source, recipe_from(values), revision=revision, work_dir=work_dir)
    show_plan(made, as_json=as_json)


def show_plan(made: "Plan", *, as_json: bool) -> None:
    """Print a plan as a table, or as JSON."""
    from hubconv.steps.tables import plan_json, plan_table

    if as_json:
        click.echo(json.dumps(plan_json(made)))
    else:
        click.echo(plan_table(made, shutil.get_terminal_size((100, 24)).columns))
