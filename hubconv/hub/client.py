"""The client: one HfApi, retries for what it does not retry itself, and errors in our words.

A token is never passed on as text: the client asks for it at every call, so that one renewed
during a long run is used.
"""

import email.utils
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OIDCError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubconv.errors import (
    ConflictError,
    HubconvError,
    NotAllowedError,
    SourceError,
    TemporaryError,
    of_this_machine,
)
from hubconv.hub.compat import httpx, limit_waiting, parse_ratelimit_headers, status_of
from hubconv.hub.credentials import (
    SOURCE_IDENTITY,
    TARGET_IDENTITY,
    IdentifiedApi,
    Identity,
    are_wanted,
    chosen,
    identity_of,
    renewed,
)
from hubconv.hub.waiting import AtOnce, never, resting, watched

Result = TypeVar("Result")

TRIES: Final = 6
LONGEST_WAIT_S: Final = 60.0
MOVED: Final = 412
REFUSED: Final = (401, 403)
BUSY: Final = (408, 425, 429)
SERVER_FAULT: Final = 500


@dataclass(frozen=True, slots=True)
class HubClient:
    """What every room of `hub/` is given.

    Attributes:
        api: The client of huggingface_hub.
        wait: Called with seconds between tries; tests make it short.
        at_once: Asked while an answer is waited for; raises where the run must end now.
        identity: Whose tokens are renewed; None where a token was given.
        passed: Told the bytes of shards that came, or went, since it was told before.
    """

    api: HfApi
    wait: Callable[[float], None] = time.sleep
    at_once: AtOnce = never
    identity: Identity | None = None
    passed: Callable[[int], None] = lambda _: None

    def __reduce__(self) -> NoReturn:
        """A client holds a token: it goes into no file and to no other process.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a Hub client holds a token and is not passed on: open one where it works")

    def call(self, what: str, function: Callable[[], Result]) -> Result:
        """Run a request that may be repeated safely, with patience for faults that pass.

        Args:
            what: What is being done, for messages: `reading org/name`.
            function: The request.

        Raises:
            HubconvError: In our words, when patience is over or the fault is not a passing one.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return watched(function, self.at_once)
            except Exception as error:
                if isinstance(error, HubconvError) and not is_passing(error):
                    raise  # told already, by a call within
                if not is_passing(error):
                    raise explain(error, what) from error
                if attempt == TRIES:
                    raise TemporaryError(
                        f"{what} failed {TRIES} times: {_brief(error)}.",
                        "Finished shards are kept; run the same command again later.",
                    ) from error
                self.wait(pause(error, attempt))
        raise TemporaryError(f"{what} was not tried.")


def open_client(version: str, token_variable: str = "", at_once: AtOnce = never) -> HubClient:
    """A client with the user's credentials.

    A token of its own comes first, then the identity of a CI job, then what `hf` itself finds.

    Args:
        version: hubconv's version, for the user agent.
        token_variable: Environment variable with a token of its own for this end, which is the
            source.
        at_once: Asked in every pause between tries, and while an answer is waited for; raises
            where the run must end now.
    """
    token = os.environ.get(token_variable) or None if token_variable else None
    limit_waiting(renewed if are_wanted() else None)
    variables = (SOURCE_IDENTITY, TARGET_IDENTITY) if token_variable else (TARGET_IDENTITY,)
    resource = "" if token else chosen(variables)
    if not resource:
        return HubClient(
            HfApi(token=token, library_name="hubconv", library_version=version),
            resting(at_once),
            at_once,
        )
    identity = identity_of(resource, HfApi().endpoint)
    api = IdentifiedApi(identity, library_name="hubconv", library_version=version)
    return HubClient(api, resting(at_once), at_once, identity)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, HubconvError):
        return isinstance(error, TemporaryError)
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in BUSY or status_of(error) >= SERVER_FAULT
    # A gateway's HTML page where JSON was promised surfaces as a decoding error.
    return isinstance(
        error, httpx.TransportError | ConnectionError | TimeoutError | json.JSONDecodeError
    )


def is_engine_fault(error: BaseException) -> bool:
    """Whether hf_xet or hf_transfer failed: they raise plain errors whatever the cause was."""
    return type(error) in {RuntimeError, Exception} or type(error).__module__ == "hf_xet"


def pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait before the next try: what the server asks for, else growing with jitter."""
    asked = _retry_after(error)
    if asked is not None:
        return min(asked, 10 * LONGEST_WAIT_S)
    grown = min(2.0 ** (attempt - 1), LONGEST_WAIT_S)
    return grown * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret


def _retry_after(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    if response is None:
        return None
    text = response.headers.get("retry-after")
    if text is None:
        rate = parse_ratelimit_headers(response.headers)
        return rate.reset_in_seconds + 1.0 if rate is not None and not rate.remaining else None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:  # -0000 stands for a UTC of unknown place
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def explain(error: BaseException, what: str) -> HubconvError:
    """An error of the client in our words, with its exit code."""
    if isinstance(error, HubconvError):
        return error
    if isinstance(error, GatedRepoError):
        return NotAllowedError(
            f"{what}: the repository is gated and this account has no access.",
            f"Open {_page_of(error)}, accept its terms, then run again with that account's token; "
            "a source may have one of its own (HUBCONV_SOURCE_TOKEN, in CI HUBCONV_SOURCE_OIDC).",
        )
    if isinstance(error, RevisionNotFoundError):
        return SourceError(f"{what}: there is no such revision.", "Check --revision.")
    if isinstance(error, RepositoryNotFoundError):
        return SourceError(
            f"{what}: there is no such repository, or it is private and this token cannot see it.",
            "Check the name; for a private one log in with `hf auth login` or set HF_TOKEN.",
        )
    if isinstance(error, EntryNotFoundError):
        return SourceError(f"{what}: the file is not there.")
    if isinstance(error, LocalTokenNotFoundError | OIDCError):
        return NotAllowedError(
            f"{what}: no token ({_brief(error)}).",
            "Log in with `hf auth login`, set HF_TOKEN, or in a workflow grant id-token: write.",
        )
    if isinstance(error, HFValidationError):
        return SourceError(f"{what}: {_brief(error)}.")
    return _explain_status(error, what)


def _explain_status(error: BaseException, what: str) -> HubconvError:
    status = status_of(error)
    if status == MOVED:
        return ConflictError(f"{what}: the branch received another commit meanwhile.")
    if status in REFUSED:
        return NotAllowedError(
            f"{what}: the Hub refused ({status}): {_brief(error)}.",
            "Use a token with write access to this repository (hf auth login, or HF_TOKEN), or do "
            "what the Hub asks for. Finished shards are kept.",
        )
    if is_passing(error):
        return TemporaryError(f"{what}: {_brief(error)}.", "Run the same command again later.")
    local = of_this_machine(error)
    if local is not None:
        return local
    return HubconvError(f"{what} failed: {_brief(error)}.")


def _page_of(error: GatedRepoError) -> str:
    """Where a person opens the repository that a request was refused for."""
    url = str(error.response.url) if error.response is not None else ""
    found = re.match(r"(https?://[^/]+)/(?:api/models/)?([^/]+/[^/]+)/", f"{url}/")
    return f"{found[1]}/{found[2]}" if found else "its page on the Hub"


def _brief(error: BaseException) -> str:
    # What the server says for people tells more than the client's line of status and address.
    told = getattr(error, "server_message", None) or str(error)
    text = told.strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__
