"""A damaged or contradictory source is refused by name, with a way on, before anything is read."""

import json
import re

import pytest
from checkpoints.broken import BROKEN, INDEX
from profiles.walks import convert, copy_of, planned, source_folder

from hubconv.errors import HeaderError, IntegrityError, ScaleError, SourceError, UnknownTensorError
from hubconv.folder import FolderSource
from hubconv.steps.inventory import take_inventory

PLANNING = {
    "scale_missing": (ScaleError, "no scale goes with it"),
    "scale_only_in_index": (SourceError, "that no shard holds"),
    "scale_of_wrong_shape": (ScaleError, "it must be"),
    "index_names_another_shard": (HeaderError, "but model.safetensors.index.json sends it to"),
    "tensor_missing_from_index": (HeaderError, "does not list it"),
    "shard_missing": (HeaderError, "which is not in the repository"),
    "unknown_tensor": (UnknownTensorError, "is not a tensor the profile"),
    "name_twice": (HeaderError, "stands there twice"),
    "overlapping_tensors": (HeaderError, "overlaps"),
    "hole_between_tensors": (HeaderError, "leaves a hole"),
    "header_length_bomb": (HeaderError, "announces a header"),
    "header_not_json": (HeaderError, "no valid JSON"),
    "shard_truncated": (HeaderError, "truncated or damaged"),
    "shard_empty": (HeaderError, "not a safetensors file"),
    "no_safetensors": (SourceError, "pytorch_model.bin, which hubconv never opens"),
}
CONVERTING = {
    "nan_in_fp8": ("deepseek_v3", r"layers\.1\.mlp\.experts\.0\.up"),
    "nan_in_bf16": ("llama_bf16_tied", r"mlp\.up_proj"),
    "infinity_in_bf16": ("llama_bf16_tied", r"self_attn\.o_proj"),
    "nan_in_e8m0": ("deepseek_v4", r"^layers\.0\.ffn\.experts\.1\.w2"),
    "nan_in_f32_scale": ("deepseek_v3", r"layers\.1\.mlp\.experts\.0\.down"),
}


def test_every_kind_of_damage_has_its_test():
    assert set(PLANNING) | set(CONVERTING) == set(BROKEN)


@pytest.mark.parametrize("damage", PLANNING)
def test_damage_seen_in_headers_is_refused_by_name(tmp_path, damage):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    spoiled = BROKEN[damage](folder)
    wanted, says = PLANNING[damage]

    with pytest.raises(wanted) as refused:
        planned(folder)

    assert refused.value.exit_code == 3
    assert spoiled in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize("damage", CONVERTING)
def test_damage_seen_in_bytes_is_refused_by_name(tmp_path, damage):
    name, like = CONVERTING[damage]
    folder = copy_of(name, tmp_path / "source")
    spoiled = BROKEN[damage](folder, like)

    with pytest.raises(IntegrityError) as refused:
        convert(folder, tmp_path / "target")

    assert refused.value.exit_code == 7
    module = re.sub(r"\.(weight|scale|weight_scale_inv)$", "", spoiled)
    assert module in refused.value.what
    assert ".safetensors" in refused.value.what
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "has no config.json"),
        (b"[]", "is not a JSON object"),
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b'{"model_type": "kimi_k3"}', "are not converted"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path, config, says):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_bytes(config)

    with pytest.raises(SourceError, match=says):
        planned(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    (folder / "model-2.safetensors").write_bytes((folder / "model.safetensors").read_bytes())

    with pytest.raises(HeaderError, match=r"stands in model-2.safetensors and in model"):
        planned(folder)


def test_an_fp8_weight_under_another_scale_name_is_never_copied_as_it_is(tmp_path):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        content = path.read_bytes().replace(b"weight_scale_inv", b"weight_scale_new")
        path.write_bytes(content)

    with pytest.raises(ScaleError, match=r"looked for .*weight_scale_inv"):
        planned(folder)


def test_shards_without_an_index_are_found_and_second_copies_are_not(tmp_path):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    (folder / "consolidated.safetensors").write_bytes(b"not to be opened")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"not to be opened")

    inventory = take_inventory(FolderSource(folder))

    assert inventory.shards == ("model.safetensors",)
    assert not inventory.has_index


def test_a_header_longer_than_the_first_read_is_read_whole(monkeypatch):
    monkeypatch.setattr("hubconv.steps.inventory.FIRST_READ_BYTES", 16)
    inventory = take_inventory(FolderSource(source_folder("deepseek_v3")))

    index = json.loads((source_folder("deepseek_v3") / INDEX).read_text())
    assert set(inventory.tensors) == set(index["weight_map"])


def test_a_wrong_total_size_in_the_source_is_a_warning(tmp_path):
    folder = copy_of("llama_bf16", tmp_path / "source")
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (folder / INDEX).write_text(json.dumps(index))

    (warning,) = take_inventory(FolderSource(folder)).warnings

    assert str(index["metadata"]["total_size"]) in warning
    assert take_inventory(FolderSource(source_folder("llama_bf16"))).warnings == ()
