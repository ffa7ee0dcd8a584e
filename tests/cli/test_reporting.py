"""What a run leaves for programs and for whoever signs: checked by the tools that read it."""

import json
import subprocess

import pytest
from markdown_it import MarkdownIt

from hubconv.embedded import DEMO_TOKEN
from hubconv.steps.provenance import checksums, statement

FILES = {"report.json", "SHA256SUMS", "provenance.json", "predicate.json"}
ACTIONS = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://forge.example",
    "GITHUB_REPOSITORY": "me/bot",
    "GITHUB_WORKFLOW_REF": "me/bot/.github/workflows/convert.yml@refs/heads/main",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
}


@pytest.fixture(scope="module")
def ran(studios, tmp_path_factory):
    """One conversion by the real command, as a job of a workflow runs it, and once more."""
    studio = studios("lfs")
    studio.hub.faults.clear()
    folder, target = tmp_path_factory.mktemp("ran"), studio.name("attested")
    env = {**ACTIONS, "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
           "HUBCONV_SOURCE_TOKEN": DEMO_TOKEN}  # fmt: skip
    words = (studio.source(), target, "--device", "cpu", "--workers", "1", "--scales", "amax")
    first = studio.command(*words, "--report-dir", folder / "first", "--json", env=env)
    second = studio.command(*words, "--report-dir", folder / "second", "--json", env=env)
    return studio, target, folder, first, second


def load(folder, name):
    return json.loads((folder / name).read_text())


def test_the_checksums_are_those_of_what_one_downloads(ran, tmp_path):
    studio, target, folder, first, _ = ran
    assert first.code == 0, first.said
    studio.api.snapshot_download(target, local_dir=tmp_path)
    sums = folder / "first" / "SHA256SUMS"
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", str(sums)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    named = {line.split("  ", 1)[1] for line in sums.read_text().splitlines()}
    assert named == set(studio.tree(target)) - {".gitattributes"}


