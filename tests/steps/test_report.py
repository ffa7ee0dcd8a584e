"""Reports: every number from plan and records, and the same everywhere it is shown."""

import gzip
import json
from dataclasses import replace

import pytest

from hubconv.card import CardFacts, SourceCard, read_front_matter, render_card
from hubconv.demo import deepseek_v4
from hubconv.ends import Published
from hubconv.folder import FolderSource
from hubconv.formats.nvfp4 import Quality
from hubconv.records import TensorQuality, UnitRecord
from hubconv.steps.decide import Recipe
from hubconv.steps.facts import Run
from hubconv.steps.manifest import manifest, read_told
from hubconv.steps.plan import make_plan
from hubconv.steps.report import job_summary, make_report, tensor_details
from hubconv.steps.tables import plan_json, plan_table, render_terminal

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubFolder(FolderSource):
    """A folder that says it is a repository."""

    ref = "maker/DeepSeek-V4-FP8"
    commit = COMMIT


def plan_of(folder, spelling, recipe=None):
    getattr(deepseek_v4, spelling)(folder, fast=True)
    return make_plan(HubFolder(folder), recipe or Recipe(), "0.1.0")


@pytest.fixture(scope="module")
def repack(tmp_path_factory):
    return plan_of(tmp_path_factory.mktemp("repack"), "fp8_repack")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return plan_of(tmp_path_factory.mktemp("official"), "official")


def measured(job, number):
    blocks = job.weight.rows * job.weight.cols // 16
    sums = Quality(16 * blocks, blocks, blocks - number, 0, number % 2, float(number), 1e4, 0.25)
    return TensorQuality(job.module, job.role, (job.weight.rows, job.weight.cols), 0.5, sums)


def records_of(plan):
    records, number = [], 0
    for unit in plan.units:
        tensors = []
        for job in (*unit.jobs, *unit.tail):
            if job.action == "nvfp4":
                tensors.append(measured(job, number))
                number += 1
        sha256 = f"{len(records):064x}"
        records.append(
            UnitRecord(
                plan.plan_id, unit.shard, unit.nbytes, sha256, tuple(tensors), "cpu", "0.1.0", 2.0
            )
        )
    return records


def card_of(report, target, said):
    return render_card(CardFacts(target, report.to_json(), said))


def full_report(plan):
    run = Run(
        "hubconv maker/DeepSeek-V4-FP8 me/out",
        12.5,
        {"hubconv": "0.1.0"},
        {"LICENSE": (190, "ab" * 32)},
        published=Published("me/out", "f" * 40, "https://hub.example/me/out"),
    )
    return make_report(plan, records_of(plan), run)


def test_the_roles_add_up_to_the_files(repack):
    report = full_report(repack)
    headers = sum(unit.header_bytes for unit in repack.units)
    assert sum(row.bytes_after for row in report.roles) + headers == report.bytes_after
    assert sum(row.count for row in report.roles) == len(repack.jobs)
    assert report.bytes_before == repack.source_bytes
    first = report.roles[0]
    assert (first.role, first.before, first.after) == ("routed_expert", "FP8 128x128", "NVFP4")
    stored = {(row.role, row.before, row.after) for row in report.roles}
    assert ("mtp_expert", "FP8 128x128", "MXFP4") in stored
    assert ("grouped", "BF16", "FP8 128x128") in stored


def test_bits_count_numbers_and_not_scales(official):
    report = full_report(official)
    # 4 bits, 8 for 16 weights, and two scalars of 32 bits for each weight.
    experts = [job for job in official.jobs if job.action == "nvfp4"]
    per_weight = 4.5 + 64 * len(experts) / report.nvfp4_parameters
    assert report.nvfp4_bits == pytest.approx(per_weight)
    assert report.bits_after == 8 * report.bytes_after / report.parameters
    tables = [job for job in official.jobs if job.reads[0].dtype == "I64"]
    assert tables
    assert report.parameters < sum(
        tensor.nbytes * 2 for job in official.jobs for tensor in job.reads[:1]
    )


def test_qualities_are_sums_over_role_and_layer(repack):
    report = full_report(repack)
    tensors = [tensor for record in records_of(repack) for tensor in record.tensors]
    total = sum((tensor.quality for tensor in tensors), Quality())
    assert report.quality.quality == total
    assert [row.name for row in report.by_role] == ["routed_expert"]
    assert [row.name for row in report.by_layer] == ["0", "1", "2", "3"]
    assert sum(row.count for row in report.by_layer) == len(tensors)
    errors = [row.quality.relative_error for row in report.worst]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 10


