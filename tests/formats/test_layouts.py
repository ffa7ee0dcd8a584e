"""What each layout writes: names, shapes, scalars, configuration files."""

import json
import struct
from typing import Any, ClassVar

import pytest

from hubconv.errors import IntegrityError, UsageError
from hubconv.formats.layouts import LAYOUTS, layout
from hubconv.formats.layouts.base import (
    Activations,
    Fate,
    KeptScale,
    Layout,
    Linear,
    ModelFacts,
    Part,
)
from hubconv.formats.stored import StoredWeight

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLA = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")
PRODUCER = {"name": "hubconv", "version": "0.1.0"}
NVFP4_WEIGHTS = {
    "num_bits": 4,
    "type": "float",
    "symmetric": True,
    "strategy": "tensor_group",
    "group_size": 16,
    "dynamic": False,
    "scale_dtype": "torch.float8_e4m3fn",
    "zp_dtype": "torch.float8_e4m3fn",
}


def linears(prefix: str, names: tuple[str, ...], fate: Fate) -> list[Linear]:
    return [Linear(f"{prefix}.{name}", "any", fate) for name in names]


def facts(
    modules: list[Linear],
    activations: Activations = "w4a16",
    config: dict[str, Any] | None = None,
) -> ModelFacts:
    return ModelFacts(config or {}, modules, activations, (128, 128), "0.1.0")


def quantization(name: str, told: ModelFacts) -> dict[str, Any]:
    written = layout(name).config(told)
    assert json.loads(json.dumps(written)) == written
    entry: dict[str, Any] = written["quantization_config"]
    return entry


LLAMA = [
    *linears("model.layers.0.self_attn", ATTENTION, "nvfp4"),
    *linears("model.layers.0.mlp", GATED, "nvfp4"),
    Linear("lm_head", "head", "plain"),
]
MOE = [
    *linears("model.layers.0.self_attn", ATTENTION, "plain"),
    Linear("model.layers.0.mlp.gate", "router", "plain"),
    *linears("model.layers.0.mlp.experts.0", GATED, "nvfp4"),
    *linears("model.layers.0.mlp.experts.1", GATED, "nvfp4"),
    Linear("lm_head", "head", "plain"),
]
DEEPSEEK = [
    *linears("model.layers.0.self_attn", MLA, "fp8_block"),
    *linears("model.layers.0.mlp", GATED, "fp8_block"),
    *linears("model.layers.1.self_attn", MLA, "fp8_block"),
    Linear("model.layers.1.mlp.gate", "router", "plain"),
    *linears("model.layers.1.mlp.shared_experts", GATED, "fp8_block"),
    *linears("model.layers.1.mlp.experts.0", GATED, "nvfp4"),
    *linears("model.layers.2.self_attn", MLA, "fp8_block"),
    Linear("model.layers.2.mlp.gate", "router", "plain"),
    *linears("model.layers.2.mlp.experts.0", GATED, "nvfp4"),
    *linears("model.layers.2", ("eh_proj", "shared_head.head"), "plain"),
    Linear("lm_head", "head", "plain"),
]
V4 = [
    *linears("layers.0.attn", ("wq_a", "wkv", "wo_a", "indexer.wq_b"), "fp8_block"),
    Linear("layers.0.ffn.gate", "router", "plain"),
    *linears("layers.0.ffn.shared_experts", ("w1", "w2", "w3"), "fp8_block"),
    *linears("layers.0.ffn.experts.0", ("w1", "w2", "w3"), "nvfp4"),
    *linears("mtp.0.ffn.experts.0", ("w1", "w2", "w3"), "mxfp4"),
    *linears("mtp.0", ("e_proj", "h_proj"), "fp8_block"),
    Linear("head", "head", "plain"),
]


def test_an_unknown_layout_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="compressed-tensors, modelopt, modelopt-v4"):
        layout("gguf")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_knows_its_name(name: str) -> None:
    made: Layout = layout(name)
    assert made.name == name


def extra_files(name: str, told: ModelFacts) -> dict[str, bytes]:
    """What a layout writes beside config.json."""
    return layout(name).extra_files(layout(name).config(told))


