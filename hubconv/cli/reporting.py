"""What a run leaves for programs: a job's summary page, a report folder for whoever signs."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hubconv.discretion import without_secrets
from hubconv.errors import HubconvError, UsageError

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome
    from hubconv.steps.facts import Report
    from hubconv.steps.provenance import Builder

LOG: Final = logging.getLogger(__name__)

SUMMARY: Final = "GITHUB_STEP_SUMMARY"

REPORT: Final = "report.json"
CHECKSUMS: Final = "SHA256SUMS"
STATEMENT: Final = "provenance.json"
PREDICATE: Final = "predicate.json"


def prepare_report_dir(folder: str) -> None:
    """Make sure, before hours of work, that a report can be written.

    Raises:
        UsageError: It cannot.
    """
    if not folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--report-dir {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--report-dir {folder} cannot be written to.")


def write_report_dir(folder: str, outcome: "Outcome", told: Mapping[str, Any]) -> None:
    """Write report, checksums and, if this run made what is published, its provenance.

    `sha256sum -c SHA256SUMS` passes in a download of the target. For `actions/attest` its
    `subject-checksums` is SHA256SUMS and its `predicate-path` predicate.json.

    Args:
        folder: Where.
        outcome: How the run ended, with digests.
        told: The same as JSON.
    """
    from hubconv.steps.provenance import checksums, predicate, statement

    into = Path(folder)
    _write(into / REPORT, told)
    (into / CHECKSUMS).write_text(checksums(outcome.digests), "utf-8")
    if outcome.report is None:
        return  # what is there was made by another run, which alone can tell how
    how = predicate(
        outcome.plan, outcome.report, _name_of(outcome.published.ref), _builder(outcome.seconds)
    )
    _write(into / PREDICATE, how)
    _write(into / STATEMENT, statement(outcome.digests, how))


def _name_of(ref: str) -> str:
    """`org/name`; of a folder its last name only, as paths say much about a machine."""
    return Path(ref).name if ref.startswith("/") else ref


def _write(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _builder(seconds: float) -> "Builder":
    """Who runs this: in GitHub Actions the workflow, by its own words."""
    from hubconv.steps.provenance import LOCAL_BUILDER, Builder

    now = datetime.now(UTC)
    names = ("SERVER_URL", "WORKFLOW_REF", "REPOSITORY", "RUN_ID", "RUN_ATTEMPT")
    server, workflow, repository, run, attempt = (
        os.environ.get(f"GITHUB_{name}", "") for name in names
    )
    known = os.environ.get("GITHUB_ACTIONS") == "true" and all((server, workflow, repository, run))
    return Builder(
        f"{server}/{workflow}" if known else LOCAL_BUILDER,
        f"{server}/{repository}/actions/runs/{run}/attempts/{attempt or 1}" if known else "",
        now - timedelta(seconds=seconds),
        now,
    )


def write_summary(outcome: "Outcome") -> None:
    """Append what came out to the summary page of a CI job, where there is one."""
    if os.environ.get(SUMMARY):
        _append(_summary(outcome))


def write_failure(error: HubconvError) -> None:
    """Append why a command failed to the summary page of a CI job, where there is one."""
    if not os.environ.get(SUMMARY):
        return
    from hubconv.card import render_template

    told = {"what": without_secrets(error.what), "next_step": without_secrets(error.next_step)}
    context = {**told, "exit_code": error.exit_code}
    _append(render_template("job_failed.md.jinja", context))


def _append(text: str) -> None:
    """A page that cannot be written to changes nothing of how a command ended."""
    try:
        with Path(os.environ[SUMMARY]).open("a", encoding="utf-8") as page:
            page.write(text + "\n")
    except OSError as error:
        LOG.warning("The job's summary could not be written: %s", error)


def _summary(outcome: "Outcome") -> str:
    from hubconv.card import render_template
    from hubconv.steps.report import job_summary

    if outcome.report is not None:
        return job_summary(_published(outcome.report, outcome))
    context = {"published": outcome.published, "plan": outcome.plan}
    return render_template("job_up_to_date.md.jinja", context)


def _published(report: "Report", outcome: "Outcome") -> "Report":
    run = replace(report.run, published=outcome.published, seconds=outcome.seconds)
    return replace(report, run=run)
