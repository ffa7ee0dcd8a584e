"""The whole walk in this process: from a source to a published target, again, and after faults."""

import hashlib
import json
import shutil

import pytest
from safetensors import safe_open

from hubconv.card import PICTURES
from hubconv.errors import (
    ConflictError,
    HubconvError,
    IntegrityError,
    NotAllowedError,
    TemporaryError,
    UsageError,
)
from hubconv.hub.source import HubSource
from hubconv.steps.decide import Recipe

BF16 = "llama_bf16"


def manifest_of(studio, repo, revision="main"):
    return json.loads(studio.read(repo, "hubconv.json", revision))


def differences(studio, repo, revision="main"):
    """What a revision holds besides its manifest, and what it lacks of it, hashes included."""
    tree = studio.tree(repo, revision)
    wanted = manifest_of(studio, repo, revision)["files"]
    apart = {".gitattributes", "README.md", "hubconv.json", *PICTURES}
    wrong = {path for path in tree if path not in wanted and path not in apart}
    for path, file in wanted.items():
        content = studio.read(repo, path, revision) if path in tree else b""
        if hashlib.sha256(content).hexdigest() != file["sha256"] or len(content) != file["size"]:
            wrong.add(path)
    return wrong


def shards(tree):
    return {path for path in tree if path.endswith(".safetensors")}


