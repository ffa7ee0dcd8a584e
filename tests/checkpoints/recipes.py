"""One maker per source family; each keeps every trap of the real checkpoints in a few megabytes.

`RECIPES[name](folder)` writes a checkpoint. Hidden size 256 (gpt-oss: 96), vocabulary 320, four
experts.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from checkpoints import configs
from checkpoints.notation import Recipe
from hubconv.demo import deepseek_v4 as v4

STAND_IN = '"""Stand-in for remote code."""\n'
NOTICE = "A short notice standing in for the licence text.\n"
TOKENIZER = {"tokenizer.json": "{}\n", "tokenizer_config.json": "{}\n"}
KIMI_FILES = {
    "tiktoken.model": b"PGJvcz4= 0\n",
    "tokenization_kimi.py": STAND_IN,
    "LICENSE": NOTICE,
}
REMOTE_CODE = {"configuration_deepseek.py": STAND_IN, "modeling_deepseek.py": STAND_IN}

EMBED = "embed_tokens.weight bf16 320 256"
NORM = "norm.weight norm 256"
HEAD = "lm_head.weight bf16 320 256"

NORMS = """
    input_layernorm.weight           norm 256
    post_attention_layernorm.weight  norm 256
"""
MLA = """
    self_attn.q_a_proj               fp8 192 256
    self_attn.q_a_layernorm.weight   norm 192
    self_attn.q_b_proj               fp8 384 192
    self_attn.kv_a_proj_with_mqa     fp8 192 256
    self_attn.kv_a_layernorm.weight  norm 128
    self_attn.kv_b_proj              fp8 256 128
    self_attn.o_proj                 fp8 256 128
"""
INDEXER = """
    self_attn.indexer.wq_b                 fp8 128 192
    self_attn.indexer.wk                   fp8 32 256
    self_attn.indexer.k_norm.weight        norm32 32
    self_attn.indexer.k_norm.bias          f32 32
    self_attn.indexer.weights_proj.weight  bf16 4 256
"""
DENSE = """
    mlp.gate_proj  fp8 384 256
    mlp.up_proj    fp8 384 256
    mlp.down_proj  fp8 256 384
"""
ROUTER = """
    mlp.gate.weight                  bf16 4 256
    mlp.gate.e_score_correction_bias f32 4
"""
EXPERTS = """
    mlp.experts.E.gate_proj  fp8 128 256
    mlp.experts.E.up_proj    fp8 128 256
    mlp.experts.E.down_proj  fp8 256 128
"""
SHARED = EXPERTS.replace("experts.E", "shared_experts")
MOE = ROUTER + EXPERTS + SHARED
MTP = """
    enorm.weight             norm 256
    hnorm.weight             norm 256
    eh_proj.weight           bf16 256 512
    shared_head.norm.weight  norm 256
"""
MTP_COPIES = """
    embed_tokens.weight      bf16 320 256
    shared_head.head.weight  bf16 320 256
