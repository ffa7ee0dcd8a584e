"""What a run tells the GitHub Actions runner it works for: outputs of the step, and its summary.

Without a runner, which names its files in the environment, nothing is written.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hubconv.discretion import without_secrets
from hubconv.errors import HubconvError, StoppedError, of_this_machine, unforeseen

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome

_OUTPUT: Final = "GITHUB_OUTPUT"
_SUMMARY: Final = "GITHUB_STEP_SUMMARY"

STOPPED: Final = "job_stopped.md.jinja"
FAILED: Final = "job_failed.md.jinja"
ENDED: Final = "job_ended.md.jinja"
UP_TO_DATE: Final = "job_up_to_date.md.jinja"
WATCHED: Final = "watch_summary.md.jinja"
"""Templates of summaries; `job_summary` has its own."""


def tell_outputs(values: Mapping[str, str]) -> None:
    """Set outputs of the step."""
    if not os.environ.get(_OUTPUT):
        return
    lines = []
    for name, value in values.items():
        # A value may hold anything, but not a word that nobody knew before.
        end = f"end-{secrets.token_hex(16)}"
        lines.append(f"{name}<<{end}\n{value}\n{end}\n")
    _append(_OUTPUT, "".join(lines))


def tell_summary(template: str, context: Mapping[str, Any]) -> None:
    """Add to the summary of the job."""
    if not os.environ.get(_SUMMARY):
        return
    from hubconv.card import render_template

    _append(_SUMMARY, without_secrets(render_template(template, context)) + "\n")


def tell_outcome(outcome: "Outcome") -> None:
    """How a conversion ended well."""
    published, shards = outcome.published, len(outcome.plan.units)
    tell_outputs({
        "status": outcome.status,
        "commit": published.commit,
        "url": published.url,
        "shards-staged": str(shards),
        "shards-total": str(shards),
    })
    summarize(outcome)


@contextmanager
def telling(source: str, target: str) -> Iterator[None]:
    """Tell the runner where the work inside ends early; see `tell_failure`."""
    try:
        yield
    except Exception as error:
        tell_failure(error, source, target)
        raise


def tell_failure(error: Exception, source: str, target: str) -> None:
    """How a conversion ended early: what went wrong, or how far it is and how long the rest takes.

    Args:
        error: What ended it.
        source: SOURCE word.
        target: TARGET word.
    """
    told = error if isinstance(error, HubconvError) else of_this_machine(error) or unforeseen(error)
    facts = {
        "source": source,
        "target": target,
        "what": told.what,
        "next_step": told.next_step,
        "exit_code": told.exit_code,
    }
    if not isinstance(error, StoppedError):
        tell_outputs({"status": "failed"})
        tell_summary(FAILED, {"failed": facts})
        return
    far = {"staged": error.staged, "of": error.of, "seconds_left": error.seconds_left}
    tell_outputs({
        "status": "stopped",
        "shards-staged": str(error.staged),
        "shards-total": str(error.of),
    })
    tell_summary(STOPPED, {"stopped": facts | far})


def tell_end(error: Exception, command: str) -> None:
    """How a command that is no conversion failed.

    Args:
        error: What ended it.
        command: Its name.
    """
    told = error if isinstance(error, HubconvError) else of_this_machine(error) or unforeseen(error)
    facts = {"what": told.what, "next_step": told.next_step, "exit_code": told.exit_code}
    tell_summary(ENDED, {"command": command, "ended": facts})


def summarize(outcome: "Outcome") -> None:
    """Add what came out to the summary of the job."""
    if os.environ.get(_SUMMARY):
        _append(_SUMMARY, without_secrets(_summary(outcome)) + "\n")


def _summary(outcome: "Outcome") -> str:
    from hubconv.card import render_template
    from hubconv.steps.report import job_summary

    if outcome.report is None:
        context = {"published": outcome.published, "plan": outcome.plan}
        return render_template(UP_TO_DATE, context)
    run = replace(outcome.report.run, published=outcome.published, seconds=outcome.seconds)
    return job_summary(replace(outcome.report, run=run))


def _append(variable: str, text: str) -> None:
    """A runner that cannot be told is no reason to fail."""
    try:
        with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"Warning: ${variable} cannot be written: {error.strerror}", err=True)
