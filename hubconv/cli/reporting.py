"""What a run leaves for programs: a report folder, for whoever signs what was published."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hubconv.errors import UsageError

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome
    from hubconv.steps.provenance import Builder

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
