"""Whatever befalls a run at the Hub, at any call: main is old or whole, and nothing is made twice.

Every schedule of one and of two faults, on a target that is new, one that is updated, and one that
is published to by pull request. Mutants of the publisher show that the checks bite.
"""

import dataclasses
import random

import pytest

from hubconv.errors import IntegrityError
from hubconv.hub.commits import TRAILER, Commits
from hubconv.hub.publisher import Publisher
from hubconv.hub.staging import HubStaging
from hubconv.hub.target import HubTarget
from hubconv.steps.verify import verify_tree
from proof import world as worlds
from proof.memory_hub import ERROR, KILL_ON_ITS_WAY, MAIN, SILENCE
from proof.runners import end_alone, race
from proof.world import (
    BRANCH,
    KINDS,
    PLAN,
    REPO,
    SHARDS,
    World,
    drive,
    schedules_of_one,
    schedules_of_two,
)  # fmt: skip

RACES = 100
EVERY = 29
"""Of the schedules of two faults one in so many is run by default; `-m thorough` runs them all."""
SHOWN = 3


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    worlds.patch(monkeypatch)


def broken(runs):
    """The first few of those that broke a promise, told so that they can be run again."""
    found = []
    for schedule, world in runs:
        if world.violations and len(found) < SHOWN:
            calls = [world.trace[at][0] for at in schedule]
            found.append(f"{schedule} at {calls}: {world.violations[:2]}")
    return found


def races(kind, seeds, fault_rate=0.0):
    for seed in seeds:
        world = World(kind)
        race(world, random.Random(seed), fault_rate)
        yield {}, world


# ── the promises ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_faults_writes_only_what_it_must(kind):
    world = drive(kind, {})
    writes = [name for name, writes in world.trace if writes]
    assert world.violations == []
    assert set(world.made.values()) == {1}
    begun = {"new": ["create_repo", "create_branch", "stage"]}.get(kind, ["create_branch"])
    ended = {
        "new": ["update_repo_settings", "create_tag", "delete_branch"],
        "update": ["create_tag", "delete_branch"],
        "pull request": ["delete_branch"],
    }[kind]
    assert writes == [*begun, *["upload", "stage"] * len(SHARDS), "publish", *ended]
    before = len(world.trace)
    end_alone(world)
    assert world.violations == []
    assert not any(writes for _, writes in world.trace[before:])


@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_of_one_fault(kind):
    assert broken(schedules_of_one(kind)) == []


@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_of_two_faults(kind, every):
    assert broken(schedules_of_two(kind, every)) == []


