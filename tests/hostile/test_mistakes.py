"""What an operator may get wrong: found before the work, named, with a way on."""

import os

import pytest

from hubconv.errors import HubconvError, NotAllowedError, SourceError, UsageError
from hubconv.hub.rights import doubt_of_room, why_not_create
from hubconv.opening import open_source, refuse_same

BF16 = "llama_bf16"


@pytest.fixture
def studio(lfs_studio):
    return lfs_studio


def downloads(studio):
    """Requests for the content of a file."""
    return [each for each in studio.hub.requests.all() if each.kind in {"resolve", "blob"}]


# ── one thing under two names ────────────────────────────────────────────────────────────────


@pytest.fixture
def renamed(studio):
    """A source under the name it has, and the one it had."""
    old, new = studio.own_source(BF16), studio.name("renamed")
    studio.api.move_repo(old, new)
    return old, new


@pytest.mark.parametrize("turned", [False, True], ids=["source by old name", "target by old name"])
def test_a_renamed_source_is_never_its_own_target(studio, renamed, turned):
    old, new = renamed
    log = studio.log(new)
    words = (new, old) if turned else (old, new)
    with pytest.raises(UsageError) as refused:
        studio.convert(*words)
    assert refused.value.exit_code == 2
    assert new in str(refused.value)
    assert studio.log(new) == log
    assert studio.staging(new) == set()


def test_a_source_that_answers_under_another_name_is_not_taken_for_the_one_meant(studio, renamed):
    old, new = renamed
    with pytest.raises(NotAllowedError, match=f"{old} is now called {new}") as refused:
        studio.convert(old, studio.name())
    assert refused.value.exit_code == 4
    assert downloads(studio) == []


def test_a_target_under_its_old_name_is_asked_about(studio):
    old, new = studio.name(), studio.name("renamed")
    studio.api.create_repo(old)
    studio.api.move_repo(old, new)
    with pytest.raises(UsageError, match=f"name it: {new}"):
        studio.convert(studio.source(BF16), old)
    assert studio.convert(studio.source(BF16), new.upper().replace("DEMO", "demo")).status


def test_one_folder_by_two_links_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "loop").symlink_to("link")
    for words in (("./x", "./link"), ("./loop", "./x"), ("./loop/.", "./link")):
        with pytest.raises(UsageError, match="never written to"):
            refuse_same(*words)
    (tmp_path / "y").mkdir()
    refuse_same("./link", "./y")


# ── tokens ───────────────────────────────────────────────────────────────────────────────────


def told(role="write", orgs=(), scopes=()):
    """What `whoami` says."""
    token = {"role": role}
    if role == "fineGrained":
        token["fineGrained"] = {
            "scoped": [{"entity": {"name": n}, "permissions": p} for n, p in scopes]
        }
    return {
        "name": "me",
        "orgs": [{"name": name, "roleInOrg": in_org} for name, in_org in orgs],
        "auth": {"accessToken": token},
    }


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (told(), ""),
        (told("read"), "may only read"),
        (told(orgs=[("club", "write")]), "", ),
        (told("fineGrained"), "no write permission"),
        (told("fineGrained", scopes=[("me", ["repo.content.read"])]), "no write permission"),
        (told("fineGrained", scopes=[("me", ["repo.content.read", "repo.write"])]), ""),
        ({"name": "me"}, ""),
        ({"name": "you", "orgs": None, "auth": None}, "not among its namespaces (you)"),
    ],
)  # fmt: skip
def test_what_a_token_may_do_is_read_from_what_the_hub_tells(user, says):
    why = why_not_create(user, "me")
    assert says in why
    assert bool(why) is bool(says)


