"""config.json and model cards of the miniatures: the keys of the real families, small numbers."""

from typing import Any

FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
}

ENTRY = "quantization_config"

COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}

MLA = COMMON | {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 192,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    "intermediate_size": 384,
    "moe_intermediate_size": 128,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_hidden_layers": 2,
    "num_nextn_predict_layers": 1,
}

GQA = COMMON | {
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_hidden_layers": 2,
}

REMOTE_CODE = {
    "AutoConfig": "configuration_deepseek.DeepseekV3Config",
    "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
}

INDEXER = {"index_head_dim": 32, "index_n_heads": 4, "index_topk": 64}

DEEPSEEK_V3 = MLA | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "auto_map": REMOTE_CODE,
    "quantization_config": FP8,
}

DEEPSEEK_V32 = MLA | {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    **INDEXER,
    "quantization_config": FP8 | {"scale_fmt": "ue8m0"},
}

KIMI_K2_FP8 = MLA | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "kimi_k2",
    "auto_map": REMOTE_CODE,
    "num_nextn_predict_layers": 0,
    "quantization_config": FP8,
}

INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": 32,
                "dynamic": False,
                "observer": "minmax",
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
    "ignore": [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
    ],
    "kv_cache_scheme": None,
}

KIMI_K2_THINKING = KIMI_K2_FP8 | {"quantization_config": INT4}

KIMI_K25 = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "text_config": KIMI_K2_THINKING,
    "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "patch_size": 14},
}

GLM5_FP8 = MLA | {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    **INDEXER,
    "quantization_config": FP8
    | {
        # The indexers_proj entries name no tensor: what is quantized, the dtypes tell.
        "modules_to_not_convert": [
            "lm_head",
            "model.embed_tokens",
            "model.norm",
            *(f"model.layers.{n}.input_layernorm" for n in range(3)),
            *(f"model.layers.{n}.post_attention_layernorm" for n in range(3)),
            *(f"model.layers.{n}.self_attn.indexers_proj" for n in range(3)),
            *(f"model.layers.{n}.mlp.gate" for n in (1, 2)),
            "model.layers.2.eh_proj",
        ]
    },
}

GLM45_FP8 = GQA | {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "attention_bias": True,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "intermediate_size": 384,
    "moe_intermediate_size": 96,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "channel",
                    "dynamic": False,
                },
                "input_activations": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "token",
                    "dynamic": True,
                },
            }
        },
        "ignore": [
            "lm_head",
            "model.layers.1.mlp.gate",
            "model.layers.2.mlp.gate",
            "model.layers.2.eh_proj",
            "model.layers.2.shared_head.head",
        ],
    },
}

QWEN3_MOE_FP8 = GQA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "intermediate_size": 384,
    "moe_intermediate_size": 128,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "quantization_config": FP8
    | {
        "modules_to_not_convert": [
            "lm_head",
            *(f"model.layers.{n}.input_layernorm" for n in range(2)),
            *(f"model.layers.{n}.mlp.gate" for n in range(2)),
            *(f"model.layers.{n}.post_attention_layernorm" for n in range(2)),
        ]
    },
}

QWEN3_FP8 = GQA | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "intermediate_size": 384,
    # As Qwen3-0.6B: tied, and yet the head is stored.
    "tie_word_embeddings": True,
    ENTRY: FP8 | {"modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"]},
}

QWEN35_MOE_BF16 = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "tie_word_embeddings": False,
    "image_token_id": 2,
    "text_config": GQA
    | {
        "model_type": "qwen3_5_moe_text",
        "attn_output_gate": True,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 32,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mtp_num_hidden_layers": 1,
    },
    "vision_config": {"depth": 1, "hidden_size": 64, "patch_size": 4, "temporal_patch_size": 2},
}

QWEN35_BF16 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "tie_word_embeddings": False,
    "image_token_id": 2,
    "text_config": GQA
    | {
        "model_type": "qwen3_5_text",
        "attn_output_gate": True,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4,
        "intermediate_size": 384,
        "mtp_num_hidden_layers": 1,
    },
    "vision_config": {"depth": 1, "hidden_size": 64, "patch_size": 4, "temporal_patch_size": 2},
}

GPT_OSS = COMMON | {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_hidden_layers": 1,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "attention_bias": True,
    "layer_types": ["sliding_attention"],
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}

MINIMAX_M2 = GQA | {
    "architectures": ["MiniMaxM2ForCausalLM"],
    "model_type": "minimax_m2",
    "intermediate_size": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "num_mtp_modules": 3,
    "use_mtp": True,
    "use_qk_norm": True,
    "use_routing_bias": True,
    "scoring_func": "sigmoid",
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "float8_e4m3fn",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
    },
}

LLAMA = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "attention_bias": False,
    "mlp_bias": False,
}

LLAMA_FP8_ROWS = LLAMA | {
    ENTRY: {
        "quant_method": "fbgemm_fp8",
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": ["model.layers.0.self_attn.q_proj", "lm_head"],
    }
}

LLAMA_FP8_STATIC = LLAMA | {
    ENTRY: {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"},
                "input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor"},
            }
        },
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
        "ignore": ["lm_head"],
    }
}

MISTRAL_FP8 = LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    ENTRY: {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None},
}

NEMOTRON3 = COMMON | {
    "architectures": ["NemotronHForCausalLM"],
    "model_type": "nemotron_h",
    "num_hidden_layers": 3,
    "hybrid_override_pattern": "ME*",
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 112,
    "moe_shared_expert_intermediate_size": 144,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    # Written bare into config.json, as by its makers.
    "time_step_limit": [0.0, float("inf")],
}

MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "intermediate_size": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.02,
}

MIMO = GQA | {
    "architectures": ["MiMoV2FlashForCausalLM"],
    "model_type": "mimo_v2_flash",
    "num_hidden_layers": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "v_head_dim": 32,
    "quantization_config": FP8,
}


def without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != ENTRY}


def card(licence: str, *more: str) -> str:
    """A model card with the front matter that a converted card takes over."""
    front = [f"license: {licence}", *more, "library_name: transformers"]
    front += ["pipeline_tag: text-generation"]
    return "\n".join(["---", *front, "---", "", "# A miniature of random numbers", ""])


MIT = card("mit")
APACHE = card("apache-2.0")
MODIFIED_MIT = card("other", "license_name: modified-mit")
