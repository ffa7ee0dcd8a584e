"""Modules that stand elsewhere in an engine's model than in the file are found there too."""

import json

import pytest
from profiles.walks import result

from hubconv.formats.contract import (
    check,
    sglang_ct_scheme,
    vllm_ct_scheme,
    vllm_modelopt_excluded,
)

GEMMA = "model.language_model.layers.{}.{}experts.0.gate_proj"
STEP = "model.layers.{}.{}share_expert.{}"


def config_of(walk):
    return json.loads(walk.plan.files["config.json"])["quantization_config"]


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
def test_gemmas_experts_are_those_of_vllm_s_moe_block(layout):
    walk = result("gemma4_moe_bf16", layout=layout, keep=(r"layers\.0\.experts\.",))
    config = config_of(walk)

    assert walk.verified().findings == ()
    for place in ("", "moe."):
        for layer, quantized in ((0, False), (1, True)):
            name = GEMMA.format(layer, place)
            if layout == "modelopt":
                container = name.removesuffix(".0.gate_proj")
                assert vllm_modelopt_excluded(container, config["ignore"]) != quantized
            else:
                assert (vllm_ct_scheme(name, config) is not None) == quantized
                assert (sglang_ct_scheme(name, config) is not None) == quantized


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
def test_steps_shared_expert_is_that_of_vllm_s_moe_block(layout):
    walk = result("step35_bf16", layout=layout, policy="mlp", keep=(r"layers\.1\.share_expert\.",))
    config = config_of(walk)

    assert walk.verified().findings == ()
    for place in ("", "moe."):
        for layer, quantized in ((1, False), (2, True)):
            for leaf in ("gate_up_proj", "down_proj"):
                name = STEP.format(layer, place, leaf)
                if layout == "modelopt":
                    assert vllm_modelopt_excluded(name, config["ignore"]) != quantized
                else:
                    assert (vllm_ct_scheme(name, config) is not None) == quantized


@pytest.mark.parametrize("layout", ["compressed-tensors", "modelopt"])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("qwen35_moe_bf16", "model.language_model.layers.0.mlp.experts"),
        ("llama4_bf16", "language_model.model.layers.1.feed_forward.experts"),
        ("gemma4_moe_bf16", "model.language_model.layers.0.experts"),
    ],
)
def test_a_stack_that_stays_must_be_named_by_the_configuration(name, path, layout):
    walk = result(name, layout=layout, policy="mlp", keep=(path.replace(".", r"\.") + r"\.",))
    config = json.loads(walk.plan.files["config.json"])
    assert check(walk.tensors, config) == []

    entry = config["quantization_config"]
    for key in ("ignore", "exclude_modules"):
        if key in entry:
            entry[key] = [each for each in entry[key] if "experts" not in each]
    found = [each for each in check(walk.tensors, config) if each.where == path]
    assert {each.rule for each in found} <= {"match.kept", "match.unresolved"}
    assert any("sglang" in each.engines for each in found)
