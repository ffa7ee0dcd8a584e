"""`hubconv watch FILE`: which targets of a watch list are out of date, and what to do about it."""

import json
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hubconv.cli.actions import (
    FAILED,
    STOPPED,
    WATCHED,
    summarize,
    tell_outputs,
    tell_summary,
)
from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import making_options, output_options, work_dir_option
from hubconv.discretion import without_secrets
from hubconv.progress import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubconv.progress import Progress
    from hubconv.watch import Ended, Look

_NO_TIME: Final = 0.001
"""A limit that is over; 0 would stand for none."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--only", default="", metavar="REPO", help="Only this target, or the targets of this source."
)
@click.option(
    "--event",
    default="",
    metavar="PAYLOAD",
    help="Only what a webhook's payload is about: a JSON file, or - for standard input.",
)
@click.option(
    "--check", is_flag=True, help="Plan what is due: tells what would be refused, and why."
)
@click.option("--run", "runs", is_flag=True, help="Convert what is due, one after the other.")
@click.option(
    "--format",
    "shown",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: what is due as the matrix of a GitHub workflow.",
)
@making_options
@work_dir_option
@output_options
def watch(
    file: Path,
    *,
    only: str,
    event: str,
    check: bool,
    runs: bool,
    shown: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **values: Any,  # noqa: ANN401 - the options about making shards, by name
) -> int:
    """Tell which targets of a watch list are out of date.

    FILE names sources and targets (TOML). Up to date is a target whose hubconv.json names the
    commit that its source stands at; that costs two requests a target and writes nothing. A
    refusal that headers alone tell is found with --check, or when the conversion is tried.
    """
    quiet_libraries(verbose)
    from hubconv.opening import Scratch, caches_in
    from hubconv.watch import look, read_event, read_list, worst

    began = time.monotonic()
    if runs and shown == "json":
        raise click.UsageError("--run converts here; --format json is for others to convert.")
    if as_json and shown == "json":
        raise click.UsageError("--json tells of every target, --format json of what is due.")
    watched = read_list(file)
    told = read_event(event) if event else None
    with Scratch(values["work_dir"]) as scratch, caches_in(scratch):
        looked = look(watched, only=only, event=told, check=_planned if check else None)
        if shown == "json":
            _show_matrix(looked)
        elif not (quiet or as_json):
            click.echo(render_looked(looked, str(file), told.why_not if told else ""))
        tell_summary(WATCHED, _summary(looked, str(file)))
        if values["time_limit_s"]:  # it holds for looking too
            gone = time.monotonic() - began
            values["time_limit_s"] = max(values["time_limit_s"] - gone, _NO_TIME)
        ended = _run(looked, values, as_json=as_json, quiet=quiet) if runs else []
    code = worst(looked, ended) if runs else 0
    if as_json:
        click.echo(json.dumps(watched_json(looked, ended)))
    return code


def _planned(found: "Look") -> None:
    """What a plan refuses, raised."""
    from hubconv.pipeline import plan

    plan(f"hf://{found.source}", found.wish.recipe, revision=found.wish.revision)


def _show_matrix(looked: "Sequence[Look]") -> None:
    from hubconv.cli.matrix import MOST_JOBS, matrix
    from hubconv.watch import in_order

    made = matrix(looked)
    count, due = len(made["include"]), len(in_order(looked))
    text = json.dumps(made, separators=(",", ":"))
    click.echo(text)
    tell_outputs({"matrix": text, "due": str(count)})
    for each in looked:
        if each.state in {"refused", "unknown"} and each.counts:
            click.echo(f"Warning: {_line(each)}", err=True)
    if due > count:
        click.echo(
            f"Warning: {due} targets are due; a matrix takes {MOST_JOBS}: the rest has its turn "
            "the next time.",
            err=True,
        )


def _run(
    looked: "Sequence[Look]", values: dict[str, Any], *, as_json: bool, quiet: bool
) -> "list[Ended]":
    from hubconv.cli.matrix import command_of
    from hubconv.progress import choose_progress
    from hubconv.watch import Running, run

    def progress_of(found: "Look") -> "Progress":
        progress = choose_progress(sys.stderr, quiet=quiet, json=as_json)
        progress.note(f"{found.source} -> {found.target}")
        return progress

    def tell(ended: "Ended") -> None:
        _summarize(ended)
        if ended.exit_code or not (as_json or quiet):
            click.echo(render_ended(ended), err=bool(ended.exit_code))

    running = Running(
        command_of=lambda found: shlex.join(command_of(found)),
        progress_of=progress_of,
        time_limit_s=values["time_limit_s"],
        device=values["device"],
        workers=values["workers"] or 0,
        engine=values["engine"],
        work_dir=values["work_dir"],
        max_disk=values["max_disk"],
    )
    return run(looked, running, tell)


def _summary(looked: "Sequence[Look]", file: str) -> dict[str, Any]:
    rows = [
        {"target": each.target, "source": each.source, "state": each.state, "why": each.why}
        for each in looked
    ]
    return {"title": f"{file}: {_counted(looked)}", "rows": rows}


def _summarize(ended: "Ended") -> None:
    if ended.outcome is not None:
        summarize(ended.outcome)
        return
    facts = {
        "source": ended.look.source,
        "target": ended.look.target,
        "what": ended.what,
        "next_step": ended.next_step,
    }
    if ended.status == "stopped":
        far = {"staged": ended.staged, "of": ended.of, "seconds_left": ended.seconds_left}
        tell_summary(STOPPED, {"stopped": facts | far})
    else:
        tell_summary(FAILED, {"failed": facts | {"exit_code": ended.exit_code}})


# ── for a person, and for programs ───────────────────────────────────────────────────────────


def render_looked(looked: "Sequence[Look]", file: str, why_not: str = "") -> str:
    """Where every target stands, for a person."""
    if not looked:
        return f"{file}: nothing to look at{f': {why_not}' if why_not else ''}."
    return "\n".join([*map(_line, looked), "", f"{file}: {_counted(looked)}."])


def _line(found: "Look") -> str:
    told = f"{found.target}: {found.state}"
    return printable(without_secrets(f"{told}: {found.why}" if found.why else told))


def _counted(looked: "Sequence[Look]") -> str:
    counts = Counter(each.state for each in looked)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to look at"


def render_ended(ended: "Ended") -> str:
    """How one target ended, for a person."""
    told = f"{ended.look.target}: {ended.status}"
    more = f"{ended.what} {ended.next_step}".strip()
    if ended.outcome is not None:
        more = ended.outcome.published.url
    return printable(without_secrets(f"{told}: {more}" if more else told))


def watched_json(looked: "Sequence[Look]", ended: "Sequence[Ended]") -> dict[str, Any]:
    """What was found, and what became of it, for programs."""
    from hubconv.cli.convert import outcome_json
    from hubconv.cli.matrix import command_of

    became = {each.look.target: each for each in ended}

    def entry(found: "Look") -> dict[str, Any]:
        told: dict[str, Any] = {
            "target": found.target,
            "source": found.source,
            "entry": found.wish.where,
            "state": found.state,
            "why": without_secrets(found.why) or None,
            "source_head": found.head or None,
            "published_from": found.published or None,
            "plan_id": found.plan_id or None,
            "shards_staged": found.shards if found.plan_id else None,
            "shards_total": found.of or None,
            "command": shlex.join(command_of(found)),
        }
        now = became.get(found.target)
        return told | ({"run": _ended_json(now)} if now else {})

    def _ended_json(now: "Ended") -> dict[str, Any]:
        return {
            "status": now.status,
            "exit_code": now.exit_code,
            "what": without_secrets(now.what) or None,
            "next": without_secrets(now.next_step) or None,
            "shards_staged": now.staged or None,
            "shards_total": now.of or None,
            "seconds_left": round(now.seconds_left, 1) or None,
            "outcome": outcome_json(now.outcome) if now.outcome else None,
        }

    return {"status": "watched", "targets": [entry(each) for each in looked]}
