"""Experts in one tensor: read one by one, or left in one piece; never taken the wrong way round."""

import json
import math
from dataclasses import replace

import pytest
from checkpoints.broken import Tensor, _drop, _rewrite, read, read_folder, shards
from profiles.walks import bench_of, convert, copy_of, make, planned, publish, result, source_folder

from hubconv.audit import audit
from hubconv.errors import IntegrityError, ScaleError, SourceError
from hubconv.steps.schedule import Limits, announced, schedule

NAME = "qwen35_moe_bf16"
EXPERTS = "model.language_model.layers.{}.mlp.experts"


@pytest.fixture
def source(tmp_path):
    return copy_of(NAME, tmp_path / "source")


def reshaped(folder, like, shape):
    for path in shards(folder):
        _rewrite(
            path,
            [
                Tensor(t.name, t.dtype, shape, t.data) if t.name.endswith(like) else t
                for t in read(path)
            ],
        )
    return folder


@pytest.mark.parametrize(
    ("like", "shape"),
    [
        ("experts.gate_up_proj", (4, 256, 128)),
        ("experts.down_proj", (4, 64, 256)),
        ("experts.gate_up_proj", (2, 256, 256)),
        ("experts.down_proj", (1, 256, 256)),
    ],
)
def test_matrices_that_may_lie_the_other_way_are_refused(source, like, shape):
    reshaped(source, like, shape)

    with pytest.raises(SourceError, match=r"Which way these matrices lie cannot be told"):
        planned(source)


def test_the_config_must_say_how_wide_the_model_is(source):
    config = json.loads((source / "config.json").read_text())
    del config["text_config"]["hidden_size"]
    (source / "config.json").write_text(json.dumps(config))

    with pytest.raises(SourceError, match="the None of hidden_size"):
        planned(source)


def test_experts_of_a_layer_that_stay_stay_in_one_piece(tmp_path):
    walk = convert(source_folder(NAME), tmp_path, keep=(r"layers\.0\.mlp\.experts\.",))
    tensors, theirs = walk.tensors, read_folder(source_folder(NAME))

    for leaf in ("gate_up_proj", "down_proj"):
        name = f"{EXPERTS.format(0)}.{leaf}"
        assert tensors[name] == theirs[name]
        assert f"{EXPERTS.format(1)}.{leaf}" not in tensors
    assert walk.verified().findings == ()
    publish(walk, tmp_path)
    assert audit(str(tmp_path)).findings == ()


def test_part_of_a_fused_tensor_cannot_stay():
    with pytest.raises(SourceError, match="all experts of a layer in one format"):
        planned(source_folder(NAME), keep=(r"layers\.0\.mlp\.experts\.2\.",))


def test_a_part_counts_as_proven_only_with_its_whole(tmp_path):
    bench = bench_of(source_folder(NAME), tmp_path)
    unit = next(u for u in bench.plan.units for job in u.jobs if job.reads[0].of is not None)
    job = next(job for job in unit.jobs if job.reads[0].of is not None)
    part = job.reads[0]
    whole = replace(part.of, begin=part.of.begin + 8, end=part.of.end + 8)
    garbled = replace(job, reads=(replace(part, of=whole),))

    jobs = tuple(garbled if each is job else each for each in unit.jobs)
    with pytest.raises(IntegrityError, match="not what its header said"):
        make(bench, replace(unit, jobs=jobs))


def test_dropped_mtp_layers_are_not_announced_under_text_config():
    plan = planned(source_folder(NAME), mtp="drop")

    config = json.loads(plan.files["config.json"])
    assert config["text_config"]["mtp_num_hidden_layers"] == 0
    assert not [o.name for u in plan.units for o in u.outputs if o.name.startswith("mtp.")]


# --- Matrices that lie [inputs, outputs] ----------------------------------------------------------

TURNED = "llama4_bf16"


