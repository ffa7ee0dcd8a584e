"""Requests and commits that a plan announces, against those that a run is counted to make."""

import pytest

from hubconv.pipeline import plan
from hubconv.progress import Progress
from hubconv.steps.budget import API_LIMIT, COMMIT_LIMIT, HubBudget, hub_budget
from hubconv.steps.decide import Recipe
from hubconv.steps.tables import plan_json, plan_table


def counted(studio):
    """(API requests, resolver requests, commits) that the Hub was asked for."""
    asked = [request for request in studio.hub.requests.all() if request.origin == "hub"]
    resolved = sum(request.kind == "resolve" for request in asked)
    return len(asked) - resolved, resolved, sum(request.kind == "commit" for request in asked)


@pytest.mark.parametrize(
    ("recipe", "shard_bytes"),
    [("llama_bf16", 0), ("llama_bf16", 8000), ("deepseek_v4_sgl_fp8", 150_000)],
    ids=["2 shards", "21 shards", "many shards"],
)
def test_a_run_asks_for_what_its_plan_announced(studio, recipe, shard_bytes):
    source, target = studio.own_source(recipe), studio.name()
    asked = Recipe(scales="amax", max_shard_bytes=shard_bytes)
    planned = hub_budget(plan(source, asked))
    studio.hub.requests.clear()
    studio.convert(source, target, recipe=asked)
    api, resolved, commits = counted(studio)
    announced = planned.api_requests + (planned.lfs_requests if studio.mode == "lfs" else 0)
    assert commits == planned.commits
    # Never more than announced, and not announced as half as much again.
    assert api <= announced <= 1.5 * api
    assert resolved <= planned.resolver_requests <= 1.5 * resolved


@pytest.mark.parametrize("recipe", ["llama_bf16", "deepseek_v4_sgl_fp8", "deepseek_v3"])
def test_streams_of_large_shards_are_within_the_budget(xet_studio, monkeypatch, recipe):
    monkeypatch.setattr("hubconv.hub.source.SMALL_BYTES", 1000)  # the shards count as large
    studio = xet_studio
    source, target = studio.own_source(recipe), studio.name()
    planned = hub_budget(plan(source, Recipe(scales="amax")))
    studio.hub.requests.clear()
    studio.convert(source, target)
    assert studio.hub.requests.count(path="/xet-read-token/")
    api, resolved, commits = counted(studio)
    assert (commits, api <= planned.api_requests) == (planned.commits, True)
    assert resolved <= planned.resolver_requests


def test_a_second_run_of_a_stopped_one_stays_within_a_budget_of_its_own(lfs_studio):
    from hubconv.errors import TemporaryError

    studio = lfs_studio
    source, target = studio.own_source("deepseek_v4_sgl_fp8"), studio.name()
    planned = hub_budget(plan(source, Recipe(scales="amax")))
    studio.hub.faults.answer("POST", f"{target}/commit/main", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target)
    studio.hub.faults.clear()
    studio.hub.requests.clear()
    studio.convert(source, target)
    api, resolved, commits = counted(studio)
    assert commits == 1
    assert api <= planned.api_requests + planned.lfs_requests
    assert resolved <= planned.resolver_requests + 3 * 2  # the records of what is staged


def test_a_plan_shows_its_budget_only_where_there_is_a_hub(xet_studio, checkpoints):
    made = plan(xet_studio.source("llama_bf16"))
    budget = hub_budget(made)
    told = plan_table(made, 400)
    assert f"about {budget.api_requests} API and {budget.resolver_requests} resolver" in told
    assert f"and {budget.commits} commits (about {COMMIT_LIMIT} an hour)" in told
    assert plan_json(made)["hub"] == {
        "api_requests": budget.api_requests,
        "resolver_requests": budget.resolver_requests,
        "commits": 3,
        "lfs_requests": budget.lfs_requests,
        "free_account_limits": {
            "api_requests": 1000,
            "resolver_requests": 5000,
            "window_seconds": 300,
            "commits_per_hour": 128,
        },
    }
    local = plan(str(checkpoints("llama_bf16")))
    assert plan_json(local)["hub"] is None
    assert "Asks the Hub" not in plan_table(local, 400)


def test_a_run_tells_its_budget_before_the_first_write(xet_studio, checkpoints, tmp_path):
    class Tables(Progress):
        def __init__(self):
            self.told = ""

        def table(self, lines):
            self.told += " ".join(lines())

    from hubconv.pipeline import Request, convert

    source, target = xet_studio.source("llama_bf16"), xet_studio.name()
    words = hub_budget(plan(source)).words()
    notes, local, kept = Tables(), Tables(), Tables()
    quick = {"device": "cpu", "workers": 1, "recipe": Recipe(scales="amax")}
    convert(Request(source, target, **quick), notes)
    assert words in notes.told
    assert "quantize" in notes.told
    convert(Request(source, str(tmp_path / "kept"), **quick), kept)
    assert "shards, " in kept.told
    assert "Asks the Hub" not in kept.told
    convert(Request(str(checkpoints("llama_bf16")), str(tmp_path / "out"), **quick), local)
    assert "shards, " in local.told
    assert "Asks the Hub" not in local.told


def test_more_than_one_window_is_told():
    assert HubBudget(API_LIMIT, 10, 3, 0).windows == 1
    assert HubBudget(API_LIMIT + 1, 10, 3, 0).windows == 2
    assert HubBudget(10, 12_000, 3, 0).windows == 3
    assert "that takes 3 times 5 minutes at least" in HubBudget(10, 12_000, 3, 0).words()
    assert "at least" not in HubBudget(10, 12, 3, 0).words()
