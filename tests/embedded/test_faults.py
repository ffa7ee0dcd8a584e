"""What a test can make the Hub do wrong."""

import hashlib
import http.client
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from hubconv.embedded import EmbeddedHub

CONTENT = bytes(range(256)) * 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REGULAR = ("file", {"path": "a.txt", "content": "hello", "encoding": "utf-8"})


@pytest.fixture
def large_file(ask):
    """The link to a large file of CONTENT."""
    ask.make_repo("m")
    assert ask.put_large("demo/m", CONTENT, SHA256).status == 200
    line = ("lfsFile", {"path": "a.bin", "algo": "sha256", "oid": SHA256, "size": len(CONTENT)})
    assert ask.commit("demo/m", line).status == 200
    return ask("GET", "/demo/m/resolve/main/a.bin").headers["Location"]


def titles(ask):
    answer = ask("GET", "/api/models/demo/m/commits/main?limit=2")
    return [item["title"] for item in answer.json()]


def test_a_request_is_answered_with_a_status_as_often_as_told(hub, ask):
    rule = hub.faults.answer(
        "GET", "/whoami", 429, skip=1, times=2, headers={"Retry-After": "7"}, body="slow down"
    )
    answers = [ask("GET", "/api/whoami-v2") for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 429, 429, 200, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert answers[1].content == b"slow down"
    assert hub.faults.struck(rule) == 2


def test_other_methods_and_paths_are_spared(hub, ask):
    hub.faults.answer("POST", "/whoami", 500, times=None)
    assert ask("GET", "/api/whoami-v2").status == 200
    hub.faults.answer("*", "/whoami", 500, times=None)
    assert ask("GET", "/api/whoami-v2").status == 500
    hub.faults.clear()
    assert ask("GET", "/api/whoami-v2").status == 200


def test_a_commit_refused_with_a_status_is_not_made(hub, ask):
    ask.make_repo("m")
    hub.faults.answer("POST", "/commit/main", 504)
    assert ask.commit("demo/m", REGULAR).status == 504
    assert titles(ask) == ["initial commit"]


def test_a_commit_may_be_made_and_its_answer_lost(hub, ask):
    ask.make_repo("m")
    hub.faults.answer("POST", "/commit/main", 504, after=True)
    assert ask.commit("demo/m", REGULAR, summary="one").status == 504
    assert titles(ask)[0] == "one"
    hub.faults.reset("POST", "/commit/main", after=True)
    with pytest.raises(ConnectionResetError):
        ask.commit("demo/m", REGULAR, summary="two")
    assert titles(ask)[0] == "two"


def test_a_connection_is_reset_before_anything_happens(hub, ask):
    ask.make_repo("m")
    hub.faults.reset("POST", "/commit/main")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask.commit("demo/m", REGULAR)
    assert titles(ask) == ["initial commit"]


def test_silence_ends_in_a_reset(hub, ask):
    hub.faults.hang("GET", "/whoami", 0.3)
    began = time.monotonic()
    with pytest.raises(ConnectionResetError):
        ask("GET", "/api/whoami-v2")
    assert time.monotonic() - began >= 0.3


def test_a_delay_only_delays(hub, ask):
    hub.faults.delay("GET", "/whoami", 0.3)
    began = time.monotonic()
    assert ask("GET", "/api/whoami-v2").status == 200
    assert time.monotonic() - began >= 0.3


def test_a_body_ends_early(hub, ask, large_file):
    hub.faults.truncate("GET", "/blob/", 1000)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask("GET", large_file)
    assert caught.value.partial == CONTENT[:1000]
    assert ask("GET", large_file).content == CONTENT


def test_one_byte_of_the_file_is_corrupt_also_in_a_range(hub, ask, large_file):
    hub.faults.corrupt("GET", "/blob/", 1234, times=2)
    for headers, first in (({}, 0), ({"Range": "bytes=1000-1999"}, 1000)):
        content = ask("GET", large_file, headers=headers).content
        wrong = [at + first for at, byte in enumerate(content) if byte != CONTENT[at + first]]
        assert wrong == [1234]


def test_a_rate_holds_in_both_directions(hub, ask, large_file):
    hub.faults.throttle("GET", "/blob/", 10_000)
    began = time.monotonic()
    assert ask("GET", large_file).content == CONTENT
    assert time.monotonic() - began >= 0.4
    hub.faults.throttle("PUT", "/upload/", 10_000)
    other = CONTENT[::-1]
    began = time.monotonic()
    assert (
        ask.put_large("demo/m", other[:900], hashlib.sha256(other[:900]).hexdigest()).status == 200
    )
    assert time.monotonic() - began >= 0.08


def test_requests_are_logged(hub, ask, large_file):
    hub.requests.clear()
    ask("GET", large_file, headers={"Range": "bytes=0-99", "User-Agent": "me"})
    ask("GET", "/api/models/demo/none")
    (blob,) = hub.requests.find(kind="blob")
    assert (blob.status, blob.sent_bytes, blob.origin) == (206, 100, "cdn")
    assert (blob.range, blob.user_agent) == ("bytes=0-99", "me")
    assert hub.requests.count(status=404, path="/demo/none$", method="GET") == 1
    assert hub.requests.kinds() == {"blob": 1, "repo_info": 1}


def test_faults_over_http_are_off_unless_allowed(hub, ask, tmp_path, browse):
    rule = {"action": "answer", "path": "/whoami", "status": 418}
    assert ask("POST", "/_embedded/faults", rule).status == 404
    with EmbeddedHub(tmp_path / "other", mode="lfs", allow_fault_http=True) as other:
        ask_other = browse(other)
        assert ask_other("POST", "/_embedded/faults", {"rules": [rule]}).status == 200
        assert ask_other("GET", "/api/whoami-v2").status == 418
        assert ask_other("POST", "/_embedded/faults", {"action": "explode"}).status == 400
        assert ask_other("POST", "/_embedded/faults", {**rule, "times": None}).status == 200
        assert ask_other("DELETE", "/_embedded/faults").status == 200
        assert ask_other("GET", "/api/whoami-v2").status == 200
    with pytest.raises(ValueError, match="loopback"):
        EmbeddedHub(tmp_path / "third", host="0.0.0.0", allow_fault_http=True)


def test_a_hub_stops_while_a_client_waits(tmp_path, browse):
    hub = EmbeddedHub(tmp_path / "hub", mode="lfs").start()
    hub.faults.hang("GET", "/whoami", 60)
    outcome = []

    def wait():
        try:
            browse(hub)("GET", "/api/whoami-v2")
        except OSError as error:
            outcome.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not hub.requests.kinds() and hub.faults._armed[0].struck == 0:
        time.sleep(0.01)
    began = time.monotonic()
    hub.stop()
    waiting.join()
    assert time.monotonic() - began < 5
    assert outcome
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((urlsplit(hub.endpoint).hostname, urlsplit(hub.endpoint).port))