"""


def norms_in_f32(text: str) -> str:
    return text.replace(" norm ", " norm32 ")


def in_bf16(text: str) -> str:
    """The same modules without quantization."""
    lines = [words for line in text.splitlines() if (words := line.split())]
    return (
        "\n".join(
            f"{name}.weight bf16 {' '.join(dims)}"
            if kind in {"fp8", "row", "stack"}
            else " ".join([name, kind, *dims])
            for name, kind, *dims in lines
        )
        + "\n"
    )


def numbered(pattern: str, count: int, first: int = 1) -> tuple[str, ...]:
    return tuple(pattern.format(n) for n in range(first, first + count))


DEEPSEEK_V3 = Recipe(
    shards=numbered("model-{:05d}-of-000003.safetensors", 3),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", MLA + NORMS + DENSE),
        ("model.layers.1.", MLA + NORMS + MOE),
        ("model.layers.2.", MLA + NORMS + MOE + MTP + MTP_COPIES),
        ("model.", NORM),
        ("", HEAD),
    ],
    moved={
        "model.layers.1.mlp.experts.1.gate_proj.weight": 0,
        "model.layers.1.mlp.experts.1.up_proj.weight": 2,
        "model.layers.1.mlp.experts.1.down_proj.weight": 0,
        "model.layers.1.mlp.experts.1.down_proj.weight_scale_inv": 2,
    },
    config=configs.DEEPSEEK_V3,
    card=configs.card("other", "license_name: deepseek", "license_link: LICENSE-MODEL"),
    files=TOKENIZER
    | REMOTE_CODE
    | {
        "inference/model.py": STAND_IN,
        "LICENSE-MODEL": NOTICE,
        "figures/x.png": b"\x89PNG\r\n\x1a\n",
    },
)

DEEPSEEK_V32 = Recipe(
    shards=numbered("model-{:05d}-of-000002.safetensors", 2),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", norms_in_f32(MLA + INDEXER + NORMS + DENSE)),
        ("model.layers.1.", norms_in_f32(MLA + INDEXER + NORMS + MOE)),
        ("model.layers.2.", norms_in_f32(MLA + INDEXER + NORMS + MOE + MTP + MTP_COPIES)),
        ("model.", norms_in_f32(NORM)),
        ("", HEAD),
    ],
    powers_of_two=True,
    config=configs.DEEPSEEK_V32,
    card=configs.MIT,
    files=TOKENIZER | {"LICENSE": NOTICE, "encoding/encoding_dsv32.py": STAND_IN},
)

INV_FREQ = "self_attn.rotary_emb.inv_freq bf16 32"

KIMI_K2_FP8 = Recipe(
    shards=numbered("model-{}-of-2.safetensors", 2),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", MLA + INV_FREQ + NORMS + DENSE),
        ("model.layers.1.", MLA + INV_FREQ + NORMS + MOE),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.KIMI_K2_FP8,
    card=configs.MODIFIED_MIT,
    files=KIMI_FILES | REMOTE_CODE,
)

INT4_MOE = ROUTER + EXPERTS.replace("fp8", "int4") + in_bf16(SHARED)

KIMI_K2_THINKING = Recipe(
    shards=numbered("model-{:05d}-of-000002.safetensors", 2),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", in_bf16(MLA) + NORMS + in_bf16(DENSE)),
        ("model.layers.1.", in_bf16(MLA) + NORMS + INT4_MOE),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.KIMI_K2_THINKING,
    card=configs.MODIFIED_MIT,
    files=KIMI_FILES | REMOTE_CODE | {"chat_template.jinja": "{{ messages[0].content }}\n"},
)

KIMI_K25 = Recipe(
    shards=KIMI_K2_THINKING.shards,
    body=[
        *((f"language_model.{prefix}", text) for prefix, text in KIMI_K2_THINKING.body),
        ("vision_tower.", "encoder.blocks.0.wqkv.weight bf16 96 32"),
        ("vision_tower.", "patch_embed.pos_emb.weight bf16 8 8 32"),
        ("mm_projector.", "proj.0.weight bf16 64 64"),
    ],
    config=configs.KIMI_K25,
    card=configs.MODIFIED_MIT,
    files=KIMI_FILES,
)

GLM5_FP8 = Recipe(
    shards=numbered("model-{:05d}-of-00002.safetensors", 2),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", MLA + INDEXER + NORMS + DENSE),
        ("model.layers.1.", MLA + INDEXER + NORMS + MOE),
        ("model.layers.2.", MLA + INDEXER + NORMS + MOE + MTP),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.GLM5_FP8,
    card=configs.MIT,
    files=TOKENIZER,
)

GQA_SHAPES = """
    self_attn.q_proj  fp8 256 256
    self_attn.k_proj  fp8 64 256
    self_attn.v_proj  fp8 64 256
    self_attn.o_proj  fp8 256 256
