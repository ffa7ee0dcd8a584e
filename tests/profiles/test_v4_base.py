"""V4-Base: FP8 experts that never were FP4 are rounded, and everybody who asks is told so."""

import json

import pytest
from checkpoints.broken import read_folder
from profiles.walks import planned, result, source_folder, weights_of

from hubconv.card import CardFacts, SourceCard, render_card
from hubconv.steps.report import Run, make_report
from hubconv.steps.tables import render_terminal


@pytest.fixture(scope="module")
def base():
    return result("deepseek_v4_base")


def test_experts_that_were_born_as_fp8_are_not_exact(base):
    blocks = sum(t.quality.blocks for r in base.records for t in r.tensors)
    exact = sum(t.quality.exact_blocks for r in base.records for t in r.tensors)

    assert exact < blocks // 10
    assert base.verified().findings == ()


def test_mtp_experts_stay_fp8_as_nothing_would_spell_them_exactly(base):
    jobs = [job for job in base.plan.jobs if job.role == "mtp_expert"]
    source = read_folder(source_folder("deepseek_v4_base"))
    tensors = base.tensors

    assert jobs
    for job in jobs:
        data, scale = job.writes
        assert (data.dtype, data.recode) == ("F8_E4M3", "")
        assert tensors[data.name].data == source[data.name].data
        assert scale.recode == "pow2_to_e8m0"
        assert weights_of(job, source).shape == (job.weight.rows, job.weight.cols)


def test_the_configuration_says_that_mtp_experts_are_fp8(base):
    config = json.loads(base.plan.files["config.json"])

    assert config["expert_dtype"] == "fp4"
    assert config["quantization_config"]["routed_experts_quant_method"] == "fp8"
    for name in ("deepseek_v4", "deepseek_v4_sgl_fp8"):
        other = json.loads(planned(source_folder(name)).files["config.json"])
        assert "routed_experts_quant_method" not in other["quantization_config"]


def test_plan_report_and_card_say_how_many_blocks_are_exact(base):
    for name, hinted in (("deepseek_v4_base", True), ("deepseek_v4", False)):
        warnings = " ".join(planned(source_folder(name)).warnings)
        assert ("FP8 by birth" in warnings) == hinted
    quality = (report := make_report(base.plan, base.records, Run())).quality.quality
    told = f"{quality.exact_blocks} of {quality.blocks} blocks exact"

    assert told in render_terminal(report, 200)
    assert "FP8 by birth" in render_card(CardFacts("org/x", report.to_json(), SourceCard()))


def test_all_else_stays_as_the_source_has_it(base):
    source, tensors = read_folder(source_folder("deepseek_v4_base")), base.tensors
    reads = [tensor.name for job in base.plan.jobs for tensor in job.reads]

    assert sorted(reads) == sorted(source)
    for job in base.plan.jobs:
        for output in job.writes if job.action != "nvfp4" else ():
            if not output.recode:
                read = job.reads[output.source].name
                assert tensors[output.name].data == source[read].data
