"""What a journal tells of the run that worked at it last."""

import json

import pytest
from cli.test_interruptions import SHARDS, V4, killed_at

from hubconv import upkeep
from hubconv.cli.upkeep import render_status
from hubconv.errors import HubconvError, IntegrityError, NotAllowedError, StoppedError
from hubconv.journal import DONE, NO_RUN, RunNote, ending_of
from hubconv.pipeline import Request, Slice, convert, work
from hubconv.steps.decide import Recipe
from hubconv.version import __version__


def last_run(target):
    (found,) = upkeep.status(target).plans
    return found.journal.last_run


def staging_commits(studio, target):
    (branch,) = studio.staging(target)
    return [c.title for c in studio.log(target, branch) if c.title.startswith("Stage ")]


def fails_after_two(monkeypatch, error):
    """The third shard of a run ends it."""
    from hubconv.engines import threads

    made, work_one = [], threads.work

    def worked(bench, unit):
        if len(made) == 2:
            raise error
        made.append(unit)
        return work_one(bench, unit)

    monkeypatch.setattr(threads, "work", worked)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (StoppedError("The time limit is reached."), 10, "stopped at its time limit"),
        (IntegrityError("w holds a NaN."), 7, "failed with exit code 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("hf_a_secret_of_somebody"), 1, "failed with exit code 1"),
    ],
)
def test_the_end_of_a_run_goes_with_its_last_shards(lfs_studio, monkeypatch, error, code, says):
    studio, target = lfs_studio, lfs_studio.name()
    with monkeypatch.context() as patch:
        fails_after_two(patch, error)
        with pytest.raises(type(error)):
            studio.convert(studio.source(V4), target)
    # The repository was made for it: the journal's first note, then all else in one commit.
    assert staging_commits(studio, target) == ["Stage 2 shards", "Stage the journal"]
    run = last_run(target)
    assert (run.code, run.version, run.device) == (code, __version__, "cpu")
    assert run.began <= run.ended
    told = render_status(upkeep.status(target), target)
    assert says in told
    assert "hf_a_secret" not in told + json.dumps(run.to_json().decode())


def test_a_run_that_nothing_was_left_of_to_commit_tells_its_end_alone(studio, monkeypatch):
    monkeypatch.setattr("hubconv.hub.staging.GROUP_UNITS", 1)
    target = studio.name()
    with monkeypatch.context() as patch:
        fails_after_two(patch, IntegrityError("w holds a NaN."))
        with pytest.raises(IntegrityError):
            studio.convert(studio.source(V4), target)
    assert staging_commits(studio, target)[0] == "Stage the end of a run"
    assert (last_run(target).code, last_run(target).what) == (7, "w holds a NaN.")
    done = studio.convert(studio.source(V4), target)
    assert done.units_found == 2
    assert not any(".hubconv" in path for path in studio.tree(target))


def test_a_run_that_cannot_publish_tells_so(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 403, times=None)
    with pytest.raises(NotAllowedError):
        studio.convert(studio.source(V4), target)
    assert last_run(target).code == 4
    studio.hub.faults.clear()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 503, times=None)
    with pytest.raises(HubconvError):
        studio.convert(studio.source(V4), target)
    assert last_run(target).code == 5


def test_a_lost_answer_to_the_last_word_is_no_second_one(lfs_studio, monkeypatch):
    studio, target = lfs_studio, lfs_studio.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 403, times=None)
    studio.hub.faults.answer("POST", rf"{target}/commit/hubconv", 504, skip=2, after=True)
    with pytest.raises(NotAllowedError):
        studio.convert(studio.source(V4), target)
    assert staging_commits(studio, target).count("Stage the end of a run") == 1


def test_a_killed_run_tells_no_end(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    killed_at(studio, target, {"method": "POST", "path": "/commit/hubconv%2F", "skip": 2})
    run = last_run(target)
    assert (run.ended, run.code) == ("", 0)
    people = studio.command("status", target)
    assert "no end is noted: it is under way, or was killed" in people.out
    programs = studio.command("status", target, "--json").json["plans"][0]["last_run"]
    assert (programs["ended"], programs["exit_code"]) == (None, None)
    assert programs["where"]


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_the_slice_that_began_last_is_told(lfs_studio, checkpoints, tmp_path, monkeypatch, place):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/nightly")
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    target = lfs_studio.name() if place == "hub" else str(tmp_path / "target")
    source = str(checkpoints(V4)) if place == "folder" else lfs_studio.source(V4)
    request = Request(source, target, recipe=Recipe(scales="amax"), device="cpu", workers=1)
    for number in (1, 2):
        work(request, Slice(number, SHARDS))
    run = last_run(target)
    assert (run.part, run.code, bool(run.ended)) == ("2/3", 0, True)
    assert run.where == "https://github.com/acme/nightly/actions/runs/42"
    told = render_status(upkeep.status(target), target)
    assert "slice 2/3" in told
    assert "done " in told
    if place == "hub":
        assert staging_commits(lfs_studio, target).count("Stage the end of a run") == 0


def test_a_folder_tells_how_its_run_ended(checkpoints, tmp_path, monkeypatch):
    target = tmp_path / "target"
    request = Request(
        str(checkpoints(V4)), str(target), recipe=Recipe(scales="amax"), device="cpu", workers=1
    )
    with monkeypatch.context() as patch:
        fails_after_two(patch, StoppedError("The time limit is reached."))
        with pytest.raises(StoppedError):
            convert(request)
    assert last_run(str(target)).code == 10
    assert convert(request).units_found == 2
    assert not (target / ".hubconv").exists()


@pytest.mark.parametrize("text", [b"", b"[]", b'{"run_id": 3}', b"{" * 3000])
def test_a_run_that_is_told_wrong_tells_nothing(text):
    assert RunNote.from_json(text) == NO_RUN


def test_a_name_that_steers_the_terminal_is_made_harmless(lfs_studio, monkeypatch):
    monkeypatch.setattr("hubconv.journal._here", lambda: "evil\x1b[2Jhost")
    studio, target = lfs_studio, lfs_studio.name()
    with monkeypatch.context() as patch:
        fails_after_two(patch, IntegrityError("x"))
        with pytest.raises(IntegrityError):
            studio.convert(studio.source(V4), target)
    assert "\x1b" not in render_status(upkeep.status(target), target)


def test_an_end_is_noted_once():
    run = RunNote.begin("cpu", "1")
    assert run.end(DONE).ended
    ended = ending_of(IntegrityError("token hf_abcdefghijkl was refused"))
    assert "hf_abcdefghijkl" not in run.end(ended).what
