"""`hubconv jobs` against the embedded Hub: what is sent, what is said, and how it ends."""

import json
import shlex
import signal
import subprocess

import pytest
from cli.test_interruptions import wait_until

from hubconv.cli.options import recipe_from, recipe_words
from hubconv.embedded import DEMO_TOKEN
from hubconv.embedded.jobs import Course
from hubconv.version import __version__

WORDS = ("jobs", "org/source", "demo/target", "--flavor", "l4x1")


@pytest.fixture
def studio(lfs_studio):
    book = lfs_studio.hub.jobs
    book.jobs.clear()
    book.scheduled.clear()
    book.courses.clear()
    return lfs_studio


def the_only(jobs):
    (job,) = jobs.values()
    return job


def test_an_order_says_all_and_shows_no_secret(studio):
    studio.hub.jobs.courses.append(Course(["Reading headers", f"oh, {DEMO_TOKEN}", "\x1b[2Jdone"]))
    done = studio.command(
        *WORDS, "--policy", "experts", "--keep", "a b", "--workers", "2", "--private", "--no-tag",
        "--revision", "v1", "--max-disk", "5GB", "--timeout", "2h", "--attempts", "2",
        "--secret", "HF_TOKEN", "--secret", "HUBCONV_SOURCE_TOKEN",
        env={"HUBCONV_SOURCE_TOKEN": "hf_of_the_source"},
    )  # fmt: skip
    assert done.code == 0, done.said
    job = the_only(studio.hub.jobs.jobs)
    body = job.body
    assert job.namespace == "demo"
    assert body["command"] == [
        "uv", "run", "--with", f"hubconv=={__version__}", "hubconv", "convert", "org/source",
        "demo/target", "--policy", "experts", "--keep", "a b", "--time-limit", "6600",
        "--revision", "v1", "--workers", "2", "--max-disk", "5000000000", "--private", "--no-tag",
    ]  # fmt: skip
    assert (body["flavor"], body["timeoutSeconds"], body["attempts"]) == ("l4x1", 7200, 2)
    assert body["secrets"] == {"HF_TOKEN": DEMO_TOKEN, "HUBCONV_SOURCE_TOKEN": "hf_of_the_source"}
    assert DEMO_TOKEN not in shlex.join(body["command"])
    assert body["environment"] == {}
    assert body["labels"]["made-by"] == "hubconv"
    assert f"Job {job.id}: {studio.hub.endpoint}/jobs/demo/{job.id}" in done.out
    assert "Reading headers" in done.out
    for secret in (DEMO_TOKEN, "hf_of_the_source", "\x1b"):
        assert secret not in done.said


def test_the_words_of_a_job_are_words_of_the_command(studio):
    """What the job is told is understood there, and means the same recipe."""
    import click

    from hubconv.cli import group

    given = ("--scales", "amax", "--max-shard-size", "1GB", "--mtp", "drop", "--allow-flushed")
    done = studio.command(*WORDS, *given, "--replace", "--create-pr", "--detach")
    assert done.code == 0, done.said
    words = the_only(studio.hub.jobs.jobs).body["command"][5:]
    name, command, rest = group.resolve_command(click.Context(group), words)
    assert name == "convert"
    values = command.make_context("convert", rest).params
    assert (values["replace"], values["create_pr"], values["time_limit_s"]) == (True, True, 21000)
    recipe = recipe_from(values)
    assert (recipe.scales, recipe.mtp, recipe.allow_flushed) == ("amax", "drop", True)
    assert recipe.max_shard_bytes == 10**9
    assert recipe_words(recipe)


def test_a_schedule_is_ordered_and_not_followed(studio):
    words = (*WORDS, "--schedule", "0 3 * * *", "--namespace", "demo-org", "--json")
    done = studio.command(*words, "--package", "git+https://example.org/hubconv")
    assert done.code == 0, done.said
    job = the_only(studio.hub.jobs.scheduled)
    assert (job.namespace, job.body["schedule"]) == ("demo-org", "0 3 * * *")
    assert job.body["concurrency"] is False
    spec = job.body["jobSpec"]
    assert spec["command"][2:4] == ["--with", "git+https://example.org/hubconv"]
    assert spec["timeoutSeconds"] == 6 * 3600
    assert spec["secrets"] == {"HF_TOKEN": DEMO_TOKEN}
    assert (done.json["status"], done.json["job_id"]) == ("scheduled", job.id)
    assert done.json["next_run"]
    assert f"hf jobs scheduled delete demo-org/{job.id}" in done.err
    assert not studio.hub.requests.find(path="/logs")


