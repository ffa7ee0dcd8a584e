"""Two results side by side: what is equal, what differs, and which are not of one model."""

import json
import math

import numpy as np
import pytest
from checkpoints import foreign
from checkpoints.broken import read_folder
from profiles.walks import publish, source_folder, staged

from hubconv.audit import Depth, compare, comparison_json, render_comparison
from hubconv.errors import SourceError
from hubconv.formats import nvfp4

FULL = Depth("full")
MOE, EXPERTS = "qwen3_moe_bf16", r"experts\.\d+\.\w+_proj\.weight$"
IGNORE = ("lm_head", "*.self_attn*", "*.mlp.gate")


@pytest.fixture
def ours(tmp_path):
    count = iter(range(100))

    def make(name=MOE, quality=None, **recipe):
        target = tmp_path / f"ours-{next(count)}"
        walk = staged(name, target, **recipe)
        more = {"quality": quality} if quality else {}
        publish(walk, target, recipe=recipe, source={"repo": "org/source"}, **more)
        return target

    return make


@pytest.fixture
def theirs(tmp_path):
    return foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE).write(tmp_path / "theirs")


def decoded(folder, module, divides):
    """What a result holds, without the code under test."""
    tensors = read_folder(folder)
    packed, scalar = ("weight_packed", "weight_global_scale") if divides else (
        "weight", "weight_scale_2",
    )  # fmt: skip
    codes, scales = (
        np.frombuffer(tensors[f"{module}.{end}"].data, np.uint8).reshape(
            tensors[f"{module}.{end}"].shape
        )
        for end in (packed, "weight_scale")
    )
    factor = float(np.frombuffer(tensors[f"{module}.{scalar}"].data, "<f4")[0])
    return codes, scales, nvfp4.decode(codes, scales, 1 / factor if divides else factor)


def test_figures_are_those_of_the_definition(ours, theirs):
    mine = ours()
    done = compare(str(mine), str(theirs), str(source_folder(MOE)), depth=FULL)
    modules = [f"model.layers.{n}.mlp.experts.{e}.{p}_proj"
               for n in (0, 1) for e in range(4) for p in ("gate", "up", "down")]  # fmt: skip
    a = [decoded(mine, module, True) for module in modules]
    b = [decoded(theirs, module, False) for module in modules]
    source = read_folder(source_folder(MOE))
    truth = [foreign._values(source[f"{module}.weight"]) for module in modules]

    row = done.by_role["routed_expert"]

    codes = np.concatenate([(x[0] & 15 == y[0] & 15).ravel() for x, y in zip(a, b, strict=True)])
    high = np.concatenate([(x[0] >> 4 == y[0] >> 4).ravel() for x, y in zip(a, b, strict=True)])
    scales = np.concatenate([(x[1] == y[1]).ravel() for x, y in zip(a, b, strict=True)])
    assert (row.weights, row.codes, row.scales) == (24, 2 * len(codes), len(scales))
    assert row.equal_codes == codes.sum() + high.sum()
    assert row.equal_scales == scales.sum()
    apart = sum(np.square(x[2] - y[2]).sum() for x, y in zip(a, b, strict=True))
    mean = sum(np.square(x[2]).sum() + np.square(y[2]).sum() for x, y in zip(a, b, strict=True)) / 2
    assert row.distance == pytest.approx(math.sqrt(apart / mean), rel=1e-9)
    norm = sum(np.square(w).sum() for w in truth)
    for mine_or_theirs, quality in ((a, row.a), (b, row.b)):
        error = sum(np.square(x[2] - w).sum() for x, w in zip(mine_or_theirs, truth, strict=True))
        assert quality.relative_error == pytest.approx(math.sqrt(error / norm), rel=1e-9)
    assert row.a.relative_error < 0.083 < 0.093 < row.b.relative_error


def test_a_result_is_as_itself(ours):
    done = compare(str(ours()), str(ours()), depth=FULL)

    (row,) = done.by_role.values()
    assert (row.distance, row.equal_codes, row.equal_scales) == (0, row.codes, row.scales)
    assert (done.global_scales.compared, done.global_scales.equal) == (24, 24)
    assert (done.config, done.kept.differing) == ([], ())
    assert done.kept.compared == 21


def test_two_layouts_of_one_recipe_decode_alike(ours):
    a, b = ours(), ours(layout="modelopt")

    done = compare(str(a), str(b), depth=FULL)

    (row,) = done.by_role.values()
    assert (row.distance, row.equal_codes, row.equal_scales) == (0, row.codes, row.scales)
    assert done.global_scales.equal == 24  # one divides, the other multiplies
    assert {r["key"]: (r["a"], r["b"]) for r in done.config} == {
        "quantization_config": ("compressed-tensors", "modelopt")
    }
    text = render_comparison(done)
    assert "compressed-tensors" in text
    assert "24 of 24 equal" in text


def test_what_is_nvfp4_in_one_only_is_named_and_compared(ours):
    a, b = ours(), ours(policy="all")

    done = compare(str(a), str(b), str(source_folder(MOE)), depth=FULL)
    told = comparison_json(done)

    assert told["nvfp4_only_in_a"] == {"count": 0, "names": []}
    assert told["nvfp4_only_in_b"]["count"] == 8
    assert all("self_attn" in name for name in told["nvfp4_only_in_b"]["names"])
    (attention,) = [row for row in told["by_role"] if row["name"] == "attention"]
    assert (attention["error_a"], attention["equal_codes"]) == (0, None)
    assert 0.07 < attention["error_b"] < 0.09
    assert told["b"]["bits"] < told["a"]["bits"]
    assert "NVFP4 in B, not in A: 8" in render_comparison(done)


