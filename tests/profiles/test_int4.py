"""Kimi's INT4 experts: read by their companions, never kept, never read wrong."""

import json

import numpy as np
import pytest
from checkpoints.broken import Tensor, _rewrite, read, shards
from profiles.walks import bench_of, convert, copy_of, make, plan_of, planned, result, source_folder

from hubconv.errors import ScaleError, UsageError
from hubconv.steps.report import make_report

EXPERT = "model.layers.1.mlp.experts.0.gate_proj"
INT4 = ("kimi_k2_thinking", "kimi_k25")


def change(folder, spoil):
    """Give every tensor to `spoil`, which gives back what is to be there in its place."""
    for path in shards(folder):
        tensors = read(path)
        _rewrite(path, [new for tensor in tensors for new in spoil(tensor)])
    (folder / "model.safetensors.index.json").unlink()
    return folder


@pytest.fixture
def source(tmp_path):
    return copy_of("kimi_k2_thinking", tmp_path / "source")


@pytest.mark.parametrize("name", INT4)
def test_the_stated_shape_is_read_and_not_passed_on(name):
    walk = result(name)
    experts = [job for job in walk.plan.jobs if job.role == "routed_expert"]

    assert all(len(job.reads) == 3 and job.used == job.reads for job in experts)
    assert not [n for n in walk.tensors if n.endswith("weight_shape")]
    assert walk.tensors[next(job.writes[0].name for job in experts)].dtype == "U8"


def test_a_stated_shape_that_is_not_the_weights_stops_the_work(source, tmp_path):
    wrong = np.array([128, 255], "<i4").tobytes()
    change(
        source,
        lambda t: (
            [Tensor(t.name, t.dtype, t.shape, wrong)] if t.name == f"{EXPERT}.weight_shape" else [t]
        ),
    )

    bench = bench_of(source, tmp_path / "target")
    shard = next(u for u in bench.plan.units for job in u.jobs if job.module == EXPERT)
    with pytest.raises(ScaleError, match=r"says \[128, 255\]; the packed weight holds"):
        make(bench, shard)


def test_a_source_that_states_no_shapes_is_read_all_the_same(source, tmp_path):
    change(source, lambda t: [] if t.name.endswith("weight_shape") else [t])

    theirs = convert(source, tmp_path / "target").tensors

    assert theirs == result("kimi_k2_thinking").tensors


@pytest.mark.parametrize("leaf", ["weight_zero_point", "weight_g_idx"])
def test_zero_points_and_orders_of_columns_are_refused(source, leaf):
    change(
        source,
        lambda t: (
            [t, Tensor(f"{EXPERT}.{leaf}", "I32", (1,), bytes(4))]
            if t.name == f"{EXPERT}.weight_packed"
            else [t]
        ),
    )

    for keep in ((), (leaf,)):
        with pytest.raises(ScaleError, match=f"{leaf} in .*stands beside {EXPERT}"):
            planned(source, keep=keep)


def test_integers_without_scales_are_no_weight(source):
    change(source, lambda t: [] if t.name == f"{EXPERT}.weight_scale" else [t])

    with pytest.raises(ScaleError, match=r"weight_packed .*I32.* but no scale"):
        planned(source)


def test_asymmetric_integers_are_refused(source):
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False
    (source / "config.json").write_text(json.dumps(config))

    with pytest.raises(ScaleError, match="asymmetric"):
        planned(source)


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
def test_integers_cannot_stay(layout):
    with pytest.raises(UsageError, match="would stay INT4, which no layout here") as refused:
        planned(source_folder("kimi_k2_thinking"), layout=layout, keep=(r"\.experts\.",))

    assert "--keep" in refused.value.next_step


def test_no_engine_finds_the_old_entry_under_text_config():
    config = json.loads(plan_of("kimi_k25").files["config.json"])

    assert "quantization_config" not in config["text_config"]
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "pack-quantized" not in json.dumps(config).replace("nvfp4-pack-quantized", "")


@pytest.mark.parametrize("name", INT4)
def test_the_report_says_that_the_numbers_are_rounded_once_more(name):
    report = make_report(plan_of(name), result(name).records)

    assert any("integers of four bits" in warning for warning in report.warnings)
    assert {row.before for row in report.roles if row.action == "nvfp4"} == {"INT4, groups of 32"}
    assert 0.05 < report.quality.quality.relative_error < 0.11
