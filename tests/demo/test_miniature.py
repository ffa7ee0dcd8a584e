"""The miniature checkpoints are what they claim to be: names, bytes, formats and values."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from checkpoints import broken
from checkpoints.recipes import RECIPES
from safetensors import SafetensorError, safe_open

from hubconv.demo import deepseek_v4 as v4
from hubconv.demo import miniature_numbers as numbers
from hubconv.demo.miniature import Entry, write_checkpoint, write_shard
from hubconv.demo.miniature_v4_parts import Size
from hubconv.errors import HeaderError

INDEX = "model.safetensors.index.json"

# Shard name pattern, first number, tensors of each shard, bytes of all tensors.
EXPECTED = {
    "deepseek_v3": ("model-{:05d}-of-000003", 1, (43, 37, 41), 2_919_856),
    "deepseek_v32": ("model-{:05d}-of-000002", 1, (71, 71), 3_032_160),
    "kimi_k2_fp8": ("model-{}-of-2", 1, (36, 35), 1_595_616),
    "kimi_k2_thinking": ("model-{:05d}-of-000002", 1, (33, 32), 2_291_568),
    "kimi_k25": ("model-{:05d}-of-000002", 1, (34, 34), 2_310_000),
    "glm5_fp8": ("model-{:05d}-of-00002", 1, (70, 70), 2_697_440),
    "glm45_fp8": ("model-{:05d}-of-00002", 1, (62, 62), 2_483_232),
    "deepseek_v4": ("model-{:05d}-of-00003", 1, (99, 99, 98), 4_979_176),
    "deepseek_v4_sgl_fp8": ("model-{:05d}-of-00003", 1, (97, 97, 97), 6_229_216),
    "qwen3_moe_fp8": ("model-{:05d}-of-00002", 1, (39, 38), 1_449_104),
    "qwen35_moe_bf16": ("model.safetensors-{:05d}-of-00003", 1, (20, 24, 25), 3_375_640),
    "glm45_bf16": ("model-{:05d}-of-00002", 1, (40, 39), 3_977_248),
    "qwen3_moe_bf16": ("model-{:05d}-of-00002", 1, (23, 22), 2_563_072),
    "qwen3_fp8": ("model-{:05d}-of-00002", 1, (20, 19), 1_248_376),
    "qwen35_moe_fp8": ("model.safetensors-{:05d}-of-00003", 1, (48, 49, 48), 2_016_296),
    "qwen35_bf16": ("model.safetensors-{:05d}-of-00003", 1, (15, 15, 17), 3_662_872),
    "nemotron3_bf16": ("model-{:05d}-of-00002", 1, (15, 15), 1_501_424),
    "llama_fp8_rows": ("model-{:05d}-of-00002", 1, (18, 17), 1_327_616),
    "llama_fp8_static": ("model-{:05d}-of-00002", 1, (27, 26), 1_313_408),
    "mistral_fp8": ("model-{:05d}-of-00002", 1, (25, 24), 1_313_336),
    "mixtral_bf16": ("model-{:05d}-of-00002", 1, (21, 20), 2_693_632),
    "gpt_oss": ("model-{:05d}-of-00002", 0, (8, 8, 6), 259_724),
    "minimax_m2": ("model-{:05d}-of-00007", 0, (27, 27, 25), 1_454_144),
    "llama_bf16": ("model-{:05d}-of-00002", 1, (11, 10), 2_296_320),
    "llama_bf16_tied": ("model", 0, (20,), 2_132_480),
    "mimo_qkv_edge": ("model_pp0_ep0_shard{}", 0, (5,), 233_552),
    "step35_fp8": ("model-{:05d}-of-00002", 1, (50, 50), 3_399_456),
    "step35_bf16": ("model-{:05d}-of-00002", 1, (34, 32), 6_020_128),
    "gemma4_moe_bf16": ("model-{:05d}-of-00002", 1, (24, 24), 3_009_556),
    "gemma4_bf16": ("model-{:05d}-of-00002", 1, (20, 19), 2_125_764),
    "llama4_bf16": ("model-{:05d}-of-00002", 1, (14, 13), 2_355_840),
    "qwen3_vl_moe_bf16": ("model-{:05d}-of-00002", 1, (15, 14), 1_822_080),
    "qwen3_next_bf16": ("model-{:05d}-of-00002", 1, (42, 41), 3_330_136),
    "mimo_v2_flash": ("model_{}", 0, (25, 25, 25), 2_049_424),
    "glm5_bf16": ("model-{:05d}-of-00002", 1, (43, 43), 4_785_824),
    "qwen35_fp8": ("model.safetensors-{:05d}-of-00003", 1, (22, 23, 22), 2_155_928),
    "llama_fp8_channel": ("model-{:05d}-of-00002", 1, (18, 17), 1_327_616),
    "mixtral_fp8_static": ("model-{:05d}-of-00002", 1, (53, 52), 1_514_240),
    "mixtral_fp8_channel": ("model-{:05d}-of-00002", 1, (37, 36), 1_536_512),
    "deepseek_v4_base": ("model-{:05d}-of-00003", 1, (97, 97, 97), 6_229_216),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every recipe, made once; tests that damage a checkpoint make their own."""
    root = tmp_path_factory.mktemp("recipes")
    for name, make in RECIPES.items():
        make(root / name)
    return root


