"""Every way a command can be refused: the exit code, and a message that says what to do."""

import json
import shlex

import pytest
from checkpoints.broken import BROKEN

from hubconv.cli import main

BF16 = "llama_bf16"
V4 = "deepseek_v4_sgl_fp8"


@pytest.fixture
def run(capfd, tmp_path, monkeypatch):
    """Runs a command line in this process; answers with exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        line = [str(word) for word in words]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(line)
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def refused(run):
    """Runs a command line that must be refused; answers with what stderr says."""

    def refused(code, *words):
        ended, out, err = run(*words)
        assert ended == code, err
        assert out == ""
        assert "Traceback" not in err
        return err

    return refused


# ── the source ───────────────────────────────────────────────────────────────────────────────


def test_there_is_no_such_repository(refused, lfs_studio):
    said = refused(3, "demo/nothing", lfs_studio.name())
    assert "demo/nothing" in said
    assert "Check the name" in said
    assert "demo/nothing" in refused(3, "plan", "demo/nothing")


def test_there_is_no_such_revision(refused, lfs_studio):
    assert "no such revision" in refused(3, f"{lfs_studio.source()}@v9", "demo/y")


def test_there_is_no_such_folder(refused):
    assert "is not a folder" in refused(3, "./nothing", "./y")


@pytest.mark.parametrize(
    ("damage", "recipe", "code", "says"),
    [
        ("no_safetensors", BF16, 3, "safetensors"),
        ("scale_missing", V4, 3, "scale"),
        ("scale_of_wrong_shape", V4, 3, "scale"),
        ("index_names_another_shard", V4, 3, "index"),
        ("shard_missing", V4, 3, "model-"),
        ("shard_truncated", BF16, 3, "model-"),
        ("unknown_tensor", V4, 3, "surprise"),
        ("nan_in_bf16", BF16, 7, "--keep"),
        ("nan_in_fp8", V4, 7, "NaN"),
    ],
)
def test_a_broken_source_is_refused_by_name(
    refused, checkpoints, tmp_path, damage, recipe, code, says
):
    folder = checkpoints(recipe, tmp_path / "source")
    like = {"nan_in_fp8": {"like": "experts"}, "nan_in_bf16": {"like": "up_proj"}}.get(damage, {})
    broken = BROKEN[damage](folder, **like)
    said = refused(code, "./source", "./result", "--device", "cpu", "--scales", "amax")
    assert says in said
    assert broken.removesuffix(".weight").rpartition(".bin")[0] in said
    assert not (tmp_path / "result/hubconv.json").exists()


def test_a_gated_source_is_refused(refused, lfs_studio):
    repo = lfs_studio.own_source(BF16)
    lfs_studio.api.update_repo_settings(repo, gated="manual")
    lfs_studio.hub.add_user("visitor", "hf_visitor_token")
    lfs_studio.token = "hf_visitor_token"
    assert "accept its terms" in refused(4, repo, "visitor/y")


# ── rights ───────────────────────────────────────────────────────────────────────────────────


def test_a_read_token_may_not_publish(refused, lfs_studio):
    source, there = lfs_studio.source(), lfs_studio.name()
    lfs_studio.api.create_repo(there)
    lfs_studio.hub.add_user("demo", "hf_reading_token", role="read")
    lfs_studio.token = "hf_reading_token"
    assert "its token may only read" in refused(4, source, lfs_studio.name())
    assert "write access" in refused(4, source, there)


def test_a_foreign_namespace_is_refused(refused, lfs_studio):
    said = refused(4, lfs_studio.source(), "somebody/y")
    assert "demo cannot create somebody/y" in said
    assert "demo-org" in said


def test_without_a_token_nothing_is_published(refused, lfs_studio):
    lfs_studio.token = ""
    assert "hf auth login" in refused(4, lfs_studio.source(), lfs_studio.name())


def test_an_unknown_token_is_refused(refused, lfs_studio):
    lfs_studio.token = "hf_made_up_token"
    said = refused(4, lfs_studio.source(), lfs_studio.name())
    assert "401" in said
    assert "hf_made_up_token" not in said


def test_a_private_source_is_not_published_openly(refused, run, lfs_studio):
    source, target = lfs_studio.own_source(BF16, private=True), lfs_studio.name()
    said = refused(4, source, target, "--no-private")
    assert "The source is private" in said
    assert "--allow-publish-private" in said
    quick = ("--device", "cpu", "--scales", "amax")
    code, _, _ = run(source, target, "--no-private", "--allow-publish-private", *quick)
    assert code == 0
    assert not lfs_studio.is_private(target)


# ── the target ───────────────────────────────────────────────────────────────────────────────


def test_other_content_in_the_target_is_a_conflict(refused, lfs_studio):
    target = lfs_studio.name()
    lfs_studio.api.create_repo(target)
    lfs_studio.write(target, "train.py", b"x = 1\n")
    said = refused(6, lfs_studio.source(), target)
    assert "train.py" in said
    assert "--replace" in said


def test_other_content_in_a_folder_is_a_conflict(refused, run, checkpoints, tmp_path):
    source = checkpoints(BF16)
    (tmp_path / "y").mkdir()
    (tmp_path / "y/mine.txt").write_text("mine")
    assert "mine.txt" in refused(6, source, "./y")
    assert (tmp_path / "y/mine.txt").read_text() == "mine"
    code, _, err = run(source, "./y", "--replace", "--device", "cpu", "--scales", "amax")
    assert code == 0, err


@pytest.mark.parametrize(
    "words",
    [
        ("demo/x", "demo/x"),
        ("demo/x", "Demo/X"),
        ("hf://demo/x", "demo/x"),
        ("demo/x@v1", "demo/x"),
        ("./x", "./y/../x"),
        ("demo/x", "demo/x", "--dry-run"),
    ],
    ids=shlex.join,
)
def test_source_and_target_must_differ(refused, words):
    assert "never written to" in refused(2, *words)


def test_a_target_has_no_revision(refused):
    assert "--create-pr" in refused(2, "demo/x", "demo/y@dev")


# ── usage ────────────────────────────────────────────────────────────────────────────────────


def test_a_repository_that_is_also_a_folder_is_asked_about(refused, tmp_path):
    (tmp_path / "demo/x").mkdir(parents=True)
    said = refused(2, "demo/x", "demo/y")
    assert "hf://demo/x" in said
    assert "./demo/x" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layout", "gguf"], "modelopt-v4"),
        (["--policy", "everything"], "linears"),
        (["--time-limit", "soon"], "5h30m"),
        (["--time-limit", "5x"], "5h30m"),
        (["--max-shard-size", "big"], "5GB"),
        (["--workers", "0"], "0 is not in the range"),
        (["--device", "tpu"], "cuda"),
        (["--keep", "re:("], "keep"),
        (["--no-such"], "--no-such"),
        (["--card-template", "nothing.md"], "nothing.md"),
        (["--create-pr"], "folder has no pull requests"),
        (["--revision", "main"], "folder has no revisions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_usage(refused, checkpoints, options, says):
    assert says in refused(2, checkpoints(BF16), "./y", *options)


def test_two_revisions_are_one_too_many(refused):
    assert "names a revision" in refused(2, "demo/x@v1", "demo/y", "--revision", "v2")


def test_a_typo_keeps_the_suggestion(refused):
    said = refused(2, "plna", "x")
    assert "No such command 'plna'" in said
    assert "plan" in said.partition("plna")[2]


def test_no_words_show_the_help(refused):
    assert "Usage: hubconv" in refused(2)


def test_one_word_is_not_enough(refused):
    assert "Missing argument 'TARGET'" in refused(2, "demo/x")


# ── this machine and the line ────────────────────────────────────────────────────────────────


def test_a_work_folder_that_cannot_be_written_is_named(refused, checkpoints, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(8, checkpoints(BF16), "./y", "--work-dir", "file/work")
    assert "file/work" in said
    assert "--work-dir" in said


def test_a_missing_device_costs_nothing(refused, lfs_studio):
    target = lfs_studio.name()
    assert "cuda" in refused(8, lfs_studio.source(), target, "--device", "cuda:7").lower()
    assert not lfs_studio.api.repo_exists(target)


def test_a_hub_that_cannot_be_reached_is_temporary(refused, monkeypatch):
    from huggingface_hub import HfApi

    from hubconv.hub.client import HubClient

    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_embedded_demo")
    waits = []
    monkeypatch.setattr(
        "hubconv.hub.client.open_client", lambda *_: HubClient(api, wait=waits.append)
    )
    said = refused(5, "demo/x", "demo/y")
    assert "Reading demo/x failed 6 times" in said
    assert "run the same command again" in said
    assert len(waits) == 5


# ── as JSON ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["./nothing", "./y"], 3, "SourceError"),
        (["demo/x", "demo/x"], 2, "UsageError"),
        (["./nothing", "./y", "--layout", "gguf"], 2, "BadParameter"),
        (["plan", "./nothing"], 3, "SourceError"),
        (["verify", "./nothing"], 3, "SourceError"),
    ],
    ids=lambda value: shlex.join(value) if isinstance(value, list) else "",
)
def test_json_tells_of_the_failure_on_stdout(run, words, code, error):
    ended, out, err = run(*words, "--json")
    told = json.loads(out)
    assert (ended, told["exit_code"], told["error"]) == (code, code, error)
    assert told["status"] == "failed"
    assert told["what"]
    assert "Traceback" not in err


def test_what_nobody_foresaw_is_told_without_secrets(run, monkeypatch):
    def fails(*_, **__):
        raise LookupError("no hf_secretsecret here, nor Bearer abc.def")

    monkeypatch.setattr("hubconv.pipeline.convert", fails)
    code, out, err = run("./x", "./y", "--json")
    told = json.loads(out)
    assert (code, told["exit_code"], told["error"]) == (1, 1, "LookupError")
    assert "Traceback" in err
    assert "secretsecret" not in out + err
    assert "abc.def" not in out + err
