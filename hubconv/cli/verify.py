"""`hubconv verify TARGET`."""

import json

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, source_options
from hubconv.errors import IntegrityError


@click.command()
@click.argument("target")
@click.option("--source", "source", default="", help="Compare decoded weights with this source.")
@source_options
@output_options
def verify(
    target: str,
    *,
    source: str,
    revision: str,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Read TARGET back and say whether engines load it, and load it right.

    Works on any NVFP4 repository or folder, whoever made it.
    """
    quiet_libraries(verbose)
    from hubconv.audit import audit, audit_json, render_audit

    done = audit(target, source, revision=revision, work_dir=work_dir)
    if as_json:
        click.echo(json.dumps(audit_json(done)))
    elif not quiet or done.errors:
        click.echo(render_audit(done))
    if done.errors:
        raise IntegrityError(
            f"{target} has {len(done.errors)} faults that loaders trip over.",
            "Each is listed above with the engines it concerns.",
        )