def opened(folder):
    tensors = {}
    for path in broken.shards(folder):
        with safe_open(path, "pt") as shard:
            tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return tensors


def fingerprint(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    content = b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in paths)
    return hashlib.sha256(content).hexdigest()


def finite(tensor):
    if tensor.dtype == torch.float8_e8m0fnu:
        return not (tensor.view(torch.uint8) == 255).any()
    return bool(torch.isfinite(tensor.double()).all())


def spread(scale, weight, rows, cols):
    wide = scale.double().repeat_interleave(rows, 0).repeat_interleave(cols, 1)
    return wide[: weight.shape[0], : weight.shape[1]]


E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def dequantised(tensors, name):
    """A V4 weight in float64, whichever way it is stored."""
    weight, scale = tensors[name], tensors.get(name.replace(".weight", ".scale"))
    if weight.dtype == torch.int8:
        packed = weight.view(torch.uint8).long()
        codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1)
        return E2M1.double()[codes] * scale.double().repeat_interleave(32, 1)
    if weight.dtype == torch.float8_e4m3fn:
        return weight.double() * spread(scale, weight, 128, 128)
    return weight.double()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_shards_tensors_and_bytes(made, name):
    pattern, first, counts, total_bytes = EXPECTED[name]
    expected = {pattern.format(n) + ".safetensors": count for n, count in enumerate(counts, first)}
    found = {path.name: broken.read(path) for path in broken.shards(made / name)}
    assert {shard: len(tensors) for shard, tensors in found.items()} == expected
    assert sum(len(t.data) for tensors in found.values() for t in tensors) == total_bytes


@pytest.mark.parametrize("name", RECIPES)
def test_the_safetensors_library_opens_every_recipe_and_finds_finite_numbers(made, name):
    tensors = opened(made / name)
    assert len(tensors) == sum(EXPECTED[name][2])
    assert [key for key, tensor in tensors.items() if not finite(tensor)] == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_scale_is_a_positive_normal_number(made, name):
    scales = {
        key: tensor
        for key, tensor in opened(made / name).items()
        if re.search(r"weight_scale(_inv)?$|\.w\w+\.scale$|_proj\.scale$", key)
    }
    smallest = torch.finfo(torch.float32).tiny
    assert [key for key, scale in scales.items() if (scale.double() < smallest).any()] == []


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"llama_bf16_tied"}))
def test_the_index_names_what_the_shards_hold(made, name):
    index = json.loads((made / name / INDEX).read_text())
    held = {t.name: p.name for p in broken.shards(made / name) for t in broken.read(p)}
    ghosts = index["weight_map"].keys() - held.keys()
    assert {k: index["weight_map"][k] for k in held} == held
    assert index["metadata"]["total_size"] == EXPECTED[name][3]
    assert len(ghosts) == (5 if name in {"deepseek_v4_sgl_fp8", "deepseek_v4_base"} else 0)
    assert all(ghost.endswith(".attn.wo_a.scale") for ghost in ghosts)