def test_fp8_that_one_has_kept_is_read_as_what_it_means(ours):
    a, b = ours("deepseek_v3"), ours("deepseek_v3", layout="modelopt", policy="linears")

    done = compare(str(a), str(b), str(source_folder("deepseek_v3")), depth=FULL)

    for role, row in done.by_role.items():
        if role != "routed_expert":
            assert (row.a.relative_error, row.codes) == (0, 0)
        assert 0 < row.b.relative_error < 0.1
    assert len(done.by_role) > 2
    assert not [note for note in done.notes if "scales" in note]


def test_experts_in_one_tensor_are_paired_with_experts_one_by_one(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    foreign.fuse_experts(files)
    fused = files.write(tmp_path / "fused")

    done = compare(str(theirs), str(fused), depth=FULL)

    assert done.by_role["routed_expert"].weights == 24
    assert done.by_role["routed_expert"].distance == 0
    assert (done.paired.only_a, done.paired.only_b) == ((), ())


def test_a_wrapper_in_front_of_the_names_does_not_part_twins(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    files.tensors = {
        f"model.language_{name}": type(t)(f"model.language_{name}", t.dtype, t.shape, t.data)
        for name, t in files.tensors.items()
    }
    wrapped = files.write(tmp_path / "wrapped")

    done = compare(str(theirs), str(wrapped), depth=FULL)

    assert done.by_role["routed_expert"].weights == 24


def test_scales_that_differ_are_told_by_their_quotients(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    files.scale("model.layers.0.mlp.experts.1.down_proj.weight_scale_2", 4)
    files.put("model.norm.weight", data=bytes(len(files.tensors["model.norm.weight"].data)))
    other = files.write(tmp_path / "other")

    done = compare(str(theirs), str(other), depth=FULL)

    assert (done.global_scales.equal, done.global_scales.compared) == (23, 24)
    assert (done.global_scales.least, done.global_scales.most) == (0.25, 1)
    assert done.kept.differing == ("model.norm.weight",)
    assert "kept, and other bytes in B: 1 (model.norm.weight)" in render_comparison(done)


def test_without_source_the_manifests_figures_are_shown(ours):
    rows = [{"name": "routed_expert", "relative_error": 0.0815}]
    a, b = ours(quality={"by_role": rows}), ours(quality={"by_role": [{**rows[0], "x": []}, 3]})

    done = compare(str(a), str(b))

    assert done.recorded == {"routed_expert": (0.0815, 0.0815)}
    assert "as hubconv recorded them" in render_comparison(done)
    assert comparison_json(done)["recorded"] == [
        {"name": "routed_expert", "a": 0.0815, "b": 0.0815}
    ]
    with_source = compare(str(a), str(b), str(source_folder(MOE)))
    assert with_source.recorded == {}


def test_a_sample_compares_so_many_whole_weights(ours, theirs):
    done = compare(str(ours()), str(theirs), depth=Depth("weights", 5, 3))
    again = compare(str(ours()), str(theirs), depth=Depth("weights", 5, 3))

    assert done.by_role["routed_expert"].weights == 5
    assert done.by_role == again.by_role
    assert done.kept.compared == 0
    assert any("--full" in note for note in done.notes)


# ── not of one model ─────────────────────────────────────────────────────────────────────────


def test_results_of_two_families_cannot_be_paired(ours, tmp_path):
    llama = foreign.modelopt(source_folder("llama_bf16"), r"_proj\.weight$").write(tmp_path / "l")

    with pytest.raises(SourceError, match="not two results of one model") as refused:
        compare(str(ours()), str(llama))

    assert refused.value.exit_code == 3


def test_other_shapes_are_named(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    name = "model.layers.0.mlp.experts.1.down_proj"
    for end in ("weight", "weight_scale"):
        tensor = files.tensors[f"{name}.{end}"]
        rows, cols = tensor.shape
        files.put(tensor.name, shape=(rows // 2, cols), data=tensor.data[: rows // 2 * cols])
    other = files.write(tmp_path / "other")

    with pytest.raises(SourceError, match=rf"{name} is \[\d+, \d+\] and \[\d+, \d+\]"):
        compare(str(theirs), str(other))


def test_another_number_of_layers_is_another_model(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    files.config["num_hidden_layers"] += 1
    other = files.write(tmp_path / "other")

    with pytest.raises(SourceError, match="num_hidden_layers is 2 and 3"):
        compare(str(theirs), str(other))


def test_a_shard_that_cannot_be_read_leaves_the_rest_comparable(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    files.shards = 6
    other = files.write(tmp_path / "other")
    path = other / "model-00005-of-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    done = compare(str(theirs), str(other))

    assert any(path.name in note for note in done.notes)
    assert done.paired.only_a or any("cannot be decoded" in note for note in done.notes)


def test_a_global_scale_that_is_no_number_is_noted(theirs, tmp_path):
    files = foreign.modelopt(source_folder(MOE), EXPERTS, ignore=IGNORE)
    wrong = "model.layers.0.mlp.experts.1.down_proj"
    files.put(f"{wrong}.weight_scale_2", data=np.array(np.nan, "<f4").tobytes())
    other = files.write(tmp_path / "other")

    done = compare(str(theirs), str(other), depth=FULL)

    assert done.by_role["routed_expert"].weights == 23
    assert any(note.startswith(wrong) for note in done.notes)
    json.dumps(comparison_json(done))


def test_two_that_are_not_nvfp4_at_all_are_refused():
    source = str(source_folder(MOE))

    with pytest.raises(SourceError, match="Neither"):
        compare(source, source)


def test_a_source_may_be_one_of_the_two(ours):
    done = compare(str(source_folder(MOE)), str(ours()), depth=FULL)

    assert 0.07 < done.by_role["routed_expert"].distance < 0.09
    assert done.a.layout == "none"