def test_a_changed_byte_is_found_by_them(ran, tmp_path):
    studio, target, folder, _, _ = ran
    studio.api.snapshot_download(target, local_dir=tmp_path)
    card = tmp_path / "README.md"
    data = bytearray(card.read_bytes())
    data[-2] ^= 1
    card.unlink()
    card.write_bytes(data)
    sums = str(folder / "first" / "SHA256SUMS")
    done = subprocess.run(["sha256sum", "-c", sums], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1


def test_the_report_is_what_the_command_prints(ran):
    _, _, folder, first, _ = ran
    assert {path.name for path in (folder / "first").iterdir()} == FILES
    assert load(folder / "first", "report.json") == first.json
    assert first.json["report"]["by_layer_and_role"]


def test_the_statement_says_what_was_made_from_what_by_whom(ran):
    studio, target, folder, first, _ = ran
    told = load(folder / "first", "provenance.json")
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    # What actions/attest is given: checksums as subjects, and the predicate by itself.
    assert told["predicate"] == load(folder / "first", "predicate.json")
    lines = (folder / "first" / "SHA256SUMS").read_text().splitlines()
    subjects = {each["name"]: each["digest"]["sha256"] for each in told["subject"]}
    assert subjects == {line.split("  ", 1)[1]: line.split("  ", 1)[0] for line in lines}
    build = told["predicate"]["buildDefinition"]
    (source,) = build["resolvedDependencies"]
    assert source["uri"] == f"hf://{studio.source()}@{first.json['source_commit']}"
    assert source["digest"] == {"gitCommit": first.json["source_commit"]}
    assert build["externalParameters"]["target"] == target
    assert build["externalParameters"]["recipe"]["scales"] == "amax"
    run = told["predicate"]["runDetails"]
    workflow = "https://forge.example/me/bot/.github/workflows/convert.yml@refs/heads/main"
    assert run["builder"]["id"] == workflow
    begun = "https://forge.example/me/bot/actions/runs/42/attempts/2"
    assert run["metadata"]["invocationId"] == begun
    assert run["metadata"]["startedOn"] <= run["metadata"]["finishedOn"]


def test_a_run_that_made_nothing_claims_no_provenance(ran):
    _, _, folder, first, second = ran
    assert (first.json["status"], second.json["status"]) == ("published", "up-to-date")
    assert {path.name for path in (folder / "second").iterdir()} == {"report.json", "SHA256SUMS"}
    sums = [(folder / run / "SHA256SUMS").read_bytes() for run in ("first", "second")]
    assert sums[0] == sums[1]


def test_no_file_holds_a_token(ran):
    _, _, folder, *_ = ran
    for path in folder.rglob("*"):
        assert path.is_dir() or DEMO_TOKEN.encode() not in path.read_bytes()


def test_a_jobs_page_is_appended_to(ran):
    studio, target, folder, first, _ = ran
    text = (folder / "summary.md").read_text()
    assert text.count("## ") == 2
    assert f"[{target}]({studio.hub.endpoint}/{target})" in text
    assert first.json["commit"][:12] in text
    assert "is up to date" in text
    page = MarkdownIt("commonmark").enable("table").render(text)
    assert page.count("<table>") == 3


def test_a_jobs_page_tells_of_a_failure_and_of_no_secret(studios, tmp_path):
    page = tmp_path / "summary.md"
    words = ("card", "demo/never-made-hf_abcdefghijkl", "--json")
    done = studios("lfs").command(*words, env={"GITHUB_STEP_SUMMARY": str(page)})
    assert done.code == 3
    text = page.read_text()
    assert text.startswith("## hubconv card: exit code 3\n")
    assert "does not exist" in text
    assert "hf_abcdefghijkl" not in text.replace("&#95;", "_")


def test_a_page_that_cannot_be_written_changes_no_exit_code(studios, tmp_path):
    done = studios("lfs").command(
        "card", "demo/never-made", env={"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "page.md")}
    )
    assert done.code == 3
    assert "Traceback" not in done.said


def test_outside_a_job_no_page_is_written(studios, tmp_path, checkpoints):
    studio = studios("lfs")
    words = (checkpoints("llama_bf16"), tmp_path / "out", "--device", "cpu", "--scales", "amax")
    done = studio.command(*words, "--report-dir", tmp_path / "report")
    assert done.code == 0, done.said
    told = load(tmp_path / "report", "provenance.json")
    build = told["predicate"]["buildDefinition"]
    # Of a folder nobody learns more than its name.
    assert str(tmp_path) not in json.dumps(build["internalParameters"])
    assert build["externalParameters"]["target"] == "out"
    assert build["resolvedDependencies"] == []
    assert told["predicate"]["runDetails"]["builder"]["id"] == "urn:hubconv:builder:local"
    assert "invocationId" not in told["predicate"]["runDetails"]["metadata"]
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", str(tmp_path / "report" / "SHA256SUMS")],
        cwd=tmp_path / "out", check=False,
    )  # fmt: skip
    assert done.returncode == 0


def test_whoever_publishes_what_slices_made_has_the_report(studios, tmp_path, checkpoints):
    studio, source = studios("lfs"), checkpoints("llama_bf16")
    told = tmp_path / "plan.json"
    for words in (
        ("plan", source, tmp_path / "out", "--scales", "amax", "-o", told, "-q"),
        ("work", told, "--device", "cpu", "-q"),
        ("publish", told, "--report-dir", tmp_path / "report", "-q"),
    ):
        done = studio.command(*words)
        assert done.code == 0, done.said
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES
    subjects = load(tmp_path / "report", "provenance.json")["subject"]
    assert any(each["name"].endswith(".safetensors") for each in subjects)


def test_a_report_folder_that_cannot_be_is_told_before_the_work(studios, tmp_path, checkpoints):
    (tmp_path / "file").write_text("")
    done = studios("lfs").command(
        checkpoints("llama_bf16"), tmp_path / "out", "--report-dir", tmp_path / "file" / "x"
    )
    assert done.code == 2
    assert "--report-dir" in done.err
    assert not (tmp_path / "out").exists()


def test_odd_names_are_written_as_sha256sum_reads_them(tmp_path):
    names = ["a b", "back\\slash", "line\nbreak", "ünï/cödé", "-dash"]
    digests = {}
    for name in names:
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(name)
        done = subprocess.run(
            ["sha256sum", "--", name], cwd=tmp_path, capture_output=True, check=True
        )
        digests[name] = done.stdout.decode().lstrip("\\").split(" ", 1)[0]
    (tmp_path / "SUMS").write_text(checksums(digests), "utf-8")
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SUMS"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [each["name"] for each in statement(digests, {})["subject"]] == sorted(names)
