"""More miniatures: families whose experts are stacked, turned, or stored in further ways."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from checkpoints import broken, configs
from checkpoints import recipes as base
from checkpoints.notation import Recipe
from hubconv.demo import deepseek_v4 as v4
from hubconv.demo import miniature_numbers as numbers

SHARDS = base.GLM5_FP8.shards


def in_config(config, **more):
    return config | more


# --- Step 3.5: each projection of all experts in one tensor, with a stack of scales ---------------

STEP_ATTENTION = (
    base.GQA_SHAPES + base.HEAD_NORMS + base.NORMS + "self_attn.g_proj.weight bf16 4 256\n"
)
# 192 rows and columns, one block and a half: no block of scales reaches into the next expert.
STEP_MOE = """
    moe.gate.weight          f32 4 256
    moe.router_bias          f32 4
    moe.gate_proj            stack 4 192 256
    moe.up_proj              stack 4 192 256
    moe.down_proj            stack 4 256 192
    share_expert.gate_proj   fp8 128 256
    share_expert.up_proj     fp8 128 256
    share_expert.down_proj   fp8 256 128
"""
STEP_MTP = """
    enorm.weight                            norm 256
    hnorm.weight                            norm 256
    eh_proj.weight                          bf16 256 512
    transformer.shared_head.norm.weight     norm 256
    transformer.shared_head.output.weight   bf16 320 256
"""

STEP35 = configs.GQA | {
    "architectures": ["Step3p5ForCausalLM"],
    "model_type": "step3p5",
    "num_hidden_layers": 3,
    "num_attention_groups": 1,
    "intermediate_size": 384,
    "moe_intermediate_size": 192,
    "share_expert_dim": 128,
    "moe_num_experts": 4,
    "moe_top_k": 2,
    "moe_layers_enum": "1,2",
    "use_moe_router_bias": True,
    "use_qk_norm": True,
    "use_head_wise_attn_gate": True,
    "num_nextn_predict_layers": 1,
}

STEP35_FP8 = Recipe(
    shards=SHARDS,
    body=[
        ("model.", base.EMBED),
        ("model.layers.0.", STEP_ATTENTION + base.DENSE),
        ("model.layers.1.", STEP_ATTENTION + STEP_MOE),
        ("model.layers.2.", STEP_ATTENTION + STEP_MOE),
        ("model.layers.3.", STEP_ATTENTION + base.DENSE + STEP_MTP),
        ("model.", base.NORM),
        ("", base.HEAD),
    ],
    # A stack here, its scales there; gate in one shard, up in another.
    moved={
        "model.layers.1.moe.gate_proj.weight_scale_inv": 1,
        "model.layers.2.moe.up_proj.weight": 0,
    },
    config=STEP35 | {configs.ENTRY: configs.FP8},
    card=configs.APACHE,
    files=base.TOKENIZER | {"LICENSE": base.NOTICE},
)

STEP35_BF16 = replace(
    STEP35_FP8,
    body=[(prefix, base.in_bf16(text)) for prefix, text in STEP35_FP8.body],
    moved={"model.layers.2.moe.up_proj.weight": 0},
    config=STEP35,
)

# --- Gemma 4 --------------------------------------------------------------------------------------

GEMMA_NORMS = """
    input_layernorm.weight             norm 256
    post_attention_layernorm.weight    norm 256
    pre_feedforward_layernorm.weight   norm 256
    post_feedforward_layernorm.weight  norm 256
    layer_scalar                       bf16 1
"""
GEMMA_ATTENTION = base.in_bf16(base.GQA_SHAPES) + base.HEAD_NORMS
GEMMA_MLP = base.QWEN35_DENSE
# 80, as the 704 of the real one, divides by no large number of blocks.
GEMMA_EXPERTS = """
    post_feedforward_layernorm_1.weight  norm 256
    pre_feedforward_layernorm_2.weight   norm 256
    post_feedforward_layernorm_2.weight  norm 256
    router.proj.weight                   bf16 4 256
    router.scale                         bf16 256
    router.per_expert_scale              bf16 4
    experts.gate_up_proj                 bf16 4 160 256
    experts.down_proj                    bf16 4 256 80
