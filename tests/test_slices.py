"""One plan on many machines: slices at the same time, again, too early, and with a changed file."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from hubconv.errors import ConflictError, TemporaryError, UsageError
from hubconv.pipeline import PlanFile, Request, Slice, plan, publish, work
from hubconv.steps.decide import Recipe
from hubconv.steps.shards import Unit, slice_units

V4 = "deepseek_v4_sgl_fp8"
SHARDS = 3
MAKING = ("--device", "cpu", "--workers", "1")


@pytest.fixture
def plan_file(studio, tmp_path):
    """Makes the plan file of a source for a target, by the real command."""

    def make(source, target, *words):
        path = tmp_path / "plan.json"
        done = studio.command("plan", source, target, "-o", path, "--scales", "amax", *words)
        assert done.code == 0, done.said
        return path

    return make


def request_of(path, **more):
    told = PlanFile.read(path)
    return Request(
        told.source, told.for_target(""), told.commit, told.recipe, device="cpu", workers=1,
        command=told.command, expected=told, **more,
    )  # fmt: skip


def weights(studio, repo):
    """What a target holds, card and manifest apart: they tell of the run."""
    apart = {"README.md", "hubconv.json", "hubconv-tensors.jsonl.gz"}
    return {path: sha for path, sha in studio.tree(repo).items() if path not in apart}


# ── which units a slice has ──────────────────────────────────────────────────────────────────


def units(*sizes):
    return [Unit(f"s{n}", (), (), (), size, 0, ()) for n, size in enumerate(sizes)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_slices_are_the_plan_each_unit_once_and_in_order(count):
    whole = units(7, 5, 5, 4, 3, 3, 2, 1, 90, 8)
    parts = [slice_units(whole, number, count) for number in range(1, count + 1)]
    assert sorted(unit.shard for part in parts for unit in part) == [u.shard for u in whole]
    for part in parts:
        assert [whole.index(unit) for unit in part] == sorted(whole.index(unit) for unit in part)


def test_slices_are_about_equal_in_bytes():
    whole = units(100, 90, 80, 70, 60, 50, 40, 30, 20, 10)
    totals = [sum(u.nbytes for u in slice_units(whole, n, 3)) for n in (1, 2, 3)]
    assert max(totals) - min(totals) <= 20


@pytest.mark.parametrize("wrong", [(0, 3), (4, 3), (1, 0)])
def test_slices_are_counted_from_one(wrong):
    with pytest.raises(UsageError, match="counted from 1"):
        Slice(*wrong)


# ── many machines ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "studio", ["xet", pytest.param("lfs", marks=pytest.mark.thorough)], indirect=True
)
def test_slices_at_the_same_time_give_what_one_run_gives(studio, plan_file):
    source, target, alone = studio.source(V4), studio.name(), studio.name()
    path = plan_file(source, target)
    early = studio.command("publish", path, "--json")
    assert (early.code, early.json["error"]) == (5, "TemporaryError")
    assert not studio.api.repo_exists(target)

    started = [
        studio.start("work", path, "--slice", f"{n}/{SHARDS}", *MAKING, "--json", group=1)
        for n in range(1, SHARDS + 1)
    ]
    ended = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0] * SHARDS, ended
    told = [json.loads(out) for out, _ in ended]
    assert [each["shards_made"] for each in told] == [1] * SHARDS
    assert studio.publishes(target) == []
    assert studio.is_private(target)
    (branch,) = studio.staging(target)
    stages = [c for c in studio.log(target, branch) if c.title.startswith("Stage 1 shard")]
    assert len(stages) == SHARDS  # none lost to another's commit, none made twice

    again = studio.command("work", path, "--slice", "2/3", *MAKING, "--json")
    assert (again.json["shards_made"], again.json["shards_found"]) == (0, 1), again.said
    assert again.json["shards_staged"] == SHARDS

    done = studio.command("publish", path, "--json")
    assert done.code == 0, done.said
    assert (done.json["status"], done.json["shards_found"]) == ("published", SHARDS)
    assert len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()
    assert not studio.is_private(target)
    assert f"hubconv {source} {target} --scales amax" in studio.read(target, "README.md").decode()
    assert studio.convert(source, target).status == "up-to-date"
    studio.convert(source, alone)
    assert weights(studio, target) == weights(studio, alone)

    late = studio.command("work", path, "--slice", "1/3", *MAKING, "--json")
    assert (late.code, late.json["status"]) == (0, "up-to-date")
    assert studio.staging(target) == set()


def test_publishing_too_early_says_what_is_missing_and_how_to_make_it(lfs_studio, tmp_path):
    studio, target = lfs_studio, lfs_studio.name()
    path = tmp_path / "plan.json"
    made = plan(studio.source(V4), Recipe(scales="amax"))
    PlanFile.of(made, f"hf://{target}", "hubconv x y").write(path)
    work(request_of(path), Slice(1, SHARDS))
    there = {unit.shard for unit in slice_units(made.units, 1, SHARDS)}
    missing = [unit.shard for unit in made.units if unit.shard not in there]
    with pytest.raises(TemporaryError) as early:
        publish(request_of(path))
    assert early.value.exit_code == 5
    assert "2 of 3 shards" in early.value.what
    assert all(shard in early.value.what for shard in missing)
    assert "hubconv work" in early.value.next_step
    assert studio.publishes(target) == []
    done = studio.convert(studio.source(V4), target)  # one process goes on with the slices' work
    assert (done.units_found, done.units_made) == (1, 2)


def test_a_folder_is_made_in_slices_too(checkpoints, tmp_path):
    source, target, alone = checkpoints(V4), tmp_path / "target", tmp_path / "alone"
    path = tmp_path / "plan.json"
    PlanFile.of(plan(str(source), Recipe(scales="amax")), str(target), "hubconv a b").write(path)
    command = [sys.executable, "-m", "hubconv", "work", str(path), *MAKING, "--json", "--slice"]
    started = [
        subprocess.Popen([*command, f"{n}/2"], stdout=subprocess.PIPE, text=True) for n in (1, 2)
    ]
    told = [json.loads(process.communicate(timeout=200)[0]) for process in started]
    assert sum(each["shards_made"] for each in told) == SHARDS
    done = publish(request_of(path))
    assert (done.units_made, done.units_found) == (0, SHARDS)
    publish_alone = Request(str(source), str(alone), recipe=Recipe(scales="amax"), device="cpu")
    from hubconv.pipeline import convert

    convert(publish_alone)
    for shard in source.glob("*.safetensors"):
        assert (target / shard.name).read_bytes() == (alone / shard.name).read_bytes()
    assert not (target / ".hubconv").exists()


def test_the_note_of_who_made_the_repository_is_not_written_over_by_another_slice(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    made = plan(studio.source(V4), Recipe(scales="amax"))
    told = PlanFile.of(made, f"hf://{target}", "hubconv x y")
    ask = Request(
        told.source, told.target, told.commit, told.recipe, device="cpu", workers=1, expected=told
    )
    work(ask, Slice(1, SHARDS))
    work(replace(ask, private=True), Slice(2, SHARDS))
    work(ask, Slice(3, SHARDS))
    publish(ask)
    assert not studio.is_private(target)


# ── the plan file ────────────────────────────────────────────────────────────────────────────


def test_a_plan_file_says_what_it_said_and_holds_no_token(lfs_studio, tmp_path):
    from hubconv.embedded import DEMO_TOKEN

    path = tmp_path / "plan.json"
    recipe = Recipe(scales="amax", keep=("zzz|yyy", "c d"), max_shard_bytes=10**9, input_scale=0.5)
    told = PlanFile.of(plan(lfs_studio.source(V4), recipe), "", "hubconv x TARGET", "main")
    told.write(path)
    assert PlanFile.read(path) == told
    assert DEMO_TOKEN not in path.read_text()


CHANGES = {
    "another id": {"plan_id": "0" * 16},
    "fewer shards": {"shards": 2},
    "another recipe": {"recipe": Recipe(scales="search")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_file_that_was_changed_is_refused(lfs_studio, tmp_path, change):
    studio, target, path = lfs_studio, lfs_studio.name(), tmp_path / "plan.json"
    told = PlanFile.of(plan(studio.source(V4), Recipe(scales="amax")), f"hf://{target}", "x")
    replace(told, **CHANGES[change]).write(path)
    for do in (lambda ask: work(ask, Slice()), publish):
        with pytest.raises(ConflictError, match="was changed after it was made") as changed:
            do(request_of(path))
        assert changed.value.exit_code == 6
    assert not studio.api.repo_exists(target)


def test_a_plan_file_of_another_version_says_so(lfs_studio, tmp_path):
    path = tmp_path / "plan.json"
    told = PlanFile.of(plan(lfs_studio.source(V4)), "hf://demo/x", "x")
    replace(told, version="0.0.1", plan_id="0" * 16).write(path)
    with pytest.raises(ConflictError, match=r"made by hubconv 0\.0\.1"):
        work(request_of(path), Slice())


def test_a_source_that_moved_on_is_planned_at_the_pinned_commit(lfs_studio, tmp_path):
    studio, source, target = lfs_studio, lfs_studio.own_source(V4), lfs_studio.name()
    path = tmp_path / "plan.json"
    PlanFile.of(plan(source, Recipe(scales="amax")), f"hf://{target}", "x").write(path)
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    assert work(request_of(path), Slice()).made == SHARDS


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "no plan file": '{"a": 1}',
    "a number for a name": ("source", 3),
    "an unknown field": ("token", "x"),
    "a recipe with an unknown word": ("recipe", {"scales": "best"}),
    "a recipe with an unknown field": ("recipe", {"colour": "red"}),
    "patterns that are none": ("recipe", {"keep": "abc"}),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_plan_file_is_refused(lfs_studio, tmp_path, broken):
    path = tmp_path / "plan.json"
    PlanFile("0" * 16, "hf://a/b", "", "", "", Recipe(), "", 1, 1).write(path)
    PlanFile.read(path)
    text = BROKEN[broken]
    if isinstance(text, tuple):
        table, (name, value) = json.loads(path.read_text()), text
        table[name] = table[name] | value if isinstance(value, dict) else value
        text = json.dumps(table)
    path.write_text(text)
    with pytest.raises(UsageError, match="not a plan file"):
        PlanFile.read(path)


def test_the_target_is_named_once(tmp_path):
    told = PlanFile("0" * 16, "hf://a/b", "", "", "hf://c/d", Recipe(), "", 1, 1)
    assert told.for_target("") == told.for_target("hf://c/d") == "hf://c/d"
    assert told.for_target("c/d") == "hf://c/d"
    with pytest.raises(UsageError, match="not for e/f"):
        told.for_target("e/f")
    with pytest.raises(UsageError, match="names no target"):
        replace(told, target="").for_target("")
    assert replace(told, target="").for_target("e/f") == "e/f"
