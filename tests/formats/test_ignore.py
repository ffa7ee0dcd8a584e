"""A pattern list hits what it should and nothing else, under every loader's own rule."""

from typing import ClassVar

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from hubconv.errors import IntegrityError
from hubconv.formats.contract import (
    MixedPartsError,
    ct_library_match,
    ct_library_scheme,
    mixed_algo,
    sglang_ct_scheme,
    sglang_modelopt_excluded,
    trtllm_excluded,
    vllm_ct_scheme,
    vllm_modelopt_excluded,
)
from hubconv.formats.contract.finding import NoSchemeError
from hubconv.formats.contract.names import asked
from hubconv.formats.layouts.base import Linear, ModelFacts
from hubconv.formats.layouts.ignore import Pattern, cover, file_names, lookups
from hubconv.formats.layouts.modelopt import ignored


class TestVllmModelOpt:
    def test_a_layer_without_a_star_also_hits_layers_that_begin_with_its_number(self) -> None:
        assert vllm_modelopt_excluded("model.layers.11.mlp.down_proj", ["model.layers.1"])
        assert not vllm_modelopt_excluded("model.layers.11.mlp.down_proj", ["*.layers.1.*"])

    def test_a_router_without_a_star_also_hits_the_fused_gate_up_proj(self) -> None:
        name = "model.layers.0.mlp.gate_up_proj"
        assert vllm_modelopt_excluded(name, ["model.layers.0.mlp.gate"])
        assert not vllm_modelopt_excluded(name, ["*.mlp.gate"])

    def test_a_fused_module_is_excluded_by_the_exact_names_of_all_its_parts(self) -> None:
        parts = [f"model.layers.0.self_attn.{p}_proj" for p in "qkv"]
        assert vllm_modelopt_excluded("model.layers.0.self_attn.qkv_proj", parts)
        with pytest.raises(MixedPartsError):
            vllm_modelopt_excluded("model.layers.0.self_attn.qkv_proj", parts[:2])

    def test_globs_of_the_parts_do_not_exclude_the_fused_module(self) -> None:
        parts = [f"*.self_attn.{p}_proj" for p in "qkv"]
        assert not vllm_modelopt_excluded("model.layers.0.self_attn.qkv_proj", parts)

    def test_an_expert_by_its_exact_name_excludes_its_whole_layer(self) -> None:
        entry = "model.layers.5.mlp.experts.3.gate_proj"
        assert vllm_modelopt_excluded("model.layers.5.mlp.experts", [entry])

    def test_an_entry_about_experts_excludes_whatever_stands_within_it(self) -> None:
        entry = "m.shared_experts.gate_proj"
        assert vllm_modelopt_excluded("m.shared_experts.gate", [entry])
        assert sglang_modelopt_excluded("m.shared_experts.gate", [entry])

    def test_it_knows_no_expressions(self) -> None:
        assert not vllm_modelopt_excluded("lm_head", [r"re:.*lm_head"])


class TestSglangModelOpt:
    def test_a_bare_word_hits_every_path_that_has_it_as_a_part(self) -> None:
        assert sglang_modelopt_excluded("model.layers.0.mlp.gate.linear", ["gate"])
        assert not sglang_modelopt_excluded("model.layers.0.mlp.gate_up_proj", ["gate"])

    def test_an_mla_part_counts_in_every_layer(self) -> None:
        entry = "model.layers.61.self_attn.kv_b_proj"
        assert sglang_modelopt_excluded("model.layers.3.self_attn.kv_b_proj", [entry])

    def test_a_layer_of_experts_is_not_matched_by_parts_of_paths(self) -> None:
        name = "model.layers.1.mlp.experts"
        assert sglang_modelopt_excluded(name, ["model.layers.1"])
        assert not sglang_modelopt_excluded(name, ["model.layers.1"], is_experts=True)


def test_tensorrt_llm_reads_plain_globs() -> None:
    assert trtllm_excluded("model.layers.61.eh_proj", ["*.layers.61.*"])
    assert not trtllm_excluded("model.layers.61.eh_proj", ["model.layers.61"])