"""
GEMMA_VISION = """
    vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight  bf16 64 64
    vision_tower.patch_embedder.input_proj.weight                 bf16 64 48
    embed_vision.embedding_projection.weight                      bf16 256 64
"""


def without(module: str, text: str) -> str:
    return re.sub(rf"(?m)^ *{re.escape(module)}.*\n", "", text)


GEMMA4 = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "tie_word_embeddings": True,
    "text_config": configs.GQA
    | {
        "model_type": "gemma4_text",
        "tie_word_embeddings": True,
        "intermediate_size": 384,
        "layer_types": ["sliding_attention", "full_attention"],
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 80,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
    },
    "vision_config": {"hidden_size": 64, "num_hidden_layers": 1},
}

GEMMA4_MOE_BF16 = Recipe(
    shards=SHARDS,
    body=[
        ("model.", GEMMA_VISION),
        ("model.language_model.", base.EMBED),
        (
            "model.language_model.layers.0.",
            GEMMA_ATTENTION + GEMMA_NORMS + GEMMA_MLP + GEMMA_EXPERTS,
        ),
        # Keys are values too.
        (
            "model.language_model.layers.1.",
            without("self_attn.v_proj", GEMMA_ATTENTION) + GEMMA_NORMS + GEMMA_MLP + GEMMA_EXPERTS,
        ),
        ("model.language_model.", base.NORM),
    ],
    config=GEMMA4,
    card=configs.APACHE,
    files=base.TOKENIZER,
)

GEMMA_PER_LAYER = """
    per_layer_input_gate.weight         bf16 32 256
    per_layer_projection.weight         bf16 256 32
    post_per_layer_input_norm.weight    norm 256
"""

GEMMA4_BF16 = replace(
    GEMMA4_MOE_BF16,
    body=[
        ("model.", GEMMA_VISION),
        ("model.language_model.", base.EMBED),
        ("model.language_model.", "embed_tokens_per_layer.weight bf16 320 64"),
        ("model.language_model.", "per_layer_model_projection.weight bf16 64 256"),
        ("model.language_model.", "per_layer_projection_norm.weight norm 32"),
        (
            "model.language_model.layers.0.",
            GEMMA_ATTENTION + GEMMA_NORMS + GEMMA_MLP + GEMMA_PER_LAYER,
        ),
        # Keys and values of the layer before.
        (
            "model.language_model.layers.1.",
            without("self_attn.k", without("self_attn.v_proj", GEMMA_ATTENTION))
            + GEMMA_NORMS
            + GEMMA_MLP
            + GEMMA_PER_LAYER,
        ),
        ("model.language_model.", base.NORM),
    ],
    config=GEMMA4
    | {
        "text_config": GEMMA4["text_config"]
        | {
            "enable_moe_block": False,
            "num_kv_shared_layers": 1,
            "hidden_size_per_layer_input": 32,
            "attention_k_eq_v": False,
        }
    },
)

# --- Llama 4 and Qwen3-VL-MoE: matrices of experts lie [inputs, outputs] --------------------------

LLAMA4_ATTENTION = base.in_bf16(base.GQA_SHAPES) + base.NORMS
LLAMA4_DENSE = base.QWEN35_DENSE.replace("mlp.", "feed_forward.")
LLAMA4_MOE = """
    feed_forward.router.weight                   bf16 4 256
    feed_forward.experts.gate_up_proj            bf16 4 256 192
    feed_forward.experts.down_proj               bf16 4 96 256
    feed_forward.shared_expert.gate_proj.weight  bf16 96 256
    feed_forward.shared_expert.up_proj.weight    bf16 96 256
    feed_forward.shared_expert.down_proj.weight  bf16 256 96
