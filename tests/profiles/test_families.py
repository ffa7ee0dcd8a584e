"""Every family under every layout and policy its profile offers: complete, right, loadable.

A family is a profile and a miniature; to have it proven here, name the miniature in `FAMILIES`.
"""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from checkpoints.broken import read_folder
from profiles import truth
from profiles.walks import bench_of, decoded, make, plan_of, planned, result, source_folder

from hubconv.errors import UsageError
from hubconv.profiles import load_profiles

FAMILIES = {
    "qwen3_moe_fp8": "qwen3_moe",
    "qwen3_moe_bf16": "qwen3_moe",
    "qwen3_fp8": "dense",
    "kimi_k2_fp8": "kimi_k2",
    "kimi_k2_thinking": "kimi_k2",
    "kimi_k25": "kimi_k2",
    "glm45_fp8": "glm4_moe",
    "glm45_bf16": "glm4_moe",
    "glm5_fp8": "glm_moe_dsa",
    "minimax_m2": "minimax_m2",
    "qwen35_moe_bf16": "qwen3_5_moe",
    "qwen35_moe_fp8": "qwen3_5_moe",
    "qwen35_bf16": "qwen3_5",
    "nemotron3_bf16": "nemotron_h",
    "llama_fp8_rows": "dense",
    "llama_fp8_static": "dense",
    "mistral_fp8": "dense",
    "mixtral_bf16": "mixtral",
    "step35_fp8": "step3p5",
    "step35_bf16": "step3p5",
    "gemma4_moe_bf16": "gemma4_moe",
    "gemma4_bf16": "gemma4",
    "llama4_bf16": "llama4",
    "qwen3_vl_moe_bf16": "qwen3_vl_moe",
    "qwen3_next_bf16": "qwen3_next",
    "mimo_v2_flash": "mimo_v2",
    "glm5_bf16": "glm_moe_dsa",
    "qwen35_fp8": "qwen3_5",
    "llama_fp8_channel": "dense",
    "mixtral_fp8_static": "mixtral",
    "mixtral_fp8_channel": "mixtral",
}
"""Miniature to the profile that must serve it."""

REFUSED_BY_MODELOPT = {
    "glm45_fp8": ("experts", "mlp", "linears", "all"),
    "llama_fp8_rows": ("mlp",),
    "llama_fp8_channel": ("mlp",),
    "mixtral_fp8_channel": ("experts", "mlp"),
}
"""Miniatures of which FP8 with a scale per row stays, which that layout cannot spell; by policy."""

FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
)
"""Siblings that engines load as one, whatever a profile says."""

WITHOUT_GATES = ("nemotron3_bf16",)
"""Miniatures whose experts have nothing to fuse."""

