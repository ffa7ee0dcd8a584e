import math
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hubconv.embedded import EmbeddedHub
from hubconv.embedded.line import Bucket, Line, Rate


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_burst_passes_at_once_and_the_rest_at_the_rate(clock):
    bucket = Bucket(1000, burst_bytes=100, clock=clock)
    assert bucket.take(100) == 0
    assert bucket.take(500) == pytest.approx(0.5)
    assert bucket.take(500) == pytest.approx(1.0)


def test_rate_holds_whoever_takes_and_however_late_they_wake(clock):
    bucket = Bucket(1000, burst_bytes=100, clock=clock)
    for late in (0.0, 0.05, 0.1, 0.02) * 50:
        clock.now += bucket.take(60) + late * 0.9
    assert bucket.passed == 12_000
    # 100 bytes passed at once; what was slept too long came out of the burst.
    assert clock.now - 100 == pytest.approx(11.9, abs=0.1)


def test_a_pause_saves_no_more_than_the_burst(clock):
    bucket = Bucket(1000, burst_bytes=100, clock=clock)
    bucket.take(100)
    clock.now += 60
    assert bucket.take(100) == 0
    assert bucket.take(100) == pytest.approx(0.1)


def test_a_line_without_rate_never_waits(clock):
    bucket = Bucket(math.inf, clock=clock)
    assert [bucket.take(1 << 30) for _ in range(3)] == [0, 0, 0]
    assert bucket.passed == 3 << 30


@pytest.mark.parametrize("wrong", [{"bytes_per_s": 0}, {"latency_s": -1}, {"latency_s": math.inf}])
def test_a_line_that_carries_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="a line needs"):
        Rate(**wrong)


@pytest.mark.parametrize("rate", [Rate(), Rate(20e6), Rate(20e6, 0.01)])
def test_bytes_pass_unchanged_and_half_closed_ends_go_on(rate):
    content = random.Random(7).randbytes(1_000_000)
    with (
        socket.create_server(("127.0.0.1", 0)) as far,
        Line(rate, "127.0.0.1", "127.0.0.1", [(0, far.getsockname()[1])]) as line,
        socket.create_connection(("127.0.0.1", line.ports[0]), 20) as near,
    ):
        server, _ = far.accept()
        with server:
            for sender, taker in ((near, server), (server, near)):
                sender.sendall(content)
                sender.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda taker=taker: taker.recv(1 << 16), b"")) == content
        passed = line.passed()
    assert (passed.up, passed.down) == (len(content), len(content))


def test_a_taken_port_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            Line(Rate(), "127.0.0.1", "127.0.0.1", [(port, 1)])


def hf(*words, environment):
    command = [str(Path(sys.executable).with_name("hf")), *map(str, words)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("mode", ["xet", "lfs"])
def test_no_link_leads_around_the_line(mode, tmp_path, environment):
    content = random.Random(3).randbytes(3_000_000)
    sent = tmp_path / "sent"
    sent.mkdir()
    (sent / "model.safetensors").write_bytes(content)
    with EmbeddedHub(tmp_path / "hub", mode=mode, rate=Rate()) as hub:
        known = environment(hub.endpoint, mode, tmp_path)
        hf("upload", "demo/m", sent, ".", environment=known)
        after_upload = hub.passed
        hf("download", "demo/m", "--local-dir", tmp_path / "got", environment=known)
        passed = hub.passed
    assert (tmp_path / "got" / "model.safetensors").read_bytes() == content
    assert len(content) <= after_upload.up < 1.2 * len(content)
    assert len(content) <= passed.down - after_upload.down < 1.2 * len(content)


def test_what_the_hub_reads_from_its_own_store_does_not_pass_the_line(
    tmp_path, environment, browse
):
    content = random.Random(4).randbytes(2_000_000)
    (tmp_path / "model.safetensors").write_bytes(content)
    with EmbeddedHub(tmp_path / "hub", rate=Rate()) as hub:
        known = environment(hub.endpoint, "xet", tmp_path)
        hf("upload", "demo/m", tmp_path / "model.safetensors", environment=known)
        before = hub.passed
        ask = browse(hub)
        way = ask("GET", "/demo/m/resolve/main/model.safetensors").headers["Location"]
        assert ask("GET", way, token=None).content == content
        passed = hub.passed
        counted = ask("GET", "/_embedded/line").json()
    assert len(content) <= passed.down - before.down < 1.2 * len(content)
    assert counted["down"] >= passed.down


def test_a_reset_comes_through_the_line(tmp_path, browse):
    with EmbeddedHub(tmp_path / "hub", mode="lfs", rate=Rate()) as hub:
        hub.faults.reset("GET", "/api/whoami-v2")
        with pytest.raises(ConnectionError):
            browse(hub)("GET", "/api/whoami-v2")
        assert browse(hub)("GET", "/api/whoami-v2").status == 200
