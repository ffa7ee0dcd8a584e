"""Which targets are out of date: what each state comes from, and what looking costs."""

import json

import pytest

from hubconv import watch
from hubconv.errors import TemporaryError, UsageError
from hubconv.pipeline import Request, Slice, plan, work
from hubconv.steps.decide import Recipe

BF16 = "llama_bf16"
V4 = "deepseek_v4_sgl_fp8"


def listed(folder, *entries, defaults=""):
    """A watch list of some entries, each a few lines of TOML."""
    file = folder / "watch.toml"
    tables = "\n".join(f"[[entry]]\n{entry}" for entry in entries)
    file.write_text(f"{defaults}\n{tables}\n")
    return watch.read_list(file)


def pair(source, target, more=""):
    return f'source = "{source}"\ntarget = "{target}"\n{more}'


def looked(watched, **options):
    return {each.target: each for each in watch.look(watched, **options)}


def asked(studio):
    """What was asked of the Hub, without what its CDN served."""
    return [request for request in studio.hub.requests.all() if request.origin == "hub"]


# ── states ───────────────────────────────────────────────────────────────────────────────────


def test_a_target_is_new_then_up_to_date_then_out_of_date(xet_studio, tmp_path):
    studio = xet_studio
    source, target = studio.own_source(BF16), studio.name()
    watched = listed(tmp_path, pair(source, target))
    first = looked(watched)[target]
    assert (first.state, first.is_due) == ("new", True)
    studio.convert(source, target)
    second = looked(watched)[target]
    assert (second.state, second.is_due) == ("up to date", False)
    assert second.published == second.head == studio.api.repo_info(source).sha
    moved = studio.write(source, "notes.txt", b"more")
    third = looked(watched)[target]
    assert (third.state, third.head, third.published) == ("out of date", moved, second.head)
    assert f"moved from {second.head[:12]} to {moved[:12]}" in third.why


def test_a_pinned_entry_stays_up_to_date_when_main_moves(xet_studio, tmp_path):
    studio = xet_studio
    source, target = studio.own_source(BF16), studio.name()
    commit = studio.api.repo_info(source).sha
    watched = listed(tmp_path, pair(source, target, f'revision = "{commit}"'))
    studio.convert(source, target, revision=commit)
    studio.write(source, "notes.txt", b"more")
    assert looked(watched)[target].state == "up to date"


def test_another_policy_than_was_published_makes_a_target_out_of_date(xet_studio, tmp_path):
    studio = xet_studio
    source, target = studio.source(BF16), studio.name()
    studio.convert(source, target)  # scales by amax, policy linears by default
    same = listed(tmp_path, pair(source, target, 'policy = "linears"\nscales = "amax"'))
    assert looked(same)[target].state == "up to date"
    other = looked(listed(tmp_path, pair(source, target, 'policy = "mlp"')))[target]
    assert (other.state, "another policy" in other.why) == ("out of date", True)
    kept = looked(listed(tmp_path, pair(source, target, 'keep = ["lm_head"]')))[target]
    assert (kept.state, "another keep" in kept.why) == ("out of date", True)


def test_a_plan_on_staging_is_in_progress_until_the_source_moves(lfs_studio, tmp_path):
    studio = lfs_studio
    source, target = studio.own_source(V4), studio.name()
    request = Request(source, target, recipe=Recipe(scales="amax"), device="cpu", workers=1)
    work(request, Slice(1, 3))
    watched = listed(tmp_path, pair(source, target))
    now = looked(watched)[target]
    assert (now.state, now.shards, now.of) == ("in progress", 1, 3)
    assert now.plan_id == plan(source, Recipe(scales="amax")).plan_id
    assert "1 of 3 shards are staged on hubconv/" in now.why
    studio.write(source, "notes.txt", b"more")
    assert looked(watched)[target].state == "new"  # what is staged is of no use any more


def test_a_target_of_another_source_is_refused(xet_studio, tmp_path):
    studio = xet_studio
    target = studio.name()
    studio.convert(studio.source(BF16), target)
    other = looked(listed(tmp_path, pair(studio.source(V4), target)))[target]
    assert (other.state, other.exit_code) == ("refused", 6)
    assert f"made from another source, {studio.source(BF16)}" in other.why


