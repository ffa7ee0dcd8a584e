"""Our own layouts pass the loader contract, and every way to break a checkpoint is found."""

import copy
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hubconv.formats.checkpoint import StoredTensor, nbytes_of
from hubconv.formats.contract import Finding, check
from hubconv.formats.layouts import layout
from hubconv.formats.layouts.base import Activations, Fate, Linear, ModelFacts
from hubconv.formats.stored import StoredWeight

HF_QUANT_CONFIG = "hf_quant_config.json"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLA = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")


@dataclass
class Checkpoint:
    """Everything `check` takes, open to damage."""

    tensors: dict[str, StoredTensor]
    config: dict[str, Any]
    extra: dict[str, Any]
    scalars: dict[str, float]
    partners: list[list[str]]
    weight_map: dict[str, str] = field(default_factory=dict)
    total_size: int = 0

    def __post_init__(self) -> None:
        self.weight_map = {name: t.shard for name, t in self.tensors.items()}
        self.total_size = sum(t.nbytes for t in self.tensors.values())
        self.expected = {name: (t.dtype, t.shape) for name, t in self.tensors.items()}

    @property
    def quant(self) -> dict[str, Any]:
        return self.config["quantization_config"]

    def findings(self, *, whole: bool = False) -> list[Finding]:
        extras: dict[str, Any] = {}
        if whole:
            extras = {
                "weight_map": self.weight_map,
                "total_size": self.total_size,
                "expected": self.expected,
            }
        return check(
            self.tensors,
            self.config,
            self.extra,
            scalars=self.scalars,
            partners=self.partners,
            **extras,
        )

    def rules(self) -> set[str]:
        return {finding.rule for finding in self.findings()}

    def put(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        shard = "model-00001-of-00001.safetensors"
        self.tensors[name] = StoredTensor(name, dtype, shape, shard, 0, nbytes_of(dtype, shape))


def linears(prefix: str, names: tuple[str, ...], fate: Fate) -> list[Linear]:
    return [Linear(f"{prefix}.{name}", "any", fate) for name in names]


def llama(layers: int = 12) -> list[Linear]:
    found = []
    for n in range(layers):
        found += linears(f"model.layers.{n}.self_attn", ATTENTION, "nvfp4")
        found += linears(f"model.layers.{n}.mlp", GATED, "nvfp4")
    return [*found, Linear("lm_head", "head", "plain")]


def qwen_moe(layers: int = 12, experts: int = 11) -> list[Linear]:
    found = [Linear("lm_head", "head", "plain")]
    for n in range(layers):
        found += linears(f"model.layers.{n}.self_attn", ATTENTION, "plain")
        found.append(Linear(f"model.layers.{n}.mlp.gate", "router", "plain"))
        for e in range(experts):
            found += linears(f"model.layers.{n}.mlp.experts.{e}", GATED, "nvfp4")
    return found


def deepseek_v3(mtp_experts: Fate = "fp8_block") -> list[Linear]:
    found = [Linear("lm_head", "head", "plain")]
    found += linears("model.layers.0.mlp", GATED, "fp8_block")
    for n in range(13):
        found += linears(f"model.layers.{n}.self_attn", MLA, "fp8_block")
        if n:
            found.append(Linear(f"model.layers.{n}.mlp.gate", "router", "plain"))
            found += linears(f"model.layers.{n}.mlp.shared_experts", GATED, "fp8_block")
            for e in range(3):
                fate: Fate = mtp_experts if n == 12 else "nvfp4"
                found += linears(f"model.layers.{n}.mlp.experts.{e}", GATED, fate)
    found += linears("model.layers.12", ("eh_proj", "shared_head.head"), "plain")
    return found


def deepseek_v4() -> list[Linear]:
    found = [Linear("head", "head", "plain")]
    for layer in ("layers.0", "layers.1", "layers.11", "mtp.0"):
        found += linears(f"{layer}.attn", ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"), "fp8_block")
        found.append(Linear(f"{layer}.attn.indexer.weights_proj", "indexer", "plain"))
        found.append(Linear(f"{layer}.ffn.gate", "router", "plain"))
        found += linears(f"{layer}.ffn.shared_experts", ("w1", "w2", "w3"), "fp8_block")
        fate: Fate = "mxfp4" if layer == "mtp.0" else "nvfp4"
        for e in range(3):
            found += linears(f"{layer}.ffn.experts.{e}", ("w1", "w2", "w3"), fate)
    return [*found, *linears("mtp.0", ("e_proj", "h_proj"), "fp8_block")]


def partner_sets(modules: list[Linear]) -> list[list[str]]:
    names = {linear.module for linear in modules}
    sets = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
    sets += (("q_a_proj", "kv_a_proj_with_mqa"),)
    found = []
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in names):
        for parts in sets:
            members = [f"{parent}.{part}" for part in parts]
            if names.issuperset(members):
                found.append(members)
    return found


def build(
    name: str,
    modules: list[Linear],
    activations: Activations = "w4a16",
    config: dict[str, Any] | None = None,
) -> Checkpoint:
    facts = ModelFacts(config or {"model_type": "any"}, modules, activations, (128, 128), "0.1.0")
    made = layout(name)
    told = made.config(facts)
    extra = {file: json.loads(text) for file, text in made.extra_files(told).items()}
    files = Checkpoint({}, told, extra, {}, partner_sets(modules))
    scale_name = "scale" if name == "modelopt-v4" else "weight_scale_inv"
    for linear in modules:
        rows, cols = (576 if "kv_a" in linear.module else 256), 384
        if linear.fate == "nvfp4":
            for part in made.parts(linear.module, rows, cols, activations):
                files.put(part.name, part.dtype, part.shape)
                if part.content in {"global_scale", "input_scale"}:
                    files.scalars[part.name] = 1.0 if part.content == "input_scale" else 0.25
        elif linear.fate == "plain":
            files.put(f"{linear.module}.weight", "BF16", (rows, cols))
        elif linear.fate == "mxfp4":
            files.put(f"{linear.module}.weight", "I8", (rows, cols // 2))
            files.put(f"{linear.module}.scale", "F8_E8M0", (rows, cols // 32))
        else:
            dtype = "F8_E8M0" if name == "modelopt-v4" else "F32"
            stored = StoredWeight("fp8", "F8_E4M3", rows, cols, dtype, (128, 128))
            scale = made.kept_scale(linear.module, f"{linear.module}.{scale_name}", stored)
            files.put(f"{linear.module}.weight", "F8_E4M3", (rows, cols))
            files.put(scale.name, scale.dtype, scale.shape)
    files.put("model.embed_tokens.weight", "BF16", (320, 256))
    files.put("model.norm.weight", "BF16", (256,))
    files.__post_init__()
    return files


V4_CONFIG: dict[str, Any] = {
    "model_type": "deepseek_v4",
    "expert_dtype": "fp4",
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
}

OURS = {
    "llama ct": lambda: build("compressed-tensors", llama()),
    "llama ct w4a4": lambda: build("compressed-tensors", llama(), "w4a4"),
    "llama modelopt": lambda: build("modelopt", llama()),
    "llama modelopt w4a4": lambda: build("modelopt", llama(), "w4a4"),
    "moe ct": lambda: build("compressed-tensors", qwen_moe()),
    "moe ct w4a4": lambda: build("compressed-tensors", qwen_moe(), "w4a4"),
    "moe modelopt": lambda: build("modelopt", qwen_moe()),
    "v3 ct": lambda: build("compressed-tensors", deepseek_v3()),
    "v3 ct, mtp too": lambda: build("compressed-tensors", deepseek_v3("nvfp4")),
    "v3 modelopt": lambda: build("modelopt", deepseek_v3()),
    "v3 modelopt w4a4": lambda: build("modelopt", deepseek_v3("nvfp4"), "w4a4"),
    "v4": lambda: build("modelopt-v4", deepseek_v4(), "w4a4", V4_CONFIG),
}


@pytest.mark.parametrize("name", OURS)
def test_what_we_write_passes(name: str) -> None:
    assert OURS[name]().findings(whole=True) == []


def test_mtp_experts_kept_plain_pass_in_both_layouts() -> None:
    modules = [
        replace(linear, fate="plain") if ".layers.11." in linear.module else linear
        for linear in qwen_moe()
    ]
    for name in ("compressed-tensors", "modelopt"):
        assert build(name, modules).findings() == []


def kinds_of_tensors(files: Checkpoint) -> dict[str, str]:
    """One tensor of each kind, by the kind: its last part and whose it is."""
    found = {}
    for name, tensor in files.tensors.items():
        suffix = name.rpartition(".")[2]
        if "embed" not in name and "norm" not in name and tensor.dtype != "BF16":
            found.setdefault(f"{suffix} {tensor.dtype}", name)
    return found


@pytest.mark.parametrize("name", OURS)
def test_every_missing_kind_of_tensor_is_found_without_being_expected(name: str) -> None:
    for kind, tensor in kinds_of_tensors(OURS[name]()).items():
        files = OURS[name]()
        del files.tensors[tensor]
        if kind == "scale F8_E8M0" and tensor.startswith("mtp") and ".experts." in tensor:
            continue
        assert files.findings(), f"{kind}: nothing says that {tensor} is missing"


@pytest.mark.parametrize("name", OURS)
def test_every_missing_tensor_is_found_where_it_is_expected(name: str) -> None:
    files = OURS[name]()
    gone = next(name for name in files.tensors if "norm" in name)
    del files.tensors[gone]
    rules = {finding.rule for finding in files.findings(whole=True)}
    assert {"expected.missing", "index.ghost", "index.total-size"} <= rules


@pytest.mark.parametrize("name", OURS)
def test_wrong_types_and_shapes_are_found(name: str) -> None:
    for kind, tensor in kinds_of_tensors(OURS[name]()).items():
        if kind.startswith(("scale", "weight I8", "weight F8")):
            continue
        files = OURS[name]()
        old = files.tensors[tensor]
        files.put(tensor, old.dtype, (3, 7))
        assert files.findings(), f"{kind}: nothing says that the shape is wrong"
        files.put(tensor, "F16", old.shape)
        assert files.findings(), f"{kind}: nothing says that the type is wrong"


@pytest.mark.parametrize(
    ("name", "scalar", "shape"),
    [("llama ct", "weight_global_scale", ()), ("llama modelopt", "weight_scale_2", (1,))],
)
def test_a_scalar_of_the_other_conventions_shape_is_found(
    name: str, scalar: str, shape: tuple[int, ...]
) -> None:
    files = OURS[name]()
    files.put(f"model.layers.0.mlp.up_proj.{scalar}", "F32", shape)
    assert files.rules() == {"part.scalar"}


def test_a_weight_left_beside_the_packed_one_is_found() -> None:
    files = OURS["llama ct"]()
    files.put("model.layers.0.mlp.up_proj.weight", "BF16", (256, 384))
    assert files.rules() == {"part.leftover"}


def test_columns_that_are_no_multiple_of_sixteen_are_found() -> None:
    files = OURS["llama ct"]()
    files.put("model.layers.0.mlp.up_proj.weight_packed", "U8", (256, 4))
    assert {"part.columns", "part.shape"} <= files.rules()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_unusable_scale_is_found(value: float) -> None:
    files = OURS["llama ct"]()
    for part in ("q_proj", "k_proj", "v_proj"):
        files.scalars[f"model.layers.0.self_attn.{part}.weight_global_scale"] = value
    assert "scale.value" in files.rules()


@pytest.mark.parametrize(
    ("name", "scalar"),
    [
        ("llama ct", "model.layers.0.self_attn.k_proj.weight_global_scale"),
        ("llama ct w4a4", "model.layers.0.mlp.up_proj.input_global_scale"),
        ("moe modelopt", "model.layers.11.mlp.experts.10.up_proj.weight_scale_2"),
        ("v4", "layers.11.ffn.experts.2.w3.weight_scale_2"),
        ("v4", "layers.11.ffn.experts.2.w3.input_scale"),
    ],
)
def test_partners_with_unequal_scales_are_found(name: str, scalar: str) -> None:
    files = OURS[name]()
    files.scalars[scalar] *= 1.0000001
    assert files.rules() == {"partner.scale"}


def test_a_partner_that_is_not_nvfp4_is_found() -> None:
    files = OURS["llama ct"]()
    for part in ("weight_packed", "weight_scale", "weight_global_scale"):
        del files.tensors[f"model.layers.0.mlp.up_proj.{part}"]
    files.put("model.layers.0.mlp.up_proj.weight", "BF16", (256, 384))
    assert {"partner.mixed", "fused.mixed"} <= files.rules()


def test_a_scale_without_its_weight_is_found() -> None:
    files = OURS["llama ct"]()
    files.put("model.layers.0.mlp.other_proj.weight_scale_inv", "F32", (1, 1))
    assert files.rules() == {"part.orphan"}


def test_a_tensor_in_another_shard_than_the_index_says_is_found() -> None:
    files = OURS["llama ct"]()
    files.weight_map["lm_head.weight"] = "model-00002-of-00002.safetensors"
    del files.weight_map["model.norm.weight"]
    rules = {finding.rule for finding in files.findings(whole=True)}
    assert rules == {"index.shard", "index.missing"}


def edit(name: str, *entries: str) -> Checkpoint:
    """A checkpoint of ours with other entries in its ignore lists."""
    files = copy.deepcopy(OURS[name]())
    lists = [files.quant] + ([files.extra[HF_QUANT_CONFIG]["quantization"]] if files.extra else [])
    for holder in lists:
        for key in ("ignore", "exclude_modules"):
            if key in holder:
                holder[key] = [*holder[key], *entries]
    return files


@pytest.mark.parametrize(
    ("name", "entry", "engines"),
    [
        # A substring to vLLM: it takes layers 1, 10 and 11 out, and SGLang layer 1.
        ("llama modelopt", "model.layers.1", {"vllm", "sglang"}),
        ("moe modelopt", "model.layers.0.mlp.e", {"vllm"}),
        ("llama modelopt", "mlp", {"vllm", "sglang"}),
        ("llama modelopt", "*.mlp.up_proj", {"vllm", "sglang", "trtllm"}),
        ("moe modelopt", "*.experts", {"vllm", "sglang"}),
        ("llama ct", r"re:.*\.layers\.1", {"vllm", "sglang", "compressed-tensors"}),
        ("llama ct", "o_proj", {"sglang"}),
        ("llama ct", "model.layers.3.mlp.down_proj", {"vllm", "sglang", "compressed-tensors"}),
    ],
)
def test_an_entry_that_hits_a_quantized_module_is_found(
    name: str, entry: str, engines: set[str]
) -> None:
    found = [f for f in edit(name, entry).findings() if f.rule.startswith("match.")]
    assert {engine for finding in found for engine in finding.engines} == engines
    assert all(finding.severity == "error" for finding in found)


def test_the_gate_trap_hits_gate_up_proj_in_vllm_alone() -> None:
    # `model.layers.0.mlp.gate` is a substring of the fused name `model.layers.0.mlp.gate_up_proj`.
    files = edit("llama modelopt", "model.layers.0.mlp.gate")
    found = [f for f in files.findings() if f.rule == "match.quantized"]
    assert {f.where for f in found} == {
        "model.layers.0.mlp.gate_up_proj",
        "model.layers.0.mlp.gate_proj",
    }
    assert {f.engines for f in found} == {("vllm",)}


@pytest.mark.parametrize(
    ("name", "entry", "rule", "severity"),
    [
        ("moe ct", r"re:.*\.self_attn\..*", "match.unresolved", "error"),
        ("moe ct", "lm_head", "match.unresolved", "error"),
        ("moe ct", r"re:.*\.mlp\.gate$", "match.unresolved", "warning"),
        ("v3 ct", r"re:.*\.eh_proj$", "match.unresolved", "error"),
        ("llama ct", "lm_head", "match.kept", "error"),
        ("moe modelopt", "*.self_attn.*", "match.kept", "error"),
        ("moe modelopt", "lm_head", "match.kept", "error"),
        ("moe modelopt", "*.mlp.gate", "match.kept", "warning"),
    ],
)
def test_a_kept_module_that_no_entry_covers_is_found(
    name: str, entry: str, rule: str, severity: str
) -> None:
    files = copy.deepcopy(OURS[name]())
    files.extra = {}
    files.quant["ignore"].remove(entry)
    if "exclude_modules" in files.quant:
        files.quant["exclude_modules"] = files.quant["ignore"]
    assert {(f.rule, f.severity) for f in files.findings()} == {(rule, severity)}


def test_a_linear_target_in_a_mixed_configuration_is_found() -> None:
    files = copy.deepcopy(OURS["v3 ct"]())
    files.quant["config_groups"]["group_1"]["targets"] = ["Linear"]
    assert "config.linear-in-mixed" in files.rules()


def test_an_expression_without_its_prefix_is_found() -> None:
    files = copy.deepcopy(OURS["moe ct"]())
    files.quant["ignore"] = [entry.removeprefix("re:") for entry in files.quant["ignore"]]
    assert {"config.regex-prefix", "match.unresolved"} <= files.rules()


def test_an_expression_in_a_modelopt_list_is_found() -> None:
    assert "config.regex-prefix" in edit("llama modelopt", r"re:.*\.norm$").rules()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama ct", "quantization_status", "frozen"),
        ("llama ct", "format", "mixed-precision"),
        ("llama ct", "config_groups", {}),
        ("llama modelopt", "quant_algo", "FP4"),
        ("llama modelopt", "group_size", None),
        ("llama modelopt", "ignore", None),
        ("v3 modelopt", "quantized_layers", {}),
        ("v4", "moe_quant_algo", None),
        ("v4", "quant_algo", "NVFP4"),
        ("v4", "group_size", None),
        ("v4", "routed_experts_quant_method", "fp8"),
        ("llama ct", "quant_method", "awq"),
    ],
)
def test_a_field_that_a_loader_requires_is_found(name: str, key: str, value: object) -> None:
    files = copy.deepcopy(OURS[name]())
    files.quant[key] = value
    assert any(f.rule.startswith(("config.", "v4.")) for f in files.findings())


@pytest.mark.parametrize("key", ["num_bits", "group_size", "strategy", "symmetric", "dynamic"])
def test_wrong_weights_of_a_group_are_found(key: str) -> None:
    files = copy.deepcopy(OURS["llama ct"]())
    files.quant["config_groups"]["group_0"]["weights"][key] = "wrong"
    assert "config.field" in files.rules()


@pytest.mark.parametrize("key", ["group_size", "kv_cache_quant_algo", "exclude_modules"])
def test_a_nested_file_that_vllm_refuses_is_found(key: str) -> None:
    files = copy.deepcopy(OURS["llama modelopt"]())
    del files.extra[HF_QUANT_CONFIG]["quantization"][key]
    assert files.rules() == {"config.hf-quant"}


def test_the_nested_form_in_config_json_is_found() -> None:
    files = copy.deepcopy(OURS["llama modelopt"]())
    nested = files.extra.pop(HF_QUANT_CONFIG)
    files.config["quantization_config"] = {"quant_method": "modelopt", **nested}
    files.config["quantization_config"]["producer"] = {"name": "modelopt", "version": "1"}
    (finding,) = files.findings()
    assert (finding.rule, finding.severity) == ("config.nested", "error")


def test_the_file_beside_is_read_where_config_json_says_nothing() -> None:
    files = copy.deepcopy(OURS["moe modelopt"]())
    del files.config["quantization_config"]
    assert files.findings() == []


@pytest.mark.parametrize(
    "stale",
    [
        {"text_config": {"quantization_config": {"quant_method": "compressed-tensors"}}},
        {"compression_config": {}},
        {"expert_dtype": "fp8"},
    ],
)
def test_stale_entries_of_the_source_are_found(stale: dict[str, Any]) -> None:
    files = OURS["llama ct"]()
    files.config |= stale
    assert files.rules() == {"config.stale"}


def test_an_fp8_scale_by_the_sources_name_is_found() -> None:
    files = OURS["v3 ct"]()
    scale = files.tensors.pop("model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale")
    assert scale.shape == (5, 3)
    files.put("model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv", "F32", (5, 3))
    assert files.rules() == {"kept.scale"}


class TestDeepSeekV4:
    def test_anything_but_a_routed_expert_is_found(self) -> None:
        for module in ("layers.0.attn.wo_a", "layers.0.ffn.shared_experts.w1"):
            files = OURS["v4"]()
            del files.tensors[f"{module}.scale"]
            for part in layout("modelopt-v4").parts(module, 256, 384, "w4a4"):
                files.put(part.name, part.dtype, part.shape)
            assert "v4.not-routed" in files.rules()

    def test_experts_declared_fp8_are_found(self) -> None:
        files = OURS["v4"]()
        files.config["expert_dtype"] = "fp8"
        assert files.rules() == {"v4.expert-dtype"}

    def test_a_kept_scale_that_is_not_e8m0_is_found(self) -> None:
        files = OURS["v4"]()
        files.put("layers.0.attn.wq_a.scale", "F32", (2, 3))
        assert files.rules() == {"v4.kept-scale"}

    def test_a_routed_expert_left_as_it_was_is_found(self) -> None:
        files = OURS["v4"]()
        module = "layers.0.ffn.experts.0.w2"
        for part in ("weight_scale", "weight_scale_2", "input_scale"):
            del files.tensors[f"{module}.{part}"]
        files.put(f"{module}.weight", "I8", (256, 192))
        files.put(f"{module}.scale", "F8_E8M0", (256, 12))
        assert "v4.expert-kept" in files.rules()

    def test_an_ignore_entry_that_hits_the_experts_is_found(self) -> None:
        files = copy.deepcopy(OURS["v4"]())
        files.quant["ignore"].append("*.ffn.*")
        assert "match.quantized" in files.rules()


class TestTheSeed:
    """The script this project began with wrote files that no engine loads; here is why."""

    def seed(self) -> Checkpoint:
        files = build("modelopt-v4", deepseek_v4(), "w4a4", V4_CONFIG)
        # Every linear and the embedding in ModelOpt's names, without an input scale ...
        for linear in deepseek_v4():
            if linear.fate not in {"nvfp4", "mxfp4"} and "indexer" not in linear.module:
                files.tensors.pop(f"{linear.module}.scale", None)
                for part in layout("modelopt").parts(linear.module, 256, 384, "w4a4"):
                    files.put(part.name, part.dtype, part.shape)
        files.tensors = {n: t for n, t in files.tensors.items() if "input_scale" not in n}
        # ... under a compressed-tensors configuration, its expressions without "re:".
        files.config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "nvfp4-pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4,
                        "type": "float",
                        "strategy": "tensor_group",
                        "group_size": 16,
                        "symmetric": True,
                        "dynamic": False,
                    },
                    "input_activations": {"num_bits": 4, "dynamic": "local"},
                }
            },
            "ignore": [r".*indexer.*", r".*\.gate$", r".*embed_tokens.*", r".*lm_head.*"],
        }
        files.extra = {}
        files.scalars["layers.0.ffn.experts.0.w3.weight_scale_2"] = 0.3
        return files

    @pytest.mark.parametrize(
        ("rule", "where"),
        [
            ("part.convention", "layers.0.attn.wo_a"),  # weight_scale_2, divisors expected
            ("part.convention", "head"),  # the head is quantized too
            ("part.input-scale", "layers.0.ffn.experts.0.w1.input_scale"),
            ("config.regex-prefix", "ignore"),  # so nothing is ignored at all
            ("match.kept", "layers.0.attn.indexer.weights_proj"),
            ("partner.scale", "layers.0.ffn.experts.0.w1, layers.0.ffn.experts.0.w3"),
            ("config.stale", "expert_dtype"),
        ],
    )
    def test_each_mistake_is_found(self, rule: str, where: str) -> None:
        assert (rule, where) in {(f.rule, f.where) for f in self.seed().findings()}

    def test_a_kept_weight_whose_scale_was_swallowed_is_found(self) -> None:
        # Thirty indexer.wq_b of V4-Pro kept their FP8 bytes and lost their `.scale`.
        files = OURS["v4"]()
        files.put("layers.0.attn.indexer.wq_b.weight", "F8_E4M3", (256, 128))
        assert files.rules() == {"v4.kept-scale"}


def test_a_quarter_of_a_million_tensors_take_seconds() -> None:
    import time

    files = build("modelopt-v4", deepseek_v4(), "w4a4", V4_CONFIG)
    parts = layout("modelopt-v4").parts("m", 256, 384, "w4a4")
    for n in range(20, 80):
        for e in range(384):
            for w in ("w1", "w2", "w3"):
                for part in parts:
                    name = f"layers.{n}.ffn.experts.{e}.{w}.{part.name[2:]}"
                    files.tensors[name] = StoredTensor(name, part.dtype, part.shape, "s", 0, 1)
    began = time.monotonic()
    assert files.findings() == []
    assert len(files.tensors) > 276_000
    assert time.monotonic() - began < 60  # a wall far away: only quadratic work reaches it


def test_a_finding_says_what_and_where() -> None:
    files = OURS["llama ct"]()
    del files.tensors["model.layers.0.mlp.up_proj.weight_global_scale"]
    (finding,) = files.findings()
    assert finding.where == "model.layers.0.mlp.up_proj.weight_global_scale"
    assert re.fullmatch(r"[A-Z].*\.", finding.what)