def test_layers_are_in_the_order_of_their_numbers(repack):
    unit = records_of(repack)[0]
    modules = ["layers.10.w", "layers.9.w", "mtp.0.w", "head"]
    tensors = tuple(
        TensorQuality(module, "x", (1, 16), 1.0, Quality(16, 1, 1)) for module in modules
    )
    record = UnitRecord(unit.plan_id, unit.shard, 1, "", tensors, "cpu", "0", 1.0)
    report = make_report(repack, [record])
    assert [row.name for row in report.by_layer] == ["9", "10", "mtp.0", "outside the layers"]
    assert report.worst == ()


def test_tensor_parallel_limits_leave_whole_blocks(repack):
    report = full_report(repack)
    assert [(row.name, row.limit) for row in report.parallel] == [("w2", 8)]
    for row in report.parallel:
        assert row.columns // row.limit % 16 == 0
        assert row.columns % (2 * row.limit * 16)


@pytest.mark.parametrize(
    ("columns", "limit"), [(2880, 4), (704, 4), (1856, 4), (768, 16), (1280, 16), (2048, 128)]
)
def test_tensor_parallel_limits_of_published_widths(repack, columns, limit):
    job = next(j for j in repack.jobs if j.action == "nvfp4" and j.module.endswith("w2"))
    narrow = replace(job, weight=replace(job.weight, cols=columns))
    report = make_report(replace(repack, jobs=(narrow,)), ())

    assert [(row.columns, row.limit) for row in report.parallel] == [(columns, limit)]
    assert columns // limit % 16 == 0 < columns // (2 * limit) % 16


def test_the_report_goes_through_json_and_keeps_its_keys(repack):
    table = full_report(repack).to_json()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["quality"]["sqnr_db"] > 0
    assert table["published"]["url"] == "https://hub.example/me/out"
    assert table["copies"][0]["path"] == "LICENSE"
    assert table["copies"][0]["sha256"] == "ab" * 32
    assert {"roles", "by_role", "by_layer", "worst", "drops", "recodes", "parallel"} <= set(table)


def test_exact_weights_have_no_decibels_in_json(official):
    job = next(job for job in official.jobs if job.action == "nvfp4")
    exact = TensorQuality(job.module, job.role, (1, 16), 1.0, Quality(16, 1, 1, 0, 0, 0.0, 9.0))
    record = UnitRecord(official.plan_id, "x", 1, "", (exact,), "cpu", "0", 1.0)
    assert make_report(official, [record]).to_json()["quality"]["sqnr_db"] is None


def test_the_manifest_names_source_recipe_and_files(repack):
    report = full_report(repack)
    files = {"b.safetensors": (2, "bb"), "a.json": (1, "aa")}
    table = manifest(repack, report, files, SourceCard())
    assert json.loads(json.dumps(table, allow_nan=False)) is not None
    assert table["schema"] == 1
    source = {"repo": "maker/DeepSeek-V4-FP8", "commit": COMMIT, "created_at": "", "card": {}}
    assert table["source"] == source
    assert table["plan_id"] == repack.plan_id
    assert table["files"] == {
        "a.json": {"size": 1, "sha256": "aa"},
        "b.safetensors": {"size": 2, "sha256": "bb"},
    }
    assert table["recipe"]["scales"] == "search"
    assert set(table["quality"]) == {"all", "by_role", "by_layer", "by_layer_and_role", "worst"}


SAID = SourceCard(
    license="other",
    license_name="great-license",
    license_link="LICENSE",
    pipeline_tag="text-generation",
    base_model_relation="quantized",
    language=("en", "zh"),
    base_model=("maker/DeepSeek-V4",),
    tags=("chat",),
    notes=("something was dropped",),
)


@pytest.mark.parametrize("spelling", ["repack", "official"])
def test_a_manifest_tells_all_that_the_report_knew(spelling, request):
    plan = request.getfixturevalue(spelling)
    report = full_report(plan)
    files = {"LICENSE": (190, "ab" * 32)} | {
        row.path: (row.size, row.sha256) for row in report.copies
    }
    written = json.dumps(manifest(plan, report, files, SAID))
    told = read_told(json.loads(written), "me/out")
    assert told.report == json.loads(json.dumps(report.to_json())) | {"published": None}
    assert told.card == replace(SAID, notes=())
    card = CardFacts("me/out", report.to_json(), SAID)
    assert render_card(CardFacts("me/out", told.report, told.card)) == render_card(card)


def test_layers_and_roles_have_their_errors_for_a_picture(repack):
    report = full_report(repack)
    tensors = [tensor for record in records_of(repack) for tensor in record.tensors]
    assert [(row.layer, row.role) for row in report.by_layer_and_role] == [
        (layer, "routed_expert") for layer in "0123"
    ]
    assert sum(row.count for row in report.by_layer_and_role) == len(tensors)
    for one, other in zip(report.by_layer_and_role, report.by_layer, strict=True):
        assert one.quality == other.quality