@pytest.mark.parametrize(
    ("user", "says"),
    [
        (told(), "club is not among its namespaces"),
        (told(orgs=[("club", "read")]), "may only read in club"),
        (told(orgs=[("club", "contributor")]), ""),
        (
            told("fineGrained", [("club", "admin")], [("me", ["repo.write"])]),
            "repositories of club",
        ),
        (told("fineGrained", [("club", "admin")], [("club", ["repo.write"])]), ""),
    ],
)
def test_an_organisation_has_rights_of_its_own(user, says):
    why = why_not_create(user, "club")
    assert says in why
    assert bool(why) is bool(says)


TOKENS = {
    "read": {"name": "demo", "role": "read"},
    "of another account": {"name": "stranger"},
    "narrow": {"name": "demo", "role": "fineGrained", "scopes": ["demo-org"]},
    "expired": None,
}


@pytest.mark.parametrize("there", [False, True], ids=["new target", "target there"])
@pytest.mark.parametrize("token", TOKENS)
def test_a_token_that_cannot_publish_is_found_before_any_download(studio, token, there):
    source, target = studio.source(BF16), studio.name()
    if there:
        studio.api.create_repo(target)
    name = f"hf_{token.replace(' ', '_')}_{there}"
    studio.hub.add_user(token=name, **(TOKENS[token] or {"name": "demo"}))
    if TOKENS[token] is None:
        studio.hub.revoke(name)
    studio.token = name
    studio.hub.requests.clear()
    with pytest.raises(NotAllowedError) as refused:
        studio.convert(source, target)
    assert refused.value.exit_code == 4
    assert refused.value.next_step
    assert name not in str(refused.value)
    assert downloads(studio) == []
    assert {each.method for each in studio.hub.requests.all()} <= {"GET", "HEAD"}


def test_a_token_that_ends_in_mid_run_costs_no_shard(studio, monkeypatch):
    from hubconv.hub.staging import HubStaging

    source, target, publish = studio.source(BF16), studio.name(), HubStaging.publish
    studio.hub.add_user("demo", "hf_short_lived_token")
    studio.token = "hf_short_lived_token"

    def late(self, release):
        studio.hub.revoke("hf_short_lived_token")
        return publish(self, release)

    with monkeypatch.context() as patch:
        patch.setattr(HubStaging, "publish", late)
        with pytest.raises(HubconvError) as refused:
            studio.convert(source, target)
    assert refused.value.exit_code == 4
    studio.token = None
    done = studio.convert(source, target)
    assert (done.units_made, done.units_found) == (0, len(done.plan.units))


def test_a_source_has_a_token_of_its_own_and_the_target_never_sees_it(studio):
    source, target = studio.own_source(BF16), studio.name()
    studio.api.update_repo_settings(source, gated="manual")
    studio.hub.add_user("reader", "hf_reader_token", role="read")
    studio.hub.grant(source, "reader")
    studio.hub.add_user("maker", "hf_maker_token")
    words = (source, target.replace("demo/", "maker/"), "--device", "cpu", "--scales", "amax")
    alone = studio.command(*words, env={"HF_TOKEN": "hf_maker_token"})
    assert alone.code == 4, alone.said
    assert f"{studio.hub.endpoint}/{source}" in alone.err
    both = {"HF_TOKEN": "hf_maker_token", "HUBCONV_SOURCE_TOKEN": "hf_reader_token"}
    done = studio.command(*words, env=both)
    assert done.code == 0, done.said
    assert "reader_token" not in done.said


def test_a_client_is_never_packed_up_with_its_token(studio):
    import pickle

    with pytest.raises(TypeError, match="token"):
        pickle.dumps(studio.client())


# ── room ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("user", "nbytes", "warned"),
    [
        ({"name": "demo", "isPro": False}, 900 * 10**9, True),
        ({"name": "demo", "isPro": False}, 90 * 10**9, False),
        ({"name": "demo", "isPro": True}, 900 * 10**9, False),
        ({"name": "demo"}, 900 * 10**9, False),
        ({"name": "other", "isPro": False}, 900 * 10**9, False),
        ({}, 900 * 10**9, False),
    ],
)
def test_a_private_result_larger_than_a_free_account_is_doubted(user, nbytes, warned):
    assert ("900 GB" in doubt_of_room(user, "demo/x", nbytes)) is warned