def test_a_source_that_is_not_there_or_has_another_name_is_refused(xet_studio, tmp_path):
    studio = xet_studio
    source = studio.own_source(BF16)
    old, gone, fine = source, studio.name("nobody"), studio.source(BF16)
    studio.api.move_repo(source, f"{source}-renamed")
    watched = listed(
        tmp_path, pair(gone, "demo/t-1"), pair(old, "demo/t-2"), pair(fine, "demo/t-3")
    )
    found = looked(watched)
    assert (found["demo/t-1"].state, found["demo/t-1"].exit_code) == ("refused", 3)
    assert "no such repository" in found["demo/t-1"].why
    assert (found["demo/t-2"].state, found["demo/t-2"].exit_code) == ("refused", 4)
    assert f"is now called {source}-renamed" in found["demo/t-2"].why
    assert found["demo/t-3"].state == "new"


def test_a_model_type_without_a_profile_is_refused_from_the_head_alone(xet_studio, tmp_path):
    studio = xet_studio
    source = studio.own_source(BF16)
    config = json.loads(studio.read(source, "config.json"))
    studio.write(source, "config.json", json.dumps(config | {"model_type": "gpt_oss"}).encode())
    studio.hub.requests.clear()
    found = looked(listed(tmp_path, pair(source, "demo/never")))["demo/never"]
    assert (found.state, found.exit_code) == ("refused", 3)
    assert "gpt_oss" in found.why
    assert len(asked(studio)) == 1


def test_a_refusal_that_headers_tell_is_found_by_a_check_alone(xet_studio, tmp_path):
    studio = xet_studio
    source = studio.own_source(BF16)
    watched = listed(tmp_path, pair(source, "demo/checked", 'policy = "experts"'))
    assert looked(watched)["demo/checked"].state == "new"

    def check(found):
        plan(found.source, found.wish.recipe)

    found = looked(watched, check=check)["demo/checked"]
    assert (found.state, found.exit_code) == ("refused", 2)
    assert "has no policy 'experts'" in found.why


def test_a_fault_of_the_hub_leaves_a_target_unknown_and_the_others_known(xet_studio, tmp_path):
    studio = xet_studio
    bad, good = studio.own_source(BF16), studio.source(BF16)
    watched = listed(tmp_path, pair(bad, "demo/t-bad"), pair(good, "demo/t-good"))
    studio.hub.faults.answer("GET", f"/api/models/{bad}", 503, times=None)
    found = looked(watched)
    assert (found["demo/t-bad"].state, found["demo/t-bad"].exit_code) == ("unknown", 5)
    assert found["demo/t-good"].state == "new"
    studio.hub.faults.answer("GET", f"/api/models/{good}", 503, times=None)
    with pytest.raises(TemporaryError, match="None of 2 targets could be looked at"):
        looked(watched)


# ── patterns ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def org(xet_studio, checkpoints):
    """An organisation with three sources, a data-less repository and a published target."""
    studio = xet_studio
    name = f"org{studio.name('x').rpartition('-')[2]}"
    studio.hub.add_user(name, f"token-{name}")
    studio.token = f"token-{name}"
    api = studio.api_of(studio.token)
    for repo in ("One", "Two", "Two-Base"):
        api.create_repo(f"{name}/{repo}")
        api.upload_folder(repo_id=f"{name}/{repo}", folder_path=checkpoints(BF16))
    api.create_repo(f"{name}/Empty")
    studio.convert(f"{name}/One", f"{name}/One-NVFP4")
    studio.hub.requests.clear()
    return name


