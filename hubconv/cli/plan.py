"""`hubconv plan SOURCE [TARGET]`."""

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.machine import machine_of
from hubconv.cli.options import (
    output_options,
    recipe_from,
    recipe_options,
    recipe_words,
    source_options,
)
from hubconv.cli.types import Rate, Size

if TYPE_CHECKING:
    from hubconv.steps.machine import Machine
    from hubconv.steps.plan import Plan


@click.command()
@click.argument("source")
@click.argument("target", default="")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a plan file, for hubconv work and hubconv publish on many machines.",
)
@click.option(
    "--rate",
    type=Rate(),
    default=None,
    metavar="RATE",
    help="Estimate hours, requests and commits at this rate of each machine's line (1GB/s).",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Machines of that estimate.",
)
@click.option(
    "--cores",
    type=click.IntRange(1, 4096),
    default=None,
    help="Tell whether it fits a machine of so many processors.  [default: this one's]",
)
@click.option(
    "--memory",
    type=Size(),
    default=0,
    metavar="SIZE",
    help="... of so much memory.  [default: this one's]",
)
@click.option(
    "--max-disk",
    type=Size(),
    default=0,
    metavar="SIZE",
    help="... of which it may take so much disk.  [default: what is free here]",
)
@recipe_options
@source_options
@output_options
def plan(
    source: str,
    target: str,
    *,
    output: Path | None,
    rate: int | None,
    nodes: int,
    cores: int | None,
    memory: int,
    max_disk: int,
    revision: str,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the recipe's options, by name
) -> None:
    """Show what converting SOURCE would do; reads headers only.

    With -o it is written down too: each of many machines then makes a slice of it with hubconv
    work, and one publishes with hubconv publish.
    """
    quiet_libraries(verbose)
    from hubconv.opening import refuse_same
    from hubconv.pipeline import plan as make

    if target:
        refuse_same(source, target)
    made = make(source, recipe_from(values), revision=revision, work_dir=work_dir)
    if output is not None:
        _write(made, source, target, revision, output)
    if as_json or not (quiet and output):
        place = folder_of(target) or work_dir
        machine = machine_of(cores or 0, memory, max_disk, place)
        show_plan(made, target, machine, as_json=as_json, rate=rate or 0, nodes=nodes)
    if output is not None and not (as_json or quiet):
        click.echo(
            f"\nWritten to {output}. On each of N machines: hubconv work {output} --slice i/N; "
            f"then once: hubconv publish {output}"
        )


def _write(made: "Plan", source: str, target: str, revision: str, output: Path) -> None:
    from hubconv.opening import parse_target
    from hubconv.pipeline import PlanFile
    from hubconv.words import parse_end

    asked = revision or parse_end(source).revision
    words = ["hubconv", source, target or "TARGET", *recipe_words(made.recipe)]
    command = shlex.join([*words, "--revision", revision] if revision else words)
    place = ""
    if target:
        end = parse_target(target)
        place = f"hf://{end.name}" if end.kind == "hub" else str(Path(end.name).resolve())
    PlanFile.of(made, place, command, asked).write(output)


def folder_of(target: str) -> str:
    """The folder that a target word names; empty where it names none."""
    from hubconv.opening import parse_target

    end = parse_target(target) if target else None
    return end.name if end and end.kind == "folder" else ""


def show_plan(
    made: "Plan",
    target: str,
    machine: "Machine",
    *,
    as_json: bool,
    rate: int = 0,
    nodes: int = 1,
) -> None:
    """Print a plan as a table, or as JSON, and what it would take at a rate if one is named.

    Args:
        made: The plan.
        target: Where the result goes; empty for a repository of no name.
        machine: What it is told to fit or not.
        as_json: For a program.
        rate: Bytes a second of each machine's line; 0 for no estimate.
        nodes: Machines of that estimate.
    """
    from hubconv.steps.estimate import Load, estimate, told
    from hubconv.steps.tables import plan_json, plan_table

    guess = estimate(Load.of(made), rate, nodes) if rate else None
    if as_json:
        more = {"estimate": guess.to_json()} if guess else {}
        click.echo(json.dumps(plan_json(made, machine) | more))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(plan_table(made, width, machine, is_folder=bool(folder_of(target))))
    if guess:
        click.echo("\n" + "\n".join(told(guess, above=bool(made.commit))))