def test_a_detached_job_is_told_and_left(studio):
    studio.hub.jobs.courses.append(Course(["never shown"]))
    done = studio.command(*WORDS, "--detach", "--json")
    assert done.code == 0, done.said
    job = the_only(studio.hub.jobs.jobs)
    assert (job.stage, done.json["status"], done.json["job_id"]) == ("RUNNING", "ordered", job.id)
    assert "never shown" not in done.said


@pytest.mark.parametrize(
    ("course", "code", "says"),
    [
        (Course(["x"], "ERROR", "Job failed with exit code: 7"), 7, "exit code: 7"),
        (Course(["x"], "ERROR", "Container crashed"), 5, "Container crashed"),
        (Course(["x"], "ERROR", "exit code: 0"), 5, "exit code: 0"),
        (Course(["x"], "ERROR"), 5, "does not say why"),
        (Course(["x"], "CANCELED"), 5, "was cancelled"),
    ],
)
def test_the_end_of_a_job_becomes_ours(studio, course, code, says):
    studio.hub.jobs.courses.append(course)
    done = studio.command(*WORDS, "--json")
    assert done.code == code, done.said
    assert done.json["exit_code"] == code
    assert says in done.json["what"]
    assert "run the same command again" in done.json["next"]


def test_a_job_goes_on_without_the_one_who_follows_it(studio):
    rule = studio.hub.faults.hang("GET", "/logs", seconds=60)
    with studio.start(*WORDS, start_new_session=True) as process:
        wait_until(lambda: studio.hub.faults.struck(rule), process)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    job = the_only(studio.hub.jobs.jobs)
    assert process.returncode == 130, err
    assert job.stage == "RUNNING"
    assert f"hf jobs cancel demo/{job.id}" in err


REFUSED = {
    "a folder": (("./x", "demo/y", "--flavor", "l4x1"), {}, 2, "is a folder"),
    "no flavor": (("org/x", "demo/y"), {}, 2, "--flavor"),
    "an unknown flavor": (("org/x", "demo/y", "--flavor", "l4x"), {}, 2, "Did you mean l4x1"),
    "a secret with its value": (
        ("org/x", "demo/y", "--flavor", "l4x1", "--secret", "HF_TOKEN=hf_shown_to_all"),
        {},
        2,
        "--secret HF_TOKEN",
    ),
    "a secret that is not set": (
        ("org/x", "demo/y", "--flavor", "l4x1", "--secret", "NOT_SET"),
        {},
        2,
        "NOT_SET is not set here",
    ),
    "a time that ends before it begins": (
        ("org/x", "demo/y", "--flavor", "l4x1", "--timeout", "5m"),
        {},
        2,
        "--timeout 20m",
    ),
    "a namespace of others": (
        ("org/x", "demo/y", "--flavor", "l4x1", "--namespace", "others"),
        {},
        4,
        "--namespace",
    ),
    "a token that soon ends": (
        ("org/x", "demo/y", "--flavor", "l4x1"),
        {"HF_TOKEN": None, "HF_OIDC_RESOURCE": "demo/y"},
        2,
        "a job needs a token of its own",
    ),
    "a file that is not there": (
        ("org/x.toml", "demo/y", "--flavor", "l4x1"),
        {},
        2,
        "There is no file org/x.toml",
    ),
}


@pytest.mark.parametrize(("words", "env", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_ordered_is_refused(studio, words, env, code, says):
    done = studio.command("jobs", *words, env=env)
    assert done.code == code, done.said
    assert says in done.err
    assert "hf_shown_to_all" not in done.said
    assert "Traceback" not in done.err
    assert not studio.hub.jobs.jobs


def test_an_order_whose_answer_is_lost_is_not_given_twice(studio):
    studio.hub.faults.answer("POST", "/api/jobs/demo", 504, after=True)
    done = studio.command(*WORDS)
    assert done.code == 5, done.said
    assert "hf jobs ps --namespace demo" in done.err
    assert len(studio.hub.jobs.jobs) == 1


def test_hardware_is_known_where_the_hub_does_not_list_it(studio):
    studio.hub.faults.answer("GET", "/api/jobs/hardware", 404, times=None)
    done = studio.command(*WORDS, "--detach")
    assert done.code == 0, done.said
    refused = studio.command("jobs", "org/x", "demo/y", "--flavor", "toaster")
    assert refused.code == 2
    assert "a10g-small" in refused.err


def test_the_hub_keeps_secrets_to_itself(studio):
    done = studio.command(*WORDS, "--detach", "--json")
    info = studio.api.inspect_job(job_id=done.json["job_id"], namespace="demo")
    assert info.secrets == {"HF_TOKEN": None}
    assert DEMO_TOKEN not in json.dumps(info.secrets)
