"""A failure as a person or a program reads it: what, where, what to do next, what is saved."""

import json
import os
import traceback

import click

from hubconv.discretion import without_secrets
from hubconv.errors import HubconvError, StoppedError, of_this_machine, unforeseen
from hubconv.progress import printable


def _harmless(text: str) -> str:
    """A message without secrets, and without what a source's names could do to a terminal."""
    return printable(without_secrets(text))


def report_failure(error: HubconvError, *, as_json: bool) -> int:
    """Tell of a failure and give its exit code.

    HUBCONV_DEBUG=1 shows where it happened.
    """
    if as_json:
        _tell_json(error, error.exit_code, error.what, error.next_step, **_how_far(error))
    click.echo(f"Error: {_harmless(error.what)}", err=True)
    if error.next_step:
        click.echo(f"       {_harmless(error.next_step)}", err=True)
    if os.environ.get("HUBCONV_DEBUG"):
        click.echo(without_secrets("".join(traceback.format_exception(error))), err=True)
    return error.exit_code


def report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Tell of a command line that click refuses and give its exit code."""
    if as_json:
        _tell_json(error, error.exit_code, error.format_message(), "")
    error.show()
    return error.exit_code


def report_unforeseen(error: Exception, *, as_json: bool) -> int:
    """Tell of what no step explained: of this machine's disk or memory, or a fault of ours."""
    local = of_this_machine(error)
    if local is None:
        return _report_bug(error, as_json=as_json)
    local.__cause__ = error
    return report_failure(local, as_json=as_json)


def _report_bug(error: Exception, *, as_json: bool) -> int:
    """Tell of what nobody foresaw, with the place where it happened, and give its exit code."""
    told = unforeseen(error)
    if as_json:
        _tell_json(error, told.exit_code, told.what, told.next_step)
    click.echo(without_secrets("".join(traceback.format_exception(error))), err=True)
    click.echo(f"Error: {without_secrets(told.what)}\n       {told.next_step}", err=True)
    return told.exit_code


def _how_far(error: HubconvError) -> dict[str, float]:
    if not (isinstance(error, StoppedError) and error.of):
        return {}
    return {
        "shards_staged": error.staged,
        "shards_total": error.of,
        "seconds_left": round(error.seconds_left, 1),
    }


def _tell_json(error: Exception, exit_code: int, what: str, next_step: str, **more: float) -> None:
    told = {
        "status": "failed",
        "error": type(error).__name__,
        "exit_code": exit_code,
        "what": without_secrets(what),
        "next": without_secrets(next_step),
        **more,
    }
    click.echo(json.dumps(told))
