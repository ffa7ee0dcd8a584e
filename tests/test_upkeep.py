"""Unfinished plans as they are told, discarded and swept; and what must outlive that."""

import json
import time
from datetime import timedelta

import pytest

from hubconv import upkeep
from hubconv.cli.upkeep import render_status
from hubconv.errors import ConflictError, TemporaryError, UsageError
from hubconv.journal import NO_NOTE, Note
from hubconv.pipeline import PlanFile, Request, Slice, plan, work
from hubconv.steps.decide import Recipe

V4 = "deepseek_v4_sgl_fp8"
BF16 = "llama_bf16"


def interrupted(studio, source, target, recipe=None):
    """A run that stages every shard and cannot publish."""
    rule = studio.hub.faults.answer("POST", rf"{target}/commit/main", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target, command=f"hubconv {source} {target}",
                       **({"recipe": recipe} if recipe else {}))  # fmt: skip
    assert studio.hub.faults.struck(rule)
    studio.hub.faults.clear()


def objects(studio, repo):
    """Large files that some commit has named: what was sent for one that failed is the Hub's."""
    return {each.file_oid for each in studio.api.list_lfs_files(repo) if each.filename}


# ── status ───────────────────────────────────────────────────────────────────────────────────


def test_status_before_during_and_after_a_run(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(V4), lfs_studio.name()
    before = upkeep.status(target)
    assert (before.exists, before.manifest, before.plans) == (False, None, ())

    made = plan(source, Recipe(scales="amax"))
    told = PlanFile.of(made, f"hf://{target}", f"hubconv {source} {target}")
    work(
        Request(told.source, target, told.commit, told.recipe, device="cpu", workers=1,
                command=told.command, expected=told),
        Slice(1, 3),
    )  # fmt: skip
    (plan_now,) = upkeep.status(target).plans
    journal = plan_now.journal
    assert (journal.plan_id, journal.place) == (made.plan_id, f"hubconv/{made.plan_id}")
    assert (journal.shards, journal.note.shards) == (1, 3)
    assert journal.nbytes == next(u.nbytes for u in made.units if u.nbytes == journal.nbytes)
    assert journal.note.nbytes == made.target_bytes
    assert (plan_now.source, journal.note.commit) == ("unchanged", made.commit)
    assert plan_now.resume() == f"hubconv {source} {target}"
    assert journal.seconds > 0
    assert journal.seconds_left == pytest.approx(
        journal.seconds * (made.target_bytes - journal.nbytes) / journal.nbytes
    )
    assert "of one worker's time" in render_status(upkeep.status(target), target)
    assert journal.changed is not None
    assert abs(journal.changed.timestamp() - time.time()) < 60

    head = studio.write(source, "generation_config.json", b'{"top_k": 1}')
    (moved,) = upkeep.status(target).plans
    assert (moved.source, moved.head) == ("moved", head)
    assert moved.resume() == f"hubconv {source} {target} --revision {made.commit}"

    studio.convert(source, target, revision=made.commit)
    after = upkeep.status(target)
    assert list(after.plans) == []
    assert after.manifest["plan_id"] == made.plan_id
    assert after.published_from == f"{source}@{made.commit[:12]}"


def test_the_command_tells_people_and_programs_how_to_go_on(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    nothing = studio.command("status", target)
    assert (nothing.code, "does not exist" in nothing.out) == (0, True), nothing.said
    studio.api.create_repo(target)
    empty = studio.command("status", target)
    assert (empty.code, "No unfinished plan" in empty.out) == (0, True), empty.said
    interrupted(studio, source, target)
    people = studio.command("status", target)
    assert people.code == 0, people.said
    assert "main is untouched" in people.out
    assert "2 of 2 shards staged" in people.out
    assert f"resume   hubconv {source} {target}" in people.out
    programs = studio.command("status", target, "--json").json
    (told,) = programs["plans"]
    assert (told["shards_staged"], told["shards_total"]) == (2, 2)
    assert (told["source"], told["source_state"]) == (source, "unchanged")
    assert told["discard"] == f"hubconv abort {target} --plan {told['plan_id']}"
    assert programs["published"] is None


def test_a_source_that_cannot_be_seen_is_told(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    interrupted(studio, source, target)
    studio.api.delete_repo(source)
    (found,) = upkeep.status(target).plans
    assert found.source == "unknown"
    assert "no such repository" in found.why


def test_a_folder_tells_its_unfinished_plans_too(checkpoints, tmp_path):
    source, target = checkpoints(V4), tmp_path / "target"
    assert upkeep.status(str(target)).exists is False
    told = PlanFile.of(plan(str(source), Recipe(scales="amax")), str(target), "hubconv a b")
    request = Request(
        told.source, str(target), recipe=told.recipe, device="cpu", expected=told,
        command=told.command,
    )  # fmt: skip
    work(request, Slice(1, 3))
    (found,) = upkeep.status(str(target)).plans
    assert (found.journal.shards, found.journal.note.shards) == (1, 3)
    assert found.resume() == "hubconv a b"
    done = upkeep.abort(str(target), removes=True)
    assert (done.freed.objects, done.freed.nbytes) == (1, found.journal.nbytes)
    assert not (target / ".hubconv").exists()


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"shards": "many", "commit": 3}', "{}"])
def test_a_note_that_is_none_tells_nothing(text):
    assert Note.from_json(text) == NO_NOTE


# ── abort ────────────────────────────────────────────────────────────────────────────────────


def test_abort_removes_what_is_staged_and_nothing_else(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    studio.convert(source, target)
    tree, published = studio.tree(target), objects(studio, target)
    # The same weights in other shards, and some that are as they were.
    interrupted(studio, source, target, Recipe(scales="amax", max_shard_bytes=200_000))
    assert objects(studio, target) > published
    silent = studio.command("abort", target)
    assert (silent.code, "--yes" in silent.err) == (2, True), silent.said
    assert len(studio.staging(target)) == 1
    done = studio.command("abort", target, "--yes", "--json")
    assert done.code == 0, done.said
    assert done.json["objects_deleted"] > 0
    assert studio.staging(target) == set()
    assert objects(studio, target) == published
    assert studio.tree(target) == tree
    assert studio.convert(source, target).status == "up-to-date"
    again = studio.command("abort", target, "--json")
    assert (again.code, again.json["status"]) == (0, "nothing to do")
    with pytest.raises(UsageError, match="no unfinished plan 0123"):
        upkeep.abort(target, "0123", removes=True)


def test_abort_asks_which_where_there_are_several(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    interrupted(studio, source, target)
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    interrupted(studio, source, target)
    first, second = (found.journal.plan_id for found in upkeep.status(target).plans)
    with pytest.raises(UsageError, match="--plan") as several:
        upkeep.abort(target, removes=True)
    assert first in several.value.what
    upkeep.abort(target, first, removes=True)
    assert studio.staging(target) == {f"hubconv/{second}"}
    # The shards of both were the same: those of the one that is left are all there.
    assert studio.convert(source, target).status == "published"


def test_a_plan_that_is_published_is_not_discarded(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    rule = studio.hub.faults.answer("DELETE", rf"{target}/branch/", 500, times=None)
    with pytest.raises(TemporaryError):
        studio.convert(source, target)
    assert studio.hub.faults.struck(rule)
    studio.hub.faults.clear()
    with pytest.raises(ConflictError, match="is published"):
        upkeep.abort(target, removes=True)
    assert upkeep.sweep(target, 0, removes=True).journals == []
    assert len(studio.staging(target)) == 1


# ── gc ───────────────────────────────────────────────────────────────────────────────────────


def test_gc_lists_first_and_keeps_what_is_referenced(lfs_studio, monkeypatch):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    studio.convert(source, target)
    old = objects(studio, target)
    # Main moves on: the first publish is in its history alone, without a tag.
    studio.api.delete_tag(target, tag=next(iter(studio.tags(target))))
    studio.convert(source, target, recipe=Recipe(scales="search"), tag=False)
    published = objects(studio, target)
    assert published > old
    # An abandoned run whose shards are those of the first publish, and another with its own.
    interrupted(studio, source, target, Recipe(scales="amax", allow_flushed=True, mtp="drop"))
    interrupted(studio, source, target, Recipe(scales="amax", max_shard_bytes=200_000))
    assert len(studio.staging(target)) == 2
    assert objects(studio, target) > published

    young = studio.command("gc", target, "--yes", "--json")
    assert young.json["plans"] == [], young.said
    listed = studio.command("gc", target, "--older-than", "0s", "--json")
    assert (listed.json["status"], len(listed.json["plans"])) == ("listed", 2), listed.said
    assert len(studio.staging(target)) == 2
    done = studio.command("gc", target, "--older-than", "0s", "--yes", "--json")
    assert (done.json["status"], done.json["objects_deleted"] > 0) == ("discarded", True)
    assert studio.staging(target) == set()
    assert objects(studio, target) == published
    commits = [commit.commit_id for commit in studio.log(target)]
    assert studio.publishes(target)[0].commit_id == commits[0]  # the history is as it was


def test_gc_leaves_what_another_unfinished_plan_holds(lfs_studio, monkeypatch):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    interrupted(studio, source, target)
    (old,) = upkeep.status(target).plans
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    interrupted(studio, source, target)
    held, read = objects(studio, target), upkeep._keeper(target)

    def aged(self):
        return [
            each
            if each.plan_id != old.journal.plan_id
            else type(each)(
                each.plan_id, each.place, each.note, each.shards, each.nbytes,
                each.changed - timedelta(days=8),
            )
            for each in journals(self)
        ]  # fmt: skip

    with read as keeper:
        journals = type(keeper).journals
        monkeypatch.setattr(type(keeper), "journals", aged)
    done = upkeep.sweep(target, 7 * 86400, removes=True)
    assert [each.plan_id for each in done.journals] == [old.journal.plan_id]
    assert done.freed.objects == 0
    assert objects(studio, target) == held


def test_a_hub_that_lets_nobody_delete_files_is_told(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(BF16), lfs_studio.name()
    interrupted(studio, source, target)
    studio.hub.faults.answer("POST", rf"{target}/lfs-files/batch", 403, times=None)
    done = upkeep.abort(target, removes=True)
    assert "403" in done.freed.why_not
    assert studio.staging(target) == set()


def test_what_status_says_can_be_read_back(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(BF16), lfs_studio.name()
    interrupted(studio, source, target)
    (branch,) = studio.staging(target)
    plan_id = branch.removeprefix("hubconv/")
    told = json.loads(studio.read(target, f".hubconv/{plan_id}/journal.json", branch))
    assert told["make_public"] is True
    assert (told["source"], told["shards"]) == (source, 2)