"""
HEAD_NORMS = """
    self_attn.q_norm.weight  norm 64
    self_attn.k_norm.weight  norm 64
"""
QKV_BIAS = """
    self_attn.q_proj.bias  bf16 256
    self_attn.k_proj.bias  bf16 64
    self_attn.v_proj.bias  bf16 64
"""
GLM45_ATTENTION = GQA_SHAPES.replace("fp8", "row") + QKV_BIAS + HEAD_NORMS + NORMS
GLM45_MOE = (EXPERTS + SHARED).replace("fp8", "row").replace("128", "96") + ROUTER

GLM45_FP8 = Recipe(
    shards=GLM5_FP8.shards,
    body=[
        ("model.", EMBED),
        ("model.layers.0.", GLM45_ATTENTION + DENSE.replace("fp8", "row")),
        ("model.layers.1.", GLM45_ATTENTION + GLM45_MOE),
        ("model.layers.2.", GLM45_ATTENTION + GLM45_MOE + MTP + MTP_COPIES),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.GLM45_FP8,
    card=configs.MIT,
    files=TOKENIZER,
)

GLM45_BF16 = replace(
    GLM45_FP8,
    body=[(prefix, in_bf16(text)) for prefix, text in GLM45_FP8.body],
    config=configs.without_quantization(configs.GLM45_FP8),
)

QWEN3_LAYER = GQA_SHAPES + HEAD_NORMS + NORMS + "mlp.gate.weight bf16 4 256\n" + EXPERTS

QWEN3_MOE_FP8 = Recipe(
    shards=GLM5_FP8.shards,
    body=[
        ("model.", EMBED),
        ("model.layers.0.", QWEN3_LAYER),
        ("model.layers.1.", QWEN3_LAYER),
        ("model.", NORM),
        ("", HEAD),
    ],
    scale_dtype="BF16",
    config=configs.QWEN3_MOE_FP8,
    card=configs.APACHE,
    files={
        "merges.txt": "#version: 0.2\n",
        "vocab.json": "{}\n",
        "tokenizer.json": "{}\n",
        "generation_config.json": "{}\n",
        "LICENSE": NOTICE,
    },
)

QWEN3_MOE_BF16 = replace(
    QWEN3_MOE_FP8,
    body=[(prefix, in_bf16(text)) for prefix, text in QWEN3_MOE_FP8.body],
    config=configs.without_quantization(configs.QWEN3_MOE_FP8),
)

QWEN3_FP8 = Recipe(
    shards=GLM5_FP8.shards,
    body=[
        ("model.", EMBED),
        ("model.layers.0.", GQA_SHAPES + HEAD_NORMS + NORMS + DENSE),
        ("model.layers.1.", GQA_SHAPES + HEAD_NORMS + NORMS + DENSE),
        ("model.", NORM),
        ("", HEAD),
    ],
    scale_dtype="F16",
    config=configs.QWEN3_FP8,
    card=configs.APACHE,
    files=QWEN3_MOE_FP8.files,
)

QWEN35_LINEAR = """
    linear_attn.A_log               f32 4
    linear_attn.dt_bias             bf16 4
    linear_attn.conv1d.weight       bf16 384 1 4
    linear_attn.in_proj_a.weight    bf16 4 256
    linear_attn.in_proj_b.weight    bf16 4 256
    linear_attn.in_proj_qkv.weight  bf16 384 256
    linear_attn.in_proj_z.weight    bf16 128 256
    linear_attn.norm.weight         norm32 32
    linear_attn.out_proj.weight     bf16 256 128
"""
QWEN35_ATTENTION = (
    """
    self_attn.q_proj.weight  bf16 512 256
    self_attn.k_proj.weight  bf16 64 256
    self_attn.v_proj.weight  bf16 64 256
    self_attn.o_proj.weight  bf16 256 256
