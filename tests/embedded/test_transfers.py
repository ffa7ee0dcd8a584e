"""Large transfers with the libraries that move bytes: hf_xet streams and hf_transfer."""

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import hf_xet
import httpx2 as httpx
import pytest

from hubconv.embedded import DEMO_TOKEN, EmbeddedHub


def large_line(path, sha256):
    return ("lfsFile", {"path": path, "algo": "sha256", "oid": sha256})


def upload(hub, ask, repo, content):
    """Upload by a xet stream, as a converter does; answers with what xet knows of the file."""
    token = ask("GET", f"/api/models/{repo}/xet-write-token/main").json()
    url = f"{hub.endpoint}/api/models/{repo}/xet-write-token/main"
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config("telemetry.enabled", False))
    commit = session.new_upload_commit(
        endpoint=token["casUrl"],
        token=token["accessToken"],
        token_expiry_unix_secs=token["exp"],
        token_refresh_url=url,
        token_refresh_headers={"Authorization": "Bearer hf_embedded_demo"},
    )
    stream = commit.start_upload_stream(name="x", sha256=hf_xet.COMPUTE_SHA256)
    for at in range(0, len(content), 100_000):
        stream.write(content[at : at + 100_000])
    stream.finish()
    report = commit.wait_to_finish()
    (upload,) = report.uploads.values() if isinstance(report.uploads, dict) else report.uploads
    return upload.xet_info


def download(hub, ask, repo, info, first=0, end=None):
    token = ask("GET", f"/api/models/{repo}/xet-read-token/main").json()
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config("telemetry.enabled", False))
    group = session.new_download_stream_group(
        endpoint=token["casUrl"], token=token["accessToken"], token_expiry_unix_secs=token["exp"]
    )
    return b"".join(bytes(block) for block in group.download_stream(info, first, end))


@pytest.fixture
def xet_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with EmbeddedHub(tmp_path / "hub") as hub:
        yield hub


def test_a_stream_goes_up_and_any_range_comes_down(xet_hub, browse):
    ask = browse(xet_hub)
    ask.make_repo("m")
    content = random.Random(1).randbytes(1_500_000) * 2
    info = upload(xet_hub, ask, "demo/m", content)
    assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert ask.commit("demo/m", large_line("a.bin", info.sha256)).status == 200
    (entry,) = [e for e in ask("GET", "/api/models/demo/m/tree/main").json() if "lfs" in e]
    assert (entry["xetHash"], entry["size"]) == (info.hash, len(content))
    for first, end in ((0, None), (0, 1), (123_456, 2_345_678), (2_999_999, 3_000_000)):
        assert download(xet_hub, ask, "demo/m", info, first, end) == content[first:end]
    assert len(content) > 1.8 * sum(r.received_bytes for r in xet_hub.requests.find(kind="xorb"))


def test_a_xet_file_is_there_after_a_restart_and_without_xet(xet_hub, browse, tmp_path):
    ask = browse(xet_hub)
    ask.make_repo("m")
    content = random.Random(5).randbytes(700_000)
    info = upload(xet_hub, ask, "demo/m", content)
    assert ask.commit("demo/m", large_line("a.bin", info.sha256)).status == 200
    xet_hub.stop()
    for mode in ("xet", "lfs"):
        with EmbeddedHub(tmp_path / "hub", mode=mode) as hub:
            ask = browse(hub)
            answer = ask("HEAD", "/demo/m/resolve/main/a.bin")
            assert (answer.headers["X-Xet-Hash"] == info.hash) == (mode == "xet")
            part = ask("GET", answer.headers["Location"], headers={"Range": "bytes=9-499999"})
            assert part.content == content[9:500_000]


def test_a_xet_file_is_read_by_the_repo_that_holds_it(xet_hub, browse):
    ask = browse(xet_hub)
    ask.make_repo("m")
    ask.make_repo("other")
    info = upload(xet_hub, ask, "demo/m", random.Random(2).randbytes(200_000))
    url = f"{xet_hub.cdn}/v1/reconstructions/{info.hash}"
    for repo, status in (("demo/m", 200), ("demo/other", 404)):
        token = ask("GET", f"/api/models/{repo}/xet-read-token/main").json()["accessToken"]
        assert ask("GET", url, token=token).status == status
    # hf_xet now and then ends the stream without a word instead of raising.
    with contextlib.suppress(ConnectionError):
        assert download(xet_hub, ask, "demo/other", info) == b""