class TestParts:
    def test_compressed_tensors(self) -> None:
        parts = layout("compressed-tensors").parts("a.b", 64, 128, "w4a16")
        assert parts == [
            Part("a.b.weight_packed", "U8", (64, 64), "codes"),
            Part("a.b.weight_scale", "F8_E4M3", (64, 8), "scales"),
            Part("a.b.weight_global_scale", "F32", (1,), "global_scale"),
        ]

    def test_compressed_tensors_with_quantized_activations(self) -> None:
        parts = layout("compressed-tensors").parts("a.b", 64, 128, "w4a4")
        assert parts[3:] == [Part("a.b.input_global_scale", "F32", (1,), "input_scale")]

    @pytest.mark.parametrize("name", ["modelopt", "modelopt-v4"])
    @pytest.mark.parametrize("activations", ["w4a16", "w4a4"])
    def test_modelopt_always_writes_an_input_scale(
        self, name: str, activations: Activations
    ) -> None:
        assert layout(name).parts("a.b", 64, 128, activations) == [
            Part("a.b.weight", "U8", (64, 64), "codes"),
            Part("a.b.weight_scale", "F8_E4M3", (64, 8), "scales"),
            Part("a.b.weight_scale_2", "F32", (), "global_scale"),
            Part("a.b.input_scale", "F32", (), "input_scale"),
        ]


class TestScalars:
    @pytest.mark.parametrize("exponent", [-126, -20, 0, 3, 126])
    def test_a_power_of_two_has_an_exact_reciprocal(self, exponent: int) -> None:
        stored = layout("compressed-tensors").scalar("global_scale", 2.0**exponent)
        assert stored == struct.pack("<f", 2.0**-exponent)

    @pytest.mark.parametrize("name", ["modelopt", "modelopt-v4"])
    def test_modelopt_stores_the_multiplier(self, name: str) -> None:
        assert layout(name).scalar("input_scale", 0.125) == struct.pack("<f", 0.125)

    @pytest.mark.parametrize("name", LAYOUTS)
    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-60, 1e60])
    def test_an_unusable_scale_is_never_written(self, name: str, value: float) -> None:
        with pytest.raises(IntegrityError, match="global scale"):
            layout(name).scalar("global_scale", value)


BLOCK = StoredWeight("fp8", "F8_E4M3", 576, 7168, "F32", (128, 128))
PER_ROW = StoredWeight("fp8", "F8_E4M3", 576, 7168, "F32", (1, 7168))
PER_TENSOR = StoredWeight("fp8", "F8_E4M3", 576, 7168, "BF16", (576, 7168))
NARROW = StoredWeight("fp8", "F8_E4M3", 576, 7168, "BF16", (128, 128))
V4_LINEAR = StoredWeight("fp8", "F8_E4M3", 512, 4096, "F8_E8M0", (128, 128))
MXFP4 = StoredWeight("mxfp4", "I8", 512, 4096, "F8_E8M0", (1, 32))


class TestKeptScales:
    @pytest.mark.parametrize(
        ("name", "weight", "shape", "recode"),
        [
            ("compressed-tensors", BLOCK, (5, 56), ""),
            ("compressed-tensors", NARROW, (5, 56), "widen_to_f32"),
            ("compressed-tensors", PER_ROW, (576, 1), ""),
            ("compressed-tensors", PER_TENSOR, (1,), "widen_to_f32"),
            ("modelopt", BLOCK, (5, 1, 56, 1), ""),
            ("modelopt", NARROW, (5, 1, 56, 1), "widen_to_f32"),
            ("modelopt", PER_TENSOR, (), "widen_to_f32"),
        ],
    )
    def test_fp8(
        self, name: str, weight: StoredWeight, shape: tuple[int, ...], recode: str
    ) -> None:
        kept = layout(name).kept_scale("a.b", "a.b.weight_scale_inv", weight)
        assert kept == KeptScale("a.b.weight_scale", "F32", shape, recode)

    def test_deepseek_v4_keeps_its_own(self) -> None:
        kept = layout("modelopt-v4").kept_scale("a.b", "a.b.scale", V4_LINEAR)
        assert kept == KeptScale("a.b.scale", "F8_E8M0", (4, 32))

    @pytest.mark.parametrize(
        ("name", "weight"),
        [
            ("compressed-tensors", MXFP4),
            ("compressed-tensors", V4_LINEAR),
            ("modelopt", MXFP4),
            ("modelopt", PER_ROW),
        ],
    )
    def test_what_a_layout_cannot_hold_is_refused(self, name: str, weight: StoredWeight) -> None:
        with pytest.raises(UsageError, match="cannot hold") as caught:
            layout(name).kept_scale("a.b", "a.b.scale", weight)
        assert "--layout" in caught.value.next_step


