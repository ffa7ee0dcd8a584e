"""What a runner of GitHub's is told: outputs that nothing can forge, and a summary."""

import json
import re

import pytest

from hubconv.cli.actions import FAILED, STOPPED, WATCHED, tell_failure, tell_outputs, tell_summary
from hubconv.cli.failure import report_failure
from hubconv.errors import NotAllowedError, StoppedError


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """The runner's two files; what was written to them."""
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return lambda name: (tmp_path / f"GITHUB_{name}").read_text()


def stopped():
    error = StoppedError("The time limit is reached.", "Run the same command again.")
    error.made, error.staged, error.of, error.seconds_left = 3, 5, 8, 3720.0
    return error


def test_a_value_cannot_set_another_output(runner):
    tell_outputs({"commit": "abc\nstatus<<x\nforged\nx"})
    first, *middle, last = runner("OUTPUT").splitlines()
    name, _, end = first.partition("<<")
    assert (name, last, middle) == ("commit", end, ["abc", "status<<x", "forged", "x"])
    assert end not in "\n".join(middle)


def test_a_stopped_run_says_how_far_it_is_and_how_long_the_rest_takes(runner):
    tell_failure(stopped(), "a/b", "c/d")
    assert "## c/d: stopped in order" in runner("STEP_SUMMARY")
    assert "| staged | 5 of 8 shards |" in runner("STEP_SUMMARY")
    assert "| still to do | about 1 h 02 min at this run's rate |" in runner("STEP_SUMMARY")
    assert [line for line in runner("OUTPUT").splitlines() if "-" not in line] == [
        "stopped", "5", "8"
    ]  # fmt: skip


def test_a_run_that_was_stopped_while_it_planned_does_not_say_what_nobody_knows(runner):
    tell_failure(StoppedError("The time limit is reached."), "a/b", "c/d")
    assert "staged |" not in runner("STEP_SUMMARY")
    assert "still to do" not in runner("STEP_SUMMARY")


def test_a_failure_and_a_fault_of_ours_are_told_without_secrets(runner):
    tell_failure(NotAllowedError("Bearer hf_abcdefghijkl was refused.", "Log in."), "a/b", "c/d")
    tell_failure(KeyError("odd"), "a/b", "c/d")
    tell_failure(MemoryError(), "a/b", "c/d")
    told = runner("STEP_SUMMARY")
    assert "hf_abc" not in told
    assert "Log in." in told
    assert [f"Exit code {code}." in told for code in (4, 1, 8)] == [True] * 3
    assert runner("OUTPUT").count("failed") == 3


def test_what_others_wrote_stays_text(runner):
    odd = "x | y <img src=x> [a](http://b) `c` {{ d }}\n## heading"
    tell_summary(WATCHED, {
        "title": odd,
        "rows": [{"target": odd, "source": odd, "state": "refused", "why": odd}],
    })  # fmt: skip
    facts = {"source": odd, "target": odd, "what": odd, "next_step": odd}
    tell_summary(FAILED, {"failed": {**facts, "exit_code": 3}})
    tell_summary(STOPPED, {"stopped": {**facts, "staged": 0, "of": 0, "seconds_left": 0}})
    told = runner("STEP_SUMMARY")
    assert "<img" not in told
    outside = re.sub(r"`[^`\n]*`", "", told)  # in a code span a link is its letters
    assert "](http" not in outside
    assert "`" not in outside
    assert "\n## heading" not in told
    row = next(line for line in told.splitlines() if "refused" in line)
    assert row.count("|") == 5


def test_without_a_runner_or_a_file_nothing_fails(monkeypatch, tmp_path, capsys):
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    tell_failure(stopped(), "a/b", "c/d")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "no/such/folder"))
    tell_outputs({"status": "failed"})
    assert "$GITHUB_OUTPUT cannot be written" in capsys.readouterr().err


def test_programs_are_told_how_far_a_stopped_run_is(capsys):
    assert report_failure(stopped(), as_json=True) == 10
    told = json.loads(capsys.readouterr().out)
    assert (told["shards_staged"], told["shards_total"], told["seconds_left"]) == (5, 8, 3720.0)
    report_failure(NotAllowedError("No."), as_json=True)
    assert "shards_staged" not in json.loads(capsys.readouterr().out)