@pytest.mark.parametrize("name", RECIPES)
def test_headers_and_tensors_are_aligned(made, name):
    for path in broken.shards(made / name):
        header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
        assert header_bytes % 8 == 0
        position = 0
        for tensor in broken.read(path):
            elements = max(1, np.prod(tensor.shape, dtype=int))
            assert position % (len(tensor.data) // elements or 1) == 0
            position += len(tensor.data)


@pytest.mark.parametrize("name", ["deepseek_v4", "deepseek_v4_sgl_fp8", "deepseek_v3", "gpt_oss"])
def test_the_same_seed_gives_the_same_files_and_another_seed_others(made, tmp_path, name):
    RECIPES[name](tmp_path / "again")
    RECIPES[name](tmp_path / "other", seed=1)
    assert fingerprint(tmp_path / "again") == fingerprint(made / name)
    assert fingerprint(tmp_path / "other") != fingerprint(made / name)


def assert_equal_values(official, repack):
    weights = [name for name in official if name.endswith(".weight")]
    assert any(official[name].dtype == torch.int8 for name in weights)
    assert any(name.endswith("wo_a.weight") for name in weights)
    for name in weights:
        ours, theirs = dequantised(official, name), dequantised(repack, name)
        assert torch.equal(ours, theirs), name
        assert torch.equal(ours.signbit(), theirs.signbit()), name


def test_both_v4_spellings_hold_equal_values(made):
    official, repack = opened(made / "deepseek_v4"), opened(made / "deepseek_v4_sgl_fp8")
    assert_equal_values(official, repack)
    plain = [name for name in official if not name.endswith((".weight", ".scale"))]
    assert all(torch.equal(official[name], repack[name]) for name in plain)


def test_fast_v4_spellings_hold_equal_values_too(tmp_path):
    size = Size(hidden=384, width=256, experts=2, layers=3, vocabulary=64, shards=2)
    v4.official(tmp_path / "official", size=size, fast=True)
    v4.fp8_repack(tmp_path / "repack", size=size, fast=True)
    official, repack = opened(tmp_path / "official"), opened(tmp_path / "repack")
    assert [name for name, tensor in repack.items() if not finite(tensor)] == []
    assert_equal_values(official, repack)


def test_experts_have_uneven_groups_zero_blocks_and_negative_zeros(made):
    official = opened(made / "deepseek_v4")
    partners = {}
    for name, tensor in official.items():
        match = re.fullmatch(r"(.*\.experts\.\d+)\.w(\d)\.scale", name)
        if match:
            key = (match[1], match[2] == "2")
            partners.setdefault(key, []).append(tensor.view(torch.uint8).flatten().int())
    ranges = [torch.cat(found) for found in partners.values()]
    assert all(4 <= int(codes.max() - codes.min()) <= 10 for codes in ranges)
    experts = [t for t in official.values() if t.dtype == torch.int8]
    codes = [t.view(torch.uint8) for t in experts]
    assert all((c.reshape(-1, 8) & 0x77 == 0).all(1).any() for c in codes)
    assert all(((c & 15 == 8) | (c >> 4 == 8)).any() for c in codes)


def test_the_two_v4_configs_differ_in_the_expert_type_alone(made):
    official, repack = (
        json.loads((made / name / "config.json").read_text())
        for name in ("deepseek_v4", "deepseek_v4_sgl_fp8")
    )
    assert official == repack | {"expert_dtype": "fp4"}
    assert official["compress_ratios"] == [0, 0, 4, 128, 0]


def test_deepseek_v3_scatters_an_expert_over_its_shards(made):
    where = json.loads((made / "deepseek_v3" / INDEX).read_text())["weight_map"]
    expert = "model.layers.1.mlp.experts.1."
    assert [where[expert + part][6:11] for part in (
        "down_proj.weight",
        "down_proj.weight_scale_inv",
        "gate_proj.weight",
        "up_proj.weight",
    )] == ["00001", "00003", "00001", "00003"]  # fmt: skip


def test_qwen35_keeps_query_apart_from_key_and_value(made):
    where = json.loads((made / "qwen35_moe_bf16" / INDEX).read_text())["weight_map"]
    attention = "model.language_model.layers.1.self_attn."
    assert [where[f"{attention}{p}_proj.weight"][18:23] for p in "qkv"] == [
        "00002",
        "00003",
        "00003",
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("qwen3_moe_fp8", torch.bfloat16), ("deepseek_v32", torch.float32)]
)
def test_fp8_weights_stand_close_to_gaussian_ones(made, name, kind):
    tensors = opened(made / name)
    for key, weight in tensors.items():
        if weight.dtype == torch.float8_e4m3fn:
            scale = tensors[f"{key}_scale_inv"]
            assert scale.dtype == kind
            deviation = float((weight.double() * spread(scale, weight, 128, 128)).std())
            assert 0.018 < deviation < 0.022, key


def test_deepseek_v32_stores_powers_of_two_as_f32(made):
    tensors = opened(made / "deepseek_v32")
    scales = torch.cat([t.flatten() for k, t in tensors.items() if k.endswith("_scale_inv")])
    assert bool((scales.frexp().mantissa == 0.5).all())