def test_a_pattern_finds_sources_and_never_takes_a_target_for_one(xet_studio, org, tmp_path):
    entry = f'source = "{org}/*"\nexclude = ["*-Base"]\ntarget = "{org}/{{name}}-NVFP4"'
    found = looked(listed(tmp_path, entry))
    assert {target: each.state for target, each in found.items()} == {
        f"{org}/One-NVFP4": "up to date",
        f"{org}/Two-NVFP4": "new",
        f"{org}/Empty-NVFP4": "refused",
    }
    assert not found[f"{org}/Empty-NVFP4"].counts
    included = f'source = "{org}/*"\ninclude = ["Two*"]\ntarget = "other/{{org}}-{{name}}"'
    assert set(looked(listed(tmp_path, included))) == {f"other/{org}-Two", f"other/{org}-Two-Base"}


def test_a_listing_without_commits_is_asked_one_by_one(xet_studio, org, tmp_path, monkeypatch):
    monkeypatch.setattr("hubconv.hub.heads._WANTED", ["config"])
    entry = f'source = "{org}/*"\ninclude = ["One"]\ntarget = "{org}/{{name}}-NVFP4"'
    watched = listed(tmp_path, entry)
    monkeypatch.setattr("hubconv.hub.heads.head_of", _with_commit(monkeypatch))
    assert looked(watched)[f"{org}/One-NVFP4"].state == "up to date"
    assert xet_studio.hub.requests.kinds() == {"list_repos": 1, "repo_info": 1, "resolve": 1}


def _with_commit(monkeypatch):
    from hubconv.hub import heads

    ask = heads.head_of

    def asking(*words):
        with monkeypatch.context() as patch:
            patch.setattr(heads, "_WANTED", ["sha", "config"])
            return ask(*words)

    return asking


def test_a_target_whose_source_is_gone_is_no_source(xet_studio, org, tmp_path):
    studio = xet_studio
    watched = listed(tmp_path, f'source = "{org}/*"\ntarget = "{org}/{{name}}-NVFP4"')
    event = event_of(tmp_path, payload(f"{org}/One-NVFP4"))
    assert looked(watched, event=event) == {}
    studio.api_of(studio.token).delete_repo(f"{org}/One")
    assert set(looked(watched)) == {f"{org}/{name}-NVFP4" for name in ("Two", "Two-Base", "Empty")}


def test_an_entry_by_name_stands_above_a_pattern_that_finds_the_same_target(
    xet_studio, org, tmp_path
):
    watched = listed(
        tmp_path,
        f'source = "{org}/T*"\ntarget = "{org}/{{name}}-NVFP4"',
        pair(f"{org}/Two", f"{org}/Two-NVFP4", 'policy = "mlp"'),
    )
    assert looked(watched)[f"{org}/Two-NVFP4"].wish.where == "entry[1]"


# ── requests ─────────────────────────────────────────────────────────────────────────────────


def test_an_idle_look_costs_two_requests_a_target(xet_studio, tmp_path):
    studio = xet_studio
    pairs = [(studio.own_source(BF16), studio.name()) for _ in range(3)]
    for source, target in pairs:
        studio.convert(source, target)
    watched = listed(tmp_path, *(pair(*each) for each in pairs))
    studio.hub.requests.clear()
    assert {each.state for each in looked(watched).values()} == {"up to date"}
    kinds = studio.hub.requests.kinds()
    assert kinds == {"repo_info": 3, "resolve": 3}
    assert {request.method for request in studio.hub.requests.all()} == {"GET"}


def test_an_idle_look_at_a_pattern_costs_one_listing_and_one_request_a_target(
    xet_studio, org, tmp_path
):
    entry = f'source = "{org}/*"\ninclude = ["One", "Two"]\ntarget = "{org}/{{name}}-NVFP4"'
    xet_studio.convert(f"{org}/Two", f"{org}/Two-NVFP4")
    xet_studio.hub.requests.clear()
    found = looked(listed(tmp_path, entry))
    assert {each.state for each in found.values()} == {"up to date"}
    assert xet_studio.hub.requests.kinds() == {"list_repos": 1, "resolve": 2}


def test_what_is_in_progress_costs_three_requests_more(lfs_studio, tmp_path):
    studio = lfs_studio
    source, target = studio.source(V4), studio.name()
    request = Request(source, target, recipe=Recipe(scales="amax"), device="cpu", workers=1)
    work(request, Slice(1, 3))
    studio.hub.requests.clear()
    assert looked(listed(tmp_path, pair(source, target)))[target].state == "in progress"
    assert sum(studio.hub.requests.kinds().values()) == 5


