"""What lies beside the shards of a miniature DeepSeek V4: its config, tokenizer, card and code.

All texts are stand-ins written for hubconv; only keys and file names are those of the real model.
"""

import json
from typing import Any, Final

from hubconv.demo.miniature_v4_parts import (
    EXPERTS_PER_TOKEN,
    HASH_LAYERS,
    HEAD_DIM,
    HEADS,
    HYPER_CONNECTIONS,
    INDEX_HEAD_DIM,
    INDEX_HEADS,
    O_GROUPS,
    O_LORA_RANK,
    Q_LORA_RANK,
    Size,
    compress_ratios,
)

LICENCE: Final = """MIT License (short notice)

This miniature holds random numbers and belongs to nobody in particular. Use, copy, change and
share it as the MIT licence allows; it comes without any warranty.
"""

TOKENIZER: Final = json.dumps({
    "version": "1.0",
    "model": {"type": "BPE", "vocab": {"<bos>": 0, "<eos>": 1}, "merges": []},
})
TOKENIZER_CONFIG: Final = json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
})
GENERATION_CONFIG: Final = json.dumps({
    "bos_token_id": 0,
    "eos_token_id": 1,
    "do_sample": True,
    "temperature": 1.0,
    "top_p": 1.0,
})

_CARD: Final = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
base_model: {base_model}
language:
- en
- zh
tags:
- deepseek_v4
---

# {title}

A miniature with the tensor names and formats of DeepSeek V4, filled with random numbers.
"""


def config(size: Size) -> dict[str, Any]:
    """What config.json says of a miniature, in either spelling but for `expert_dtype`."""
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "dtype": "bfloat16",
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "moe_intermediate_size": size.width,
        "num_hidden_layers": size.layers,
        "num_nextn_predict_layers": 1,
        "num_hash_layers": HASH_LAYERS,
        "n_routed_experts": size.experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD_DIM,
        "qk_rope_head_dim": 64,
        "q_lora_rank": Q_LORA_RANK,
        "o_groups": O_GROUPS,
        "o_lora_rank": O_LORA_RANK,
        "compress_ratios": compress_ratios(size.layers),
        "index_n_heads": INDEX_HEADS,
        "index_head_dim": INDEX_HEAD_DIM,
        "index_topk": 512,
        "sliding_window": 128,
        "hc_mult": HYPER_CONNECTIONS,
        "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-06,
        "rms_norm_eps": 1e-06,
        "hidden_act": "silu",
        "swiglu_limit": 10.0,
        "max_position_embeddings": 4096,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
            "activation_scheme": "dynamic",
        },
    }


def official() -> dict[str, str]:
    """Other files of the official spelling, by path."""
    return _common("DeepSeek V4 Miniature", "miniature/DeepSeek-V4-Base") | {
        "inference/model.py": '"""Stand-in for the reference model."""\n',
        "inference/convert.py": '"""Stand-in for the script that splits the shards."""\n',
    }


def fp8_repack() -> dict[str, str]:
    """Other files of the FP8 repack, by path."""
    return _common("DeepSeek V4 Miniature FP8", "miniature/DeepSeek-V4")


def _common(title: str, base_model: str) -> dict[str, str]:
    return {
        "README.md": _CARD.format(title=title, base_model=base_model),
        "LICENSE": LICENCE,
        "tokenizer.json": TOKENIZER + "\n",
        "tokenizer_config.json": TOKENIZER_CONFIG + "\n",
        "generation_config.json": GENERATION_CONFIG + "\n",
        "encoding/encoding_dsv4.py": '"""Stand-in for the chat encoding."""\n',
    }
