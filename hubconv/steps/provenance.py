"""Provenance for those who sign: checksums, and an in-toto statement with SLSA's predicate.

Unsigned by itself: whoever runs hubconv signs it, as `actions/attest` does for a workflow.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from hubconv.steps.facts import Report
from hubconv.steps.plan import Plan

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:hubconv:conversion:v1"
LOCAL_BUILDER: Final = "urn:hubconv:builder:local"


@dataclass(frozen=True, slots=True)
class Builder:
    """Who ran the conversion, and when.

    Attributes:
        id: URI of the workflow, or LOCAL_BUILDER.
        invocation: URI of its run; empty where there is none.
        started: When the run that published began.
        finished: When it ended.
    """

    id: str
    invocation: str
    started: datetime
    finished: datetime


def checksums(digests: Mapping[str, str]) -> str:
    """Lines that `sha256sum -c` reads.

    Args:
        digests: sha256 by path.
    """
    return "".join(_line(path, digest) for path, digest in sorted(digests.items()))


def _line(path: str, digest: str) -> str:
    """A name with a line break or a backslash is written escaped, and its line begins so."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == path else "\\"
    return f"{mark}{digest}  {escaped}\n"


def statement(digests: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto statement: these files, made so.

    Args:
        digests: sha256 by path of every file.
        predicate: How they were made.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": path, "digest": {"sha256": digest}} for path, digest in sorted(digests.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(predicate),
    }


def predicate(plan: Plan, report: Report, target: str, builder: Builder) -> dict[str, Any]:
    """SLSA's provenance of a conversion.

    Args:
        plan: What was done.
        report: What came out.
        target: `org/name`, or a folder's name.
        builder: Who did it.
    """
    source: dict[str, Any] = {"name": report.source}
    if report.commit:
        source |= {
            "uri": f"hf://{report.source}@{report.commit}",
            "digest": {"gitCommit": report.commit},
        }
    metadata = {
        "invocationId": builder.invocation,
        "startedOn": _moment(builder.started),
        "finishedOn": _moment(builder.finished),
    }
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "source": report.source,
                "revision": report.commit,
                "target": target,
                "recipe": asdict(plan.recipe),
                "command": report.run.command,
            },
            "internalParameters": {
                "plan_id": report.plan_id,
                "layout": report.layout,
                "policy": report.policy,
                "activations": report.activations,
                "devices": list(report.devices),
            },
            # A folder has no digest that anybody could check: it is named above and no more.
            "resolvedDependencies": [source] if report.commit else [],
        },
        "runDetails": {
            "builder": {"id": builder.id, "version": dict(report.run.versions)},
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
