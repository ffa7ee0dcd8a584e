"""Workflows and actions: the rules they keep, and every script of theirs executed."""

import json
import re

import pytest
from workflows.runner import ACTIONS, GITHUB, ROOT, WORKFLOWS, Runner, load, run_blocks, worked_out

from hubconv.version import __version__

BF16 = "llama_bf16"
V4 = "deepseek_v4_sgl_fp8"
CI = ("ci", "Install, demonstrate, test, lint")
"""Not executed here: it is the command that runs this test."""

EXECUTED = {
    (
        "convert",
        "Install hubconv as it stands beside this action, with what draws the card's pictures",
    ),
    ("convert", "Convert"),
    (
        "watch",
        "Install hubconv as it stands beside this action, without what only converting needs",
    ),
    ("watch", "Watch"),
    ("release", "The tag names the version"),
    ("release", "Build"),
}


def names(paths):
    return [path.parent.name if path.name == "action.yml" else path.name for path in paths]


# ── rules ────────────────────────────────────────────────────────────────────────────────────


def test_every_script_is_executed_by_a_test():
    blocks = run_blocks()
    assert set(blocks) == EXECUTED | {CI}
    assert blocks[CI]["run"] == ".ci/run"
    assert (ROOT / ".ci/run").stat().st_mode & 0o100


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=names([*WORKFLOWS, *ACTIONS]))
def test_no_script_holds_an_expression_and_every_action_is_pinned(path):
    text = path.read_text()
    for key, step in run_blocks().items():
        assert "${{" not in step["run"], key
    for used in re.findall(r"uses: (\S+.*)", text):
        pinned = re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used)
        own = re.fullmatch(r"\$/\.github/\S+", used)
        assert pinned or own, used
    checkouts = text.count("uses: actions/checkout@")
    assert text.count("persist-credentials: false") == checkouts
    assert "actions/cache" not in text
    tools = text.count("uses: astral-sh/setup-uv@")
    for setting in ("version: 0.13.9\n", 'python-version: "3.11" #', "enable-cache: false"):
        assert len(re.findall(rf"^ +{re.escape(setting)}", text, re.MULTILINE)) == tools


@pytest.mark.parametrize("path", WORKFLOWS, ids=names(WORKFLOWS))
def test_a_workflow_grants_nothing_that_a_job_does_not_name(path):
    told = load(path)
    assert told["permissions"] == {}
    assert not {"pull_request_target", "workflow_run"} & set(told["on"])
    for name, job in told["jobs"].items():
        rights = {key: value for key, value in job["permissions"].items() if value == "write"}
        wanted = {
            ("convert.yml", "watch"): {"id-token"},
            ("convert.yml", "convert"): {"id-token"},
            ("release.yml", "attest"): {"id-token", "attestations"},
            ("release.yml", "publish"): {"id-token"},
        }.get((path.name, name), set())
        assert set(rights) == wanted, name
        assert "timeout-minutes" in job or "uses" in job, name


def test_no_two_jobs_write_to_one_target_and_none_is_cancelled():
    job = load(GITHUB / "workflows/convert.yml")["jobs"]["convert"]
    assert job["concurrency"] == {
        "group": "hubconv-${{ matrix.key }}", "cancel-in-progress": False
    }  # fmt: skip
    assert job["strategy"]["fail-fast"] is False


def test_what_is_published_is_built_once_and_attested():
    jobs = load(GITHUB / "workflows/release.yml")["jobs"]
    builds = [name for name, job in jobs.items() if "uv build" in json.dumps(job)]
    assert builds == ["build"]
    assert set(jobs["attest"]["needs"]) == {"build", "test"}
    assert jobs["publish"]["needs"] == "attest"
    assert jobs["publish"]["environment"] == "release"
    assert not any("run" in step for name in ("attest", "publish") for step in jobs[name]["steps"])


