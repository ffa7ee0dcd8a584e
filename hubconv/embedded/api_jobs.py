"""Jobs as the Hub takes orders for them.

Nothing is run here: a job goes through the stages and says the lines that were laid down for it
beforehand. What is real is what clients send and what they are answered.
"""

import json
import secrets
from typing import Any

from starlette.responses import Response

from hubconv.embedded.accounts import demand_login
from hubconv.embedded.jobs import Course, Job
from hubconv.embedded.records import now
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.wire import Call, Route, json_answer

FLAVORS = {"cpu-basic": 0, "cpu-xl": 16_667, "l4x1": 13_333, "h200": 83_333}
"""Hardware on offer, with its price a minute in millionths of a dollar."""

_OVER = {"COMPLETED", "CANCELED", "ERROR", "DELETED"}


def hardware(_call: Call) -> Response:
    """Say what jobs can run on."""
    return json_answer([
        {
            "name": name,
            "prettyName": name,
            "cpu": "2 vCPU",
            "ram": "16 GB",
            "unitCostMicroUSD": price,
            "unitCostUSD": price / 1e6,
            "unitLabel": "minute",
        }
        for name, price in FLAVORS.items()
    ])


def run(call: Call) -> Response:
    """Take an order for now."""
    body = call.json()
    _check(call, body)
    book = call.state.jobs
    with book.lock:
        course = book.courses.popleft() if book.courses else Course()
        job = Job(secrets.token_hex(12), call.params["ns"], body, course)
        book.jobs[job.id] = job
    return json_answer(_members(job))


def schedule(call: Call) -> Response:
    """Take an order for again and again."""
    body = call.json()
    _check(call, body.get("jobSpec") or {})
    if not str(body.get("schedule") or "").strip():
        raise Refusal(400, '"schedule" must be a cron expression')
    job = Job(secrets.token_hex(12), call.params["ns"], body, Course())
    call.state.jobs.scheduled[job.id] = job
    return json_answer({
        "id": job.id,
        "createdAt": now(),
        "schedule": body["schedule"],
        "suspend": bool(body.get("suspend")),
        "concurrency": bool(body.get("concurrency")),
        "jobSpec": {**body["jobSpec"], "secrets": _names(body["jobSpec"])},
        "status": {"nextJobRunAt": now()},
        "owner": _owner(job),
    })


def inspect(call: Call) -> Response:
    """Say how a job is."""
    return json_answer(_members(_job(call)))


def logs(call: Call) -> Response:
    """Say what a job said; with the last line it ends."""
    job = _job(call)
    lines = ["===== Job started at now =====", *job.course.lines]
    events = [json.dumps({"data": line, "timestamp": now()}) for line in lines]
    if job.stage not in _OVER:
        job.stage = job.course.stage
    text = "".join(f"data: {event}\n\n" for event in events)
    return Response(text, media_type="text/event-stream")


def cancel(call: Call) -> Response:
    """End a job."""
    job = _job(call)
    job.stage = "CANCELED"
    return json_answer(_members(job))


def _check(call: Call, spec: dict[str, Any]) -> None:
    account = demand_login(call.account)
    namespace = call.params["ns"]
    if account.role == "read" or account.only or not account.belongs_to(namespace):
        raise Refusal(403, f"You may not run jobs in {namespace}.")
    if spec.get("flavor") not in FLAVORS:
        raise Refusal(400, f"There is no flavor {spec.get('flavor')}")
    if not spec.get("command") or not (spec.get("dockerImage") or spec.get("spaceId")):
        raise Refusal(400, "A job needs a command and an image.")


def _job(call: Call) -> Job:
    demand_login(call.account)
    job = call.state.jobs.jobs.get(call.params["id"])
    if job is None or job.namespace != call.params["ns"]:
        raise Refusal(404, "There is no such job.")
    return job


def _members(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "createdAt": now(),
        "command": job.body["command"],
        "arguments": job.body.get("arguments"),
        "environment": job.body.get("environment"),
        "secrets": _names(job.body),
        "flavor": job.body["flavor"],
        "dockerImage": job.body.get("dockerImage"),
        "labels": job.body.get("labels"),
        "status": {
            "stage": job.stage,
            "message": job.course.message if job.stage in _OVER else None,
        },
        "owner": _owner(job),
    }


def _owner(job: Job) -> dict[str, str]:
    return {"id": job.namespace, "name": job.namespace, "type": "user"}


def _names(spec: dict[str, Any]) -> dict[str, None]:
    """Secrets are known by name afterwards, to everybody."""
    return dict.fromkeys(spec.get("secrets") or {})


_JOB = "/api/jobs/{ns}/{id}"
ROUTES = [
    Route("GET", "/api/jobs/hardware", "jobs", hardware),
    Route("POST", "/api/jobs/{ns}", "jobs", run),
    Route("POST", "/api/scheduled-jobs/{ns}", "jobs", schedule),
    Route("GET", _JOB, "jobs", inspect),
    Route("GET", f"{_JOB}/logs", "jobs", logs),
    Route("POST", f"{_JOB}/cancel", "jobs", cancel),
]
