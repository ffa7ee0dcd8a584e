"""`hubconv compare A B`."""

import json
import sys

import click

from hubconv.cli.depth import depth_from, depth_options
from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, work_dir_option


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--source", "source", default="", help="Measure both against this source.")
@depth_options
@work_dir_option
@output_options
def compare(
    a: str,
    b: str,
    *,
    source: str,
    full: bool,
    sample: int | None,
    seed: int,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Hold two NVFP4 results of one model side by side: error by role, what differs.

    A and B are repositories (org/name, org/name@revision) or folders, whoever made them and in
    whichever layout. Results that differ are no error; those of two models end with exit code 3.
    """
    quiet_libraries(verbose)
    asked = depth_from(full=full, sample=sample, seed=seed)
    from hubconv.audit import Depth, comparison_json, render_comparison
    from hubconv.audit import compare as hold
    from hubconv.audit.comparing import COMPARED_WEIGHTS
    from hubconv.progress import choose_progress

    depth = Depth("rows", COMPARED_WEIGHTS, seed) if asked.kind == "rows" else asked
    progress = choose_progress(sys.stderr, quiet=quiet or not full, json=as_json)
    try:
        done = hold(a, b, source, work_dir=work_dir, depth=depth, progress=progress)
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps(comparison_json(done)))
    elif not quiet:
        click.echo(render_comparison(done))