"""
    + HEAD_NORMS
)
QWEN35_SHARED = """
    mlp.gate.weight                     bf16 4 256
    mlp.shared_expert_gate.weight       bf16 1 256
    mlp.shared_expert.gate_proj.weight  bf16 64 256
    mlp.shared_expert.up_proj.weight    bf16 64 256
    mlp.shared_expert.down_proj.weight  bf16 256 64
"""
QWEN35_FUSED = """
    mlp.experts.gate_up_proj  bf16 4 128 256
    mlp.experts.down_proj     bf16 4 256 64
"""
QWEN35_PER_EXPERT = """
    mlp.experts.E.gate_proj.weight  bf16 64 256
    mlp.experts.E.up_proj.weight    bf16 64 256
    mlp.experts.E.down_proj.weight  bf16 256 64
"""
QWEN35_MTP = """
    fc.weight                     bf16 256 512
    norm.weight                   norm 256
    pre_fc_norm_embedding.weight  norm 256
    pre_fc_norm_hidden.weight     norm 256
"""
QWEN35_VISUAL = """
    patch_embed.proj.weight    bf16 64 3 2 4 4
    blocks.0.attn.qkv.weight   bf16 192 64
    blocks.0.attn.qkv.bias     bf16 192
    merger.linear_fc1.weight   bf16 64 64
"""

QWEN35_MOE_BF16 = Recipe(
    shards=numbered("model.safetensors-{:05d}-of-00003.safetensors", 3),
    body=[
        ("model.language_model.", EMBED),
        ("model.language_model.layers.0.", QWEN35_LINEAR + NORMS + QWEN35_SHARED + QWEN35_FUSED),
        ("model.language_model.layers.1.", QWEN35_ATTENTION + NORMS + QWEN35_SHARED + QWEN35_FUSED),
        ("model.language_model.", NORM),
        ("", HEAD),
        ("model.visual.", QWEN35_VISUAL),
        ("mtp.", QWEN35_MTP),
        ("mtp.layers.0.", QWEN35_SHARED + QWEN35_PER_EXPERT + QWEN35_ATTENTION + NORMS),
    ],
    moved={
        "model.language_model.layers.1.self_attn.q_proj.weight": 1,
        "model.language_model.layers.1.self_attn.k_proj.weight": 2,
        "model.language_model.layers.1.self_attn.v_proj.weight": 2,
    },
    config=configs.QWEN35_MOE_BF16,
    card=configs.card("apache-2.0").replace("text-generation", "image-text-to-text"),
    files=TOKENIZER | {"preprocessor_config.json": "{}\n", "LICENSE": NOTICE},
)

QWEN35_DENSE = """
    mlp.gate_proj.weight  bf16 384 256
    mlp.up_proj.weight    bf16 384 256
    mlp.down_proj.weight  bf16 256 384
"""

QWEN35_BF16 = replace(
    QWEN35_MOE_BF16,
    body=[
        ("model.language_model.", EMBED),
        ("model.language_model.layers.0.", QWEN35_LINEAR + NORMS + QWEN35_DENSE),
        ("model.language_model.layers.1.", QWEN35_ATTENTION + NORMS + QWEN35_DENSE),
        ("model.language_model.", NORM),
        ("", HEAD),
        ("model.visual.", QWEN35_VISUAL),
        ("mtp.", QWEN35_MTP),
        ("mtp.layers.0.", QWEN35_DENSE + QWEN35_ATTENTION + NORMS),
    ],
    config=configs.QWEN35_BF16,
)


def in_fp8(text: str) -> str:
    """The linears that the makers' own FP8 release quantizes; all experts one by one."""
    text = text.replace(QWEN35_FUSED, QWEN35_PER_EXPERT)
    linear = (
        r"(self_attn\.[qkvo]_proj|in_proj_qkv|in_proj_z|out_proj|(gate|up|down)_proj)\.weight +bf16"
    )
    return re.sub(linear, r"\1 fp8", text)


