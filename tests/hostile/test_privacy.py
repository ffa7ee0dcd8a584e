"""A private or gated source never ends where everybody can read it, unless the user says so."""

import pytest

from hubconv.errors import NotAllowedError, TemporaryError
from hubconv.hub.privacy import Guard

BF16 = "llama_bf16"
MAIN = r"/commit/main"


@pytest.fixture
def studio(lfs_studio):
    return lfs_studio


@pytest.fixture
def hidden(studio):
    """A private source."""
    return studio.own_source(BF16, private=True)


def shards(studio, repo):
    """Shards that any branch or pull request of a repository shows."""
    refs = studio.api.list_repo_refs(repo, include_pull_requests=True)
    names = [ref.ref for ref in (*refs.branches, *(refs.pull_requests or ()))]
    return {path for name in names for path in studio.tree(repo, name) if "safetensors" in path}


def turn_public(studio, target, monkeypatch, where):
    """Have somebody make the target public right before the staging takes its next step."""
    from hubconv.hub.staging import HubStaging

    step = getattr(HubStaging, where)

    def watched(self, *arguments):
        studio.api.update_repo_settings(target, private=False)
        return step(self, *arguments)

    monkeypatch.setattr(HubStaging, where, watched)


# ── before the work ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "target", "may"),
    [
        ("private", "", False),
        ("private", "gated", False),
        ("private", "private", True),
        ("gated", "", False),
        ("gated", "gated", True),
        ("gated", "private", True),
        ("", "", True),
    ],
)
def test_a_target_must_be_as_closed_as_its_source(source, target, may):
    assert Guard("demo/x", source).forbids(target) is not may


def test_what_nobody_has_asked_about_counts_as_private():
    assert Guard("demo/x").forbids("")


def test_a_gated_source_needs_a_closed_target(studio):
    source, target = studio.own_source(BF16), studio.name()
    studio.api.update_repo_settings(source, gated="manual")
    studio.api.create_repo(target)
    with pytest.raises(NotAllowedError, match="source is gated"):
        studio.convert(source, target)
    assert shards(studio, target) == set()
    studio.api.update_repo_settings(target, gated="manual")
    assert studio.convert(source, target).status == "published"


def test_the_gate_of_a_public_target_is_not_enough_for_a_private_source(studio, hidden):
    target = studio.name()
    studio.api.create_repo(target)
    studio.api.update_repo_settings(target, gated="auto")
    with pytest.raises(NotAllowedError, match="source is private"):
        studio.convert(hidden, target)
    assert shards(studio, target) == set()


def test_a_pull_request_on_a_public_target_shows_nothing_private(studio, hidden):
    target = studio.name()
    studio.api.create_repo(target)
    with pytest.raises(NotAllowedError, match="source is private"):
        studio.convert(hidden, target, create_pr=True)
    assert list(studio.api.get_repo_discussions(target)) == []
    assert studio.staging(target) == set()
    with pytest.raises(NotAllowedError, match="source is private"):
        studio.convert(hidden, target, create_pr=True, private=True)


# ── in the middle of it ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["create", "flush"])
def test_no_shard_is_staged_in_a_target_that_turned_public(studio, hidden, monkeypatch, where):
    target = studio.name()
    turn_public(studio, target, monkeypatch, where)
    with pytest.raises(NotAllowedError, match="has become public") as refused:
        studio.convert(hidden, target)
    assert refused.value.exit_code == 4
    assert shards(studio, target) == set()


@pytest.mark.parametrize("create_pr", [False, True])
def test_nothing_is_published_to_a_target_that_turned_public(
    studio, hidden, monkeypatch, create_pr
):
    target = studio.name()
    with monkeypatch.context() as patch:
        turn_public(studio, target, patch, "publish")
        with pytest.raises(NotAllowedError, match="Make it private again"):
            studio.convert(hidden, target, create_pr=create_pr)
    assert studio.publishes(target) == []
    assert list(studio.api.get_repo_discussions(target)) == []
    studio.api.update_repo_settings(target, private=True)
    done = studio.convert(hidden, target, create_pr=create_pr)
    assert (done.units_made, done.status) == (0, "published")
    assert studio.is_private(target)