class TestCompressedTensorsConfig:
    def test_a_dense_model_is_one_group_of_linears(self) -> None:
        assert quantization("compressed-tensors", facts(LLAMA)) == {
            "quant_method": "compressed-tensors",
            "format": "nvfp4-pack-quantized",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": NVFP4_WEIGHTS,
                    "input_activations": None,
                    "output_activations": None,
                    "format": "nvfp4-pack-quantized",
                }
            },
            "ignore": ["lm_head"],
        }

    def test_quantized_activations_are_local(self) -> None:
        entry = quantization("compressed-tensors", facts(LLAMA, "w4a4"))
        inputs = entry["config_groups"]["group_0"]["input_activations"]
        assert inputs == NVFP4_WEIGHTS | {"dynamic": "local"}

    def test_experts_are_targeted_by_name_and_everything_else_ignored(self) -> None:
        entry = quantization("compressed-tensors", facts(MOE))
        assert entry["config_groups"]["group_0"]["targets"] == [r"re:.*\.mlp\.experts\..*"]
        assert entry["ignore"] == [r"re:.*\.self_attn\..*", r"re:.*\.mlp\.gate$", "lm_head"]
        assert entry["format"] == "nvfp4-pack-quantized"

    def test_kept_fp8_is_a_second_group(self) -> None:
        entry = quantization("compressed-tensors", facts(DEEPSEEK))
        assert entry["format"] == "mixed-precision"
        nvfp4, fp8 = entry["config_groups"].values()
        assert nvfp4["targets"] == [r"re:.*\.mlp\.experts\..*"]
        assert nvfp4["format"] == "nvfp4-pack-quantized"
        assert fp8 == {
            "targets": [
                r"re:.*\.mlp\.shared_experts\..*",
                r"re:.*\.self_attn\..*",
                r"re:.*\.mlp\.down_proj$",
                r"re:.*\.mlp\.gate_proj$",
                r"re:.*\.mlp\.up_proj$",
            ],
            "weights": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "block",
                "dynamic": False,
                "block_structure": [128, 128],
            },
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "dynamic": True,
                "strategy": "group",
                "group_size": 128,
            },
            "output_activations": None,
            "format": "float-quantized",
        }
        assert entry["ignore"] == [
            r"re:.*\.shared_head\..*",
            r"re:.*\.eh_proj$",
            r"re:.*\.mlp\.gate$",
            "lm_head",
        ]

    def test_experts_of_an_mtp_layer_that_stay_fp8_fall_into_their_own_group(self) -> None:
        modules = [
            Linear(m.module, m.role, "fp8_block") if ".layers.2.mlp.experts" in m.module else m
            for m in DEEPSEEK
        ]
        entry = quantization("compressed-tensors", facts(modules))
        nvfp4, fp8 = entry["config_groups"].values()
        assert nvfp4["targets"] == [r"re:.*\.layers\.1\.mlp\.experts\..*"]
        assert r"re:.*\.layers\.2\.mlp\.experts\..*" in fp8["targets"]

    @pytest.mark.parametrize(
        ("fate", "weights", "inputs"),
        [
            ("fp8_channel", "channel", ("token", True)),
            ("fp8_tensor", "tensor", ("token", True)),
            ("fp8_static", "tensor", ("tensor", False)),
        ],
    )
    def test_other_fp8(self, fate: Fate, weights: str, inputs: tuple[str, bool]) -> None:
        modules = [*linears("m.layers.0.mlp.experts.0", GATED, "nvfp4"), Linear("m.a", "any", fate)]
        fp8 = quantization("compressed-tensors", facts(modules))["config_groups"]["group_1"]
        assert fp8["weights"]["strategy"] == weights
        activations = fp8["input_activations"]
        assert (activations["strategy"], activations["dynamic"]) == inputs

    def test_there_is_no_second_file(self) -> None:
        assert extra_files("compressed-tensors", facts(LLAMA)) == {}

    def test_kept_mxfp4_is_refused(self) -> None:
        with pytest.raises(UsageError, match="MXFP4"):
            layout("compressed-tensors").config(facts(V4))