ROLES = {
    "qwen3_moe_fp8": {
        "model.embed_tokens": ("embedding", "keep"),
        "model.layers.0.self_attn.q_proj": ("attention", "recode"),
        "model.layers.0.self_attn.q_norm": ("norm", "keep"),
        "model.layers.0.mlp.gate": ("router", "keep"),
        "model.layers.1.mlp.experts.3.down_proj": ("routed_expert", "nvfp4"),
        "lm_head": ("head", "keep"),
    },
    "qwen3_moe_bf16": {
        "model.layers.0.self_attn.q_proj": ("attention", "keep"),
        "model.layers.0.mlp.experts.0.gate_proj": ("routed_expert", "nvfp4"),
    },
    "qwen3_fp8": {
        "model.layers.0.self_attn.q_proj": ("attention", "nvfp4"),
        "model.layers.1.mlp.down_proj": ("dense_mlp", "nvfp4"),
        "lm_head": ("head", "keep"),
    },
    "kimi_k2_fp8": {
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("dropped", "drop"),
        "model.layers.0.self_attn.kv_b_proj": ("kv_b", "rename"),
        "model.layers.0.mlp.up_proj": ("dense_mlp", "rename"),
        "model.layers.1.mlp.shared_experts.up_proj": ("shared_expert", "rename"),
        "model.layers.1.mlp.gate.e_score_correction_bias": ("router", "keep"),
        "model.layers.1.mlp.experts.2.up_proj": ("routed_expert", "nvfp4"),
    },
    "kimi_k2_thinking": {
        "model.layers.0.self_attn.q_a_proj": ("attention", "keep"),
        "model.layers.1.mlp.shared_experts.up_proj": ("shared_expert", "keep"),
        "model.layers.1.mlp.experts.2.up_proj": ("routed_expert", "nvfp4"),
    },
    "kimi_k25": {
        "vision_tower.encoder.blocks.0.wqkv": ("vision", "keep"),
        "vision_tower.patch_embed.pos_emb": ("vision", "keep"),
        "mm_projector.proj.0": ("vision", "keep"),
        "language_model.lm_head": ("head", "keep"),
        "language_model.model.layers.0.mlp.up_proj": ("dense_mlp", "keep"),
        "language_model.model.layers.1.mlp.experts.0.down_proj": ("routed_expert", "nvfp4"),
    },
    "glm45_fp8": {
        "model.layers.0.self_attn.q_proj": ("attention", "keep"),
        "model.layers.0.self_attn.q_proj.bias": ("attention", "keep"),
        "model.layers.1.mlp.gate": ("router", "keep"),
        "model.layers.1.mlp.experts.0.down_proj": ("routed_expert", "nvfp4"),
        "model.layers.2.mlp.experts.0.down_proj": ("routed_expert", "keep"),
        "model.layers.2.eh_proj": ("mtp_projection", "keep"),
        "model.layers.2.shared_head.head": ("head", "keep"),
    },
    "glm45_bf16": {"model.layers.1.mlp.experts.0.up_proj": ("routed_expert", "nvfp4")},
    "glm5_fp8": {
        "model.layers.0.self_attn.indexer.wq_b": ("indexer", "rename"),
        "model.layers.0.self_attn.indexer.weights_proj": ("indexer", "keep"),
        "model.layers.0.self_attn.kv_b_proj": ("kv_b", "rename"),
        "model.layers.1.mlp.experts.0.up_proj": ("routed_expert", "nvfp4"),
        "model.layers.2.mlp.experts.0.up_proj": ("routed_expert", "rename"),
        "model.layers.2.shared_head.norm": ("norm", "keep"),
    },
    "minimax_m2": {
        "model.layers.0.block_sparse_moe.gate": ("router", "keep"),
        "model.layers.0.block_sparse_moe.e_score_correction_bias": ("router", "keep"),
        "model.layers.0.block_sparse_moe.experts.1.w2": ("routed_expert", "nvfp4"),
        "model.layers.0.self_attn.o_proj": ("attention", "rename"),
        "model.layers.0.self_attn.q_norm": ("norm", "keep"),
    },
    "qwen35_moe_bf16": {
        "model.language_model.layers.0.linear_attn.A_log": ("recurrence", "keep"),
        "model.language_model.layers.0.linear_attn.conv1d": ("recurrence", "keep"),
        "model.language_model.layers.0.linear_attn.in_proj_a": ("recurrence", "keep"),
        "model.language_model.layers.0.linear_attn.in_proj_qkv": ("linear_attention", "keep"),
        "model.language_model.layers.0.linear_attn.norm": ("norm", "keep"),
        "model.language_model.layers.0.mlp.shared_expert_gate": ("router", "keep"),
        "model.language_model.layers.0.mlp.experts.3.up_proj": ("routed_expert", "nvfp4"),
        "model.language_model.layers.1.self_attn.q_proj": ("attention", "keep"),
        "model.visual.patch_embed.proj": ("vision", "keep"),
        "model.visual.blocks.0.attn.qkv": ("vision", "keep"),
        "mtp.fc": ("mtp_projection", "keep"),
        "mtp.pre_fc_norm_embedding": ("norm", "keep"),
        "mtp.layers.0.mlp.experts.1.up_proj": ("routed_expert", "keep"),
    },
    "qwen35_moe_fp8": {
        "model.language_model.layers.0.linear_attn.in_proj_z": ("linear_attention", "rename"),
        "model.language_model.layers.0.mlp.experts.3.up_proj": ("routed_expert", "nvfp4"),
    },
    "qwen35_bf16": {
        "model.language_model.layers.0.linear_attn.in_proj_b": ("recurrence", "keep"),
        "model.language_model.layers.0.mlp.up_proj": ("dense_mlp", "nvfp4"),
        "model.language_model.layers.1.self_attn.k_proj": ("attention", "keep"),
        "mtp.layers.0.mlp.up_proj": ("dense_mlp", "keep"),
        "model.visual.merger.linear_fc1": ("vision", "keep"),
    },
    "nemotron3_bf16": {
        "backbone.embeddings": ("embedding", "keep"),
        "backbone.layers.0.mixer.A_log": ("recurrence", "keep"),
        "backbone.layers.0.mixer.conv1d.bias": ("recurrence", "keep"),
        "backbone.layers.0.mixer.in_proj": ("mamba", "keep"),
        "backbone.layers.0.mixer.norm": ("norm", "keep"),
        "backbone.layers.1.mixer.gate.e_score_correction_bias": ("router", "keep"),
        "backbone.layers.1.mixer.experts.3.down_proj": ("routed_expert", "nvfp4"),
        "backbone.layers.1.mixer.shared_experts.up_proj": ("shared_expert", "keep"),
        "backbone.layers.2.mixer.q_proj": ("attention", "keep"),
        "backbone.norm_f": ("norm", "keep"),
    },
    "llama_fp8_rows": {"model.layers.0.self_attn.q_proj": ("attention", "nvfp4")},
    "llama_fp8_static": {
        "model.layers.0.self_attn.k_scale": ("dropped", "drop"),
        "model.layers.0.self_attn.k_proj": ("attention", "nvfp4"),
    },
    "mistral_fp8": {"model.layers.1.mlp.gate_proj": ("dense_mlp", "nvfp4")},
    "mixtral_bf16": {
        "model.layers.0.block_sparse_moe.gate": ("router", "keep"),
        "model.layers.0.block_sparse_moe.experts.1.w3": ("routed_expert", "nvfp4"),
        "model.layers.0.self_attn.v_proj": ("attention", "keep"),
    },
    "step35_fp8": {
        "model.layers.0.mlp.down_proj": ("dense_mlp", "rename"),
        "model.layers.0.self_attn.g_proj": ("attention_gate", "keep"),
        "model.layers.1.moe.gate": ("router", "keep"),
        "model.layers.1.moe.router_bias": ("router", "keep"),
        "model.layers.1.moe.experts.3.down_proj": ("routed_expert", "nvfp4"),
        "model.layers.2.share_expert.up_proj": ("shared_expert", "rename"),
        "model.layers.3.mlp.gate_proj": ("dense_mlp", "rename"),
        "model.layers.3.eh_proj": ("mtp_projection", "keep"),
        "model.layers.3.transformer.shared_head.output": ("head", "keep"),
    },
    "step35_bf16": {"model.layers.1.moe.experts.0.gate_proj": ("routed_expert", "nvfp4")},
    "gemma4_moe_bf16": {
        "model.language_model.layers.0.experts.2.up_proj": ("routed_expert", "nvfp4"),
        "model.language_model.layers.0.mlp.up_proj": ("dense_mlp", "keep"),
        "model.language_model.layers.0.router.proj": ("router", "keep"),
        "model.language_model.layers.0.router.per_expert_scale": ("router", "keep"),
        "model.language_model.layers.0.layer_scalar": ("scalar", "keep"),
        "model.language_model.layers.1.self_attn.k_proj": ("attention", "keep"),
        "model.language_model.layers.1.post_feedforward_layernorm_2": ("norm", "keep"),
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear": ("vision", "keep"),
        "model.embed_vision.embedding_projection": ("vision", "keep"),
    },
    "gemma4_bf16": {
        "model.language_model.embed_tokens_per_layer": ("embedding", "keep"),
        "model.language_model.per_layer_model_projection": ("per_layer", "keep"),
        "model.language_model.layers.1.per_layer_input_gate": ("per_layer", "keep"),
        "model.language_model.layers.1.mlp.gate_proj": ("dense_mlp", "nvfp4"),
    },
    "llama4_bf16": {
        "language_model.model.layers.0.feed_forward.up_proj": ("dense_mlp", "keep"),
        "language_model.model.layers.0.self_attn.q_proj": ("attention", "keep"),
        "language_model.model.layers.1.feed_forward.router": ("router", "keep"),
        "language_model.model.layers.1.feed_forward.experts.3.down_proj": (
            "routed_expert",
            "nvfp4",
        ),
        "language_model.model.layers.1.feed_forward.shared_expert.up_proj": (
            "shared_expert",
            "keep",
        ),
        "vision_model.model.layers.0.self_attn.q_proj": ("vision", "keep"),
        "multi_modal_projector.linear_1": ("vision", "keep"),
    },
    "qwen3_vl_moe_bf16": {
        "model.language_model.layers.1.mlp.experts.0.gate_proj": ("routed_expert", "nvfp4"),
        "model.visual.blocks.0.attn.qkv": ("vision", "keep"),
    },
    "qwen3_next_bf16": {
        "model.layers.0.linear_attn.in_proj_qkvz": ("linear_attention", "keep"),
        "model.layers.0.linear_attn.in_proj_ba": ("recurrence", "keep"),
        "model.layers.1.mlp.experts.3.down_proj": ("routed_expert", "nvfp4"),
        "model.layers.1.mlp.shared_expert_gate": ("router", "keep"),
        "mtp.layers.0.mlp.experts.3.down_proj": ("routed_expert", "keep"),
    },
    "mimo_v2_flash": {
        "model.layers.0.self_attn.q_proj": ("attention", "rename"),
        "model.layers.0.self_attn.o_proj": ("attention", "keep"),
        "model.layers.0.self_attn.attention_sink_bias": ("sink", "keep"),
        "model.layers.1.mlp.gate": ("router", "keep"),
        "model.layers.1.mlp.experts.3.down_proj": ("routed_expert", "nvfp4"),
        "model.mtp.layers.0.eh_proj": ("mtp_projection", "keep"),
        "model.mtp.layers.0.mlp.up_proj": ("dense_mlp", "rename"),
    },
    "glm5_bf16": {"model.layers.0.self_attn.indexer.wq_b": ("indexer", "keep")},
    "qwen35_fp8": {
        "model.language_model.layers.0.mlp.up_proj": ("dense_mlp", "nvfp4"),
        "model.language_model.layers.0.linear_attn.in_proj_qkv": ("linear_attention", "rename"),
        "mtp.layers.0.mlp.up_proj": ("dense_mlp", "rename"),
    },
    "llama_fp8_channel": {"model.layers.0.self_attn.q_proj": ("attention", "nvfp4")},
    "mixtral_fp8_static": {
        "model.layers.0.block_sparse_moe.experts.1.w3": ("routed_expert", "nvfp4"),
        "model.layers.0.self_attn.v_proj": ("attention", "keep"),
    },
    "mixtral_fp8_channel": {"model.layers.0.self_attn.v_proj": ("attention", "keep")},
}