"""

LLAMA4_BF16 = Recipe(
    shards=SHARDS,
    body=[
        ("language_model.model.", base.EMBED),
        ("language_model.model.layers.0.", LLAMA4_ATTENTION + LLAMA4_DENSE),
        ("language_model.model.layers.1.", LLAMA4_ATTENTION + LLAMA4_MOE),
        ("language_model.model.", base.NORM),
        ("language_model.", base.HEAD),
        ("vision_model.", "model.layers.0.self_attn.q_proj.weight bf16 64 64"),
        ("vision_model.", "class_embedding bf16 64"),
        ("multi_modal_projector.", "linear_1.weight bf16 256 64"),
    ],
    config={
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "tie_word_embeddings": False,
        "text_config": configs.GQA
        | {
            "model_type": "llama4_text",
            "intermediate_size": 96,
            "intermediate_size_mlp": 384,
            "interleave_moe_layer_step": 2,
            "moe_layers": [1],
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
        },
        "vision_config": {"hidden_size": 64, "num_hidden_layers": 1},
    },
    card=configs.card("other", "license_name: llama4"),
    files=base.TOKENIZER | {"USE_POLICY.md": base.NOTICE, "LICENSE": base.NOTICE},
)

QWEN3_VL_LAYER = (
    base.in_bf16(base.GQA_SHAPES)
    + base.HEAD_NORMS
    + base.NORMS
    + """
    mlp.gate.weight           bf16 4 256
    mlp.experts.gate_up_proj  bf16 4 256 128
    mlp.experts.down_proj     bf16 4 64 256
"""
)

QWEN3_VL_MOE_BF16 = Recipe(
    shards=SHARDS,
    body=[
        ("model.language_model.", base.EMBED),
        ("model.language_model.layers.0.", QWEN3_VL_LAYER),
        ("model.language_model.layers.1.", QWEN3_VL_LAYER),
        ("model.language_model.", base.NORM),
        ("", base.HEAD),
        ("model.visual.", base.QWEN35_VISUAL),
    ],
    config={
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
        "tie_word_embeddings": False,
        "text_config": configs.GQA
        | {
            "model_type": "qwen3_vl_moe_text",
            "moe_intermediate_size": 64,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        "vision_config": {"depth": 1, "hidden_size": 64, "patch_size": 4},
    },
    card=configs.APACHE,
    files=base.TOKENIZER | {"preprocessor_config.json": "{}\n"},
)

# --- Qwen3-Next -----------------------------------------------------------------------------------

NEXT_LINEAR = """
    linear_attn.A_log                f32 4
    linear_attn.dt_bias              bf16 4
    linear_attn.conv1d.weight        bf16 384 1 4
    linear_attn.in_proj_ba.weight    bf16 8 256
    linear_attn.in_proj_qkvz.weight  bf16 512 256
    linear_attn.norm.weight          norm 32
    linear_attn.out_proj.weight      bf16 256 128
"""
NEXT_MLP = base.QWEN35_SHARED + base.QWEN35_PER_EXPERT

QWEN3_NEXT_BF16 = Recipe(
    shards=SHARDS,
    body=[
        ("model.", base.EMBED),
        ("model.layers.0.", NEXT_LINEAR + base.NORMS + NEXT_MLP),
        ("model.layers.1.", base.QWEN35_ATTENTION + base.NORMS + NEXT_MLP),
        ("model.", base.NORM),
        ("", base.HEAD),
        ("mtp.", base.QWEN35_MTP),
        ("mtp.layers.0.", base.QWEN35_ATTENTION + base.NORMS + NEXT_MLP),
    ],
    config=configs.QWEN35_MOE_BF16["text_config"]
    | {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "layer_types": ["linear_attention", "full_attention"],
    },
    card=configs.APACHE,
    files=base.TOKENIZER,
)

# --- MiMo-V2-Flash --------------------------------------------------------------------------------

MIMO_ATTENTION = """
    self_attn.q_proj               fp8 256 256
    self_attn.k_proj               fp8 64 256
    self_attn.v_proj               fp8 32 256
    self_attn.o_proj.weight        bf16 256 128
    self_attn.attention_sink_bias  f32 4
"""
MIMO_MOE = base.EXPERTS + base.ROUTER.replace(
    "gate.weight                  bf16", "gate.weight f32"
)
MIMO_MTP = """
    enorm.weight            norm 256
    hnorm.weight            norm 256
    eh_proj.weight          bf16 256 512
    final_layernorm.weight  norm 256