class TestModelOptConfig:
    def test_a_dense_model(self) -> None:
        assert quantization("modelopt", facts(LLAMA)) == {
            "quant_method": "modelopt",
            "quant_algo": "W4A16_NVFP4",
            "group_size": 16,
            "kv_cache_quant_algo": None,
            "config_groups": {
                "group_0": {
                    "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
                    "targets": ["Linear"],
                }
            },
            "ignore": ["lm_head"],
            "exclude_modules": ["lm_head"],
            "producer": PRODUCER,
        }

    def test_quantized_activations(self) -> None:
        entry = quantization("modelopt", facts(LLAMA, "w4a4"))
        assert entry["quant_algo"] == "NVFP4"
        inputs = entry["config_groups"]["group_0"]["input_activations"]
        assert inputs == {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}

    def test_the_file_beside_is_nested(self) -> None:
        (text,) = extra_files("modelopt", facts(MOE)).values()
        assert json.loads(text) == {
            "producer": PRODUCER,
            "quantization": {
                "quant_algo": "W4A16_NVFP4",
                "kv_cache_quant_algo": None,
                "group_size": 16,
                "exclude_modules": ["*.self_attn.*", "*.mlp.gate", "lm_head"],
            },
        }

    def test_kept_fp8_is_a_table_of_modules(self) -> None:
        entry = quantization("modelopt", facts(DEEPSEEK, "w4a4"))
        assert entry["quant_algo"] == "MIXED_PRECISION"
        table = entry["quantized_layers"]
        assert table["model.layers.1.mlp.experts"] == {"quant_algo": "NVFP4", "group_size": 16}
        fp8 = {"quant_algo": "FP8_PB_WO", "group_size": 128}
        assert table["model.layers.0.self_attn.kv_b_proj"] == fp8
        assert entry["ignore"] == ["*.shared_head.*", "*.eh_proj", "*.mlp.gate", "lm_head"]
        groups = entry["config_groups"].values()
        assert [len(group["targets"]) for group in groups] == [21, 2]
        nested = json.loads(extra_files("modelopt", facts(DEEPSEEK))["hf_quant_config.json"])
        assert nested["quantization"]["quantized_layers"].keys() == table.keys()

    @pytest.mark.parametrize("fate", ["fp8_channel", "mxfp4"])
    def test_what_it_cannot_hold_is_refused(self, fate: Fate) -> None:
        with pytest.raises(UsageError, match=fate):
            layout("modelopt").config(facts([*LLAMA, Linear("a.b", "any", fate)]))

    def test_an_mla_part_kept_in_one_layer_only_is_not_spelled_by_its_name_alone(self) -> None:
        # SGLang would take `model.layers.1.self_attn.kv_b_proj` for all layers.
        modules = [
            *linears("model.layers.1.self_attn", ("kv_b_proj",), "plain"),
            *linears("model.layers.1.mlp", ("down_proj",), "plain"),
            *linears("model.layers.11.self_attn", ("kv_b_proj",), "nvfp4"),
            *linears("model.layers.11.mlp", ("down_proj",), "nvfp4"),
        ]
        assert quantization("modelopt", facts(modules))["ignore"] == ["*.layers.1.*"]


