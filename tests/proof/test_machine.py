"""Hypothesis in search of an order of events that breaks a promise of the publish protocol."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

from hubconv.hub.commits import Commits
from proof import world as worlds
from proof.memory_hub import AT_WRITES
from proof.runners import Runner, end_alone
from proof.world import KINDS, REPO, World

PLACES = ("create_repo", "create_branch", "stage", "list_repo_commits", "publish", "delete_branch")

MOST = 3
"""Processes at a time."""


class Target(RuleBasedStateMachine):
    """Processes that begin, go on, meet faults and are killed, while somebody else commits."""

    def __init__(self):
        super().__init__()
        self.runners = []

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind):
        self.world = World(kind)
        self.world.is_alone = False

    def waiting(self):
        return [runner for runner in self.runners if not runner.has_ended]

    @precondition(lambda self: len(self.waiting()) < MOST)
    @rule()
    def start(self):
        self.runners.append(Runner(self.world))

    @precondition(lambda self: self.waiting())
    @rule(which=st.integers(0, MOST - 1), calls=st.integers(1, 40))
    def go_on(self, which, calls):
        runner = self.waiting()[which % len(self.waiting())]
        for _ in range(calls):
            if not runner.has_ended:
                runner.step()

    @precondition(lambda self: self.waiting())
    @rule(which=st.integers(0, MOST - 1), call=st.sampled_from(PLACES))
    def go_up_to(self, which, call):
        runner = self.waiting()[which % len(self.waiting())]
        while not runner.has_ended and runner.call[0] != call:
            runner.step()

    @precondition(lambda self: self.waiting())
    @rule(which=st.integers(0, MOST - 1), fault=st.sampled_from(AT_WRITES))
    def fail(self, which, fault):
        self.waiting()[which % len(self.waiting())].step(fault)

    @precondition(lambda self: REPO in self.world.hub.repos and self.world.foreign < 2)
    @rule()
    def interfere(self):
        self.world.interfere()

    @invariant()
    def promises_hold(self):
        if hasattr(self, "world"):
            assert self.world.violations == []

    def teardown(self):
        for runner in self.waiting():
            while not runner.has_ended:
                runner.step()
        if hasattr(self, "world"):
            self.world.hub.settle()
            end_alone(self.world)
            assert self.world.violations == []


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    worlds.patch(monkeypatch)


def test_no_order_of_events_breaks_a_promise():
    run_state_machine_as_test(Target, settings=SETTINGS)


def test_it_finds_a_publisher_that_names_no_parent(monkeypatch):
    commit = Commits.commit

    def anywhere(self, operations, message, revision, parent, **more):
        return commit(self, operations, message, revision, None, **more)

    monkeypatch.setattr(Commits, "commit", anywhere)
    found = settings(SETTINGS, max_examples=500, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Target, settings=found)
