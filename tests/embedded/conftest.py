import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hubconv.embedded import DEMO_TOKEN, EmbeddedHub, Knobs

MODES = ["xet", "lfs"]
SCENARIOS = Path(__file__).parent / "scenarios.py"


def client_environment(endpoint, mode, folder):
    """The environment of a process that runs the real client against an embedded Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf-home"),
        "HF_TOKEN": DEMO_TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_XET_TELEMETRY_ENABLED": "0",
        **({"HF_HUB_DISABLE_XET": "1"} if mode == "lfs" else {}),
    }


class Browser:
    """Plain requests to a Hub, one connection each."""

    def __init__(self, hub):
        self.hub = hub

    def __call__(self, method, path, body=None, *, token=DEMO_TOKEN, headers=None):
        url = urlsplit(path if path.startswith("http") else self.hub.endpoint + path)
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
        try:
            target = f"{url.path}?{url.query}" if url.query else url.path
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return Answer(answer.status, answer.headers, content)

    def make_repo(self, name, organization=None, **more):
        assert (
            self(
                "POST", "/api/repos/create", {"name": name, "organization": organization, **more}
            ).status
            == 200
        )

    def commit(
        self, repo, *lines, summary="change", parent=None, revision="main", token=DEMO_TOKEN
    ):
        header = {"summary": summary, "description": ""}
        if parent:
            header["parentCommit"] = parent
        items = [{"key": "header", "value": header}]
        items += [{"key": key, "value": value} for key, value in lines]
        body = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        return self("POST", f"/api/models/{repo}/commit/{revision}", body, token=token)

    def put_large(self, repo, content, sha256):
        """Upload by LFS in one piece."""
        wish = {"operation": "upload", "objects": [{"oid": sha256, "size": len(content)}]}
        batch = self("POST", f"/{repo}.git/info/lfs/objects/batch", wish).json()
        return self("PUT", batch["objects"][0]["actions"]["upload"]["href"], content, token=None)


class Answer:
    def __init__(self, status, headers, content):
        self.status, self.headers, self.content = status, headers, content

    def json(self):
        return json.loads(self.content)


@pytest.fixture
def hub(tmp_path):
    """A Hub without xet, with small pages and parts."""
    knobs = Knobs(page_size=4, commits_page_size=2, multipart_from_bytes=1000, part_bytes=400)
    with EmbeddedHub(tmp_path / "hub", mode="lfs", knobs=knobs) as hub:
        yield hub


@pytest.fixture
def ask(hub):
    return Browser(hub)


@pytest.fixture
def browse():
    """Makes a Browser for a Hub of the test's own."""
    return Browser


@pytest.fixture
def environment():
    return client_environment


@pytest.fixture(scope="session")
def conformance(tmp_path_factory):
    """Runs the scenarios once per mode; answers with each one's traceback or None."""
    known = {}

    def run(mode):
        if mode not in known:
            folder = tmp_path_factory.mktemp(f"conformance-{mode}")
            known[mode] = run_scenarios(mode, folder)
        return known[mode]

    return run


def run_scenarios(mode, folder):
    knobs = Knobs(
        page_size=4,
        commits_page_size=2,
        discussions_page_size=2,
        multipart_from_bytes=1_000_000,
        part_bytes=400_000,
    )
    with EmbeddedHub(folder / "hub", mode=mode, knobs=knobs, allow_fault_http=True) as hub:
        hub.add_user("stranger", "hf_stranger")
        hub.add_user("demo", "hf_reader", role="read")
        command = [sys.executable, str(SCENARIOS), hub.endpoint, mode, str(folder)]
        environment = client_environment(hub.endpoint, mode, folder)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
    results = folder / "results.json"
    assert results.exists(), f"the scenarios did not run to the end:\n{done.stdout}\n{done.stderr}"
    return json.loads(results.read_text())