def test_the_manifest_of_the_largest_model_stays_small(repack):
    report = full_report(repack)
    files = {
        f"model-{number:05d}-of-00064.safetensors": (15 * 10**9, "ab" * 32) for number in range(500)
    }
    roles = [f"a_role_of_a_long_name_{n}" for n in range(8)]
    rows = [
        TensorQuality(f"model.layers.{layer}.x{e}.w1", role, (1, 16), 0.1, Quality(16, 1, 0, 0, 0,
                      float(e + 1), 1e3 + layer, 0.1))
        for layer in range(128)
        for e, role in enumerate(roles)
    ]  # fmt: skip
    record = UnitRecord(repack.plan_id, "x", 1, "", tuple(rows), "cpu", "0", 1.0)
    report = make_report(repack, [record])
    assert len(report.by_layer_and_role) == 128 * 8
    assert len(json.dumps(manifest(repack, report, files, SAID), indent=1)) < 1_000_000


def test_details_are_the_same_bytes_in_whatever_order(repack):
    records = records_of(repack)
    packed = tensor_details(records)
    assert tensor_details(records[::-1]) == packed
    lines = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert len(lines) == sum(len(record.tensors) for record in records)
    assert {"module", "role", "shape", "global_scale", "error_sq", "exact_blocks"} <= set(lines[0])


def test_a_folder_says_nothing_of_where_it_lies(tmp_path):
    deepseek_v4.official(tmp_path / "model", fast=True)
    plan = make_plan(FolderSource(tmp_path / "model"), Recipe(), "0.1.0")
    report = make_report(plan, [])
    assert report.source == "model"
    assert str(tmp_path) not in json.dumps(manifest(plan, report, {}, SourceCard()))
    assert str(tmp_path) not in card_of(report, str(tmp_path / "out"), SourceCard())


def test_the_plan_is_shown_before_the_work(official):
    shown = plan_table(official, 100)
    lines = shown.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert "routed_expert" in shown
    assert "MXFP4 -> NVFP4" in shown
    assert "16 partner sets" in shown
    assert "Warning: The result will be" in shown
    assert lines[-1].startswith("5.01 MB -> 5.07 MB (+1.2 %)")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_tables_fit_the_terminal(official, width):
    for text in (plan_table(official, width), render_terminal(full_report(official), width)):
        assert max(len(line) for line in text.splitlines()) <= width


def test_the_plan_for_programs(official):
    table = plan_json(official)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert sum(unit["size"] for unit in table["units"]) == table["bytes_after"]
    assert table["needs"]["folder_bytes"] == official.target_bytes
    assert table["needs"]["lfs_disk_bytes"] == max(unit.nbytes for unit in official.units)
    assert "fits" not in table
    assert "quality" not in table


def test_the_terminal_shows_what_came_out(repack):
    shown = render_terminal(full_report(repack), 120)
    assert "48 NVFP4 weights, relative error" in shown
    assert "farthest from the source" in shown
    assert "Published: https://hub.example/me/out" in shown
    assert "█" in shown


def test_the_card_names_the_original_of_a_repack(repack):
    said = read_front_matter("---\nlicense: mit\nbase_model: maker/DeepSeek-V4\n---\n")
    text = card_of(full_report(repack), "me/DeepSeek-V4-NVFP4", said)
    assert "base_model: maker/DeepSeek-V4\n" in text
    assert "is itself another spelling of [maker/DeepSeek-V4]" in text
    assert f"hubconv verify me/DeepSeek-V4-NVFP4 --source maker/DeepSeek-V4-FP8@{COMMIT}" in text
    assert "38 tensors (scales, all powers of two, now written as E8M0)" in text


def test_a_card_before_the_work_is_whole(official):
    text = card_of(make_report(official, []), "me/x", SourceCard())
    assert "Not measured yet" in text
    assert job_summary(make_report(official, []))


def test_what_is_left_out_is_named(tmp_path):
    plan = plan_of(tmp_path, "official", Recipe(mtp="drop"))
    report = make_report(plan, [])
    assert [row.name for row in report.drops] == ["--mtp drop"]
    assert "left out" in {row.after for row in report.roles}
    assert "Left out:" in plan_table(plan, 100)


def test_copies_have_the_hash_of_the_run_or_that_of_the_source(repack):
    paths = {copied.path: copied for copied in full_report(repack).copies}
    assert paths["LICENSE"].size == 190
    assert paths["tokenizer.json"].sha256 == ""
