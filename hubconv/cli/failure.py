"""A failure as a person or a program reads it: what, where, what to do next, what is saved."""

import json
import os
import re
import traceback
from typing import Final

import click

from hubconv.errors import HubconvError

_SECRETS: Final = re.compile(
    r"hf_[A-Za-z0-9_]{8,}|Bearer\s+\S+|(?<=[?&])(X-Amz-[^=]+|Signature|Policy|Key-Pair-Id)=[^&\s]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A text in which nothing can be used to log in."""
    return _SECRETS.sub("***", text)


def report_failure(error: HubconvError, *, as_json: bool) -> int:
    """Tell of a failure and give its exit code.

    HUBCONV_DEBUG=1 shows where it happened.
    """
    if as_json:
        told = {
            "status": "failed",
            "error": type(error).__name__,
            "exit_code": error.exit_code,
            "what": without_secrets(error.what),
            "next": without_secrets(error.next_step),
        }
        click.echo(json.dumps(told))
    click.echo(f"Error: {without_secrets(error.what)}", err=True)
    if error.next_step:
        click.echo(f"       {without_secrets(error.next_step)}", err=True)
    if os.environ.get("HUBCONV_DEBUG"):
        click.echo(without_secrets("".join(traceback.format_exception(error))), err=True)
    return error.exit_code