class TestDeepSeekV4Config:
    SOURCE: ClassVar = {
        "model_type": "deepseek_v4",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "scale_fmt": "ue8m0",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "routed_experts_quant_method": "fp8",
        },
    }

    def test_it_is_the_sources_entry_widened(self) -> None:
        values = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
        assert layout("modelopt-v4").config(facts(V4, "w4a4", self.SOURCE)) == {
            "model_type": "deepseek_v4",
            "torch_dtype": "bfloat16",
            "expert_dtype": "fp4",
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "scale_fmt": "ue8m0",
                "activation_scheme": "dynamic",
                "weight_block_size": [128, 128],
                "quant_algo": "MIXED_PRECISION",
                "moe_quant_algo": "NVFP4",
                "kv_cache_quant_algo": None,
                "group_size": 16,
                "config_groups": {
                    "group_0": {
                        "input_activations": values,
                        "weights": values,
                        "targets": ["layers.0.ffn.experts"],
                    }
                },
                "quantized_layers": {
                    "layers.0.ffn.experts": {"quant_algo": "NVFP4", "group_size": 16}
                },
                "ignore": ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"],
                "producer": PRODUCER,
            },
        }

    def test_mtp_experts_that_are_quantized_too_are_not_ignored(self) -> None:
        modules = [Linear(m.module, m.role, "nvfp4") if m.fate == "mxfp4" else m for m in V4]
        entry = quantization("modelopt-v4", facts(modules, "w4a4", self.SOURCE))
        assert list(entry["quantized_layers"]) == ["layers.0.ffn.experts", "mtp.0.ffn.experts"]
        assert "mtp.*" not in entry["ignore"]
        assert {"*.e_proj", "*.h_proj"} <= set(entry["ignore"])

    def test_the_file_beside_tells_the_same(self) -> None:
        files = extra_files("modelopt-v4", facts(V4, "w4a4", self.SOURCE))
        nested = json.loads(files["hf_quant_config.json"])["quantization"]
        assert nested["quant_algo"] == "MIXED_PRECISION"
        assert nested["exclude_modules"] == ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"]

    def test_only_routed_experts_can_be_nvfp4(self) -> None:
        modules = [*V4, *linears("layers.1.attn", ("wo_a",), "nvfp4")]
        with pytest.raises(UsageError, match=r"layers\.1\.attn\.wo_a cannot be NVFP4"):
            layout("modelopt-v4").config(facts(modules, "w4a4", self.SOURCE))


@pytest.mark.parametrize("name", ["compressed-tensors", "modelopt"])
def test_nothing_about_the_sources_quantization_survives(name: str) -> None:
    source: dict[str, Any] = {
        "architectures": ["X"],
        "quantization_config": {"quant_method": "fp8"},
        "compression_config": {},
        "expert_dtype": "fp8",
        "text_config": {"hidden_size": 8, "quantization_config": {"quant_method": "int4"}},
        "dtype": "bfloat16",
    }
    before = json.dumps(source)
    written = layout(name).config(facts(LLAMA, config=source))
    del written["quantization_config"]
    assert written == {
        "architectures": ["X"],
        "text_config": {"hidden_size": 8},
        "dtype": "bfloat16",
    }
    assert json.dumps(source) == before


class TestTheLibraryItself:
    """compressed-tensors reads our configuration as we mean it, where it is installed."""

    @pytest.mark.parametrize("activations", ["w4a16", "w4a4"])
    @pytest.mark.parametrize("modules", [LLAMA, MOE, DEEPSEEK], ids=["llama", "moe", "v3"])
    def test_it_parses_and_resolves_every_module(
        self, modules: list[Linear], activations: Activations
    ) -> None:
        pytest.importorskip("compressed_tensors")
        torch = pytest.importorskip("torch")
        from compressed_tensors.quantization import QuantizationConfig
        from compressed_tensors.utils.match import is_match

        entry = quantization("compressed-tensors", facts(modules, activations))
        config = QuantizationConfig.model_validate(entry)
        linear = torch.nn.Linear(1, 1)
        for module in modules:
            found = [
                scheme.format
                for scheme in config.config_groups.values()
                if is_match(module.module, linear, scheme.targets, ignore=config.ignore)
            ]
            wanted = {"nvfp4": ["nvfp4-pack-quantized"], "plain": []}
            assert found == wanted.get(module.fate, ["float-quantized"])
