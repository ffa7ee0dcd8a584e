"""Experts in one tensor: read one by one, or left in one piece; never taken the wrong way round."""

import json
from dataclasses import replace

import pytest
from checkpoints.broken import Tensor, _rewrite, read, read_folder, shards
from profiles.walks import bench_of, convert, copy_of, make, planned, publish, source_folder

from hubconv.audit import audit
from hubconv.errors import IntegrityError, SourceError

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
