"""Every fault put into a staged result is found before it is published."""

import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoints.broken import read
from profiles.walks import result, staged

from hubconv.errors import IntegrityError
from hubconv.folder import FolderSource
from hubconv.formats.checkpoint import write_header
from hubconv.steps.verify import verify_tree


def rewrite(walk, change):
    """Change tensors of the staged shards; `change` gives a tensor back, or None to drop it."""
    changed = 0
    for path in sorted(walk.shards.glob("*.safetensors")):
        tensors = read(path)
        new = [found for tensor in tensors if (found := change(tensor)) is not None]
        if new == tensors:
            continue
        changed += 1
        header = write_header([(t.name, t.dtype, t.shape) for t in new])
        path.write_bytes(header + b"".join(t.data for t in new))
    assert changed


def first(walk, suffix):
    return next(
        output.name
        for job in walk.plan.jobs
        for output in job.writes
        if output.name.endswith(suffix)
    )


def rules(walk):
    return {finding.rule for finding in walk.verified().errors}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("deepseek_v3", ".weight_packed"),
        ("deepseek_v3", ".gate_proj.weight_scale"),
        ("deepseek_v3", ".weight_global_scale"),
        ("deepseek_v3", ".kv_b_proj.weight"),
        ("deepseek_v3", ".kv_b_proj.weight_scale"),
        ("deepseek_v3", "norm.weight"),
        ("deepseek_v3", ".e_score_correction_bias"),
        ("deepseek_v4_sgl_fp8", ".weight_scale_2"),
        ("deepseek_v4_sgl_fp8", ".input_scale"),
        ("deepseek_v4_sgl_fp8", ".wo_a.scale"),
        ("deepseek_v4_sgl_fp8", ".tid2eid"),
    ],
)
def test_a_missing_tensor_of_any_kind_is_found(tmp_path, name, suffix):
    walk = staged(name, tmp_path)
    lost = first(walk, suffix)

    rewrite(walk, lambda tensor: None if tensor.name == lost else tensor)

    found = walk.verified().errors
    assert any(lost in f"{finding.where} {finding.what}" for finding in found)


def test_a_wrong_global_scale_is_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    wrong = first(walk, ".weight_global_scale")

    def doubled(tensor):
        if tensor.name != wrong:
            return tensor
        return replace(tensor, data=(2 * np.frombuffer(tensor.data, "<f4")).tobytes())

    rewrite(walk, doubled)

    # Twice the divisor, half the values: told from any other damage.
    assert {"scale.recorded", "decoded.scale"} <= rules(walk)


def test_wrong_block_scales_are_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    wrong = first(walk, "experts.0.gate_proj.weight_scale")

    def quartered(tensor):
        if tensor.name != wrong:
            return tensor
        data = bytes(b - 16 * (i % 2) for i, b in enumerate(tensor.data))
        return replace(tensor, data=data)

    rewrite(walk, quartered)

    assert rules(walk) == {"decoded.far"}


def test_swapped_weights_are_found(tmp_path):
    walk = staged("llama_bf16", tmp_path)
    tensors = walk.tensors
    gate, up = (f"model.layers.0.mlp.{one}_proj.weight_packed" for one in ("gate", "up"))
    other = {gate: tensors[up].data, up: tensors[gate].data}

    rewrite(walk, lambda t: replace(t, data=other.get(t.name, t.data)))

    assert "decoded.far" in rules(walk)


def test_a_nan_among_block_scales_is_found(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    wrong = first(walk, ".weight_scale")

    rewrite(walk, lambda t: replace(t, data=b"\x7f" + t.data[1:]) if t.name == wrong else t)

    assert "decoded.nan" in rules(walk)


def test_one_block_of_another_weight_is_found(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    wrong = first(walk, ".weight_packed")

    def flipped(tensor):
        if tensor.name != wrong:
            return tensor
        return replace(tensor, data=bytes(b ^ 0x88 for b in tensor.data[:8]) + tensor.data[8:])

    rewrite(walk, flipped)

    # A whole weight's error hides 16 values of the wrong sign; a block's does not.
    assert "decoded.blocks" in rules(walk)


def test_another_shape_or_type_is_found(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    wrong = first(walk, "norm.weight")

    rewrite(walk, lambda t: replace(t, dtype="F16") if t.name == wrong else t)

    assert any(finding.where == wrong for finding in walk.verified().errors)


def test_a_truncated_shard_is_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    path = walk.shards / walk.plan.units[1].shard
    path.write_bytes(path.read_bytes()[:-1])

    assert {"staged.content", "header.invalid"} <= rules(walk)


def test_a_missing_shard_is_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    (walk.shards / walk.plan.units[0].shard).unlink()

    assert "staged.missing" in rules(walk)


def test_a_tensor_in_two_shards_is_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    paths = [walk.shards / unit.shard for unit in walk.plan.units[:2]]
    paths[1].write_bytes(paths[0].read_bytes())

    assert "header.twice" in rules(walk)


def test_a_changed_config_is_found(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    config = json.loads(walk.plan.files["config.json"])
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    files = {**walk.plan.files, "config.json": json.dumps(config).encode()}

    assert rules(replace(walk, plan=replace(walk.plan, files=files)))


def test_unequal_scales_in_the_journal_are_found():
    walk = result("llama_bf16")
    record = walk.records[0]
    told = [
        replace(q, global_scale=2 * q.global_scale) if q.module.endswith("gate_proj") else q
        for q in record.tensors
    ]
    records = (replace(record, tensors=tuple(told)), *walk.records[1:])

    found = {finding.rule for finding in replace(walk, records=records).verified(0).errors}

    assert any("partner" in rule or "joint" in rule for rule in found), found


def test_an_error_stops_the_run_and_says_what_is_saved(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    lost = first(walk, ".weight_packed")
    rewrite(walk, lambda tensor: None if tensor.name == lost else tensor)

    with pytest.raises(IntegrityError, match=r"has \d+ faults") as stopped:
        walk.verified().raise_on_errors("Every shard is kept.")

    assert stopped.value.exit_code == 7
    assert stopped.value.next_step.startswith("Every shard is kept.")


def test_a_sound_result_stops_nothing():
    result("deepseek_v3").verified(2).raise_on_errors("")


def test_a_sample_is_spread_and_always_the_same():
    first_look, second = (result("deepseek_v3").verified(5) for _ in range(2))

    assert first_look == second
    assert first_look.decoded == 5


def test_a_published_tree_is_compared_with_its_manifest(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / "b.txt").write_bytes(b"longer")
    told = {"size": 2, "sha256": "0" * 64}
    manifest = json.dumps({"files": {"a.json": told, "b.txt": told, "c.txt": told}}).encode()

    wrong = verify_tree(FolderSource(tmp_path), {"hubconv.json": manifest, "a.json": b"{}"})

    assert [sentence.split()[0] for sentence in wrong] == ["a.json", "b.txt", "c.txt"]
    assert "sha256" in wrong[0]
    assert "6 bytes, not 2" in wrong[1]
    assert "missing" in wrong[2]