# ── webhooks ─────────────────────────────────────────────────────────────────────────────────


def payload(repo, refs=("refs/heads/main",), **more):
    return {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": repo, "id": "6", "private": False, "headSha": "0" * 40},
        "updatedRefs": [{"ref": ref, "oldSha": None, "newSha": "0" * 40} for ref in refs],
        "webhook": {"id": "7", "version": 3},
        **more,
    }


def event_of(folder, told):
    file = folder / "payload.json"
    file.write_text(json.dumps(told))
    return watch.read_event(str(file))


def test_an_event_looks_at_its_repository_alone(xet_studio, org, tmp_path):
    studio = xet_studio
    watched = listed(
        tmp_path,
        f'source = "{org}/*"\ntarget = "{org}/{{name}}-NVFP4"',
        pair(studio.source(BF16), "demo/aside"),
    )
    studio.hub.requests.clear()
    found = looked(watched, event=event_of(tmp_path, payload(f"{org}/Two")))
    assert {target: each.state for target, each in found.items()} == {f"{org}/Two-NVFP4": "new"}
    assert len(asked(studio)) == 2
    dispatched = {"action": "hub-update", "client_payload": payload(studio.source(BF16))}
    assert set(looked(watched, event=event_of(tmp_path, dispatched))) == {"demo/aside"}


@pytest.mark.parametrize(
    "told",
    [
        payload("demo/x", refs=("refs/heads/dev",)),
        payload("somebody/else"),
        payload("demo/x") | {"repo": {"type": "dataset", "name": "demo/x"}},
        payload("demo/x") | {"event": {"action": "create", "scope": "discussion.comment"}},
        payload("demo/x") | {"event": {"action": "delete", "scope": "repo"}},
    ],
    ids=["another branch", "another repository", "a data set", "a comment", "a deletion"],
)
def test_an_event_that_changes_no_source_asks_the_hub_nothing(xet_studio, tmp_path, told):
    watched = listed(tmp_path, pair("demo/x", "demo/y"), 'source = "demo/*"\ntarget = "a/{name}"')
    if told["repo"]["name"] == "demo/x" and told["repo"]["type"] == "model":
        watched = listed(tmp_path, pair("demo/x", "demo/y"))
    xet_studio.hub.requests.clear()
    assert watch.look(watched, event=event_of(tmp_path, told)) == ()
    assert asked(xet_studio) == []


def test_an_event_of_a_watched_branch_concerns_its_entry(tmp_path):
    event = event_of(tmp_path, payload("demo/x", refs=("refs/heads/dev",)))
    assert event.concerns("demo/x", "dev")
    assert event.concerns("Demo/X", "dev")
    assert not event.concerns("demo/x", "")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], "Expected `object`, got `array`"),
        ({"repo": {"type": "model"}}, "missing required field `name` - at `$.repo`"),
        ({"client_payload": {"repo": {"type": "model", "name": 3}}}, "at `$.repo.name`"),
    ],
)
def test_what_is_no_payload_is_refused_with_the_place(tmp_path, told, said):
    with pytest.raises(UsageError, match="no payload of a repository webhook") as refused:
        event_of(tmp_path, told)
    assert said in str(refused.value)


def test_an_event_file_that_is_not_there_or_no_json_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        watch.read_event(str(tmp_path / "none.json"))
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        watch.read_event(str(tmp_path / "odd.json"))


def test_only_takes_one_target_or_the_targets_of_a_source(xet_studio, tmp_path):
    source = xet_studio.source(BF16)
    watched = listed(tmp_path, pair(source, "demo/a"), pair(source, "demo/b", 'policy = "mlp"'))
    assert set(looked(watched, only="demo/b")) == {"demo/b"}
    assert set(looked(watched, only=source)) == {"demo/a", "demo/b"}
    with pytest.raises(UsageError, match="neither a source nor a target called demo/c"):
        looked(watched, only="demo/c")