def test_a_xorb_that_fails_twice_gets_through(xet_hub, browse):
    ask = browse(xet_hub)
    ask.make_repo("m")
    rule = xet_hub.faults.answer("POST", "/v1/xorbs/", 503, times=1)
    content = random.Random(3).randbytes(300_000)
    info = upload(xet_hub, ask, "demo/m", content)
    assert xet_hub.faults.struck(rule) == 1
    assert download(xet_hub, ask, "demo/m", info) == content


# hf_transfer keeps the interpreter to itself while it runs: it and a Hub need two processes.
TURBO = """
import json, sys
import hf_transfer
order = json.load(sys.stdin)
print(json.dumps(getattr(hf_transfer, order[0])(*order[1:])))
"""

PROGRAM = """
import hashlib, json, random, sys
from huggingface_hub import CommitOperationAdd, HfApi
content = random.Random(int(sys.argv[1])).randbytes(500_000)
operation = CommitOperationAdd(f"{sys.argv[1]}.bin", content)
HfApi().create_commit("demo/m", [operation], commit_message="one")
print(hashlib.sha256(content).hexdigest())
"""


@pytest.mark.parametrize("mode", ["xet", "lfs"])
def test_several_processes_upload_at_once(mode, tmp_path, browse, environment):
    with EmbeddedHub(tmp_path / "hub", mode=mode) as hub:
        ask = browse(hub)
        ask.make_repo("m")
        variables = environment(hub.endpoint, mode, tmp_path)
        command = [sys.executable, "-c", PROGRAM]
        running = [
            subprocess.Popen(
                [*command, str(seed)], env=variables, stdout=subprocess.PIPE, text=True
            )
            for seed in range(3)
        ]
        shas = {process.communicate(timeout=60)[0].strip() for process in running}
        tree = ask("GET", "/api/models/demo/m/tree/main").json()
        assert {entry["lfs"]["oid"] for entry in tree if "lfs" in entry} == shas


def turbo(*order):
    command = [sys.executable, "-c", TURBO]
    done = subprocess.run(
        command, input=json.dumps(order), capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_parts_and_ranges_go_through_hf_transfer(hub, ask, tmp_path):
    ask.make_repo("m")
    content = random.Random(4).randbytes(3_210)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    wish = {
        "operation": "upload",
        "transfers": ["multipart"],
        "objects": [{"oid": sha256, "size": len(content)}],
    }
    batch = ask("POST", "/demo/m.git/info/lfs/objects/batch", wish).json()
    action = batch["objects"][0]["actions"]["upload"]
    links = [action["header"][str(number)] for number in range(1, 10)]
    answers = turbo("multipart_upload", str(source), links, 400, 4, 3, 5)
    parts = [
        {"partNumber": number, "etag": answer["etag"]} for number, answer in enumerate(answers, 1)
    ]
    assert ask("POST", action["href"], {"oid": sha256, "parts": parts}).status == 200
    assert ask.commit("demo/m", large_line("a.bin", sha256)).status == 200
    link = ask("HEAD", "/demo/m/resolve/main/a.bin").headers["Location"]
    turbo("download", link, str(target), 4, 1000, 3, 5)
    assert target.read_bytes() == content


def test_many_may_read_xet_files_by_plain_http_at_once(xet_studio):
    """More of them than the Hub has threads to unpack with: its own origin must still answer."""
    name = xet_studio.name()
    xet_studio.api.create_repo(name)
    content = bytes(range(256)) * 4 * 4096
    xet_studio.api.upload_file(path_or_fileobj=content, path_in_repo="x.safetensors", repo_id=name)

    def read(_):
        url = f"{xet_studio.hub.endpoint}/{name}/resolve/main/x.safetensors"
        headers = {"authorization": f"Bearer {DEMO_TOKEN}", "range": f"bytes=0-{len(content) - 2}"}
        answer = httpx.get(url, headers=headers, follow_redirects=True, timeout=60)
        return answer.status_code, answer.content == content[:-1]

    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(read, range(40))) == {(206, True)}
