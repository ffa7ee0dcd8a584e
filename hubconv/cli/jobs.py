"""`hubconv jobs SOURCE TARGET`: the same conversion, on a machine of the Hub."""

import json
from typing import TYPE_CHECKING, Any, Final

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import (
    making_options,
    output_options,
    publish_options,
    recipe_from,
    recipe_options,
    recipe_words,
    target_options,
)
from hubconv.cli.types import Duration
from hubconv.discretion import without_secrets
from hubconv.errors import UsageError
from hubconv.progress import printable
from hubconv.version import __version__

if TYPE_CHECKING:
    from hubconv.hub.jobs import Ordered

MARGIN_S: Final = 600
"""A job stops in order so long before the Hub would end it."""

LEAST_S: Final = 2 * MARGIN_S
INTERRUPTED: Final = 130


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--flavor", required=True, metavar="F", help="Hardware: cpu-xl, l4x1, h200, ...")
@click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    default="6h",
    show_default=True,
    metavar="TIME",
    help="The Hub ends the job after this time; it stops in order ten minutes before.",
)
@click.option(
    "--schedule", default="", metavar="CRON", help="Run again and again: @daily, 0 3 * * *."
)
@click.option(
    "--secret",
    "secret_names",
    multiple=True,
    metavar="NAME",
    help="Give the job an environment variable of this machine as a secret. Repeatable."
    "  [default: HF_TOKEN]",
)
@click.option("--namespace", default="", help="Who pays.  [default: the account of the token]")
@click.option("--attempts", type=click.IntRange(1, 10), default=None, help="Begin it so often.")
@click.option("--detach", is_flag=True, help="Order it and do not follow what it says.")
@click.option(
    "--package",
    default=f"hubconv=={__version__}",
    show_default=True,
    metavar="SPEC",
    help="What the job installs.",
)
@click.option("--revision", default="", help="Branch, tag or commit of the source.")
@recipe_options
@making_options
@target_options
@publish_options
@output_options
def jobs(
    source: str,
    target: str,
    *,
    timeout_s: float,
    detach: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the options above, by name
) -> None:
    """Convert SOURCE to TARGET in a job on the Hub's machines, next to the storage.

    Both are Hub repositories. The job is this version of hubconv with the same options; a job that
    ended early is gone on with by the same command. Secrets are given by name and never shown.
    """
    quiet_libraries(verbose)
    from hubconv.hub.client import open_client
    from hubconv.hub.jobs import TOKEN, JobOrder, order, ordered_json

    _refuse_folders(source, target)
    if timeout_s < LEAST_S:
        raise UsageError(
            f"A job of {timeout_s:.0f} seconds would only install hubconv.",
            f"Give it at least --timeout {LEAST_S // 60}m.",
        )
    names = values.pop("secret_names") or (TOKEN,)
    wish = {name: values.pop(name) for name in ("flavor", "schedule", "namespace", "package")}
    attempts = values.pop("attempts") or 0
    words = job_words(source, target, values, timeout_s)
    client = open_client(__version__)
    ordered = order(
        client,
        JobOrder(words, timeout_s=int(timeout_s), secret_names=names, attempts=attempts, **wish),
    )
    if not quiet:
        click.echo(_told(ordered), err=as_json)
    if not (detach or ordered.is_scheduled):
        _follow(client, ordered, to_stderr=as_json, quiet=quiet)
    stage = "scheduled" if ordered.is_scheduled else "ordered" if detach else "completed"
    if as_json:
        click.echo(json.dumps(ordered_json(ordered, stage)))


def _refuse_folders(source: str, target: str) -> None:
    from hubconv.opening import refuse_same
    from hubconv.words import parse_end

    for word in (source, target):
        if parse_end(word).kind == "folder":
            raise UsageError(
                f"{word} is a folder, which a job on the Hub cannot see.",
                "Name repositories: org/name.",
            )
    refuse_same(source, target)


def job_words(source: str, target: str, values: dict[str, Any], timeout_s: float) -> list[str]:
    """The words of the job's command.

    Args:
        source: SOURCE word.
        target: TARGET word.
        values: Values of the shared options, by name.
        timeout_s: When the Hub ends it.
    """
    recipe = recipe_words(recipe_from(values))
    limit = int(values["time_limit_s"] or timeout_s - MARGIN_S)
    words = ["convert", source, target, *recipe, "--time-limit", str(limit)]
    for option, name, usual in (
        ("--revision", "revision", ""),
        ("--device", "device", "auto"),
        ("--workers", "workers", None),
        ("--max-disk", "max_disk", 0),
        ("--card-template", "template", ""),
    ):
        if values[name] != usual:
            words += [option, str(values[name])]
    private = {True: ["--private"], False: ["--no-private"], None: []}[values["private"]]
    flags = {
        "--replace": values["replace"],
        "--allow-publish-private": values["allow_public"],
        "--accept-new-owner": values["new_owner"],
        "--create-pr": values["create_pr"],
        "--no-tag": not values["tag"],
    }
    return [*words, *private, *(flag for flag, is_set in flags.items() if is_set)]


def _told(ordered: "Ordered") -> str:
    if ordered.is_scheduled:
        first = f", first at {ordered.next_run}" if ordered.next_run else ""
        return (
            f"Scheduled job {ordered.job_id}: {ordered.url}{first}\n"
            f"Ended by: hf jobs scheduled delete {ordered.namespace}/{ordered.job_id}"
        )
    return f"Job {ordered.job_id}: {ordered.url}"


def _follow(client: Any, ordered: "Ordered", *, to_stderr: bool, quiet: bool) -> None:  # noqa: ANN401
    from hubconv.hub.jobs import follow

    def show(line: str) -> None:
        if not quiet:
            click.echo(printable(without_secrets(line)), err=to_stderr)

    try:
        follow(client, ordered, show)
    except KeyboardInterrupt:
        click.echo(
            f"Job {ordered.job_id} goes on: {ordered.url}\n"
            f"Cancel it with: hf jobs cancel {ordered.namespace}/{ordered.job_id}",
            err=True,
        )
        raise SystemExit(INTERRUPTED) from None