@pytest.mark.parametrize(("there", "warned"), [("", True), ("private", True), ("public", False)])
def test_the_doubt_is_told_before_the_work(studio, monkeypatch, there, warned):
    from hubconv.progress import SilentProgress

    monkeypatch.setattr("hubconv.hub.rights.FREE_PRIVATE_BYTES", 1000)
    source, target, told = studio.source(BF16), studio.name(), []
    if there:
        studio.api.create_repo(target, private=there == "private")
    monkeypatch.setattr(SilentProgress, "warn", lambda _, text: told.append(text))
    studio.convert(source, target)
    assert any("private storage" in text for text in told) is warned


def test_a_hub_without_room_is_quoted_and_what_is_staged_is_kept(studio, monkeypatch):
    monkeypatch.setattr("hubconv.hub.staging.GROUP_UNITS", 1)
    source, target = studio.source("deepseek_v4_sgl_fp8"), studio.name()
    full = '{"error": "Private repository storage limit reached, please upgrade your plan."}'
    studio.hub.faults.answer(
        "POST", rf"{target}/commit/hubconv%2F", 403, body=full, skip=2, times=None
    )
    with pytest.raises(NotAllowedError, match="storage limit reached") as refused:
        studio.convert(source, target)
    assert refused.value.exit_code == 4
    assert "Finished shards are kept" in refused.value.next_step
    studio.hub.faults.clear()
    assert studio.convert(source, target).units_found == 1


# ── names ────────────────────────────────────────────────────────────────────────────────────


def test_a_mistyped_repository_is_answered_with_those_of_nearly_the_name(studio, tmp_path):
    source = studio.put(studio.checkpoints(BF16), "demo/Great-Model-7B")
    with pytest.raises(SourceError, match=rf"Did you mean {source}\?"):
        open_source("demo/Graet-Model-7B", "", tmp_path)
    with pytest.raises(SourceError, match=rf"Did you mean {source}\?"):
        open_source("demmo/Great-Model-7B", "", tmp_path)
    with pytest.raises(SourceError) as refused:
        open_source("demo/nothing-like-it-at-all", "", tmp_path)
    assert "Did you mean" not in str(refused.value)
    assert "Check the name" in str(refused.value)


def test_a_private_repository_is_suggested_to_nobody_who_may_not_see_it(studio, tmp_path):
    studio.put(studio.checkpoints(BF16), "demo/Secret-Model", private=True)
    studio.hub.add_user("stranger", "hf_stranger_token")
    studio.token = "hf_stranger_token"
    with pytest.raises(SourceError) as refused:
        open_source("demo/Secret-Modle", "", tmp_path)
    assert "Secret-Model" not in str(refused.value).replace("Secret-Modle", "")


def test_a_mistyped_revision_is_answered_with_branches_and_tags(studio, tmp_path):
    source = studio.own_source(BF16)
    studio.api.create_tag(source, tag="v1.0")
    with pytest.raises(SourceError, match=r"no such revision.*Did you mean v1\.0\?"):
        open_source(source, "v1.O", tmp_path)
    with pytest.raises(SourceError, match=r"Did you mean main\?"):
        open_source(f"{source}@mian", "", tmp_path)


def test_a_hub_that_lists_nothing_still_tells_what_is_wrong(studio, tmp_path):
    studio.hub.faults.answer("GET", r"/api/models$", 500, times=None)
    with pytest.raises(SourceError, match="Check the name"):
        open_source("demo/Great-Modell", "", tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="paths of another form")
@pytest.mark.parametrize("word", ["demo/x/y", "demo", "demo/../x", "-x/y", "demo/x y", ""])
def test_a_word_that_names_nothing_is_usage(word):
    with pytest.raises(UsageError) as refused:
        refuse_same(word, "./x")
    assert refused.value.exit_code == 2