def changed_byte(path):
    """Turn the sign of a shard's last number: a weight with other bytes, the same name and size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)


# ── a first publish ──────────────────────────────────────────────────────────────────────────


def test_a_published_target_is_complete_public_and_tagged(studio):
    source, target = studio.source(BF16), studio.name()
    done = studio.convert(source, target)
    assert done.status == "published"
    assert differences(studio, target) == set()
    assert [commit.commit_id for commit in studio.publishes(target)] == [done.published.commit]
    assert len(studio.log(target)) == 2  # the one that made the repository, and ours
    assert f"hubconv-plan: {done.plan.plan_id}" in studio.publishes(target)[0].message
    assert studio.staging(target) == set()
    assert studio.tags(target) == {f"hubconv-{done.plan.plan_id}"}
    assert not studio.is_private(target)


def test_a_new_target_is_private_until_it_is_published(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    seen = []
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(studio.source(BF16), target)
    seen.append(studio.is_private(target))
    studio.hub.faults.clear()
    studio.convert(studio.source(BF16), target)
    assert [*seen, studio.is_private(target)] == [True, False]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("deepseek_v3", Recipe(layout="compressed-tensors")),
        ("deepseek_v3", Recipe(layout="modelopt")),
        ("llama_bf16_tied", Recipe()),
        ("deepseek_v4_sgl_fp8", Recipe()),
    ],
    ids=["v3-compressed-tensors", "v3-modelopt", "tied-without-index", "v4"],
)
def test_every_layout_is_published_whole(xet_studio, recipe, options, tmp_path):
    studio, target = xet_studio, xet_studio.name()
    studio.convert(studio.source(recipe), target, recipe=options)
    assert differences(studio, target) == set()
    for path in shards(studio.tree(target)):
        file = tmp_path / path.replace("/", "_")
        file.write_bytes(studio.read(target, path))
        with safe_open(file, framework="numpy") as shard:
            assert list(shard.keys())


@pytest.mark.parametrize("ends", ["folder to hub", "hub to folder"])
def test_folders_are_ends_like_any_other(studio, checkpoints, tmp_path, ends):
    source, target = studio.source(BF16), str(tmp_path / "result")
    if ends == "folder to hub":
        source, target = str(checkpoints(BF16)), studio.name()
    done = studio.convert(source, target)
    assert (done.status, done.units_found) == ("published", 0)
    if ends == "folder to hub":
        assert differences(studio, target) == set()
    else:
        files = json.loads((tmp_path / "result/hubconv.json").read_text())["files"]
        for path, file in files.items():
            content = (tmp_path / "result" / path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert not (tmp_path / "result/.hubconv").exists()
    assert studio.convert(source, target).status == "up-to-date"


# ── and again ────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_writes_nothing(studio):
    source, target = studio.source(BF16), studio.name()
    first = studio.convert(source, target)
    log, tree = studio.log(target), studio.tree(target)
    studio.hub.requests.clear()
    again = studio.convert(source, target)
    asked = studio.hub.requests.all()
    assert (again.status, again.published.commit) == ("up-to-date", first.published.commit)
    assert {request.method for request in asked} <= {"GET", "HEAD"}
    assert not [request for request in asked if request.kind in {"xorb", "preupload"}]
    assert [c.commit_id for c in studio.log(target)] == [c.commit_id for c in log]
    assert studio.tree(target) == tree


def test_a_new_source_commit_is_published_anew_and_old_shards_are_not_taken_for_new(
    studio, checkpoints, tmp_path
):
    folder = checkpoints(BF16, tmp_path / "source")
    source, target = studio.put(folder, studio.name("source")), studio.name()
    first = studio.convert(source, target)
    before = studio.tree(target)
    damaged = sorted(folder.glob("*.safetensors"))[0]
    changed_byte(damaged)
    studio.put(folder, source, "another byte")
    second = studio.convert(source, target)
    after = studio.tree(target)
    assert second.plan.plan_id != first.plan.plan_id
    assert (second.status, second.units_made) == ("published", len(second.plan.units))
    assert before[damaged.name] != after[damaged.name]
    assert len(studio.publishes(target)) == 2
    assert differences(studio, target) == set()
    assert len(studio.tags(target)) == 2


def test_files_of_the_earlier_publish_that_are_no_longer_part_of_it_go(
    lfs_studio, checkpoints, tmp_path
):
    studio, folder = lfs_studio, checkpoints(BF16, tmp_path / "source")
    (folder / "extra.json").write_text("{}")
    source, target = studio.put(folder, studio.name("source")), studio.name()
    studio.convert(source, target)
    assert "extra.json" in studio.tree(target)
    studio.api.delete_file("extra.json", source)
    before = shards(studio.tree(target))
    studio.convert(source, target, recipe=Recipe(max_shard_bytes=200_000))
    after = studio.tree(target)
    assert "extra.json" not in after
    assert len(shards(after)) > len(before)
    assert not before & shards(after)
    assert differences(studio, target) == set()


def test_what_a_person_wrote_between_keep_marks_survives(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    studio.convert(source, target)
    card = studio.read(target, "README.md").decode()
    kept = "<!-- keep -->\nWe ran it ourselves: *fine*.\n<!-- /keep -->"
    studio.write(target, "README.md", f"{card}\n{kept}\n".encode())
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    studio.convert(source, target)
    assert "We ran it ourselves: *fine*." in studio.read(target, "README.md").decode()
    assert differences(studio, target) == set()


def test_going_back_to_an_older_source_commit_publishes_it_again(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    old = studio.api.repo_info(source).sha
    first = studio.convert(source, target)
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    studio.convert(source, target)
    back = studio.convert(source, target, revision=old)
    assert back.plan.plan_id == first.plan.plan_id
    assert back.published.commit == studio.api.repo_info(target).sha
    assert manifest_of(studio, target)["plan_id"] == first.plan.plan_id
    assert len(studio.publishes(target)) == 3


def test_a_publish_that_somebody_undid_is_made_again(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    studio.convert(source, target)
    from huggingface_hub import CommitOperationDelete

    gone = [CommitOperationDelete(path) for path in studio.tree(target) if path[0] != "."]
    studio.api.create_commit(target, gone, commit_message="Undo")
    done = studio.convert(source, target)
    assert done.published.commit == studio.api.repo_info(target).sha
    assert differences(studio, target) == set()


def test_a_publish_that_reads_back_wrong_is_neither_shown_nor_tagged(lfs_studio, monkeypatch):
    studio, target = lfs_studio, lfs_studio.name()
    with monkeypatch.context() as patch:
        patch.setattr("hubconv.pipeline.releasing.verify_tree", lambda *_: ["x has 3 bytes, not 4"])
        with pytest.raises(IntegrityError, match="x has 3 bytes") as wrong:
            studio.convert(studio.source(BF16), target)
    assert wrong.value.exit_code == 7
    assert (studio.is_private(target), studio.tags(target)) == (True, set())
    assert len(studio.staging(target)) == 1
    # Nothing is wrong in truth: the next run finds that out and finishes.
    assert studio.convert(studio.source(BF16), target).status == "up-to-date"
    assert (studio.is_private(target), len(studio.tags(target))) == (False, 1)
    assert studio.staging(target) == set()


# ── visibility ───────────────────────────────────────────────────────────────────────────────


def test_the_result_of_a_private_source_stays_private(lfs_studio):
    source, target = lfs_studio.own_source(BF16, private=True), lfs_studio.name()
    lfs_studio.convert(source, target)
    assert lfs_studio.is_private(target)


def test_a_target_asked_to_be_private_stays_private(lfs_studio):
    target = lfs_studio.name()
    lfs_studio.convert(lfs_studio.source(BF16), target, private=True)
    assert lfs_studio.is_private(target)


def test_a_repository_made_by_hand_keeps_the_visibility_it_was_given(lfs_studio):
    hidden, shown = lfs_studio.name(), lfs_studio.name()
    lfs_studio.api.create_repo(hidden, private=True)
    lfs_studio.api.create_repo(shown, private=False)
    lfs_studio.convert(lfs_studio.source(BF16), hidden)
    lfs_studio.convert(lfs_studio.source(BF16), shown)
    assert lfs_studio.is_private(hidden)
    assert not lfs_studio.is_private(shown)


def test_a_private_source_is_not_published_openly(lfs_studio):
    source, target = lfs_studio.own_source(BF16, private=True), lfs_studio.name()
    with pytest.raises(NotAllowedError, match="--private"):
        lfs_studio.convert(source, target, private=False)
    assert not lfs_studio.api.repo_exists(target)
    lfs_studio.api.create_repo(target, private=False)
    with pytest.raises(NotAllowedError, match="settings"):
        lfs_studio.convert(source, target)
    done = lfs_studio.convert(source, target, allow_public=True)
    assert done.status == "published"
    assert not lfs_studio.is_private(target)


# ── what the target holds ────────────────────────────────────────────────────────────────────


def test_foreign_content_is_replaced_only_on_request(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    studio.api.create_repo(target)
    head = studio.write(target, "train.py", b"x = 1\n")
    with pytest.raises(ConflictError, match=r"train\.py.*--replace"):
        studio.convert(source, target)
    assert studio.api.repo_info(target).sha == head
    assert studio.staging(target) == set()
    assert studio.convert(source, target, replace=True).status == "published"


def test_the_result_of_another_source_is_replaced_only_on_request(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    first = studio.source(BF16)
    studio.convert(first, target)
    other = studio.own_source(BF16)
    with pytest.raises(ConflictError, match=first):
        studio.convert(other, target)
    assert studio.convert(other, target, replace=True).status == "published"


def test_a_repository_with_a_readme_and_a_licence_counts_as_empty(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.api.create_repo(target)
    studio.write(target, "README.md", b"---\nlicense: mit\n---\n# soon\n")
    studio.write(target, "LICENSE", b"MIT\n")
    assert studio.convert(studio.source(BF16), target).status == "published"


def test_a_source_is_never_its_own_target(lfs_studio, tmp_path):
    source = lfs_studio.source(BF16)
    for target in (source, source.upper(), f"hf://{source}"):
        with pytest.raises(UsageError, match="never written to"):
            lfs_studio.convert(source, target)
    shutil.copytree(lfs_studio.checkpoints(BF16), tmp_path / "x")
    with pytest.raises(UsageError):
        lfs_studio.convert(str(tmp_path / "x"), str(tmp_path / "y/../x"))


def test_a_renamed_source_is_recognised_behind_its_old_name(lfs_studio, monkeypatch):
    source = lfs_studio.source(BF16)
    view = HubSource(lfs_studio.client(), source, "", lfs_studio.folder / "slots")
    monkeypatch.setattr("hubconv.pipeline.run.open_source", lambda *_: view)
    with pytest.raises(UsageError, match="never written to"):
        lfs_studio.convert("demo/old-name", source)


# ── pull requests ────────────────────────────────────────────────────────────────────────────


def test_a_pull_request_holds_the_whole_release_and_is_found_again(studio):
    source, target = studio.source(BF16), studio.name()
    studio.api.create_repo(target)
    head = studio.api.repo_info(target).sha
    done = studio.convert(source, target, create_pr=True)
    ref = f"refs/pr/{done.published.pull_request}"
    assert studio.api.repo_info(target).sha == head
    assert differences(studio, target, ref) == set()
    assert studio.staging(target) == set()
    again = studio.convert(source, target, create_pr=True)
    assert (again.status, again.published.pull_request) == (
        "up-to-date", done.published.pull_request,
    )  # fmt: skip
    studio.api.merge_pull_request(target, done.published.pull_request)
    assert studio.convert(source, target, create_pr=True).status == "up-to-date"
    assert studio.convert(source, target).status == "up-to-date"
    assert differences(studio, target) == set()


def test_a_pull_request_is_not_opened_twice_when_the_answer_is_lost(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 504, after=True)
    done = studio.convert(studio.source(BF16), target, create_pr=True)
    requests = list(studio.api.get_repo_discussions(target))
    assert [request.num for request in requests] == [done.published.pull_request]


# ── resume ───────────────────────────────────────────────────────────────────────────────────


def test_staged_shards_are_not_made_again(studio, monkeypatch):
    monkeypatch.setattr("hubconv.hub.staging.GROUP_UNITS", 1)
    source, target = studio.source("deepseek_v4_sgl_fp8"), studio.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/hubconv%2F", 500, skip=3, times=None)
    with pytest.raises(TemporaryError, match="the same command again"):
        studio.convert(source, target)
    assert studio.publishes(target) == []
    studio.hub.faults.clear()
    done = studio.convert(source, target)
    assert done.units_found == 2  # the first commit noted how the run began
    assert done.units_made + done.units_found == len(done.plan.units)
    assert len(studio.publishes(target)) == 1
    assert differences(studio, target) == set()
    assert not studio.is_private(target)


def test_a_record_without_its_shard_is_no_proof(lfs_studio, monkeypatch):
    studio, target = lfs_studio, lfs_studio.name()
    source = studio.source(BF16)
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target)
    studio.hub.faults.clear()
    (branch,) = studio.staging(target)
    shard = sorted(shards(studio.tree(target, branch)))[0]
    studio.api.delete_file(shard, target, revision=branch)
    done = studio.convert(source, target)
    assert (done.units_made, done.units_found) == (1, len(done.plan.units) - 1)
    assert differences(studio, target) == set()


def test_a_run_for_a_newer_commit_still_makes_the_repository_public(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    studio.hub.faults.answer("POST", rf"{target}/commit/main", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target)
    studio.hub.faults.clear()
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    studio.convert(source, target)
    assert not studio.is_private(target)


def test_the_time_limit_stops_in_order(lfs_studio):
    target = lfs_studio.name()
    with pytest.raises(HubconvError) as stopped:
        lfs_studio.convert(lfs_studio.source(BF16), target, time_limit_s=0.001)
    assert stopped.value.exit_code == 10
    assert lfs_studio.publishes(target) == []


# ── others at the same time ──────────────────────────────────────────────────────────────────


def test_what_somebody_commits_to_main_meanwhile_is_not_overwritten(lfs_studio, monkeypatch):
    from hubconv.pipeline import hands

    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    studio.api.create_repo(target)
    run_units = hands.run_units

    def interrupted(*arguments):
        studio.write(target, "README.md", b"---\nlicense: mit\n---\nMine.\n")
        return run_units(*arguments)

    monkeypatch.setattr(hands, "run_units", interrupted)
    with pytest.raises(ConflictError, match="another commit") as conflict:
        studio.convert(source, target)
    assert conflict.value.exit_code == 6
    assert studio.read(target, "README.md").endswith(b"Mine.\n")
    assert studio.publishes(target) == []
    assert len(studio.staging(target)) == 1
    monkeypatch.undo()
    monkeypatch.setattr("hubconv.hub.client.open_client", lambda *_: studio.client())
    done = studio.convert(source, target)
    assert (done.units_made, done.units_found) == (0, len(done.plan.units))


def test_another_run_that_published_the_same_plan_first_is_recognised(lfs_studio, monkeypatch):
    from hubconv.pipeline import hands

    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    run_units, others = hands.run_units, []

    def overtaken(*arguments):
        if not others:
            others.append(None)
            others.append(studio.convert(source, target))
        return run_units(*arguments)

    monkeypatch.setattr(hands, "run_units", overtaken)
    with pytest.raises(ConflictError, match=r"staging branch .* is gone"):
        studio.convert(source, target)
    assert studio.convert(source, target).status == "up-to-date"
    assert len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()