class TestMixedTable:
    TABLE: ClassVar = {
        "model.layers.3.mlp.experts": {"quant_algo": "NVFP4"},
        "model.layers.3.self_attn.q_a_proj": {"quant_algo": "FP8_PB_WO"},
        "model.layers.3.self_attn.kv_a_proj_with_mqa": {"quant_algo": "fp8_pb_wo"},
        "model.layers.4.mlp.gate_proj": {"quant_algo": "NVFP4"},
        "model.layers.4.mlp.up_proj": {"quant_algo": "FP8_PB_WO"},
    }

    @pytest.mark.parametrize(
        ("name", "algo"),
        [
            ("model.layers.3.mlp.experts", "NVFP4"),
            ("model.layers.3.self_attn.fused_qkv_a_proj", "FP8_PB_WO"),
            ("model.layers.3.mlp", "NVFP4"),
            ("model.layers.30.mlp.experts", ""),
        ],
    )
    def test_lookups(self, name: str, algo: str) -> None:
        assert mixed_algo(name, self.TABLE) == algo

    def test_parts_that_differ_stop_the_loader(self) -> None:
        with pytest.raises(MixedPartsError):
            mixed_algo("model.layers.4.mlp.gate_up_proj", self.TABLE)


class TestCompressedTensors:
    MIXED: ClassVar = {
        "ignore": ["lm_head"],
        "config_groups": {
            "a": {"targets": ["Linear"]},
            "b": {"targets": [r"re:.*\.(gate|up)_proj$"]},
        },
    }

    def test_the_order_of_class_and_parts_differs_between_engines(self) -> None:
        fused = "model.layers.0.mlp.gate_up_proj"
        assert vllm_ct_scheme(fused, self.MIXED) == "b"
        assert sglang_ct_scheme(fused, self.MIXED) == "a"

    def test_sglang_takes_an_entry_for_the_end_of_a_path(self) -> None:
        assert sglang_ct_scheme("mtp.lm_head", self.MIXED) is None
        assert vllm_ct_scheme("mtp.lm_head", self.MIXED) == "a"

    def test_sglang_demands_an_entry_for_everything(self) -> None:
        config = {"config_groups": {"a": {"targets": [r"re:.*experts\..*"]}}}
        assert vllm_ct_scheme("model.layers.0.mlp.down_proj", config) is None
        with pytest.raises(NoSchemeError):
            sglang_ct_scheme("model.layers.0.mlp.down_proj", config)

    def test_some_ignored_parts_stop_both_engines(self) -> None:
        config = {"ignore": ["l.0.q_proj"], "config_groups": {"a": {"targets": ["Linear"]}}}
        for scheme in (vllm_ct_scheme, sglang_ct_scheme):
            with pytest.raises(MixedPartsError):
                scheme("l.0.qkv_proj", config)

    def test_an_expression_needs_its_prefix_and_is_anchored_at_the_start(self) -> None:
        assert not ct_library_match("model.lm_head", [r".*lm_head", r"re:lm_head"])
        assert ct_library_match("model.lm_head", [r"re:.*lm_head"])

    def test_the_library_prefers_names_to_classes(self) -> None:
        assert ct_library_scheme("l.0.mlp.up_proj", self.MIXED) == "b"
        assert ct_library_scheme("l.0.mlp.down_proj", self.MIXED) == "a"


