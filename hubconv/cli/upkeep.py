"""`hubconv status`, `hubconv abort` and `hubconv gc`: plans that are not finished."""

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from hubconv.cli.environment import quiet_libraries
from hubconv.cli.options import output_options, yes_option
from hubconv.cli.types import Duration
from hubconv.errors import UsageError
from hubconv.progress import printable
from hubconv.quantities import human_bytes, human_time

if TYPE_CHECKING:
    from hubconv.journal import Journal, RunNote
    from hubconv.upkeep import Discarded, Status, Unfinished


@click.command()
@click.argument("target")
@output_options
def status(target: str, *, as_json: bool, quiet: bool, verbose: int) -> None:
    """Show unfinished plans on TARGET: how far they are, how to go on, how to discard them.

    TARGET is a repository or a folder. Nothing is written.
    """
    del quiet
    quiet_libraries(verbose)
    from hubconv.upkeep import status as look

    found = look(target)
    click.echo(json.dumps(status_json(found)) if as_json else render_status(found, target))


@click.command()
@click.argument("target")
@click.option("--plan", "plan_id", default="", metavar="ID", help="Which, where there are several.")
@yes_option
@output_options
def abort(
    target: str, *, plan_id: str, yes: bool, as_json: bool, quiet: bool, verbose: int
) -> None:
    """Discard an unfinished plan on TARGET, with every shard that is staged for it.

    What is published is not touched. Shards that only this plan held are deleted for good.
    """
    quiet_libraries(verbose)
    from hubconv.upkeep import abort as discard

    found = discard(target, plan_id, removes=False)
    if not found.journals:
        _show(found, as_json=as_json, quiet=quiet)
        return
    if not yes:
        _ask(found)
    done = discard(target, plan_id, removes=True)
    _show(done, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("target")
@click.option(
    "--older-than",
    type=Duration(),
    default="7d",
    show_default=True,
    metavar="TIME",
    help="Leave plans alone that received something since.",
)
@yes_option
@output_options
def gc(
    target: str, *, older_than: float, yes: bool, as_json: bool, quiet: bool, verbose: int
) -> None:
    """List unfinished plans on TARGET that nobody goes on with; with --yes, discard them.

    Large files are deleted for good where no branch, tag, pull request or commit of main names
    them any more.
    """
    quiet_libraries(verbose)
    from hubconv.upkeep import sweep

    _show(sweep(target, older_than, removes=yes), as_json=as_json, quiet=quiet)


def _ask(found: "Discarded") -> None:
    """Make sure that it is meant.

    Raises:
        UsageError: Nobody is there to ask.
    """
    listed = "; ".join(_line(journal) for journal in found.journals)
    if not sys.stdin.isatty():
        raise UsageError(f"This would discard, on {found.target}: {listed}.", "Say --yes.")
    click.confirm(f"Discard, on {found.target}: {listed}?", abort=True, err=True)


def _show(done: "Discarded", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(discarded_json(done)))
    elif not quiet:
        click.echo(render_discarded(done))


# ── as JSON ──────────────────────────────────────────────────────────────────────────────────


def status_json(found: "Status") -> dict[str, Any]:
    """A target's state, as JSON."""
    manifest = found.manifest or {}
    source = manifest.get("source") or {}
    return {
        "target": found.target,
        "exists": found.exists,
        "published": {
            "plan_id": manifest.get("plan_id"),
            "source": source.get("repo"),
            "source_commit": source.get("commit"),
        }
        if found.manifest
        else None,
        "plans": [
            {
                **plan.journal.to_json(),
                "source_state": plan.source,
                "source_head": plan.head or None,
                "resume": plan.resume() or None,
                "discard": _discard(found.target, plan.journal),
            }
            for plan in found.plans
        ],
    }


def discarded_json(done: "Discarded") -> dict[str, Any]:
    """What was discarded, as JSON."""
    freed = done.freed
    return {
        "status": "discarded" if freed else "listed" if done.journals else "nothing to do",
        "target": done.target,
        "plans": [journal.to_json() for journal in done.journals],
        "objects_deleted": freed.objects if freed else 0,
        "bytes_deleted": freed.nbytes if freed else 0,
        "why_not": (freed.why_not if freed else "") or None,
    }


# ── for a terminal ───────────────────────────────────────────────────────────────────────────


def render_status(found: "Status", target: str) -> str:
    """A target's state, for a person."""
    if not found.exists:
        return f"{found.target} does not exist, or this account cannot see it. Nothing is staged."
    main = "is untouched by hubconv"
    if found.manifest is not None:
        main = f"was published from {found.published_from}"
    lines = [f"{found.target}: main {main}."]
    if not found.plans:
        return "\n".join([*lines, "No unfinished plan is staged."])
    for plan in found.plans:
        lines += ["", *_plan_lines(plan, target)]
    return "\n".join(lines)


def _plan_lines(plan: "Unfinished", target: str) -> list[str]:
    journal, note = plan.journal, plan.journal.note
    state = {"moved": f"moved on to {plan.head[:12]}", "unknown": plan.why}.get(
        plan.source, plan.source
    )
    at = f"@{note.commit[:12]}" if note.commit else ""
    lines = [_line(journal)]
    if note.source:
        lines.append(f"  source   {note.source}{at}{f' ({state})' if state else ''}")
    if journal.author:
        lines.append(f"  opened by {journal.author}")
    if journal.last_run is not None:
        lines += [printable(line) for line in _run_lines(journal.last_run)]
    if journal.seconds_left:
        left = human_time(journal.seconds_left)
        lines.append(f"  left     {left} of one worker's time, at the rate so far")
    if plan.resume():
        lines.append(f"  resume   {plan.resume()}")
    lines.append(f"  discard  {_discard(target, journal)}")
    return lines


def _run_lines(run: "RunNote") -> list[str]:
    """Who worked at a plan last, and how that ended."""
    part = f", slice {run.part}" if run.part else ""
    who = f"{run.where}, hubconv {run.version} on {run.device}{part}"
    began = f"  last run {who}, began {run.began[:16].replace('T', ' ')} UTC"
    if not run.ended:
        return [began, "           no end is noted: it is under way, or was killed"]
    how = f"failed with exit code {run.code}"
    how = {0: "done", 10: "stopped at its time limit", 130: "interrupted", 143: "terminated"}.get(
        run.code, how
    )
    why = f": {run.what}" if run.what and how.startswith("failed") else ""
    return [began, f"           {how} {run.ended[:16].replace('T', ' ')} UTC{why}"]


def _line(journal: "Journal") -> str:
    note = journal.note
    of = f" of {note.shards}" if note.shards else ""
    weight = human_bytes(journal.nbytes)
    whole = f" of {human_bytes(note.nbytes)}" if note.nbytes else ""
    return (
        f"plan {journal.plan_id}: {journal.shards}{of} shards staged ({weight}{whole}) on "
        f"{journal.place}{_age(journal)}"
    )


def _age(journal: "Journal") -> str:
    if journal.changed is None:
        return ""
    seconds = max((datetime.now(UTC) - journal.changed).total_seconds(), 0)
    return f", last {journal.changed:%Y-%m-%d %H:%M} UTC, {human_time(seconds)} ago"


def _discard(target: str, journal: "Journal") -> str:
    return f"hubconv abort {target} --plan {journal.plan_id}"


def render_discarded(done: "Discarded") -> str:
    """What was discarded, for a person."""
    if not done.journals:
        return f"{done.target}: there is no unfinished plan to discard."
    lines = [_line(journal) for journal in done.journals]
    if done.freed is None:
        return "\n".join([f"{done.target}: would be discarded with --yes:", *lines])
    freed = done.freed
    lines.append(f"{freed.objects} large files ({human_bytes(freed.nbytes)}) were deleted.")
    if freed.why_not:
        lines[-1] = f"Their large files were left to the Hub: {freed.why_not}"
    return "\n".join([f"{done.target}: discarded:", *lines])