def profile_of(name):
    return next(each for each in load_profiles() if each.name == FAMILIES[name])


def offered(name):
    """Every recipe that a profile offers for a miniature; policies that do the same once."""
    profile = profile_of(name)
    policies = {profile.policies[policy]: policy for policy in reversed(list(profile.policies))}
    for layout in profile.layouts:
        refused = REFUSED_BY_MODELOPT.get(name, ()) if layout == "modelopt" else ()
        for policy in sorted(set(policies.values()) - set(refused)):
            yield {"layout": layout, "policy": policy}
        if profile.mtp_roles and not refused:
            yield {"layout": layout, "mtp": "drop"}
            yield {"layout": layout, "mtp": "nvfp4"}
    yield {"activations": "w4a4"}
    yield {"max_shard_bytes": 300_000}


CASES = [
    pytest.param(name, recipe, id=f"{name}-{'-'.join(map(str, recipe.values()))}")
    for name in FAMILIES
    for recipe in offered(name)
]


def source_tensors(name):
    return read_folder(source_folder(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_served_by_its_own_profile(name):
    found = {job.module: (job.role, job.action) for job in plan_of(name).jobs}

    assert plan_of(name).profile == FAMILIES[name]
    for module, expected in ROLES[name].items():
        assert found[module] == expected, module


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_every_tensor_of_the_source_is_accounted_for_once(name, recipe):
    reads = [tensor for job in plan_of(name, **recipe).jobs for tensor in job.reads]
    parts: dict[str, list[tuple[int, int]]] = {}
    for part in (tensor for tensor in reads if tensor.of is not None):
        parts.setdefault(part.of.name, []).append((part.begin, part.end))

    whole = [tensor.name for tensor in reads if tensor.of is None]
    assert Counter([*whole, *parts]) == Counter(list(source_tensors(name)))
    for fused in {tensor.of for tensor in reads if tensor.of is not None}:
        # Parts that lie in the same rows side by side span the same bytes; together they fill them.
        spans = sorted(set(parts[fused.name]))
        ends = [fused.begin, *(end for _, end in spans)]
        assert [begin for begin, _ in spans] == ends[:-1]
        assert ends[-1] == fused.end
        assert sum(t.nbytes for t in reads if t.of == fused) == fused.nbytes


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_decoded_weights_are_those_of_the_source(name, recipe):
    walk = result(name, **recipe)
    source, tensors = source_tensors(name), walk.tensors
    converted = [job for job in walk.plan.jobs if job.action == "nvfp4"]

    assert converted
    for job in converted:
        wanted = truth.weights(job.module, source)
        got = decoded(job, tensors, walk.plan.layout)
        assert got.shape == wanted.shape
        blocks, away = wanted.reshape(-1, 16), np.abs(got - wanted).reshape(-1, 16)
        # Neighbouring codes lie at most 2 of 6 apart: no weight is off by more than a sixth of its
        # block's largest, and the block scale, itself rounded, adds little.
        assert (away <= 0.21 * np.abs(blocks).max(1, keepdims=True)).all(), job.module
        assert np.linalg.norm(away) <= 0.11 * np.linalg.norm(blocks), job.module


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_kept_tensors_and_their_companions_are_the_same_bytes(name, recipe):
    walk = result(name, **recipe)
    source, tensors = source_tensors(name), walk.tensors
    kept = [job for job in walk.plan.jobs if job.writes and job.action != "nvfp4"]

    assert kept
    for job in kept:
        assert len(job.writes) == len(job.reads), job.module
        for output in job.writes:
            there, here = source[job.reads[output.source].name], tensors[output.name]
            if not output.recode:
                assert (here.dtype, here.data) == (there.dtype, there.data), output.name
            else:  # the one re-spelling of these families: scales, widened
                assert here.dtype == "F32"
                assert (truth.floats(here).ravel() == truth.floats(there).ravel()).all()


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_what_engines_fuse_has_one_scale(name, recipe):
    walk = result(name, **recipe)
    tensors = walk.tensors
    scalars = ("global_scale", "input_scale")
    fused = [s for s in FUSED if name not in WITHOUT_GATES or "gate_proj" not in s]

    modules = {job.module for job in walk.plan.jobs if job.weight is not None}
    shared = 0
    for job in (job for job in walk.plan.jobs if job.action == "nvfp4"):
        parent, _, leaf = job.module.rpartition(".")
        for members in (members for members in fused if leaf in members):
            # Powers of two are equal by chance, too: the plan must know them for one set.
            of_set = {member.module for member in walk.plan.sets[job.partners].members}
            there = {f"{parent}.{member}" for member in members} & modules
            assert of_set == there
            assert len(there) == len(members) or profile_of(name).may_lack
            here = {output.content: output.name for output in job.writes}
            for content in (content for content in scalars if content in here):
                stored = {
                    tensors[here[content].replace(job.module, f"{parent}.{m}")].data
                    for m in members
                    if f"{parent}.{m}" in there
                }
                assert len(stored) == 1, job.module
                shared += 1
    assert shared or (name in WITHOUT_GATES and recipe.get("policy") != "linears")


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_results_pass_the_rules_of_the_loaders(name, recipe):
    verification = result(name, **recipe).verified()

    assert verification.findings == ()
    assert verification.decoded


class Recording:
    """An opened shard that notes what is read of it."""

    def __init__(self, shard, reads):
        self._shard, self._reads = shard, reads

    def __getattr__(self, name):
        return getattr(self._shard, name)

    def read_into(self, begin, room):
        self._reads.append((begin, begin + len(room)))
        return self._shard.read_into(begin, room)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_unit_reads_what_it_announced_and_in_that_order(name, tmp_path, monkeypatch):
    bench = bench_of(source_folder(name), tmp_path)
    told, reads, opened = {}, {}, bench.source.open

    @contextmanager
    def recording(path, ranges=None, **how):
        with opened(path, ranges or (), **how) as shard:
            if ranges is None:  # a read by range of another unit's shard
                yield shard
                return
            told[path], reads[path] = list(ranges), []
            yield Recording(shard, reads[path])

    monkeypatch.setattr(bench.source, "open", recording)
    for unit in bench.plan.units:
        make(bench, unit)
        for path in unit.sources:
            assert reads[path] == [(begin, end) for begin, end in told[path][2:] if begin < end]


@pytest.mark.parametrize(
    ("name", "policy"),
    [(name, policy) for name, refused in REFUSED_BY_MODELOPT.items() for policy in refused],
)
def test_a_layout_that_cannot_hold_what_stays_is_refused(name, policy):
    with pytest.raises(UsageError, match=r"stays fp8 .* the modelopt layout cannot hold"):
        planned(source_folder(name), layout="modelopt", policy=policy)


@pytest.mark.parametrize(
    ("name", "shards"),
    [
        ("kimi_k2_fp8", ["model-1-of-2", "model-2-of-2"]),
        ("minimax_m2", [f"model-{number:05d}-of-00007" for number in range(3)]),
    ],
)
def test_shards_keep_names_that_no_count_would_give(name, shards):
    assert [unit.shard for unit in plan_of(name).units] == [f"{s}.safetensors" for s in shards]


def test_of_two_copies_of_a_model_one_is_read_and_none_described():
    plan = plan_of("mistral_fp8")

    assert {tensor.shard for job in plan.jobs for tensor in job.reads} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert {entry.path for entry in plan.copies} == {
        "tekken.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