@pytest.mark.parametrize("name", [TURNED, "qwen3_vl_moe_bf16"])
def test_windows_of_any_size_give_the_same_bytes(name, tmp_path):
    bench = bench_of(source_folder(name), tmp_path)
    small = Limits(window_bytes=128 * 256 * 2, held_bytes=0)
    for unit in bench.plan.units:
        make(replace(bench, limits=small), unit)
    shards = tmp_path / ".hubconv" / bench.plan.plan_id / "shards"

    ours = {t.name: t for path in sorted(shards.glob("*")) for t in read(path)}
    assert ours == result(name).tensors


@pytest.mark.parametrize(
    ("like", "shape"),
    [
        ("experts.gate_up_proj", (4, 192, 256)),
        ("experts.down_proj", (4, 256, 96)),
        ("experts.gate_up_proj", (3, 256, 256)),
    ],
)
def test_turned_matrices_that_may_lie_upright_are_refused(tmp_path, like, shape):
    folder = copy_of(TURNED, tmp_path / "source")
    for path in shards(folder):
        tensors = [
            replace(t, shape=shape, data=bytes(2 * math.prod(shape)))
            if t.name.endswith(like)
            else t
            for t in read(path)
        ]
        _rewrite(path, tensors)
    (folder / "model.safetensors.index.json").unlink()

    with pytest.raises(SourceError, match=r"Which way these matrices lie cannot be told"):
        planned(folder)


def test_gate_and_up_of_an_expert_are_read_once_together(tmp_path):
    bench = bench_of(source_folder(TURNED), tmp_path)
    unit = next(u for u in bench.plan.units for j in u.jobs if j.weight and j.weight.turned)
    told = announced(unit, schedule(unit, bench.plan.sets, bench.limits), bench.limits)
    spans = [
        (job.reads[0].shard, (job.reads[0].begin, job.reads[0].end))
        for job in (*unit.jobs, *unit.tail)
        if job.weight and job.weight.turned
    ]

    assert len(spans) == 4 * 3
    for shard, span in spans:
        assert told[shard].count(span) == 1


def test_turned_experts_that_stay_stay_in_one_piece(tmp_path):
    walk = convert(
        source_folder(TURNED), tmp_path, policy="mlp", keep=(r"feed_forward\.experts\.",)
    )
    theirs = read_folder(source_folder(TURNED))

    for leaf in ("gate_up_proj", "down_proj"):
        name = f"language_model.model.layers.1.feed_forward.experts.{leaf}"
        assert walk.tensors[name] == theirs[name]
    assert walk.verified().findings == ()


# --- Stacks with scales ---------------------------------------------------------------------------


def test_a_stack_of_scales_must_be_as_high_as_that_of_weights(tmp_path):
    folder = copy_of("step35_fp8", tmp_path / "source")
    name = "model.layers.1.moe.down_proj.weight_scale_inv"
    for path in shards(folder):
        tensors = [replace(t, shape=(8, 1, 2)) if t.name == name else t for t in read(path)]
        _rewrite(path, tensors)

    with pytest.raises(ScaleError, match=r"must be the scales of 4 experts, one after the other"):
        planned(folder)


def test_a_stack_without_scales_is_refused(tmp_path):
    folder = copy_of("step35_fp8", tmp_path / "source")
    _drop(folder, "model.layers.1.moe.down_proj.weight_scale_inv")

    with pytest.raises(ScaleError, match=r"down_proj\.weight in .* no scale goes with it"):
        planned(folder)


def test_a_stack_with_scales_that_stays_is_taken_apart_all_the_same(tmp_path):
    walk = convert(source_folder("step35_fp8"), tmp_path, keep=(r"layers\.1\.moe\.",))
    theirs = read_folder(source_folder("step35_fp8"))
    whole = theirs["model.layers.1.moe.up_proj.weight"]
    parts = [walk.tensors[f"model.layers.1.moe.experts.{n}.up_proj.weight"] for n in range(4)]

    assert b"".join(part.data for part in parts) == whole.data
    assert walk.verified().findings == ()
