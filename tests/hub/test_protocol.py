"""Commits on staging and on main when answers fail, are lost, or never come."""

import email.utils
import time

import pytest

from hubconv.errors import ConflictError, NotAllowedError, TemporaryError

BF16 = "llama_bf16"
STAGING = r"/commit/hubconv%2F"
MAIN = r"/commit/main"

FAULTS = {
    "500": {"action": "answer", "status": 500},
    "502 with a gateway's page": {"action": "answer", "status": 502, "body": "<html>bad</html>"},
    "503": {"action": "answer", "status": 503},
    "504": {"action": "answer", "status": 504},
    "524": {"action": "answer", "status": 524},
    "reset": {"action": "reset"},
}


@pytest.fixture
def short(monkeypatch):
    """Let the client's own waits be short too."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


@pytest.fixture
def impatient():
    """Let requests give up on a silent server after a moment."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def factory():
        client = default_client_factory()
        client.timeout = httpx2.Timeout(5, read=0.7)
        return client

    set_client_factory(factory)
    yield
    set_client_factory(default_client_factory)


def strike(studio, repo, where, *, after=False, times=1, **fault):
    from hubconv.embedded.faults import Rule

    return studio.hub.faults.add(
        Rule(method="POST", path=repo + where, after=after, times=times, **fault)
    )


def commits(studio, repo):
    return studio.hub.requests.count(method="POST", path=rf"{repo}/commit/")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", [STAGING, MAIN], ids=["staging", "main"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_whose_answer_fails_is_made_exactly_once(lfs_studio, fault, where, after):
    studio, target = lfs_studio, lfs_studio.name()
    studio.api.create_repo(target)
    rule = strike(studio, target, where, after=after, **FAULTS[fault])
    done = studio.convert(studio.source(BF16), target)
    assert studio.hub.faults.struck(rule) == 1
    assert [commit.commit_id for commit in studio.publishes(target)] == [done.published.commit]
    assert len(studio.log(target)) == 2
    assert commits(studio, target) == (2 if after else 3)
    assert studio.staging(target) == set()


@pytest.mark.parametrize("where", [STAGING, MAIN], ids=["staging", "main"])
def test_a_silent_server_is_not_waited_for_for_ever(lfs_studio, impatient, where):
    studio, target = lfs_studio, lfs_studio.name()
    studio.api.create_repo(target)
    rule = strike(studio, target, where, after=True, action="hang", seconds=3)
    studio.convert(studio.source(BF16), target)
    assert studio.hub.faults.struck(rule) == 1
    assert len(studio.publishes(target)) == 1