class TestCover:
    def test_one_kind_over_all_layers_is_one_pattern(self) -> None:
        kept = [f"model.layers.{n}.self_attn.{p}_proj" for n in range(40) for p in "qkvo"]
        rest = [f"model.layers.{n}.mlp.up_proj" for n in range(40)]
        assert cover(lookups(kept), lookups(rest)) == [Pattern("within", ".self_attn.")]

    def test_a_fused_name_gets_its_own_pattern_where_the_parent_is_mixed(self) -> None:
        kept = ["l.0.mlp.gate_proj", "l.0.mlp.up_proj"]
        found = cover(lookups(kept), lookups(["l.0.mlp.down_proj"]))
        assert [pattern.glob for pattern in found] == [
            "*.mlp.gate_proj",
            "*.mlp.gate_up_proj",
            "*.mlp.up_proj",
        ]

    def test_a_layer_kept_whole_is_one_pattern(self) -> None:
        kept = [f"model.layers.1.mlp.experts.{e}.up_proj" for e in range(3)]
        rest = [name.replace("layers.1", "layers.11") for name in kept]
        assert cover(lookups(kept), lookups(rest)) == [Pattern("within", ".layers.1.")]

    def test_a_lone_module_is_spelled_so_that_no_substring_matches(self) -> None:
        found = cover(["model.layers.1.mlp.gate"], ["model.layers.1.mlp.gate_up_proj"])
        assert [pattern.glob for pattern in found] == ["*.mlp.gate"]
        found = cover(["m.layers.1.gate"], ["m.layers.2.gate", "m.layers.1.gate_up_proj"])
        assert [pattern.glob for pattern in found] == ["*.layers.1.gate"]

    def test_names_that_cannot_be_told_apart_are_an_error(self) -> None:
        with pytest.raises(IntegrityError, match="No entry"):
            cover(["head"], ["xhead"])

    def test_the_order_of_the_names_does_not_matter(self) -> None:
        kept = ["lm_head", "a.0.b.c", "a.0.d", "mtp.0.x.y"]
        assert cover(kept, ["a.0.b.d"]) == cover(kept[::-1], ["a.0.b.d"])


LEAVES = ("q_proj", "k_proj", "v_proj", "kv_b_proj", "gate", "gate_proj", "up_proj", "w1")
NAMES = [
    *("lm_head", "model.proj", "mtp.0.e_proj", "mtp.1.e_proj", "model.layers.1.eh_proj"),
    *(
        f"{prefix}layers.{n}.{part}.{leaf}"
        for prefix in ("model.", "mtp.")
        for n in (1, 2, 11)
        for part in ("self_attn", "mlp", "shared_experts")
        for leaf in LEAVES
    ),
    *(
        f"model.layers.{n}.mlp.experts.{e}.{leaf}"
        for n in (1, 2, 11)
        for e in (0, 1)
        for leaf in ("gate_proj", "up_proj", "w1")
    ),
]
MODULES = st.sets(st.sampled_from(NAMES), min_size=1, max_size=12)
FAST = settings(max_examples=100, deadline=None)


def told_apart(kept: set[str], others: set[str]) -> bool:
    """Whether no engine's module holds some of both."""
    return not set(lookups(kept)) & set(lookups(others))


@FAST
@given(MODULES, MODULES)
def test_every_loader_reads_the_modelopt_list_as_it_is_meant(
    kept: set[str], others: set[str]
) -> None:
    assume(told_apart(kept, others))
    modules = [Linear(name, "any", "plain") for name in sorted(kept)]
    modules += [Linear(name, "any", "nvfp4") for name in sorted(others)]
    try:
        globs = ignored(ModelFacts({}, modules, "w4a16", None, "0"))
    except IntegrityError:  # some loader cannot tell two of them apart, however they are spelled
        reject()
    for names, excluded in ((kept, True), (others, False)):
        for module in asked(sorted(names)):
            assert vllm_modelopt_excluded(module.name, globs) == excluded
            assert sglang_modelopt_excluded(module.name, globs, module.is_experts) == excluded
            assert trtllm_excluded(module.name, globs) == excluded


@FAST
@given(MODULES, MODULES)
def test_every_reader_of_expressions_agrees_with_the_cover(
    kept: set[str], others: set[str]
) -> None:
    assume(told_apart(kept, others))
    wanted, forbidden = file_names(sorted(kept)), file_names(sorted(others))
    entries = [pattern.regex for pattern in cover(wanted, [*forbidden, *lookups(others)])]
    config = {"ignore": entries, "config_groups": {"a": {"targets": ["Linear"]}}}
    for names, scheme in ((wanted, None), (forbidden, "a")):
        for name in names:
            assert ct_library_match(name, entries) == (scheme is None)
            assert vllm_ct_scheme(name, config) == scheme
            assert sglang_ct_scheme(name, config) == scheme