QWEN35_MOE_FP8 = replace(
    QWEN35_MOE_BF16,
    body=[(prefix, in_fp8(text)) for prefix, text in QWEN35_MOE_BF16.body],
    moved={name: shard for name, shard in QWEN35_MOE_BF16.moved.items() if "k_proj" not in name},
    config=configs.QWEN35_MOE_BF16 | {configs.ENTRY: configs.FP8},
)

GPT_OSS_LAYER = """
    self_attn.q_proj.weight          bf16 128 96
    self_attn.q_proj.bias            bf16 128
    self_attn.k_proj.weight          bf16 64 96
    self_attn.k_proj.bias            bf16 64
    self_attn.v_proj.weight          bf16 64 96
    self_attn.v_proj.bias            bf16 64
    self_attn.o_proj.weight          bf16 96 128
    self_attn.o_proj.bias            bf16 96
    self_attn.sinks                  bf16 2
    input_layernorm.weight           norm 96
    post_attention_layernorm.weight  norm 96
    mlp.router.weight                bf16 4 96
    mlp.router.bias                  bf16 4
    mlp.experts.gate_up_proj         mxfp4 4 192 96
    mlp.experts.gate_up_proj_bias    bf16 4 192
    mlp.experts.down_proj            mxfp4 4 96 96
    mlp.experts.down_proj_bias       bf16 4 96
"""

GPT_OSS = Recipe(
    shards=numbered("model-{:05d}-of-00002.safetensors", 3, first=0),
    body=[
        ("model.", "embed_tokens.weight bf16 320 96"),
        ("model.layers.0.", GPT_OSS_LAYER),
        ("model.", "norm.weight norm 96"),
        ("", "lm_head.weight bf16 320 96"),
    ],
    config=configs.GPT_OSS,
    card=configs.APACHE,
    files=TOKENIZER
    | {
        # Second copies of the weights: never to be read, never to be copied.
        "original/model.safetensors": (2).to_bytes(8, "little") + b"{}",
        "original/config.json": "{}\n",
        "metal/model.bin": b"\x00" * 64,
        "USAGE_POLICY": NOTICE,
        "LICENSE": NOTICE,
    },
)

MINIMAX_LAYER = (
    GQA_SHAPES
    + """
    self_attn.q_norm.weight                   norm 256
    self_attn.k_norm.weight                   norm 64
    input_layernorm.weight                    norm 256
    post_attention_layernorm.weight           norm 256
    block_sparse_moe.gate.weight              f32 4 256
    block_sparse_moe.e_score_correction_bias  f32 4
    block_sparse_moe.experts.E.w1             fp8 128 256
    block_sparse_moe.experts.E.w2             fp8 256 128
    block_sparse_moe.experts.E.w3             fp8 128 256
"""
)