def test_mimo_scales_count_the_blocks_of_four_chunks(made):
    tensors = opened(made / "mimo_qkv_edge")
    weight = tensors["model.layers.0.self_attn.qkv_proj.weight"]
    scale = tensors["model.layers.0.self_attn.qkv_proj.weight_scale_inv"]
    values = torch.cat(
        [w.double() * spread(s, w, 128, 128) for w, s in zip(
            weight.view(torch.uint8).view(4, 160, 256).view(torch.float8_e4m3fn),
            scale.view(4, 2, 2),
            strict=True,
        )]
    )  # fmt: skip
    assert scale.shape == (8, 2)
    assert 0.018 < float(values.std()) < 0.022


def test_kimi_int4_unpacks_to_gaussian_weights(made):
    tensors = opened(made / "kimi_k2_thinking")
    module = "model.layers.1.mlp.experts.0.gate_proj."
    packed = tensors[f"{module}weight_packed"].view(torch.int32)
    codes = torch.stack([packed >> shift & 15 for shift in range(0, 32, 4)], -1).flatten(1) - 8
    values = codes.double() * tensors[f"{module}weight_scale"].double().repeat_interleave(32, 1)
    assert values.shape == tuple(tensors[f"{module}weight_shape"].tolist())
    assert 0.018 < float(values.std()) < 0.022


def test_e4m3_rounding_is_that_of_torch():
    exact = numbers.from_e4m3(np.arange(127, dtype=np.uint8))
    middle = (exact[1:] + exact[:-1]) / 2
    near = [np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(999))]
    random = numbers.gaussian(np.random.default_rng(0), (9999,), deviation=3)
    values = np.concatenate([exact, middle, *near, random])
    values = np.concatenate([values, -values])
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(numbers.to_e4m3(values), expected)
    assert numbers.to_e4m3(np.float32([1e9, -1e9])).tolist() == [0x7E, 0xFE]


def test_e4m3_decoding_is_that_of_torch():
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(numbers.from_e4m3(codes), expected, equal_nan=True)


def test_bf16_rounding_is_that_of_torch():
    values = np.random.default_rng(0).integers(0, 0x7F00, 9999, np.uint32) << 16
    values = (values + np.random.default_rng(1).integers(0, 1 << 16, 9999, np.uint32)).view("<f4")
    values[:3] = np.uint32([0x3F808000, 0x3F818000, 0x3F808001]).view(np.float32)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(numbers.to_bf16(values), expected)
    assert np.array_equal(numbers.from_bf16(expected), torch.from_numpy(values).bfloat16().float())


def test_random_fp8_codes_hold_no_nan():
    codes = numbers.random_e4m3(np.random.default_rng(0), (256, 256))
    assert not (codes & 0x7F == 0x7F).any()


def test_a_tensor_of_the_wrong_length_is_refused(tmp_path):
    with pytest.raises(HeaderError, match="gave 3"):
        write_shard(tmp_path / "model.safetensors", [Entry("w", "U8", (4,), b"abc")])


def test_a_lone_shard_has_no_index(tmp_path):
    shards = {"model.safetensors": [Entry("w", "U8", (4,), b"abcd")]}
    write_checkpoint(tmp_path, shards, config={}, index=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


SUITED = {
    "scale_only_in_index": "minimax_m2",
    "nan_in_bf16": "llama_bf16",
    "infinity_in_bf16": "llama_bf16",
    "nan_in_e8m0": "deepseek_v4",
}
NOT_SAFETENSORS = {
    "overlapping_tensors", "hole_between_tensors", "header_length_bomb", "header_not_json",
    "shard_truncated", "shard_empty",
}  # fmt: skip


@pytest.mark.parametrize("name", broken.BROKEN)
def test_a_broken_checkpoint_differs_from_the_sound_one(tmp_path, made, name):
    recipe = SUITED.get(name, "deepseek_v3")
    RECIPES[recipe](tmp_path / "broken")
    assert broken.BROKEN[name](tmp_path / "broken")
    assert fingerprint(tmp_path / "broken") != fingerprint(made / recipe)


@pytest.mark.parametrize("name", sorted(NOT_SAFETENSORS))
def test_the_safetensors_library_rejects_a_damaged_file(tmp_path, name):
    RECIPES["llama_bf16"](tmp_path)
    broken.BROKEN[name](tmp_path)
    with pytest.raises(SafetensorError):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["nan_in_fp8", "nan_in_bf16", "nan_in_f32_scale", "nan_in_e8m0"])
def test_a_planted_nan_is_found_where_the_maker_says(tmp_path, name):
    RECIPES[SUITED.get(name, "minimax_m2")](tmp_path)
    spoiled = broken.BROKEN[name](tmp_path)
    found = [key for key, tensor in opened(tmp_path).items() if not finite(tensor)]
    assert found == [spoiled]
