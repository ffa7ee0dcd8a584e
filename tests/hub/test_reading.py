"""Reading a source over a line that fails: what is used is what the Hub names, or nothing is."""

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from hubconv.errors import IntegrityError, NotAllowedError, ResourceError, TemporaryError
from hubconv.hub.source import HubSource

BF16 = "llama_bf16"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let the client's own waits be short too."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


def opened(studio, slots, repo=None):
    return HubSource(studio.client(), repo or studio.source(BF16), "", slots)


def content(source, path=SHARD):
    entry = source.files()[path]
    with source.open(path) as shard:
        return bytes(shard.read(0, entry.size))


LINES = {
    "500": {"action": "answer", "status": 500},
    "503": {"action": "answer", "status": 503},
    "429": {"action": "answer", "status": 429, "headers": {"Retry-After": "1"}},
    "expired link": {"action": "answer", "status": 403, "body": "<Error>expired</Error>"},
    "reset": {"action": "reset"},
    "cut short": {"action": "truncate", "at_byte": 70_000},
    "one wrong byte": {"action": "corrupt", "at_byte": 70_000},
}


@pytest.mark.parametrize("fault", LINES)
def test_a_shard_arrives_whole_over_a_bad_line(lfs_studio, tmp_path, fault):
    from hubconv.embedded.faults import Rule

    source = opened(lfs_studio, tmp_path)
    rule = lfs_studio.hub.faults.add(Rule(method="GET", path="/blob/", **LINES[fault]))
    found = hashlib.sha256(content(source)).hexdigest()
    assert found == source.files()[SHARD].sha256
    assert lfs_studio.hub.faults.struck(rule) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", LINES)
def test_a_header_is_read_over_a_bad_line(lfs_studio, tmp_path, fault):
    from hubconv.embedded.faults import Rule

    source = opened(lfs_studio, tmp_path)
    size = source.files()[SHARD].size
    lfs_studio.hub.faults.add(Rule(method="GET", path="/blob/", **LINES[fault]))
    data = source.read(SHARD, 0, size)
    assert hashlib.sha256(data).hexdigest() == source.files()[SHARD].sha256


def test_a_shard_that_stays_wrong_is_refused_with_both_hashes(lfs_studio, tmp_path):
    source = opened(lfs_studio, tmp_path)
    rule = lfs_studio.hub.faults.corrupt("GET", "/blob/", 70_000, times=None)
    with pytest.raises(IntegrityError) as wrong:
        content(source)
    entry = source.files()[SHARD]
    sound = (lfs_studio.checkpoints(BF16) / SHARD).read_bytes()
    damaged = bytearray(sound)
    damaged[70_000] ^= 0xFF
    assert wrong.value.exit_code == 7
    assert entry.sha256 in str(wrong.value)
    assert hashlib.sha256(damaged).hexdigest() in str(wrong.value)
    assert lfs_studio.hub.faults.struck(rule) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_that_stays_wrong_is_refused_too(lfs_studio, tmp_path):
    source = opened(lfs_studio, tmp_path)
    size = source.files()["config.json"].size
    lfs_studio.hub.faults.corrupt("GET", r"/resolve/.*/config\.json", 3)
    assert source.read("config.json", 0, size).startswith(b"{")
    lfs_studio.hub.faults.corrupt("GET", r"/resolve/.*/config\.json", 3, times=None)
    with pytest.raises(IntegrityError, match=r"config\.json arrived with hash"):
        source.read("config.json", 0, size)


def test_a_dead_line_ends_in_a_temporary_failure(lfs_studio, tmp_path):
    source = opened(lfs_studio, tmp_path)
    lfs_studio.hub.faults.reset("GET", "/blob/", times=None)
    with pytest.raises(TemporaryError) as failed:
        content(source)
    assert failed.value.exit_code == 5
    assert len(lfs_studio.waits) == 5


def test_what_has_come_is_not_fetched_again(lfs_studio, tmp_path, monkeypatch):
    monkeypatch.setattr("hubconv.hub.fetch.PIECE_BYTES", 100_000)
    source = opened(lfs_studio, tmp_path)
    lfs_studio.hub.requests.clear()
    lfs_studio.hub.faults.truncate("GET", "/blob/", 1_000_000)
    content(source)
    first, second = lfs_studio.hub.requests.find(method="GET", path="/blob/")
    assert first.range == ""
    assert second.range == "bytes=1000000-"


def test_a_xet_source_is_read_through_xet_and_by_http_where_that_fails(xet_studio, tmp_path):
    source = opened(xet_studio, tmp_path)
    sound = source.files()[SHARD].sha256
    xet_studio.hub.requests.clear()
    assert hashlib.sha256(content(source)).hexdigest() == sound
    assert xet_studio.hub.requests.count(path="/reconstructions/") >= 1
    assert xet_studio.hub.requests.count(method="GET", path="/blob/") == 0
    xet_studio.hub.faults.answer("GET", "/reconstructions/", 404, times=None)
    assert hashlib.sha256(content(source)).hexdigest() == sound
    assert xet_studio.hub.requests.count(method="GET", path="/blob/") == 1


def test_the_pinned_commit_is_read_even_when_main_moves(lfs_studio, tmp_path):
    repo = lfs_studio.own_source(BF16)
    source = opened(lfs_studio, tmp_path, repo)
    before = source.files()["config.json"]
    lfs_studio.write(repo, "config.json", b'{"new": 1}')
    assert source.read("config.json", 0, before.size) != b'{"new": 1}'
    assert source.commit != lfs_studio.api.repo_info(repo).sha


def test_a_gated_source_is_refused_with_the_way_in(lfs_studio, tmp_path):
    repo = lfs_studio.own_source(BF16)
    lfs_studio.api.update_repo_settings(repo, gated="manual")
    lfs_studio.hub.add_user("visitor", "hf_visitor_token")
    lfs_studio.token = "hf_visitor_token"
    with pytest.raises(NotAllowedError, match="accept its terms"):
        opened(lfs_studio, tmp_path, repo).read("config.json", 0, 10)


def test_the_token_is_shown_to_the_hub_alone(lfs_studio):
    from hubconv.hub.compat import headers_towards

    api = lfs_studio.api
    for elsewhere in (
        f"{api.endpoint}.example.com/blob",
        f"{api.endpoint}0/blob",
        lfs_studio.hub.cdn + "/blob",
    ):
        assert headers_towards(api, elsewhere) == {}
    assert "authorization" in headers_towards(api, f"{api.endpoint}/demo/x/resolve/main/y")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("mode", ["lfs", "xet"])
def test_a_full_disk_is_said_to_be_full(studios, tiny_disk: Path, mode):
    source = opened(studios(mode), tiny_disk / "slots")
    with pytest.raises(ResourceError, match="--work-dir") as full:
        content(source)
    assert full.value.exit_code == 8
    assert "No space left" in str(full.value)
    assert list((tiny_disk / "slots").iterdir()) == []


def test_a_run_refuses_at_once_what_the_disk_cannot_hold(lfs_studio, tiny_disk: Path):
    target = lfs_studio.name()
    with pytest.raises(ResourceError, match="this run needs"):
        lfs_studio.convert(lfs_studio.source(BF16), target, work_dir=str(tiny_disk))
    assert lfs_studio.publishes(target) == [] if lfs_studio.api.repo_exists(target) else True
