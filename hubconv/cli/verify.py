"""`hubconv verify TARGET`."""

import json
import sys

import click

from hubconv.cli.depth import depth_from, depth_options
from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, source_options
from hubconv.errors import IntegrityError


@click.command()
@click.argument("target")
@click.option("--source", "source", default="", help="Compare decoded weights with this source.")
@depth_options
@click.option(
    "--fast", is_flag=True, help="Headers, tree and configuration only; no weight is read."
)
@source_options
@output_options
def verify(
    target: str,
    *,
    source: str,
    full: bool,
    sample: int | None,
    seed: int,
    fast: bool,
    revision: str,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Read TARGET back and say whether engines load it, and load it right.

    Works on any NVFP4 repository or folder, whoever made it. Errors end with exit code 7, warnings
    alone do not.
    """
    quiet_libraries(verbose)
    depth = depth_from(full=full, sample=sample, seed=seed, fast=fast)
    from hubconv.audit import audit, audit_json, render_audit
    from hubconv.progress import choose_progress

    progress = choose_progress(sys.stderr, quiet=quiet or not full, json=as_json)
    try:
        done = audit(
            target, source, revision=revision, work_dir=work_dir, depth=depth, progress=progress
        )
    finally:
        progress.close()
    if as_json:
        click.echo(json.dumps(audit_json(done)))
    elif not quiet or done.errors:
        click.echo(render_audit(done))
    if done.errors:
        raise IntegrityError(
            f"{target} has {len(done.errors)} faults that loaders trip over.",
            "Each is listed above with the engines it concerns.",
        )