@pytest.mark.parametrize("fault", [SILENCE, KILL_ON_ITS_WAY], ids=["silence", "kill"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_request_on_its_way_may_arrive_at_any_later_time(kind, fault):
    calls = drive(kind, {}).trace
    schedules = (
        {at: dataclasses.replace(fault, applied=late)}
        for at, (_, writes) in enumerate(calls)
        for late in range(1, len(calls))
        if writes
    )
    # A branch or a pull request that arrives when all is over stays until somebody comes by.
    runs = ((schedule, drive(kind, schedule, again=True)) for schedule in schedules)
    assert broken(runs) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_fails_for_long_is_waited_for(kind):
    calls = drive(kind, {}).trace
    outages = ({at + late: ERROR for late in range(5)} for at in range(len(calls)))
    assert broken((schedule, drive(kind, schedule)) for schedule in outages) == []


@pytest.mark.parametrize("fault_rate", [0.0, 0.05], ids=["calm", "stormy"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_at_once_publish_once(kind, fault_rate):
    assert broken(races(kind, range(RACES), fault_rate)) == []


# ── the checks bite ──────────────────────────────────────────────────────────────────────────


def without_parent(monkeypatch):
    commit = Commits.commit

    def anywhere(self, operations, message, revision, parent, **more):
        return commit(self, operations, message, revision, None, **more)

    monkeypatch.setattr(Commits, "commit", anywhere)


def without_looking(monkeypatch):
    monkeypatch.setattr(Publisher, "_made", lambda self, plan_id: None)


def in_two_commits(monkeypatch):
    commit = Commits.commit

    def halves(self, operations, message, revision, parent, **more):
        if revision == MAIN:
            middle = len(operations) // 2
            first = commit(self, operations[:middle], message, revision, parent, **more)
            operations, parent = operations[middle:], first.oid
        return commit(self, operations, message, revision, parent, **more)

    monkeypatch.setattr(Commits, "commit", halves)


def without_a_journal(monkeypatch):
    monkeypatch.setattr(HubStaging, "records", lambda self: {})


def public_first(monkeypatch):
    publish = HubStaging.publish

    def shown(self, release):
        settings = self._client.api.update_repo_settings
        self._client.call("Showing", lambda: settings(self._repo, private=False))
        return publish(self, release)

    monkeypatch.setattr(HubStaging, "publish", shown)


def of_the_branch_as_it_is(monkeypatch):
    """Copies by the branch's name, and deletes it before main is looked at."""
    discard = HubStaging.discard

    def early(self, release):
        discard(self)
        return self._publisher.publish(release, BRANCH, self._file)

    monkeypatch.setattr(HubStaging, "publish", early)


MUTANTS = {
    without_parent: "2 publish commits",
    without_looking: "ConflictError",
    in_two_commits: "neither the old nor the new",
    without_a_journal: "is made again",
    public_first: "public and empty",
    of_the_branch_as_it_is: "a run ended with",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_publisher_that_is_wrong_is_found_out(mutant, monkeypatch):
    mutant(monkeypatch)
    told = [what for _, world in schedules_of_one("new") for what in world.violations]
    assert any(MUTANTS[mutant] in what for what in told), told[:SHOWN]


def test_a_naive_retry_publishes_twice(monkeypatch):
    def naive(self, release, staging_commit, add):
        from hubconv.hub.client import is_passing
        from hubconv.hub.publisher import _operations

        for _ in range(6):
            try:
                operations = _operations(release, staging_commit, add)
                message = f"{release.title}\n\n{TRAILER}{release.plan_id}"
                commits = self.commits
                done = commits.commit(operations, message, MAIN, None)
                return self._published(done)
            except Exception as error:
                if not is_passing(error):
                    raise
        return None

    monkeypatch.setattr(Publisher, "publish", naive)
    told = [what for _, world in schedules_of_one("new") for what in world.violations]
    assert any("2 publish commits" in what for what in told), told[:SHOWN]


def test_races_find_a_publisher_that_names_no_parent(monkeypatch):
    without_parent(monkeypatch)
    assert broken(races("new", range(RACES))) != []


def told_by_manifest_alone(monkeypatch):
    """Takes another machine's figures for damage."""

    def compare(target, published, files):
        shown = f"refs/pr/{published.pull_request}" if published.pull_request else published.commit
        if verify_tree(target.view(shown), files):
            raise IntegrityError("the figures differ")

    monkeypatch.setattr(worlds, "compare_published", compare)


def without_a_second_look(monkeypatch):
    monkeypatch.setattr(HubTarget, "_refuse_filled", lambda self: None)


def blaming_the_revision(monkeypatch):
    monkeypatch.setattr(HubStaging, "_looking", lambda self, look: look())


def leaving_twins(monkeypatch):
    monkeypatch.setattr(Publisher, "close_twins", lambda self, plan_id: None)


RIVALS = {
    told_by_manifest_alone: ("update", "IntegrityError"),
    without_a_second_look: ("new", "2 publish commits"),
    blaming_the_revision: ("update", "SourceError"),
    leaving_twins: ("pull request", "2 publish commits"),
}


@pytest.mark.parametrize("mutant", RIVALS, ids=lambda mutant: mutant.__name__)
def test_a_publisher_that_is_wrong_beside_another_is_found_out(mutant, monkeypatch):
    mutant(monkeypatch)
    kind, wanted = RIVALS[mutant]
    told = [what for _, world in races(kind, range(RACES)) for what in world.violations]
    assert any(wanted in what for what in told), told[:SHOWN]


@pytest.mark.parametrize(
    ("branch", "lines", "told"),
    [
        (BRANCH, [(SHARDS[0], None)], "staging lost"),
        (MAIN, [(SHARDS[0], None)], "neither the old nor the new"),
        (MAIN, [(SHARDS[0], (SHARDS[0], BRANCH))], "nobody has read back"),
    ],
)
def test_a_commit_that_breaks_a_promise_is_seen(branch, lines, told):
    world = World("update")
    world.hub.create_branch(REPO, BRANCH)
    staged = worlds.Entry(5, sha256="5" * 64)
    world.hub.repo(REPO).large[staged.sha256] = 5
    world.hub.commit(REPO, BRANCH, None, "Stage", "", [(SHARDS[0], staged)])
    assert world.violations == []
    world.hub.commit(REPO, branch, None, "Wrong", f"{TRAILER}{PLAN}", lines)
    assert any(told in what for what in world.violations), world.violations
