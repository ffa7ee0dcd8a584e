"""The real command as a process of its own, as a user or a workflow runs it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import INSTALLED
from safetensors import safe_open

V4 = "deepseek_v4_sgl_fp8"
BF16 = "llama_bf16"
QUICK = ("--device", "cpu", "--scales", "amax")


def python(script, *words, cwd=None):
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED)}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def downloaded(studio, repo, folder):
    """A repository as `hf download` brings it."""
    hf = Path(sys.executable).with_name("hf")
    command = [hf, "download", repo, "--local-dir", folder, "--quiet"]
    environment = studio.environment(
        **({"HF_HUB_DISABLE_XET": "1"} if studio.mode == "lfs" else {})
    )
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=100)
    return folder


def test_a_repository_is_converted_published_downloaded_and_found_up_to_date(studio, tmp_path):
    source, target = studio.source(V4), studio.name()
    first = studio.command(source, target, *QUICK, "--json")
    assert first.code == 0, first.said
    assert first.json["status"] == "published"
    assert first.json["shards_found"] == 0
    assert first.json["commit"] == studio.publishes(target)[0].commit_id
    result = downloaded(studio, target, tmp_path / "result")
    files = json.loads((result / "hubconv.json").read_text())["files"]
    for path, file in files.items():
        assert hashlib.sha256((result / path).read_bytes()).hexdigest() == file["sha256"]
    index = json.loads((result / "model.safetensors.index.json").read_text())["weight_map"]
    held = {}
    for path in result.rglob("*.safetensors"):
        with safe_open(path, framework="numpy") as shard:
            held |= dict.fromkeys(shard.keys(), path.name)
    assert held == index
    head = studio.api.repo_info(target).sha
    studio.hub.requests.clear()
    second = studio.command(source, target, *QUICK)
    assert second.code == 0, second.said
    assert "is up to date" in second.out
    assert studio.api.repo_info(target).sha == head
    assert {request.method for request in studio.hub.requests.all()} <= {"GET", "HEAD"}


def test_folders_are_converted_without_the_hub_being_imported(checkpoints, tmp_path):
    script = (
        "import sys; from hubconv.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({'huggingface_hub', 'hf_xet', 'httpx2'} & set(sys.modules)))"
    )
    source = checkpoints(BF16)
    done = python(script, source, "./result", *QUICK, "--quiet", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    with safe_open(next((tmp_path / "result").glob("*.safetensors")), framework="numpy") as shard:
        assert any(name.endswith("weight_packed") for name in shard.keys())  # noqa: SIM118
    again = python(script, source, "./result", *QUICK, cwd=tmp_path)
    assert "is up to date" in again.stdout


@pytest.mark.parametrize(
    "words",
    [["--help"], ["plan", "--help"], ["demo/x", "--help"], ["verify", "-h"], ["--version"], []],
    ids=" ".join,
)
def test_help_starts_without_heavy_libraries(words):
    script = (
        "import sys; from hubconv.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: pass\n"
        "print(sorted({'huggingface_hub', 'torch', 'hf_xet', 'numba'} & set(sys.modules)))"
    )
    assert python(script, *words).stdout.splitlines()[-1] == "[]"


def test_a_plan_needs_no_torch(lfs_studio):
    script = (
        "import sys; from hubconv.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    words = ["plan", lfs_studio.source(V4), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=lfs_studio.environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    planned, ended = done.stdout.strip().splitlines()
    assert ended == "0 False"
    assert json.loads(planned)


def test_a_token_never_appears_in_what_is_said(lfs_studio):
    from hubconv.embedded import DEMO_TOKEN

    studio, target = lfs_studio, lfs_studio.name()
    other = "a-token-that-looks-like-none"
    studio.hub.add_user("demo", other)
    studio.hub.add_user("demo", "hf_source_token_of_mine")
    env = {
        "HUBCONV_DEBUG": "1",
        "HF_TOKEN": other,
        "HUBCONV_SOURCE_TOKEN": "hf_source_token_of_mine",
    }
    done = studio.command(studio.source(BF16), target, *QUICK, "-vv", env=env)
    assert done.code == 0, done.said
    assert done.err.count("HTTP Request") > 5
    studio.hub.faults.answer("GET", "/whoami", 403, times=None, body=f"no, {other}!")
    failed = studio.command(studio.source(BF16), studio.name(), "-vv", "--json", env=env)
    assert failed.code == 4, failed.said
    assert "Traceback" in failed.err
    for said in (done.said, failed.said, studio.read(target, "README.md").decode()):
        for token in (other, DEMO_TOKEN, "hf_source_token_of_mine", "signature=", "Bearer h"):
            assert token not in said


def test_a_wrong_token_and_a_dead_endpoint_are_explained(lfs_studio):
    source = lfs_studio.source(BF16)
    done = lfs_studio.command(source, "demo/z", env={"HF_TOKEN": "hf_wrong_wrong_wrong"})
    assert done.code == 4, done.said
    assert "hf_wrong_wrong_wrong" not in done.said


def test_the_source_may_have_a_token_of_its_own(lfs_studio):
    studio, hidden = lfs_studio, "owner/secret-source"
    studio.hub.add_user("owner", "hf_owner_token")
    owner = studio.api_of("hf_owner_token")
    owner.create_repo(hidden, private=True)
    from hubconv.hub.compat import addition, finished_upload

    folder = studio.checkpoints(BF16)
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    operations = [addition(path.name, path, xet=False) for path in files]
    owner.create_commit(hidden, operations, commit_message="upload")
    for operation in operations:
        finished_upload(operation)
    target = studio.name()
    env = {"HUBCONV_SOURCE_TOKEN": "hf_owner_token"}
    assert studio.command(hidden, target, *QUICK).code == 3
    done = studio.command(hidden, target, *QUICK, env=env)
    assert done.code == 0, done.said
    assert studio.is_private(target)


def test_verbose_says_which_engine_brought_each_shard(lfs_studio):
    words = (lfs_studio.source(BF16), lfs_studio.name(), *QUICK, "--max-disk")
    done = lfs_studio.command(*words, "1GB", "-v")
    assert done.code == 0, done.said
    assert done.err.count("one request, ") == 2


def test_too_little_disk_is_refused_at_once(lfs_studio):
    done = lfs_studio.command(
        lfs_studio.source(BF16), lfs_studio.name(), *QUICK, "--max-disk", "1KB"
    )
    assert done.code == 8, done.said
    assert "raise --max-disk" in done.said
