"""--quantize: what a policy leaves alone becomes NVFP4, where engines can load it so."""

import pytest
from profiles.walks import plan_of, planned, result, source_folder

from hubconv.errors import SourceError, UsageError
from hubconv.profiles import load_profiles
from hubconv.profiles.roles import WHY_NEVER
from hubconv.steps.tables import plan_table


def fates(name, **recipe):
    jobs = planned(source_folder(name), **recipe).jobs
    return {job.module: (job.action, job.reason) for job in jobs}


def test_what_is_asked_for_becomes_nvfp4_beside_the_policy():
    shared = r"mlp\.shared_experts\."
    found = fates("deepseek_v3", quantize=(shared,))

    # Layer 2 is MTP's.
    for layer, expected in (
        (1, ("nvfp4", "")),
        (2, ("rename", "--mtp decides of MTP layers")),
    ):
        for leaf in ("gate_proj", "up_proj", "down_proj"):
            assert found[f"model.layers.{layer}.mlp.shared_experts.{leaf}"] == expected
    assert found["model.layers.1.mlp.experts.0.up_proj"][0] == "nvfp4"
    assert found["model.layers.1.self_attn.o_proj"][0] == "rename"


def test_the_result_passes_the_rules_of_the_loaders():
    for layout in ("compressed-tensors", "modelopt"):
        walk = result("deepseek_v3", layout=layout, quantize=("re:shared_experts", "o_proj"))
        assert walk.verified().findings == ()


def test_all_roles_asked_for_is_the_policy_that_has_them():
    asked = plan_of("qwen3_moe_bf16", quantize=(r"self_attn\.",))
    policy = plan_of("qwen3_moe_bf16", policy="linears")

    assert [job.writes for job in asked.jobs] == [job.writes for job in policy.jobs]


def test_nothing_that_no_engine_loads_is_quantized():
    found = fates("deepseek_v32", quantize=(r"self_attn\.",))

    assert found["model.layers.0.self_attn.o_proj"][0] == "nvfp4"
    for leaf, rule in (
        ("kv_b_proj", "split it after loading"),
        ("indexer.wq_b", "deepseek_v2.py:710-718"),
        ("indexer.weights_proj", "deepseek_v2.py:710-718"),
    ):
        action, reason = found[f"model.layers.0.self_attn.{leaf}"]
        assert action in {"keep", "rename"}
        assert rule in reason
        assert reason in plan_table(plan_of("deepseek_v32", quantize=(r"self_attn\.",)), 400)
    assert found["model.layers.2.self_attn.o_proj"][1] == "--mtp decides of MTP layers"


@pytest.mark.parametrize(
    ("name", "pattern", "says"),
    [
        (
            "deepseek_v3",
            "lm_head",
            r"hits 1 tensors, .*lm_head.weight is head \(an NVFP4 head .*issue 44081\)",
        ),
        ("deepseek_v3", r"kv_b_proj\.", r"hits 3 tensors, and none of them can become NVFP4"),
        ("deepseek_v3", "nowhere", r"is found in no tensor's name"),
        ("deepseek_v3", r"layers\.2\.self_attn\.o_proj", r"--mtp decides"),
        ("llama_bf16", "(", r"--quantize is not a regular expression"),
    ],
)
def test_a_pattern_that_quantizes_nothing_is_refused_with_the_reason(name, pattern, says):
    with pytest.raises(UsageError, match=says):
        planned(source_folder(name), quantize=(pattern,))


def test_what_is_kept_stays_whatever_else_is_asked():
    found = fates("llama_bf16", quantize=(r"mlp\.",), keep=(r"layers\.0\.mlp\.",))

    assert found["model.layers.0.mlp.up_proj"] == ("keep", "--keep")
    assert found["model.layers.1.mlp.up_proj"][0] == "nvfp4"


def test_a_part_of_what_engines_fuse_is_refused():
    with pytest.raises(SourceError, match=r"partner .*q_proj becomes NVFP4; engines fuse the two"):
        planned(source_folder("llama_bf16"), policy="mlp", quantize=(r"layers\.0\..*q_proj",))


def test_deepseek_v4_takes_nothing_but_routed_experts():
    with pytest.raises(UsageError, match=r"w1\.weight is shared_expert \(its loaders .* to FP8\)"):
        planned(source_folder("deepseek_v4"), quantize=("shared_experts",))
    for policy in ("mlp", "linears"):
        with pytest.raises(UsageError, match="send every linear but the routed experts to FP8"):
            planned(source_folder("deepseek_v4"), policy=policy)


def test_every_role_that_is_never_quantized_has_a_reason_of_its_own():
    roles = {role for profile in load_profiles() for role in profile.never}

    assert roles == set(WHY_NEVER)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf"), 1e-50])
def test_an_input_scale_that_is_none_is_refused_before_the_work(wrong):
    with pytest.raises(UsageError, match="is no scale: engines divide by it"):
        planned(source_folder("llama_bf16"), input_scale=wrong, activations="w4a4")
