"""A source that moves, vanishes, or comes back as somebody else's."""

import json
from dataclasses import replace

import pytest

from hubconv.errors import ConflictError, NotAllowedError
from hubconv.hub.source import HubSource

BF16 = "llama_bf16"


@pytest.fixture
def studio(lfs_studio):
    return lfs_studio


def manifest(studio, repo):
    return json.loads(studio.read(repo, "hubconv.json"))


def while_converting(monkeypatch, happens):
    """Let something happen once, when the first output shard is begun."""
    from hubconv.hub.staging import HubStaging

    create, done = HubStaging.create, []

    def watched(self, path):
        if not done:
            done.append(path)
            happens()
        return create(self, path)

    monkeypatch.setattr(HubStaging, "create", watched)


def vanish(studio, repo):
    """Lose all commits but the one that a squash makes, as the Hub does in time."""
    hub = studio.hub._state.catalog.find("model", repo)
    before = studio.api.repo_info(repo).sha
    studio.api.super_squash_history(repo)
    hub._commit_path(before).unlink()
    return before


# ── it moves ─────────────────────────────────────────────────────────────────────────────────


def test_a_source_that_moves_in_mid_run_is_converted_as_it_was_pinned(studio, monkeypatch):
    source, target = studio.own_source(BF16), studio.name()
    pinned = studio.api.repo_info(source).sha
    with monkeypatch.context() as patch:
        new = b'{"new": 1}'
        while_converting(patch, lambda: studio.write(source, "generation_config.json", new))
        done = studio.convert(source, target)
    assert done.plan.commit == pinned != studio.api.repo_info(source).sha
    assert "generation_config.json" not in studio.tree(target) or (
        studio.read(target, "generation_config.json") != new
    )
    assert manifest(studio, target)["source"]["commit"] == pinned
    assert pinned in studio.read(target, "README.md").decode()
    assert studio.convert(source, target).status == "published"
    assert studio.read(target, "generation_config.json") == new


def test_an_answer_for_another_commit_is_not_used(studio, tmp_path, monkeypatch):
    from hubconv.errors import IntegrityError
    from hubconv.hub import source as module

    view = HubSource(studio.client(), studio.source(BF16), "", tmp_path)
    ask = module.get_hf_file_metadata
    monkeypatch.setattr(
        module, "get_hf_file_metadata", lambda *a, **k: replace(ask(*a, **k), commit_hash="f" * 40)
    )
    with pytest.raises(IntegrityError, match="answered for commit ffff"):
        view.read("config.json", 0, 4)


# ── it vanishes ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["config.json", "model-00001-of-00002.safetensors"])
@pytest.mark.parametrize("way", ["squashed", "removed", "hidden"])
def test_a_pinned_commit_that_is_gone_is_a_conflict(studio, tmp_path, way, path):
    source = studio.own_source(BF16)
    if way == "hidden":
        studio.hub.add_user("reader", "hf_reader_token")
        studio.token = "hf_reader_token"
    view = HubSource(studio.client(), source, "", tmp_path)
    if way == "squashed":
        assert vanish(studio, source) == view.commit
    elif way == "removed":
        studio.api.delete_repo(source)
    else:
        studio.api.update_repo_settings(source, private=True)
    with pytest.raises(ConflictError, match="no longer exists") as refused:
        view.read(path, 0, 8)
    assert refused.value.exit_code == 6
    assert view.commit in refused.value.what
    with pytest.raises(ConflictError, match="no longer exists"), view.open(path) as shard:
        shard.read(0, 8)


def test_a_pinned_commit_that_is_gone_is_noticed_by_a_stream_too(studio, tmp_path, monkeypatch):
    monkeypatch.setattr("hubconv.hub.source.SMALL_BYTES", 0)
    path, source = "model-00001-of-00002.safetensors", studio.own_source(BF16)
    view = HubSource(studio.client(), source, "", tmp_path)
    vanish(studio, source)
    with pytest.raises(ConflictError, match="no longer exists"), view.open(path) as shard:
        shard.read(0, 8)


def test_a_commit_that_vanishes_in_mid_run_costs_no_shard(studio, monkeypatch):
    from hubconv.hub.staging import HubStaging

    monkeypatch.setattr("hubconv.hub.staging.GROUP_UNITS", 1)
    source, target = studio.own_source("deepseek_v4_sgl_fp8"), studio.name()
    add, added = HubStaging.add, []

    def watched(self, record):
        add(self, record)
        self.flush()
        if not added:
            added.append(record.shard)
            vanish(studio, source)

    monkeypatch.setattr(HubStaging, "add", watched)
    with pytest.raises(ConflictError, match="no longer exists") as refused:
        studio.convert(source, target)
    assert "finished shards are kept" in refused.value.next_step
    (branch,) = studio.staging(target)
    assert added[0] in studio.tree(target, branch)
    assert studio.publishes(target) == []


# ── it comes back as another's ───────────────────────────────────────────────────────────────


@pytest.fixture
def reborn(studio, monkeypatch):
    """A source and a target made from it; then the source is deleted and made anew."""
    source, target = studio.own_source(BF16), studio.name()
    studio.convert(source, target)
    studio.api.delete_repo(source)
    monkeypatch.setattr("hubconv.embedded.catalog.now", lambda: "2031-01-01T00:00:00.000Z")
    studio.put(studio.checkpoints(BF16), source)
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    return source, target


def test_the_manifest_says_when_the_source_was_made(studio):
    source, target = studio.source(BF16), studio.name()
    studio.convert(source, target)
    born = studio.api.repo_info(source).created_at.isoformat()
    assert manifest(studio, target)["source"]["created_at"] == born


def test_a_source_made_anew_under_its_name_is_not_trusted_by_itself(studio, reborn):
    source, target = reborn
    log = studio.log(target)
    with pytest.raises(NotAllowedError, match=r"made at 2031-01-01.*--accept-new-owner") as refused:
        studio.convert(source, target)
    assert refused.value.exit_code == 4
    assert studio.log(target) == log
    assert studio.staging(target) == set()


def test_a_source_made_anew_is_taken_on_the_word_of_the_user(studio, reborn):
    source, target = reborn
    assert studio.convert(source, target, new_owner=True).status == "published"
    assert manifest(studio, target)["source"]["created_at"].startswith("2031-01-01")
    assert studio.convert(source, target).status == "up-to-date"


def test_replacing_what_the_target_holds_is_not_that_word(studio, reborn):
    source, target = reborn
    with pytest.raises(NotAllowedError, match="another repository"):
        studio.convert(source, target, replace=True)


@pytest.mark.parametrize("told", [{}, {"created_at": ""}, [], None, "x"])
def test_a_manifest_that_does_not_say_stops_nobody(studio, tmp_path, told):
    from hubconv.steps.publish import other_source, refuse_reborn

    view = HubSource(studio.client(), studio.source(BF16), "", tmp_path)
    if isinstance(told, dict):
        told = {"repo": view.ref, **told}
    refuse_reborn({"source": told}, view, accepted=False)
    refuse_reborn(None, view, accepted=False)

    class Plan:
        source, commit = view.ref, view.commit

    assert other_source({"source": told}, Plan) == ""
