"""The published checkpoints, as inventories: counted, weighed, and planned from headers alone."""

import time
from collections import Counter

import pytest
from checkpoints.inventories import INVENTORIES, HeadersOnly

from hubconv.errors import SourceError
from hubconv.formats.checkpoint import nbytes_of
from hubconv.quantities import human_bytes
from hubconv.steps.decide import Recipe
from hubconv.steps.machine import Machine
from hubconv.steps.plan import make_plan
from hubconv.steps.report import make_report
from hubconv.steps.tables import plan_table

PUBLISHED = {
    "DeepSeek-V4-Flash": (69_187, 159_609_485_896),
    "DeepSeek-V4-Pro": (145_116, 864_704_792_696),
    "DeepSeek-V3": (91_991, 688_574_839_360),
    "Qwen3-30B-A3B-FP8": (37_491, 31_170_895_872),
    "gpt-oss-20b": (459, 13_761_264_768),
}
"""Tensors, and their bytes, as the publishers' own indices state them; of gpt-oss-20b the bytes are
published, and the tensors are counted."""

SHARDS = {
    "DeepSeek-V4-Flash": 46,
    "DeepSeek-V4-Pro": 64,
    "DeepSeek-V3": 163,
    "Qwen3-30B-A3B-FP8": 4,
}

EXPERTS = {
    "DeepSeek-V4-Flash": 43 * 256 * 3,
    "DeepSeek-V4-Pro": 61 * 384 * 3,
    "DeepSeek-V3": 58 * 256 * 3,
    "Qwen3-30B-A3B-FP8": 48 * 128 * 3,
}
"""Routed experts' weights outside MTP layers."""

RESULT_GB = {"DeepSeek-V4-Flash": 168.27, "DeepSeek-V4-Pro": 913.06}
"""Of the result's tensors, worked out by hand: 9/16 of a byte a weight, and the rest as it was."""

PARALLEL = {
    "DeepSeek-V4-Flash": 128,
    "DeepSeek-V4-Pro": 64,
    "DeepSeek-V3": 128,
    "Qwen3-30B-A3B-FP8": 16,
}
"""Largest power of two that divides the columns of the experts' second matrix in blocks of 16."""

RUNNER = Machine(4, 16 * 10**9, 14 * 10**9)
"""What a job of GitHub Actions has."""

SECONDS = 60
"""Of a processor, whatever else runs beside: a plan that is quadratic takes many times as long."""


@pytest.mark.parametrize("name", INVENTORIES)
def test_an_inventory_is_the_published_one(name):
    lines = list(INVENTORIES[name].lines())

    assert len({tensor for tensor, _, _ in lines}) == len(lines)
    total = sum(nbytes_of(dtype, shape) for _, dtype, shape in lines)
    assert (len(lines), total) == PUBLISHED[name]


def test_the_element_types_of_deepseek_v4_flash_are_the_published_ones():
    lines = list(INVENTORIES["DeepSeek-V4-Flash"].lines())

    assert Counter(dtype for _, dtype, _ in lines) == {
        "BF16": 433, "F32": 417, "F8_E4M3": 375, "F8_E8M0": 34_167, "I64": 3, "I8": 33_792,
    }  # fmt: skip
    mtp = [(dtype, shape) for tensor, dtype, shape in lines if tensor.startswith("mtp.0.")]
    assert (len(mtp), sum(nbytes_of(*each) for each in mtp)) == (1_575, 3_593_787_756)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDS)
def test_a_published_checkpoint_is_planned_within_seconds(name):
    source = HeadersOnly(name, SHARDS[name])
    began = time.process_time()

    plan = make_plan(source, Recipe(), "0")
    shown = plan_table(plan, 100, RUNNER)

    assert time.process_time() - began < SECONDS
    assert sum(len(job.reads) for job in plan.jobs) == PUBLISHED[name][0]
    assert sum(job.action == "nvfp4" for job in plan.jobs) == EXPERTS[name]
    assert len(plan.units) == SHARDS[name]
    assert f"-> {human_bytes(plan.target_bytes)} (" in shown
    assert "Fits 4 cores, 16.0 GB of memory and 14.0 GB of disk:" in shown
    assert "shards of any size pass in pieces, 3 at a time" in shown
    assert "67.1 MB through Xet, where no shard lies on it" in shown
    assert [row.limit for row in make_report(plan, ()).parallel] == [PARALLEL[name]]
    assert f"Tensor parallelism up to {PARALLEL[name]} " in shown
    if name in RESULT_GB:
        tensors = sum(unit.data_bytes for unit in plan.units)
        assert tensors / 1e9 == pytest.approx(RESULT_GB[name], abs=0.005)
    assert ("larger than the source" in " ".join(plan.warnings)) == (name in RESULT_GB)


def test_gpt_oss_is_refused_with_the_reason():
    with pytest.raises(SourceError, match=r"no NVFP4 ones: .* gate and up rows in turn and biases"):
        make_plan(HeadersOnly("gpt-oss-20b", 3), Recipe(), "0")
