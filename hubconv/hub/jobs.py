"""Conversions as jobs on the Hub's own machines: ordered, followed, and how they ended."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from huggingface_hub import JobInfo, get_token
from huggingface_hub._jobs_api import JobHardware
from huggingface_hub.errors import HfHubHTTPError

from hubconv.errors import HubconvError, NotAllowedError, TemporaryError, UsageError
from hubconv.hub.client import HubClient, explain
from hubconv.hub.compat import NOT_FOUND, status_of
from hubconv.hub.credentials import TARGET_IDENTITY, chosen
from hubconv.hub.waiting import heard

TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of a variable, not a token
DONE: Final = "COMPLETED"
CANCELLED: Final = ("CANCELED", "DELETED")
OVER: Final = (DONE, "ERROR", *CANCELLED)
PROGRAM: Final = "hubconv"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CODE: Final = re.compile(r"exit(?:ed with)? code:?\s*(\d{1,3})", re.IGNORECASE)
_LAST_CODE: Final = 255


class JobError(HubconvError):
    """Raised when a job did not end well; with its exit code, where the Hub tells it.

    Args:
        what: One sentence: what went wrong, and where.
        next_step: What to do now.
        code: Of the job.
    """

    def __init__(self, what: str, next_step: str, code: int) -> None:
        super().__init__(what, next_step)
        self.exit_code = code  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A conversion to be run by the Hub.

    Attributes:
        words: Of the command, without the program's name.
        flavor: Hardware, as the Hub names it.
        timeout_s: When the Hub ends it, whatever it does.
        package: What is installed: `hubconv==1.2`, or a place of the package.
        secret_names: Environment variables of this machine that it is given as secrets.
        namespace: Who pays; empty for the account of the token.
        schedule: When it runs, as a cron expression or @daily; empty for now.
        attempts: How often it is begun where it fails; 0 for what the Hub does.
    """

    words: Sequence[str]
    flavor: str
    timeout_s: int
    package: str
    secret_names: Sequence[str] = (TOKEN,)
    namespace: str = ""
    schedule: str = ""
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the Hub answered.

    Attributes:
        job_id: Its id.
        namespace: Where it runs.
        url: What a person opens to see it.
        is_scheduled: It is a schedule, and nothing runs yet.
        next_run: When it runs next, where the Hub told.
    """

    job_id: str
    namespace: str
    url: str
    is_scheduled: bool = False
    next_run: str = ""


def order(client: HubClient, wish: JobOrder) -> Ordered:
    """Have the Hub run a conversion, now or by a schedule.

    Raises:
        UsageError: No such hardware, or a secret that is not set here.
        HubconvError: The Hub refused.
    """
    secrets = secrets_of(wish.secret_names)
    _check_flavor(client, wish.flavor)
    namespace = wish.namespace or str(
        client.call("Asking the Hub who you are", client.api.whoami)["name"]
    )
    common: dict[str, Any] = {
        "script_args": list(wish.words),
        "dependencies": [wish.package],
        "secrets": secrets,
        "flavor": wish.flavor,
        "timeout": wish.timeout_s,
        "attempts": wish.attempts or None,
        "labels": {"made-by": PROGRAM},
        "namespace": namespace,
    }
    # Asked once: a second order after a lost answer would be a second job, and a second bill.
    try:
        if wish.schedule:
            # Two at the same time would only wait for each other's shards.
            planned = client.api.create_scheduled_uv_job(
                PROGRAM, schedule=wish.schedule, concurrency=False, **common
            )
            moment = planned.status.next_job_run_at
            url = f"{client.api.endpoint}/settings/jobs"
            told = moment.isoformat() if moment else ""
            return Ordered(planned.id, namespace, url, is_scheduled=True, next_run=told)
        made = client.api.run_uv_job(PROGRAM, **common)
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no file {error}, and the job would need it.",
            "Name a file of this machine; it is given to the job.",
        ) from error
    except Exception as error:
        raise _refused(error, namespace) from error
    return Ordered(made.id, namespace, made.url)


def _refused(error: Exception, namespace: str) -> HubconvError:
    found = explain(error, f"Ordering a job of {namespace}")
    if isinstance(found, NotAllowedError):
        return NotAllowedError(
            found.what,
            "Jobs need a token with the right to run them in this namespace, and an account that "
            f"can pay: see --namespace, or {TOKEN}.",
        )
    if isinstance(found, TemporaryError):
        return TemporaryError(
            found.what,
            f"It may have been ordered all the same: look with `hf jobs ps --namespace {namespace}`"
            " before you order it again.",
        )
    return found


def secrets_of(names: Sequence[str]) -> dict[str, str]:
    """The values of named secrets, from where the user keeps them.

    Raises:
        UsageError: A word that is no name, or a name without a value.
    """
    found = {}
    for name in names:
        if not _NAME.fullmatch(name):
            told = name.partition("=")[0] if _NAME.fullmatch(name.partition("=")[0]) else "NAME"
            raise UsageError(
                "A secret is given by its name alone, for a command line can be read by others.",
                f"Set it in the environment and say --secret {told}.",
            )
        value = os.environ.get(name, "").strip()
        if not value and name == TOKEN and not chosen((TARGET_IDENTITY,)):
            value = get_token() or ""  # where `hf auth login` has put it
        if not value:
            raise UsageError(
                f"The secret {name} is not set here.",
                f"Set {name} in the environment"
                + (
                    ", or log in with `hf auth login`: a job needs a token of its own."
                    if name == TOKEN
                    else "."
                ),
            )
        found[name] = value
    return found


def _check_flavor(client: HubClient, flavor: str) -> None:
    """Refuse hardware that there is not, by what the Hub offers today.

    Raises:
        UsageError: There is none of the name.
    """

    def ask() -> list[str]:
        try:
            return [each.name for each in client.api.list_jobs_hardware()]
        except HfHubHTTPError as error:
            if status_of(error) != NOT_FOUND:
                raise
            return [each.value for each in JobHardware]

    known = client.call("Asking for the hardware of jobs", ask)
    if flavor not in known:
        near = get_close_matches(flavor, known, 3)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"The Hub has no hardware {flavor}.", f"{hint}There is: {', '.join(known)}."
        )


def follow(client: HubClient, ordered: Ordered, show: Callable[[str], None]) -> None:
    """Show what a job says until it ends.

    Args:
        client: How to reach the Hub.
        ordered: The job.
        show: Given each line.

    Raises:
        JobError: It failed or was cancelled.
        HubconvError: It cannot be followed any more; it goes on all the same.
    """
    job, namespace = ordered.job_id, ordered.namespace
    api = client.api
    try:
        for line in heard(lambda: api.fetch_job_logs(job_id=job, namespace=namespace, follow=True)):
            show(line)
    except Exception as error:
        found = explain(error, f"Following job {ordered.job_id}")
        found.next_step = f"The job goes on: see {ordered.url}."
        raise found from error
    info = client.call(
        f"Asking how job {ordered.job_id} ended",
        lambda: api.inspect_job(job_id=job, namespace=namespace),
    )
    _judge(info, ordered)


def _judge(info: JobInfo, ordered: Ordered) -> None:
    stage = getattr(info.status.stage, "value", str(info.status.stage))
    if stage == DONE:
        return
    again = "Finished shards are kept; run the same command again to go on."
    if stage not in OVER:
        raise TemporaryError(
            f"Job {ordered.job_id} says nothing more and is {stage.lower()}.",
            f"It goes on: see {ordered.url}.",
        )
    if stage in CANCELLED:
        raise JobError(f"Job {ordered.job_id} was cancelled.", again, TemporaryError.exit_code)
    message = info.status.message or "the Hub does not say why"
    code = _CODE.search(message)
    number = int(code[1]) if code else 0
    known = number if 0 < number <= _LAST_CODE else TemporaryError.exit_code
    raise JobError(
        f"Job {ordered.job_id} failed: {message.rstrip('.')}.", f"See {ordered.url}. {again}", known
    )


def ordered_json(ordered: Ordered, stage: str) -> Mapping[str, Any]:
    """What became of an order, for programs."""
    return {
        "status": stage,
        "job_id": ordered.job_id,
        "namespace": ordered.namespace,
        "url": ordered.url,
        "next_run": ordered.next_run or None,
    }
