"""Weights and their companions: what goes together, and what nobody may overlook."""

import numpy as np
import pytest
from checkpoints.broken import Tensor, _rewrite, read, shards
from profiles.walks import convert, copy_of, plan_of, planned, result, source_folder

from hubconv.errors import ScaleError, UsageError
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
