"""Weights and their companions: what goes together, and what nobody may overlook."""

import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoints.broken import Tensor, _rewrite, read, shards
from profiles.walks import convert, copy_of, plan_of, planned, result, source_folder

from hubconv.errors import ScaleError, SourceError, UsageError
from hubconv.steps.shards import foreign_reads

Q_PROJ = "model.layers.0.self_attn.q_proj"


def with_tensor(folder, name, dtype, shape, data):
    path = shards(folder)[0]
    _rewrite(path, [*read(path), Tensor(name, dtype, shape, data)])
    (folder / "model.safetensors.index.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "leaf", "dtype"),
    [
        ("qwen3_fp8", "weight_scale", "F32"),
        ("qwen3_fp8", "weight_zero_point", "F32"),
        ("llama_bf16", "weight_scale", "F32"),
        ("llama_bf16", "order", "BF16"),
        ("llama_fp8_static", "weight_g_idx", "I32"),
    ],
)
def test_what_stands_unread_beside_a_weight_is_refused(tmp_path, name, leaf, dtype):
    extra = f"{Q_PROJ}.{leaf}"
    size = 2 if dtype == "BF16" else 4
    folder = with_tensor(copy_of(name, tmp_path / "source"), extra, dtype, (1,), bytes(size))

    for keep in ((), (leaf,)):
        with pytest.raises(ScaleError, match=rf"{leaf} in .*stands beside {Q_PROJ}\.weight"):
            planned(folder, keep=keep)


@pytest.mark.parametrize("name", ["llama_fp8_static", "mistral_fp8"])
@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
def test_a_stored_activation_scale_stays_with_its_fp8_weight_alone(name, layout):
    walk = result(name, layout=layout, policy="mlp")
    source = {t.name: t for path in shards(source_folder(name)) for t in read(path)}
    theirs = next(
        n for n in source if n.startswith(Q_PROJ) and n.endswith(("input_scale", "on_scale"))
    )
    ours = walk.tensors[f"{Q_PROJ}.input_scale"]

    wide = source[theirs].data if source[theirs].dtype == "F32" else b"\0\0" + source[theirs].data
    assert np.frombuffer(ours.data, "<f4") == np.frombuffer(wide, "<f4")
    assert ours.shape == ((1,) if layout == "compressed-tensors" else ())
    assert not [n for n in walk.tensors if n.endswith("activation_scale")]
    gate = "model.layers.0.mlp.gate_proj.input_scale"
    if layout == "modelopt":  # one of its own, for NVFP4
        assert np.frombuffer(walk.tensors[gate].data, "<f4") == 1
    else:
        assert gate not in walk.tensors


def test_an_input_scale_that_nobody_reads_is_no_byte_fetched_twice():
    plan = plan_of("llama_fp8_static")
    twice = [tensor.name for unit in plan.units for tensor in foreign_reads(unit, plan.sets)]

    assert any(name.endswith(".weight_scale") for name in twice)
    assert not any(name.endswith(".input_scale") for name in twice)


def without_input_scales(folder):
    for path in shards(folder):
        _rewrite(path, [t for t in read(path) if not t.name.endswith("input_scale")])
    (folder / "model.safetensors.index.json").unlink()
    return folder


def test_modelopt_has_no_fp8_of_one_scale_without_one_for_activations(tmp_path):
    folder = without_input_scales(copy_of("llama_fp8_static", tmp_path / "source"))

    with pytest.raises(UsageError, match="stay fp8_tensor, which the modelopt layout cannot hold"):
        planned(folder, layout="modelopt", policy="mlp")
    walk = convert(folder, tmp_path / "target", policy="mlp")
    assert walk.verified().findings == ()


@pytest.mark.parametrize("shape", [(256,), (1, 256)])
def test_the_scales_of_a_square_weight_must_say_that_they_are_of_rows(tmp_path, shape):
    folder = copy_of("glm45_fp8", tmp_path / "source")
    for path in shards(folder):
        _rewrite(
            path,
            [
                replace(t, shape=shape) if t.name == f"{Q_PROJ}.weight_scale" else t
                for t in read(path)
            ],
        )

    with pytest.raises(ScaleError, match=r"it must be \[256, 1\]"):
        planned(folder)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gpt_oss", r"'gpt_oss' are not converted: .*no NVFP4 ones: .*vLLM issue 46641"),
        ("mimo_qkv_edge", r"qkv_proj\.weight in .*: .*mimo_v2\.py, _try_load_fp8_qkv_proj"),
    ],
)
def test_what_no_engine_loads_is_refused_with_the_rule(name, rule):
    with pytest.raises(SourceError, match=rule):
        planned(source_folder(name))


def test_scales_tiled_by_chunks_are_never_taken_for_blocks(tmp_path):
    folder = copy_of("mimo_qkv_edge", tmp_path / "source")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ScaleError, match=r"has shape \[8, 2\]; .* must be \[5, 2\]"):
        planned(folder)
