"""What passes, how long to wait, and what a failure of the client is called in our words."""

import json
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubconv.errors import ConflictError, HubconvError, NotAllowedError, SourceError, TemporaryError
from hubconv.hub.client import TRIES, HubClient, explain, is_engine_fault, is_passing, pause


def answer(status, kind=HfHubHTTPError, **headers):
    request = httpx2.Request("GET", "http://127.0.0.1:9/api")
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return kind("no", response=httpx2.Response(status, headers=headers, request=request))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
def test_a_busy_or_failing_server_passes(status):
    assert is_passing(answer(status))
    assert explain(answer(status), "Reading").exit_code == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 413])
def test_what_the_server_means_does_not_pass(status):
    assert not is_passing(answer(status))


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ReadError("x"),
        httpx2.ReadTimeout("x"),
        httpx2.ConnectError("x"),
        ConnectionResetError(),
        TimeoutError(),
        json.JSONDecodeError("x", "<html>", 0),
        TemporaryError("x"),
    ],
)
def test_faults_of_the_line_pass(error):
    assert is_passing(error)
    assert explain(error, "Reading").exit_code == 5


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(403, GatedRepoError), NotAllowedError),
        (answer(404, RevisionNotFoundError), SourceError),
        (answer(404, RepositoryNotFoundError), SourceError),
        (EntryNotFoundError("x"), SourceError),
        (LocalTokenNotFoundError("x"), NotAllowedError),
        (answer(401), NotAllowedError),
        (answer(403), NotAllowedError),
        (answer(412), ConflictError),
        (ConflictError("ours already"), ConflictError),
        (ValueError("a bug"), HubconvError),
    ],
)
def test_a_failure_gets_the_class_that_decides_the_exit_code(error, kind):
    told = explain(error, "Reading demo/x")
    assert type(told) is kind
    assert told.what


def test_waits_grow_with_jitter_where_nothing_was_asked():
    random.seed(1)
    waits = [pause(httpx2.ReadError("x"), attempt) for attempt in range(1, 12)]
    assert all(0.5 * grown <= wait <= 1.5 * grown for wait, grown in zip(waits, GROWN, strict=True))


GROWN = (1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60)


def test_waits_are_what_the_server_asks_in_any_of_its_words():
    soon = datetime.now(UTC) + timedelta(seconds=40)
    assert pause(answer(429, retry_after="12"), 1) == 12
    assert 30 < pause(answer(429, retry_after=format_datetime(soon, usegmt=True)), 1) <= 40
    unplaced = format_datetime(soon).replace("+0000", "-0000")
    assert 30 < pause(answer(429, retry_after=unplaced), 1) <= 40
    assert pause(answer(429, ratelimit='"api";r=0;t=20'), 1) == 21
    assert pause(answer(429, ratelimit='"api";r=3;t=20'), 1) < 2
    assert pause(answer(429, retry_after="soon"), 1) < 2


def test_a_moment_that_has_passed_is_not_waited_for():
    past = datetime.now(UTC) - timedelta(seconds=40)
    assert pause(answer(429, retry_after=format_datetime(past, usegmt=True)), 1) == 0


def test_no_wait_is_longer_than_ten_minutes():
    assert pause(answer(429, retry_after="99999"), 1) == 600


def test_patience_ends_after_some_tries():
    waits = []
    client = HubClient(None, wait=waits.append)
    tried = []

    def fails():
        tried.append(None)
        raise answer(503)

    with pytest.raises(TemporaryError, match=f"Reading failed {TRIES} times"):
        client.call("Reading", fails)
    assert (len(tried), len(waits)) == (TRIES, TRIES - 1)


def test_engines_fail_with_plain_errors():
    import hf_xet

    assert is_engine_fault(RuntimeError("x"))
    assert is_engine_fault(Exception("x"))
    assert is_engine_fault(hf_xet.XetAuthenticationError("x"))
    assert not is_engine_fault(ValueError("x"))
