"""Targets converted one after the other: what one's failure means for the next, and the code."""

import logging
import time

import pytest

from hubconv import watch
from hubconv.errors import ConflictError, IntegrityError, SourceError, StoppedError
from hubconv.progress import SilentProgress
from hubconv.steps.decide import Recipe
from hubconv.watch import Look, Running, Wish, worst


def wish(source="a/b", **more):
    told = {
        "where": "entry[0]", "source": source, "include": (), "exclude": (), "target": "t/{name}",
        "revision": "", "recipe": Recipe(), "private": None, "runner": "x", "time_limit_s": 60.0,
        "max_disk": 0,
    }  # fmt: skip
    return Wish(**told | more)


def due(name, state="new", source="a/b"):
    return Look(wish(source), f"a/{name}", f"t/{name}", state)


@pytest.fixture
def converted(monkeypatch):
    """Conversions that end as they are told to, by target; the requests that they got."""
    endings, requests = {}, []

    def convert(request, progress):
        requests.append(request)
        raise endings[request.target.removeprefix("hf://t/")]

    monkeypatch.setattr("hubconv.pipeline.convert", convert)
    return endings, requests


def running(**more):
    return Running(lambda found: f"hubconv {found.target}", lambda _: SilentProgress(), **more)


def test_each_target_has_its_turn_whatever_became_of_the_others(converted, caplog):
    endings, requests = converted
    endings |= {
        "one": ConflictError("Somebody was faster."),
        "two": ZeroDivisionError("a fault of ours"),
        "three": SourceError("No such tensor."),
        "four": MemoryError("no more"),
    }
    looked = [due(name) for name in endings]
    told = []
    with caplog.at_level(logging.ERROR, "hubconv"):
        ended = watch.run(looked, running(max_disk=7), told.append)
    assert [(each.look.target, each.status, each.exit_code) for each in ended] == [
        ("t/one", "failed", 6), ("t/two", "failed", 1), ("t/three", "failed", 3),
        ("t/four", "failed", 8),
    ]  # fmt: skip
    assert told == ended
    assert "ZeroDivisionError: a fault of ours" in caplog.text
    assert ended[0].what == "Somebody was faster."
    assert worst(looked, ended) == 1
    assert {(each.source, each.max_disk) for each in requests} == {
        (f"hf://a/{name}", 7) for name in endings
    }


def test_what_is_begun_comes_first_and_a_refusal_of_a_pattern_is_no_failure(converted):
    endings, requests = converted
    endings |= {name: SourceError("It has no experts.") for name in ("one", "two", "three")}
    looked = [
        due("one", "new", "a/*"), due("two", "out of date", "a/*"),
        due("three", "in progress", "a/*"), due("four", "up to date"),
    ]  # fmt: skip
    ended = watch.run(looked, running())
    assert [each.target for each in requests] == ["hf://t/three", "hf://t/two", "hf://t/one"]
    assert {each.status for each in ended} == {"refused"}
    assert worst(looked, ended) == 0


def test_what_a_stop_leaves_is_not_begun(converted):
    endings, requests = converted
    stopped = StoppedError("The time limit is reached.")
    stopped.staged, stopped.of, stopped.seconds_left = 3, 8, 60.5
    endings |= {"one": stopped, "two": ConflictError("never asked")}
    looked = [due("one"), due("two")]
    one, two = watch.run(looked, running(time_limit_s=100.0))
    assert (one.status, one.staged, one.of, one.seconds_left) == ("stopped", 3, 8, 60.5)
    assert (two.status, two.exit_code, len(requests)) == ("not begun", 10, 1)
    assert 0 < requests[0].time_limit_s <= 100
    assert worst(looked, [one, two]) == 10


def test_a_limit_that_is_over_begins_nothing(converted):
    _, requests = converted
    began = time.monotonic()
    (only,) = watch.run([due("one")], running(time_limit_s=1e-9))
    assert (only.status, only.exit_code, requests) == ("not begun", 10, [])
    assert time.monotonic() - began < 5


def test_the_worst_code_is_what_needs_a_person_most(converted):
    endings, _ = converted
    endings |= {"one": IntegrityError("Other bytes."), "two": StoppedError("Time.")}
    looked = [due("one"), due("two")]
    ended = watch.run(looked, running())
    assert worst(looked, ended) == 7
    refused = Look(wish(), "a/x", "t/x", "refused", "It is gone.", 3)
    unknown = Look(wish(), "a/y", "t/y", "unknown", "No answer.", 5)
    found = Look(wish("a/*"), "a/z", "t/z", "refused", "No experts.", 3)
    assert worst([refused, unknown, found], []) == 3
    assert worst([unknown, found], []) == 5
    assert worst([found], []) == 0
    assert worst([], []) == 0