@pytest.mark.parametrize(
    ("tag", "code", "said"),
    [
        (f"v{__version__}", 0, ""),
        ("v0.0.0", 1, f"The tag is v0.0.0, but hubconv/version.py says {__version__}."),
        (f"v{__version__}.1", 1, "::error::The tag is"),
    ],
)
def test_a_release_needs_a_tag_that_names_its_version(tmp_path, tag, code, said):
    runner = Runner(tmp_path / "runner", {}, ref=tag, workspace=ROOT)
    done = runner.step(run_blocks()["release", "The tag names the version"], {})
    assert done.returncode == code, done.stderr
    assert said in done.stdout


def test_a_release_is_built_into_the_folder_that_is_handed_on(tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text("")
    runner = Runner(tmp_path / "runner", {}, workspace=checkout)
    assert runner.step(run_blocks()["release", "Build"], {}).returncode == 0, runner.log
    steps = load(GITHUB / "workflows/release.yml")["jobs"]["build"]["steps"]
    (upload,) = (each for each in steps if "upload-artifact" in each.get("uses", ""))
    assert (checkout / upload["with"]["path"]).is_dir()


# ── the bot ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def machine(xet_studio, tmp_path):
    """Makes a runner of GitHub's that reaches the embedded Hub, and no token of its own."""
    return lambda name="runner", **more: on(xet_studio, tmp_path / name, **more)


def on(studio, folder, **more):
    environment = studio.environment(HF_TOKEN=None, PYTHONPATH=None, PATH=None)
    return Runner(folder, environment, **more)


def token():
    from hubconv.embedded import DEMO_TOKEN

    return DEMO_TOKEN


def write_list(folder, *pairs):
    folder.mkdir(parents=True, exist_ok=True)
    tables = [
        f'[[entry]]\nsource = "{source}"\ntarget = "{target}"\nscales = "amax"\n'
        f'keep = ["lm head; $(touch stolen)", "no such"]\nvisibility = "private"\n'
        for source, target in pairs
    ]
    (folder / "watch.toml").write_text("\n".join(tables))


def jobs_of(runner, **inputs):
    """What the job `watch` of convert.yml gives its successor."""
    told = load(GITHUB / "workflows/convert.yml")["jobs"]["watch"]
    (step,) = (each for each in told["steps"] if each.get("id") == "watch")
    context = {"inputs": inputs, "vars": {}, "secrets": {"HF_TOKEN": token()}}
    given = {name: worked_out(value, context) for name, value in step["with"].items()}
    assert step["uses"] == "$/.github/actions/watch"
    found = runner.action("watch", given)
    context = {"steps": {"watch": {"outputs": found}}}
    return {name: worked_out(value, context) for name, value in told["outputs"].items()}


def convert(runner, entry):
    """The job `convert` of convert.yml for one entry of its matrix."""
    job = load(GITHUB / "workflows/convert.yml")["jobs"]["convert"]
    (step,) = job["steps"]
    context = {"matrix": entry, "secrets": {"HF_TOKEN": token()}}
    assert step["uses"] == "$/.github/actions/convert"
    given = {name: worked_out(value, context) for name, value in step["with"].items()}
    return runner.action("convert", given)


def test_the_workflow_finds_what_is_due_converts_it_and_then_finds_nothing(xet_studio, machine):
    studio = xet_studio
    source, target, done = studio.own_source(BF16), studio.name(), studio.name()
    studio.convert(source, done)
    watcher = machine("watcher")
    write_list(watcher.folder, (source, target))
    found = jobs_of(watcher)
    assert watcher.code == 0, watcher.log
    assert found["due"] == "1"
    (entry,) = json.loads(found["matrix"])["include"]
    assert (entry["runner"], entry["timeout-minutes"]) == ("ubuntu-latest", 350)
    worker = machine("worker")
    ended = convert(worker, entry)
    assert worker.code == 0, worker.log
    assert ended["status"] == "published"
    assert ended["commit"] == studio.publishes(target)[0].commit_id
    assert ended["shards-staged"] == ended["shards-total"] == "2"
    assert "as NVFP4" in worker.summary
    assert studio.is_private(target)  # options of the entry came through, each as it is
    assert "lm head; $(touch stolen)" in studio.read(target, "README.md").decode()
    assert not list(worker.folder.rglob("stolen"))
    assert token() not in worker.log + worker.summary + watcher.log + watcher.summary
    studio.hub.requests.clear()
    idle = machine("idle")
    write_list(idle.folder, (source, target))
    assert jobs_of(idle)["due"] == "0"
    assert sum(studio.hub.requests.kinds().values()) == 2
    again = convert(machine("again"), entry)
    assert (again["status"], again["commit"]) == ("up-to-date", ended["commit"])


def test_a_webhook_that_github_passes_on_chooses_what_is_looked_at(xet_studio, machine):
    studio = xet_studio
    source = studio.source(BF16)
    told = {"client_payload": {"repo": {"type": "model", "name": source}}, "action": "hub-update"}
    watcher = machine(event="repository_dispatch", payload=json.dumps(told))
    write_list(watcher.folder, (source, "demo/called"), (studio.source(V4), "demo/aside"))
    (entry,) = json.loads(jobs_of(watcher)["matrix"])["include"]
    assert entry["target"] == "demo/called"
    only = machine("only")
    write_list(only.folder, (source, "demo/called"), (studio.source(V4), "demo/aside"))
    found = jobs_of(only, only="demo/aside")
    assert [each["target"] for each in json.loads(found["matrix"])["include"]] == ["demo/aside"]


def test_what_would_be_refused_gets_no_job(xet_studio, machine):
    watcher = machine()
    (watcher.folder / "watch.toml").write_text(
        f'[[entry]]\nsource = "{xet_studio.source(BF16)}"\ntarget = "demo/no"\npolicy = "experts"\n'
    )
    found = jobs_of(watcher)
    assert (found["due"], json.loads(found["matrix"])) == ("0", {"include": []})
    assert "refused" in watcher.log
    assert "has no policy" in watcher.summary


def test_a_fault_of_the_watch_list_fails_the_job_with_its_path(machine):
    watcher = machine()
    (watcher.folder / "watch.toml").write_text('[[entry]]\nsource = "a/b"\n')
    jobs_of(watcher)
    assert watcher.code == 2
    assert "watch.toml: entry[0].target: is missing" in watcher.log


def test_a_conversion_that_fails_fails_its_job_and_says_why(xet_studio, machine):
    worker = machine()
    ended = worker.action(
        "convert", {"source": "demo/nothing-there", "target": "demo/t", "hf-token": token()}
    )
    assert (worker.code, ended["status"]) == (3, "failed")
    assert "no such repository" in worker.summary
    assert token() not in worker.log + worker.summary


def test_a_word_that_looks_like_an_option_is_none(machine):
    worker = machine()
    worker.action("convert", {"source": "--version", "target": "demo/t", "hf-token": token()})
    assert worker.code == 2
    assert "'hf://--version' is neither a repository (org/name) nor a folder" in worker.log


def test_a_revision_is_converted_where_one_is_asked_for(xet_studio, machine):
    studio = xet_studio
    source, target = studio.own_source(BF16), studio.name()
    pinned = studio.api.repo_info(source).sha
    studio.write(source, "notes.txt", b"later")
    worker = machine()
    inputs = {"options": "--scales\namax", "revision": pinned, "hf-token": token()}
    worker.action("convert", {"source": source, "target": target, **inputs})
    assert worker.code == 0, worker.log
    manifest = json.loads(studio.read(target, "hubconv.json"))
    assert manifest["source"]["commit"] == pinned
    assert manifest["command"].endswith(f"--revision {pinned} --time-limit 5h30m")


def test_without_a_token_the_identity_of_the_job_is_asked_for(machine):
    worker = machine()
    step = next(
        each
        for each in load(GITHUB / "actions/convert/action.yml")["runs"]["steps"]
        if each.get("id") == "convert"
    )
    # The block's own first lines, and what they leave to hubconv.
    head = step["run"].partition("mapfile")[0]
    shown = 'echo "${HF_OIDC_RESOURCE-none} ${HF_TOKEN-none} ${HUBCONV_SOURCE_OIDC-none}"'
    told = {**step, "run": head + shown}
    inputs = {"target": "demo/t", "hf-token": "", "source-identity": "me"}
    assert worker.step(told, {"inputs": inputs}).stdout.split() == ["demo/t", "none", "me"]
    inputs |= {"hf-token": "hf_x", "source-identity": ""}
    assert worker.step(told, {"inputs": inputs}).stdout.split() == ["none", "hf_x", "none"]


# ── limits ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_one_model_is_converted_over_four_runs_and_no_shard_twice(lfs_studio, tmp_path):
    studio = lfs_studio
    source, target = studio.own_source(BF16), studio.name()
    inputs = {
        "source": source,
        "target": target,
        "hf-token": token(),
        "options": "--device\ncpu\n--workers\n1\n--scales\namax\n--max-shard-size\n100000",
        "time-limit": "4s",
    }
    stored = "|".join(oid for path, oid in studio.tree(source).items() if path.endswith("tensors"))
    staged, logs, ended = [0], [], {"status": "stopped"}
    studio.hub.requests.clear()
    while ended["status"] == "stopped":
        assert len(logs) < 30, "it does not come to its end"
        studio.hub.faults.clear()
        # Headers come at once, then a shard every 1.5 s: three at the most begin in four seconds.
        studio.hub.faults.delay("GET", f"/blob/[^/]+/({stored})", 1.5, skip=2, times=None)
        worker = on(studio, tmp_path / f"run-{len(logs)}")
        ended = worker.action("convert", inputs)
        assert worker.code == 0, worker.log
        logs.append(worker.log)
        if ended["status"] == "stopped":
            staged.append(int(ended["shards-staged"]))
            assert ended["shards-total"] == "11"
            assert "::notice title=hubconv::Stopped in order" in worker.log
            assert f"| staged | {staged[-1]} of 11 shards |" in worker.summary
            if staged[-1] > staged[-2]:
                assert "at this run's rate" in worker.summary
            assert len(studio.staging(target)) == 1
            assert studio.publishes(target) == []
    assert len(logs) >= 4
    assert ended["status"] == "published"
    assert staged == sorted(staged)
    assert len(studio.publishes(target)) == 1
    shards = {
        path: oid for path, oid in studio.tree(target).items() if path.endswith(".safetensors")
    }
    made = re.findall(r"^(\S+\.safetensors) done: ", "".join(logs), re.MULTILINE)
    assert sorted(made) == sorted(shards)
    assert len(made) == 11
    sent = [each.path.rpartition("/")[2] for each in studio.hub.requests.find(kind="lfs_put")]
    assert sorted(oid for oid in sent if oid in shards.values()) == sorted(shards.values())


# ── README ───────────────────────────────────────────────────────────────────────────────────


def shown(mark):
    """A block of README, by the mark above it."""
    text = (ROOT / "README.md").read_text().partition(f"<!-- {mark} -->")[2]
    return text.partition("```")[2].partition("\n")[2].partition("```")[0]


def test_what_readme_shows_is_taken(tmp_path):
    import yaml

    from hubconv.watch import read_list

    (tmp_path / "watch.toml").write_text(shown("watch.toml"))
    one, many = read_list(tmp_path / "watch.toml").wishes
    assert (one.is_pattern, many.is_pattern) == (False, True)
    (step,) = yaml.safe_load(shown("action"))
    assert step["uses"].partition("@")[0] == "OWNER/hubconv/.github/actions/convert"
    assert len(shown("action").strip().splitlines()) == 5
    inputs = load(GITHUB / "actions/convert/action.yml")["inputs"]
    assert set(step["with"]) <= set(inputs)
    assert {name for name, told in inputs.items() if told.get("required")} <= set(step["with"])
    (job,) = yaml.safe_load(shown("workflow"))["jobs"].values()
    called = load(GITHUB / "workflows/convert.yml")["on"]["workflow_call"]
    assert set(job["with"]) <= set(called["inputs"])
    assert set(job["secrets"]) <= set(called["secrets"])
    wanted = {
        right
        for each in load(GITHUB / "workflows/convert.yml")["jobs"].values()
        for right in each["permissions"].items()
    }
    assert wanted == set(job["permissions"].items())
