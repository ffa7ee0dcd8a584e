"""`hubconv card TARGET`."""

import json

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, template_option, work_dir_option


@click.command()
@click.argument("target")
@template_option
@click.option("--create-pr", is_flag=True, help="Commit to a pull request instead of main.")
@work_dir_option
@output_options
def card(
    target: str,
    *,
    template: str,
    create_pr: bool,
    work_dir: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Make the card of TARGET and its pictures again from hubconv.json, in one commit.

    No weight is read. Sections between <!-- keep --> and <!-- /keep --> stay as they are. Nothing
    is committed where nothing would change.
    """
    quiet_libraries(verbose)
    from hubconv.refresh import refresh

    done = refresh(target, template=template, create_pr=create_pr, work_dir=work_dir)
    published = done.published
    if as_json:
        told = {
            "status": "published" if published else "up-to-date",
            "target": done.target,
            "changed": list(done.changed),
            "commit": published.commit if published else None,
            "url": published.url if published else None,
            "pull_request": (published.pull_request if published else 0) or None,
        }
        click.echo(json.dumps(told))
    elif not quiet:
        click.echo(
            f"Made again: {', '.join(done.changed)} of {done.target}: {published.url}"
            if published
            else f"The card of {done.target} is up to date."
        )
