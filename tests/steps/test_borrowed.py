"""--input-scales-from: calibrated activation scales of another NVFP4 checkpoint, proven to fit."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from checkpoints.broken import Tensor, _rewrite, read, read_folder, shards
from profiles.walks import Walk, convert, publish, source_folder

from hubconv.errors import SourceError, UsageError
from hubconv.folder import FolderSource, FolderTarget
from hubconv.formats.front_matter import SourceCard
from hubconv.kernels import choose
from hubconv.pipeline import Recipe
from hubconv.steps import borrowed
from hubconv.steps.facts import Run
from hubconv.steps.manifest import manifest
from hubconv.steps.plan import make_plan
from hubconv.steps.report import make_report
from hubconv.work import Bench, work

NAME = "qwen3_moe_bf16"


def value_of(module):
    """A number that no other module has, and no power of two."""
    return np.float32(0.01 + (sum(map(ord, module)) % 97) / 300)


def lender_of(folder, layout="modelopt", value=value_of, **recipe):
    """A result of the same model as if it had been calibrated."""
    walk = convert(source_folder(NAME), folder, layout=layout, activations="w4a4", **recipe)
    publish(walk, folder)
    suffix = ".input_scale" if layout == "modelopt" else ".input_global_scale"
    for path in shards(folder):
        tensors = []
        for tensor in read(path):
            module = tensor.name.removesuffix(suffix)
            if module != tensor.name:
                told = np.float32(value(module))
                told = told if layout == "modelopt" else np.float32(1) / told
                tensor = replace(tensor, data=np.asarray(told, "<f4").tobytes())
            tensors.append(tensor)
        _rewrite(path, tensors)
    return folder


def planned(folder, **recipe):
    asked = {"activations": "w4a4"} | recipe
    return make_plan(
        FolderSource(source_folder(NAME)),
        Recipe(**asked, input_scales_from=str(folder)),
        "0.0.1",
        FolderSource(folder),
    )


def made(folder, target, **recipe):
    plan = planned(folder, **recipe)
    staging = FolderTarget(target).stage(plan.plan_id)
    bench = Bench(plan, FolderSource(source_folder(NAME)), staging, choose("cpu"), "0.0.1")
    records = []
    for unit in plan.units:
        records.append(work(bench, unit))
        staging.add(records[-1])
    at = target / ".hubconv" / plan.plan_id / "shards"
    return Walk(plan, tuple(records), bench.source, staging, at)


@pytest.fixture(scope="module")
def lender(tmp_path_factory):
    return lender_of(tmp_path_factory.mktemp("lender"))


@pytest.mark.parametrize("theirs", ["modelopt", "compressed-tensors"])
@pytest.mark.parametrize("ours", ["modelopt", "compressed-tensors"])
def test_every_weight_gets_the_scale_of_its_name(tmp_path, theirs, ours):
    folder = lender_of(tmp_path / "lender", theirs)
    walk = made(folder, tmp_path / "target", layout=ours)
    tensors = walk.tensors

    checked = 0
    for group in walk.plan.sets.values():
        wanted = max(value_of(job.module) for job in group.members)
        for job in group.members:
            name = next(o.name for o in job.writes if o.content == "input_scale")
            stored = np.frombuffer(tensors[name].data, "<f4")[0]
            got = stored if ours == "modelopt" else np.float32(1 / float(stored))
            assert got == pytest.approx(wanted, rel=2e-7)
            assert theirs != ours or ours != "modelopt" or got == wanted
            checked += 1
    assert checked == 24
    assert walk.verified().findings == ()


def test_nothing_but_the_scales_is_another(tmp_path, lender):
    walk = made(lender, tmp_path / "target", layout="modelopt")
    plain = convert(source_folder(NAME), tmp_path / "plain", layout="modelopt", activations="w4a4")

    before, after = plain.tensors, walk.tensors
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.endswith(".input_scale")}
    assert walk.plan.plan_id != plain.plan.plan_id


def test_the_plan_depends_on_the_numbers_and_not_on_where_they_lie(tmp_path, lender):
    same = lender_of(tmp_path / "same")
    other = lender_of(tmp_path / "other", value=lambda module: value_of(module) * 2)

    assert planned(same).plan_id == planned(lender).plan_id
    assert planned(other).plan_id != planned(lender).plan_id


def test_report_and_manifest_name_where_they_come_from_and_no_path(lender):
    plan = planned(lender)
    report = make_report(plan, (), Run())
    table = manifest(plan, report, {}, SourceCard())

    assert report.input_scales_from == lender.name
    assert table["recipe"]["input_scales_from"] == lender.name
    assert str(lender.parent) not in json.dumps(table)


def test_neighbours_are_fetched_by_one_request(lender, monkeypatch):
    reads = []
    source = FolderSource(lender)
    monkeypatch.setattr(
        source, "read", lambda *asked: reads.append(asked) or FolderSource.read(source, *asked)
    )
    plan = planned(lender)
    borrowed.borrowed_scales(source, plan.sets)
    headers = len(shards(lender))
    fetched = len(reads) - headers - 2  # config and index

    assert 0 < fetched < 24
    monkeypatch.setattr(borrowed, "GAP_BYTES", -1)
    reads.clear()
    borrowed.borrowed_scales(source, plan.sets)
    assert len(reads) - headers - 2 == 24


def spoiled(folder, spoil):
    lender_of(folder)
    for path in shards(folder):
        _rewrite(path, [new for tensor in read(path) for new in spoil(tensor)])
    (folder / "model.safetensors.index.json").unlink()
    return folder


def on(pattern, change):
    return lambda tensor: [change(tensor) if re.search(pattern, tensor.name) else tensor]


GATE = r"layers\.0\.mlp\.experts\.1\.gate_proj\."


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda t: [] if re.search(GATE + "input_scale", t.name) else [t],
            r"no activation scale for 1 of the 24 weights .*experts\.1\.gate_proj",
        ),
        (
            on(GATE + "weight$", lambda t: Tensor(t.name, t.dtype, (64, 256), t.data)),
            r"is U8 \[64, 256\]; that of this model would be U8 \[128, 128\]",
        ),
        (
            on(GATE + "input_scale", lambda t: Tensor(t.name, "F32", (2,), t.data * 2)),
            r"is F32 \[2\]: an activation scale is one F32 number",
        ),
        (
            on(GATE + "input_scale", lambda t: replace(t, data=np.float32("nan").tobytes())),
            r"is nan: no activation scale",
        ),
        (
            on(GATE + "input_scale", lambda t: replace(t, data=np.float32(0).tobytes())),
            r"is 0\.0: no activation scale",
        ),
    ],
)
def test_scales_that_do_not_belong_here_are_refused(tmp_path, spoil, says):
    with pytest.raises(SourceError, match=says):
        planned(spoiled(tmp_path / "lender", spoil))


def test_a_checkpoint_that_quantizes_less_cannot_lend(lender):
    with pytest.raises(SourceError, match=r"for 8 of the 32 weights .*self_attn"):
        planned(lender, policy="linears")


def test_the_source_itself_has_none_to_lend():
    with pytest.raises(SourceError, match="for 24 of the 24 weights"):
        planned(source_folder(NAME))


def test_what_contradicts_itself_is_refused_with_the_rule(lender):
    with pytest.raises(UsageError, match=r"no activation scale, and vLLM and SGLang make no param"):
        planned(lender, activations="w4a16")
    with pytest.raises(UsageError, match="both say what the activation scales are"):
        planned(lender, input_scale=0.5)
    assert planned(lender, activations="w4a16", layout="modelopt").input_scales


def test_a_lender_on_a_hub_is_pinned_and_named(xet_studio, tmp_path):
    target, theirs = (
        xet_studio.name(),
        xet_studio.put(lender_of(tmp_path / "lender"), xet_studio.name("lender")),
    )
    words = ["--activations", "w4a4", "--layout", "modelopt", "--device", "cpu"]
    done = xet_studio.command(
        xet_studio.source(NAME), target, *words, "--input-scales-from", theirs, "--json"
    )

    assert done.code == 0, done.said
    head = xet_studio.api.repo_info(theirs).sha
    told = json.loads(xet_studio.read(target, "hubconv.json"))["recipe"]["input_scales_from"]
    assert told == f"{theirs}@{head}"
    assert f"input scales from `{theirs}@{head}`" in xet_studio.read(target, "README.md").decode()
    again = xet_studio.command(
        xet_studio.source(NAME), target, *words, "--input-scales-from", theirs, "--json"
    )
    assert again.json["status"] == "up-to-date"
    assert read_folder(tmp_path / "lender")
