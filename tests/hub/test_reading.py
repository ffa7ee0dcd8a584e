"""Reading a source over a line that fails: what is used is what the Hub names, or nothing is."""

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from hubconv.errors import IntegrityError, NotAllowedError, ResourceError, TemporaryError
from hubconv.hub.source import HubSource
from hubconv.progress import NOTHING, Progress

BF16 = "llama_bf16"
V4 = "deepseek_v4_sgl_fp8"
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
        data = bytes(shard.read(0, entry.size))
        shard.prove()
        return data


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
def test_a_header_is_read_over_a_bad_line(lfs_studio, tmp_path, fault):
    from hubconv.embedded.faults import Rule

    source = opened(lfs_studio, tmp_path)
    size = source.files()[SHARD].size
    lfs_studio.hub.faults.add(Rule(method="GET", path="/blob/", **LINES[fault]))
    data = source.read(SHARD, 0, size)
    assert hashlib.sha256(data).hexdigest() == source.files()[SHARD].sha256


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


class Stages(Progress):
    """What a run tells of each stage."""

    def __init__(self):
        self.came = self.went = 0
        self.notes = []

    def plan(self, whole, done=NOTHING):
        self.source, self.target = whole.source_bytes, whole.target_bytes

    def passed(self, stage, nbytes):
        self.came += nbytes if stage == "fetch" else 0
        self.went += nbytes if stage == "upload" else 0

    def table(self, lines):
        self.notes += lines()


@pytest.mark.parametrize("way", ["lfs_studio", "xet_studio"])
def test_every_stage_tells_what_passes(way, request):
    studio, stages = request.getfixturevalue(way), Stages()

    outcome = studio.convert(studio.source(V4), studio.name(), stages)

    assert stages.went == stages.target == outcome.plan.target_bytes
    # Headers come with the shards; what no tensor of a result needs may not.
    assert 0.9 * stages.source < stages.came <= outcome.plan.source_bytes
    assert any("routed_expert" in line for line in stages.notes)


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


def test_a_run_refuses_at_once_what_the_disk_cannot_hold(lfs_studio, tiny_disk: Path):
    target = lfs_studio.name()
    for short in ({"work_dir": str(tiny_disk)}, {"max_disk": 100_000}):
        told = r"has [\d.]+ [kM]B for this run; this run needs [\d.]+ MB\."
        with pytest.raises(ResourceError, match=told):
            lfs_studio.convert(lfs_studio.source(V4), target, **short)
    assert lfs_studio.publishes(target) == [] if lfs_studio.api.repo_exists(target) else True