"""

MIMO_V2_FLASH = Recipe(
    shards=base.numbered("model_{}.safetensors", 3, first=0),
    body=[
        ("model.", base.EMBED),
        ("model.layers.0.", MIMO_ATTENTION + base.NORMS + base.DENSE),
        ("model.layers.1.", MIMO_ATTENTION + base.NORMS + MIMO_MOE),
        ("model.", base.NORM),
        ("", base.HEAD),
        ("model.mtp.layers.0.", MIMO_MTP + MIMO_ATTENTION + base.NORMS + base.DENSE),
    ],
    config=configs.MIMO
    | {"num_hidden_layers": 2, "intermediate_size": 384, "topk_method": "noaux_tc"},
    card=configs.MIT,
)

# --- Further ways of storing families that stand in recipes.py ------------------------------------

GLM5_BF16 = replace(
    base.GLM5_FP8,
    body=[(prefix, base.in_bf16(text)) for prefix, text in base.GLM5_FP8.body],
    config=configs.without_quantization(configs.GLM5_FP8),
)

QWEN35_FP8 = replace(
    base.QWEN35_BF16,
    body=[(prefix, base.in_fp8(text)) for prefix, text in base.QWEN35_BF16.body],
    moved={n: shard for n, shard in base.QWEN35_BF16.moved.items() if "k_proj" not in n},
    config=configs.QWEN35_BF16 | {configs.ENTRY: configs.FP8},
)

LLAMA_FP8_CHANNEL = replace(
    base.LLAMA_BF16,
    body=base.llama_of("row"),
    config=configs.LLAMA
    | {configs.ENTRY: configs.GLM45_FP8[configs.ENTRY] | {"ignore": ["lm_head"]}},
)


def mixtral_of(kind: str) -> list[tuple[str, str]]:
    quantized = r"(_proj|\.w[123])\.weight( +)bf16"
    layer = re.sub(quantized, rf"\1\2{kind}", base.MIXTRAL_LAYER)
    return [(p, layer if "layers" in p else text) for p, text in base.MIXTRAL_BF16.body]


MIXTRAL_FP8_STATIC = replace(
    base.MIXTRAL_BF16,
    body=mixtral_of("one"),
    config=configs.MIXTRAL
    | {
        configs.ENTRY: configs.LLAMA_FP8_STATIC[configs.ENTRY]
        | {"ignore": ["lm_head", "re:.*block_sparse_moe.gate"], "kv_cache_scheme": None}
    },
)

MIXTRAL_FP8_CHANNEL = replace(
    base.MIXTRAL_BF16,
    body=mixtral_of("row"),
    config=configs.MIXTRAL | {configs.ENTRY: LLAMA_FP8_CHANNEL.config[configs.ENTRY]},
)


def deepseek_v4_base(folder: Path, seed: int = 0) -> None:
    """V4-Base: experts that were born as FP8, MTP's too; nothing of it is FP4 in disguise."""
    v4.fp8_repack(folder, seed=seed)
    for path in broken.shards(folder):
        held = {tensor.name: tensor for tensor in broken.read(path)}
        for name in [n for n in held if ".experts." in n and n.endswith(".weight")]:
            scale = name.removesuffix("weight") + "scale"
            weights = numbers.gaussian(numbers.generator(seed, name), held[name].shape)
            codes, scales = numbers.fp8_blocks(weights, "F8_E8M0")
            held[name] = replace(held[name], data=codes.tobytes())
            held[scale] = replace(held[scale], data=np.asarray(scales, "<f4").tobytes())
        broken._rewrite(path, list(held.values()))
    config = json.loads((folder / "config.json").read_text()) | {"expert_dtype": "fp8"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


FURTHER = {
    "step35_fp8": STEP35_FP8,
    "step35_bf16": STEP35_BF16,
    "gemma4_moe_bf16": GEMMA4_MOE_BF16,
    "gemma4_bf16": GEMMA4_BF16,
    "llama4_bf16": LLAMA4_BF16,
    "qwen3_vl_moe_bf16": QWEN3_VL_MOE_BF16,
    "qwen3_next_bf16": QWEN3_NEXT_BF16,
    "mimo_v2_flash": MIMO_V2_FLASH,
    "glm5_bf16": GLM5_BF16,
    "qwen35_fp8": QWEN35_FP8,
    "llama_fp8_channel": LLAMA_FP8_CHANNEL,
    "mixtral_fp8_static": MIXTRAL_FP8_STATIC,
    "mixtral_fp8_channel": MIXTRAL_FP8_CHANNEL,
    "deepseek_v4_base": deepseek_v4_base,
}