def test_a_target_that_turns_public_in_the_moment_of_the_publish_is_told_of(
    studio, hidden, monkeypatch
):
    target = studio.name()
    turn_public(studio, target, monkeypatch, "discard")
    with pytest.raises(NotAllowedError, match="has become public"):
        studio.convert(hidden, target)


def test_a_target_that_somebody_makes_public_before_we_make_it_gets_nothing(
    studio, hidden, monkeypatch
):
    from hubconv.hub.target import HubTarget

    target, stage = studio.name(), HubTarget.stage

    def overtaken(self, *arguments):
        studio.api.create_repo(target, private=False)
        return stage(self, *arguments)

    monkeypatch.setattr(HubTarget, "stage", overtaken)
    with pytest.raises(NotAllowedError, match="has become public"):
        studio.convert(hidden, target)
    assert shards(studio, target) == set()


def test_a_target_that_was_never_checked_takes_nothing_into_the_open(studio, tmp_path):
    from hubconv.ends import TargetOptions
    from hubconv.hub.target import HubTarget

    target = studio.name()
    studio.api.create_repo(target)
    staging = HubTarget(studio.client(), target, TargetOptions(), tmp_path).stage("0" * 16)
    with pytest.raises(NotAllowedError, match="has become public"):
        staging.begin()


# ── when an earlier run had the word to show it ──────────────────────────────────────────────


@pytest.fixture
def begun(studio, hidden):
    """A target that a killed run began and was told to make public."""
    target = studio.name()
    studio.hub.faults.answer("POST", target + MAIN, 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(hidden, target, private=False, allow_public=True)
    studio.hub.faults.clear()
    assert studio.is_private(target)
    assert shards(studio, target)
    return target


def test_going_on_without_the_word_leaves_the_target_private(studio, hidden, begun):
    assert studio.convert(hidden, begun).status == "published"
    assert studio.is_private(begun)


def test_going_on_with_half_of_the_word_is_refused(studio, hidden, begun):
    with pytest.raises(NotAllowedError, match="--allow-publish-private"):
        studio.convert(hidden, begun, private=False)
    assert studio.is_private(begun)
    assert studio.publishes(begun) == []


def test_going_on_with_the_word_shows_it(studio, hidden, begun):
    studio.convert(hidden, begun, private=False, allow_public=True)
    assert not studio.is_private(begun)


def test_tidying_up_after_a_kill_shows_nothing_without_the_word(studio, hidden):
    target = studio.name()
    studio.hub.faults.answer("PUT", f"{target}/settings", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(hidden, target, private=False, allow_public=True)
    studio.hub.faults.clear()
    assert len(studio.publishes(target)) == 1
    assert studio.convert(hidden, target).status == "up-to-date"
    assert studio.is_private(target)


def test_a_source_that_turns_private_in_mid_run_is_not_published_openly(studio, monkeypatch):
    from hubconv.hub.staging import HubStaging

    source, target, flush = studio.own_source(BF16), studio.name(), HubStaging.flush

    def watched(self, *ending):
        studio.api.update_repo_settings(source, private=True)
        flush(self, *ending)

    with monkeypatch.context() as patch:
        patch.setattr(HubStaging, "flush", watched)
        with pytest.raises(NotAllowedError, match=f"{source} has become private while"):
            studio.convert(source, target)
    assert studio.publishes(target) == []
    assert studio.is_private(target)
    done = studio.convert(source, target)
    assert (done.units_made, studio.is_private(target)) == (0, True)


def test_a_source_that_turned_private_between_two_runs_stays_hidden(studio):
    source, target = studio.own_source(BF16), studio.name()
    studio.hub.faults.answer("POST", target + MAIN, 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target)
    studio.hub.faults.clear()
    studio.api.update_repo_settings(source, private=True)
    assert studio.convert(source, target).status == "published"
    assert studio.is_private(target)