MINIMAX_M2 = Recipe(
    shards=numbered("model-{:05d}-of-00007.safetensors", 3, first=0),
    body=[
        ("model.", EMBED),
        ("model.layers.0.", MINIMAX_LAYER),
        ("model.layers.1.", MINIMAX_LAYER),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.MINIMAX_M2,
    card=configs.card(
        "other",
        "license_name: modified-mit",
        "license_link: https://github.com/MiniMax-AI/MiniMax-M2/blob/main/LICENSE",
    ),
    files=TOKENIZER,
)

LLAMA_LAYER = """
    self_attn.q_proj.weight          bf16 256 256
    self_attn.k_proj.weight          bf16 128 256
    self_attn.v_proj.weight          bf16 128 256
    self_attn.o_proj.weight          bf16 256 256
    mlp.gate_proj.weight             bf16 384 256
    mlp.up_proj.weight               bf16 384 256
    mlp.down_proj.weight             bf16 256 384
    input_layernorm.weight           norm 256
    post_attention_layernorm.weight  norm 256
"""
LLAMA_CARD = configs.card("llama3.1", "license_link: LICENSE")
LLAMA_TRUNK = [
    ("model.", EMBED),
    ("model.layers.0.", LLAMA_LAYER),
    ("model.layers.1.", LLAMA_LAYER),
    ("model.", NORM),
]

LLAMA_BF16 = Recipe(
    shards=GLM5_FP8.shards,
    body=[*LLAMA_TRUNK, ("", HEAD)],
    config=configs.LLAMA,
    card=LLAMA_CARD,
    files=TOKENIZER
    | {
        "original/consolidated.00.pth": b"PK\x03\x04",
        "USE_POLICY.md": NOTICE,
        "LICENSE": NOTICE,
    },
)

LLAMA_BF16_TIED = Recipe(
    shards=("model.safetensors",),
    body=LLAMA_TRUNK,
    config=configs.LLAMA | {"tie_word_embeddings": True},
    card=LLAMA_CARD,
    files=TOKENIZER | {"LICENSE": NOTICE},
    index=False,
)

LLAMA_KV_SCALES = """
    self_attn.k_scale  f32 1
    self_attn.v_scale  f32 1
"""


def llama_of(kind: str, more: str = "") -> list[tuple[str, str]]:
    """A Llama whose linears, all but the head, are stored in another way."""
    layer = LLAMA_LAYER.replace("_proj.weight", "_proj").replace("bf16", kind) + more
    return [
        ("model.", EMBED),
        ("model.layers.0.", layer),
        ("model.layers.1.", layer),
        ("model.", NORM),
        ("", HEAD),
    ]


LLAMA_FP8_ROWS = replace(LLAMA_BF16, body=llama_of("row"), config=configs.LLAMA_FP8_ROWS)

LLAMA_FP8_STATIC = replace(
    LLAMA_BF16, body=llama_of("one", LLAMA_KV_SCALES), config=configs.LLAMA_FP8_STATIC
)

MISTRAL_FP8 = Recipe(
    shards=GLM5_FP8.shards,
    body=llama_of("one"),
    scale_dtype="BF16",
    static=(".weight_scale_inv", ".activation_scale"),
    config=configs.MISTRAL_FP8,
    card=configs.APACHE,
    files=TOKENIZER
    | {
        # The same model once more, in the maker's own names: never to be read or copied.
        "consolidated-00001-of-00001.safetensors": (2).to_bytes(8, "little") + b"{}",
        "params.json": "{}\n",
        "tekken.json": "{}\n",
    },
)

MIXTRAL_LAYER = """
    self_attn.q_proj.weight              bf16 256 256
    self_attn.k_proj.weight              bf16 128 256
    self_attn.v_proj.weight              bf16 128 256
    self_attn.o_proj.weight              bf16 256 256
    input_layernorm.weight               norm 256
    post_attention_layernorm.weight      norm 256
    block_sparse_moe.gate.weight         bf16 4 256
    block_sparse_moe.experts.E.w1.weight bf16 128 256
    block_sparse_moe.experts.E.w2.weight bf16 256 128
    block_sparse_moe.experts.E.w3.weight bf16 128 256
"""

MIXTRAL_BF16 = Recipe(
    shards=GLM5_FP8.shards,
    body=[
        ("model.", EMBED),
        ("model.layers.0.", MIXTRAL_LAYER),
        ("model.layers.1.", MIXTRAL_LAYER),
        ("model.", NORM),
        ("", HEAD),
    ],
    config=configs.MIXTRAL,
    card=configs.APACHE,
    files=MISTRAL_FP8.files,
)

NEMOTRON_MAMBA = """
    norm.weight             norm 256
    mixer.A_log             f32 8
    mixer.D                 f32 8
    mixer.dt_bias           f32 8
    mixer.conv1d.weight     bf16 192 1 4
    mixer.conv1d.bias       bf16 192
    mixer.in_proj.weight    bf16 328 256
    mixer.norm.weight       norm 128
    mixer.out_proj.weight   bf16 256 128
"""
NEMOTRON_ATTENTION = """
    norm.weight          norm 256
    mixer.q_proj.weight  bf16 256 256
    mixer.k_proj.weight  bf16 64 256
    mixer.v_proj.weight  bf16 64 256
    mixer.o_proj.weight  bf16 256 256
"""
# 112, as the 1856 of Nano, fills blocks of 16 and not of 128.
NEMOTRON_MOE = """
    norm.weight                              norm 256
    mixer.gate.weight                        bf16 4 256
    mixer.gate.e_score_correction_bias       f32 4
    mixer.experts.E.up_proj.weight           bf16 112 256
    mixer.experts.E.down_proj.weight         bf16 256 112
    mixer.shared_experts.up_proj.weight      bf16 144 256
    mixer.shared_experts.down_proj.weight    bf16 256 144
"""

NEMOTRON3_BF16 = Recipe(
    shards=GLM5_FP8.shards,
    body=[
        ("backbone.", "embeddings.weight bf16 320 256"),
        ("backbone.layers.0.", NEMOTRON_MAMBA),
        ("backbone.layers.1.", NEMOTRON_MOE),
        ("backbone.layers.2.", NEMOTRON_ATTENTION),
        ("backbone.", "norm_f.weight norm 256"),
        ("", HEAD),
    ],
    config=configs.NEMOTRON3,
    card=configs.card("other", "license_name: nvidia-open-model-license"),
    files=TOKENIZER,
)

MIMO_LAYER = """
    self_attn.qkv_proj             fp8x4 640 256
    self_attn.o_proj.weight        bf16 256 128
    self_attn.attention_sink_bias  f32 4
    mlp.gate.weight                f32 4 256
"""

MIMO_QKV_EDGE = Recipe(
    shards=("model_pp0_ep0_shard0.safetensors",),
    body=[("model.layers.0.", MIMO_LAYER)],
    config=configs.MIMO,
    card=configs.MIT,
)


def deepseek_v4(folder: Path, seed: int = 0) -> None:
    v4.official(folder, seed=seed)


def deepseek_v4_sgl_fp8(folder: Path, seed: int = 0) -> None:
    v4.fp8_repack(folder, seed=seed)


RECIPES: dict[str, Callable[[Path], Any]] = {
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v32": DEEPSEEK_V32,
    "kimi_k2_fp8": KIMI_K2_FP8,
    "kimi_k2_thinking": KIMI_K2_THINKING,
    "kimi_k25": KIMI_K25,
    "glm5_fp8": GLM5_FP8,
    "glm45_fp8": GLM45_FP8,
    "glm45_bf16": GLM45_BF16,
    "deepseek_v4": deepseek_v4,
    "deepseek_v4_sgl_fp8": deepseek_v4_sgl_fp8,
    "qwen3_moe_fp8": QWEN3_MOE_FP8,
    "qwen3_moe_bf16": QWEN3_MOE_BF16,
    "qwen3_fp8": QWEN3_FP8,
    "qwen35_moe_bf16": QWEN35_MOE_BF16,
    "qwen35_moe_fp8": QWEN35_MOE_FP8,
    "qwen35_bf16": QWEN35_BF16,
    "nemotron3_bf16": NEMOTRON3_BF16,
    "gpt_oss": GPT_OSS,
    "minimax_m2": MINIMAX_M2,
    "llama_bf16": LLAMA_BF16,
    "llama_bf16_tied": LLAMA_BF16_TIED,
    "llama_fp8_rows": LLAMA_FP8_ROWS,
    "llama_fp8_static": LLAMA_FP8_STATIC,
    "mistral_fp8": MISTRAL_FP8,
    "mixtral_bf16": MIXTRAL_BF16,
    "mimo_qkv_edge": MIMO_QKV_EDGE,
}

from checkpoints.further import FURTHER  # noqa: E402 - made of the lines above

RECIPES |= FURTHER
