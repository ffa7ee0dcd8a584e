"""An account that may commit but make no branches: the journal is on a draft pull request."""

import pytest
from cli.test_interruptions import QUICK, SHARDS, V4, killed_at, main_holds

from hubconv import upkeep
from hubconv.errors import HubconvError

TOKEN = "hf_commits_alone"
ENV = {"HF_TOKEN": TOKEN}


@pytest.fixture
def committer(lfs_studio):
    """A studio whose runs may commit, and make neither branches nor tags."""
    from hubconv.embedded import DEMO_ORG, DEMO_USER

    lfs_studio.hub.add_user(DEMO_USER, TOKEN, orgs=(DEMO_ORG,), makes_refs=False)
    lfs_studio.token = TOKEN
    return lfs_studio


def pulls(studio, repo, status=None):
    found = studio.api.get_repo_discussions(repo, discussion_type="pull_request")
    return [each for each in found if status is None or each.status == status]


def test_a_killed_run_goes_on_on_its_pull_request(committer):
    studio, target = committer, committer.name()
    rule = {"method": "POST", "path": rf"{target}/commit/refs%2Fpr%2F1", "skip": 3}
    killed_at(studio, target, rule, env=ENV)
    assert main_holds(studio, target) == (0, False)
    assert studio.staging(target) == set()
    (pull,) = pulls(studio, target, "draft")
    (found,) = upkeep.status(target).plans
    assert (found.journal.place, found.journal.shards) == ("refs/pr/1", 2)
    assert found.journal.plan_id in pull.title

    done = studio.command(studio.source(V4), target, *QUICK, "--json", env=ENV)
    assert done.code == 0, done.said
    assert (done.json["shards_found"], done.json["shards_made"]) == (2, 1)
    assert len(studio.publishes(target)) == 1
    assert main_holds(studio, target) == (SHARDS, True)
    assert [each.status for each in pulls(studio, target)] == ["closed"]
    assert list(upkeep.status(target).plans) == []
    assert not studio.is_private(target)
    again = studio.convert(studio.source(V4), target)
    assert again.status == "up-to-date"


def test_a_run_killed_after_its_publish_is_tidied_up(committer):
    studio, target = committer, committer.name()
    killed_at(studio, target, {"method": "POST", "path": "/discussions/1/status"}, env=ENV)
    assert main_holds(studio, target) == (SHARDS, True)
    assert studio.convert(studio.source(V4), target).status == "up-to-date"
    assert [each.status for each in pulls(studio, target)] == ["closed"]


def test_a_strangers_pull_request_is_no_journal(committer):
    studio, source, target = committer, committer.source(V4), committer.name()
    studio.hub.add_user("mallory", "hf_mallory")
    studio.api.create_repo(target)
    plan_id = studio.convert(source, studio.name()).plan.plan_id
    mallory = studio.api_of("hf_mallory")
    mallory.create_pull_request(target, title=f"Stage of hubconv plan {plan_id}")
    done = studio.convert(source, target)
    assert (done.units_found, done.units_made) == (0, SHARDS)
    assert {each.num: each.status for each in pulls(studio, target)} == {1: "draft", 2: "closed"}


def test_two_pull_requests_of_one_plan_become_one(committer):
    studio, source, target = committer, committer.source(V4), committer.name()
    studio.api.create_repo(target)
    # The answer is lost after the first was opened: the run opens a second one, and uses the first.
    studio.hub.faults.answer("POST", rf"{target}/discussions$", 502, after=True)
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 403, times=None)
    with pytest.raises(HubconvError):
        studio.convert(source, target)
    assert {each.num: each.status for each in pulls(studio, target)} == {1: "draft", 2: "closed"}
    studio.hub.faults.clear()
    assert studio.convert(source, target).units_found == SHARDS


def test_a_staging_pull_request_is_not_taken_for_a_published_one(committer):
    studio, source, target = committer, committer.source(V4), committer.name()
    studio.api.create_repo(target)
    done = studio.convert(source, target, create_pr=True)
    assert done.published.pull_request == 2
    assert {each.num: each.status for each in pulls(studio, target)} == {1: "closed", 2: "open"}
    assert studio.convert(source, target, create_pr=True).status == "up-to-date"


def test_a_publish_that_was_undone_is_not_found_again_below_a_journal(committer):
    from huggingface_hub import CommitOperationDelete

    studio, source, target = committer, committer.source(V4), committer.name()
    studio.convert(source, target)
    gone = [CommitOperationDelete(path) for path in studio.tree(target) if path[0] != "."]
    studio.api.create_commit(target, gone, commit_message="Undo")
    done = studio.convert(source, target, create_pr=True)
    assert done.published.pull_request == 3  # after those of both journals
    assert main_holds(studio, target) == (0, False)
    assert len(studio.publishes(target, "refs/pr/3")) == 2


def test_abort_closes_the_pull_request(committer):
    studio, source, target = committer, committer.source(V4), committer.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 403, times=None)
    with pytest.raises(HubconvError):
        studio.convert(source, target)
    studio.hub.faults.clear()
    done = upkeep.abort(target, removes=True)
    assert [each.place for each in done.journals] == ["refs/pr/1"]
    assert [each.status for each in pulls(studio, target)] == ["closed"]