def test_requests_wait_for_three_minutes_at_most():
    import subprocess
    import sys

    script = (
        "from hubconv.hub.compat import limit_waiting, get_session;"
        "limit_waiting(); limit_waiting(); t = get_session().timeout; print(t.read, t.connect)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["180", "30"]


def test_an_outage_ends_the_run_with_everything_saved(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    strike(studio, target, MAIN, times=None, action="answer", status=503)
    with pytest.raises(TemporaryError) as failed:
        studio.convert(studio.source(BF16), target)
    assert failed.value.exit_code == 5
    assert studio.publishes(target) == []
    assert len(studio.waits) >= 5
    studio.hub.faults.clear()
    done = studio.convert(studio.source(BF16), target)
    assert (done.units_made, done.units_found) == (0, len(done.plan.units))


@pytest.mark.parametrize("where", [STAGING, MAIN], ids=["staging", "main"])
def test_a_412_that_nobody_caused_is_tried_again(lfs_studio, where):
    studio, target = lfs_studio, lfs_studio.name()
    strike(studio, target, where, action="answer", status=412)
    assert studio.convert(studio.source(BF16), target).status == "published"
    assert len(studio.publishes(target)) == 1


def test_a_branch_that_other_slices_keep_moving_is_committed_to_in_the_end(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    rule = strike(studio, target, STAGING, times=20, action="answer", status=412)
    assert studio.convert(studio.source(BF16), target).status == "published"
    assert studio.hub.faults.struck(rule) == 20
    assert max(studio.waits) <= 3  # it is not as if the Hub were down


def test_a_group_counts_as_staged_when_all_of_it_is_there(lfs_studio, monkeypatch):
    """Another run of the plan stages the last shard of a group while our commit fails."""
    from hubconv.hub.commits import Commits
    from hubconv.hub.journals import unit_path

    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    studio.api.create_repo(target)
    commit, failed = Commits.commit, []

    def overtaken(self, operations, message, revision, parent, **more):
        shards = [each for each in operations if each.path_in_repo.endswith(".safetensors")]
        if not shards or failed or not revision.startswith("hubconv/"):
            return commit(self, operations, message, revision, parent, **more)
        last = shards[-1].path_in_repo
        record = unit_path(revision.removeprefix("hubconv/"), last)
        theirs = [each for each in operations if each.path_in_repo in {last, record}]
        commit(self, theirs, "Stage 1 shard", revision, parent)
        for each in theirs:  # theirs were others than ours
            each._is_committed = False
        failed.append(last)
        raise TemporaryError("the line broke")

    monkeypatch.setattr(Commits, "commit", overtaken)
    done = studio.convert(source, target)
    assert failed
    assert done.status == "published"


def test_main_that_moved_under_a_lost_answer_is_a_conflict(lfs_studio, monkeypatch):
    from hubconv.hub.publisher import Publisher

    studio, target = lfs_studio, lfs_studio.name()
    once = Publisher._once

    def late(self, *arguments):
        studio.write(target, "notes.txt", b"mine")
        return once(self, *arguments)

    monkeypatch.setattr(Publisher, "_once", late)
    with pytest.raises(ConflictError) as conflict:
        studio.convert(studio.source(BF16), target)
    assert conflict.value.exit_code == 6
    assert "every shard is kept" in str(conflict.value)
    assert studio.publishes(target) == []
    assert len(studio.staging(target)) == 1


def test_of_two_pull_requests_of_a_plan_the_later_is_closed(lfs_studio):
    from huggingface_hub import CommitOperationAdd

    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    studio.api.create_repo(target)
    first = studio.convert(source, target, create_pr=True)
    # A request that was given up, and came late.
    shown = studio.log(target, f"refs/pr/{first.published.pull_request}")[0]
    late = studio.api.create_commit(
        target,
        [CommitOperationAdd("late.txt", b"late")],
        commit_message=shown.title,
        commit_description=shown.message,
        create_pr=True,
    )
    again = studio.convert(source, target, create_pr=True)
    assert again.status == "up-to-date"
    assert again.published == first.published
    states = {each.num: each.status for each in studio.api.get_repo_discussions(target)}
    assert states == {first.published.pull_request: "open", int(late.pr_num): "closed"}


@pytest.mark.parametrize("where", [STAGING, MAIN], ids=["staging", "main"])
def test_a_busy_hub_is_left_alone_for_as_long_as_it_asks(lfs_studio, where):
    studio = lfs_studio
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    asked = [
        {"Retry-After": "7"},
        {"Retry-After": soon},
        {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'},
    ]
    target = studio.name()
    for headers in asked:
        strike(studio, target, where, action="answer", status=429, headers=headers)
    studio.convert(studio.source(BF16), target)
    by_number, by_date, by_limit = studio.waits
    assert by_number == 7
    assert 20 < by_date <= 30
    assert by_limit == 56


def test_a_refused_commit_is_not_tried_again(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.api.create_repo(target)
    rule = strike(studio, target, STAGING, times=None, action="answer", status=403)
    with pytest.raises(NotAllowedError):
        studio.convert(studio.source(BF16), target)
    # Once for the shards, once when the run ended: what is pending must not be lost.
    assert studio.hub.faults.struck(rule) <= 2


def test_a_shard_that_the_hub_lost_before_its_commit_is_made_again(lfs_studio, monkeypatch):
    from hubconv.hub.staging import HubStaging

    studio, target = lfs_studio, lfs_studio.name()
    commit, lost = HubStaging._commit, []

    def forgetful(self, records):
        if records and not lost:
            lost.append(records[0].shard)
            studio.hub.forget_large_file(target, records[0].sha256)
        commit(self, records)

    monkeypatch.setattr(HubStaging, "_commit", forgetful)
    with pytest.raises(TemporaryError, match="lost"):
        studio.convert(studio.source(BF16), target)
    assert studio.convert(studio.source(BF16), target).status == "published"


def test_creating_the_repository_and_the_branch_survives_lost_answers(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.hub.faults.answer("POST", "/api/repos/create", 504, after=True)
    studio.hub.faults.answer("POST", rf"{target}/branch/", 504, after=True)
    studio.hub.faults.answer("PUT", rf"{target}/settings", 504, after=True)
    studio.hub.faults.answer("POST", rf"{target}/tag/", 504, after=True)
    studio.hub.faults.answer("DELETE", rf"{target}/branch/", 504, after=True)
    done = studio.convert(studio.source(BF16), target)
    assert len(studio.tags(target)) == len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()
    assert not studio.is_private(target)
    assert done.status == "published"


@pytest.mark.parametrize(
    "rule",
    [
        {"method": "POST", "path": "/preupload/", "status": 503},
        {"method": "POST", "path": "/info/lfs/objects/batch", "status": 503},
        {"method": "PUT", "path": "", "status": 500, "times": 8},
        {"method": "POST", "path": "/info/lfs/verify", "status": 500},
        {"method": "GET", "path": "/xet-write-token/", "status": 503},
        {"method": "POST", "path": "/api/validate-yaml", "status": 502, "body": "<html>"},
        {"method": "GET", "path": "/api/whoami-v2", "status": 500},
        {"method": "GET", "path": "/tree/", "status": 500},
        {"method": "POST", "path": "/paths-info/", "status": 500},
    ],
    ids=lambda rule: f"{rule['method']} {rule['path']}",
)
def test_requests_that_fail_are_repeated(lfs_studio, short, rule):
    from hubconv.embedded.faults import Rule

    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    struck = studio.hub.faults.add(Rule("answer", **rule))
    assert studio.convert(source, target).status == "published"
    assert studio.hub.faults.struck(struck) >= 1
    assert len(studio.publishes(target)) == 1


def test_nothing_is_left_behind_on_this_machine(studio, tmp_path):
    source, target, work = studio.source(BF16), studio.name(), tmp_path / "work"
    strike(studio, target, MAIN, times=None, action="answer", status=403)
    with pytest.raises(NotAllowedError):
        studio.convert(source, target, work_dir=str(work))
    assert list(work.iterdir()) == []
    studio.hub.faults.clear()
    studio.convert(source, target, work_dir=str(work))
    assert list(work.iterdir()) == []
