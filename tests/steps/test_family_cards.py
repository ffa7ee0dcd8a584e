"""The card of every family under every layout, from a real plan of its miniature.

The measures are made up, but the same each time; everything else is what the planner says. After a
change that is meant, UPDATE_GOLDEN=1 writes the files anew: read their difference.
"""

import os
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from hubconv.card import PICTURES, CardFacts, SourceCard, render_card
from hubconv.folder import FolderSource
from hubconv.formats.nvfp4 import Quality
from hubconv.profiles import load_profiles
from hubconv.records import TensorQuality, UnitRecord
from hubconv.steps.decide import Recipe
from hubconv.steps.facts import Run
from hubconv.steps.plan import make_plan
from hubconv.steps.report import make_report

GOLDEN = Path(__file__).parents[1] / "golden" / "families"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FAMILIES = {
    "deepseek_v3": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "deepseek_v4_sgl_fp8": "deepseek_v4",
    "gemma4_bf16": "gemma4",
    "gemma4_moe_bf16": "gemma4_moe",
    "glm45_bf16": "glm4_moe",
    "glm5_fp8": "glm_moe_dsa",
    "kimi_k25": "kimi_k2",
    "kimi_k2_fp8": "kimi_k2",
    "llama4_bf16": "llama4",
    "llama_bf16": "dense",
    "mimo_v2_flash": "mimo_v2",
    "minimax_m2": "minimax_m2",
    "mixtral_bf16": "mixtral",
    "nemotron3_bf16": "nemotron_h",
    "qwen35_bf16": "qwen3_5",
    "qwen35_moe_bf16": "qwen3_5_moe",
    "qwen3_moe_fp8": "qwen3_moe",
    "qwen3_next_bf16": "qwen3_next",
    "qwen3_vl_moe_bf16": "qwen3_vl_moe",
    "step35_fp8": "step3p5",
}
"""Miniature to its profile."""

LAYOUTS = {profile.name: profile.layouts for profile in load_profiles()}
CARDS = [
    (miniature, layout) for miniature, profile in FAMILIES.items() for layout in LAYOUTS[profile]
]


class Repository(FolderSource):
    """A folder that says it is a repository."""

    ref = "maker/Miniature"
    commit = COMMIT


def measured(job, number):
    """Errors near those of real weights, another for each tensor; DeepSeek V4's are exact."""
    weight = job.weight
    blocks = weight.rows * weight.cols // 16
    exact = blocks if weight.kind == "mxfp4" else blocks // 100
    error_sq = 0.0 if weight.kind == "mxfp4" else 66.0 + number % 9
    sums = Quality(16 * blocks, blocks, exact, 0, number % 3 == 0, error_sq, 1e4, error_sq / 400)
    return TensorQuality(job.module, job.role, (weight.rows, weight.cols), 0.5, sums)


def report_of(folder, layout):
    plan = make_plan(Repository(folder), Recipe(layout=layout), "0.1.0")
    records, number = [], 0
    for unit in plan.units:
        jobs = [job for job in (*unit.jobs, *unit.tail) if job.action == "nvfp4"]
        tensors = tuple(measured(job, number + at) for at, job in enumerate(jobs))
        number += len(jobs)
        records.append(
            UnitRecord(plan.plan_id, unit.shard, unit.nbytes, "0" * 64, tensors, "cpu", "0.1.0", 2)
        )
    read = {entry.path: (folder / entry.path).read_bytes() for entry in plan.copies}
    files = {path: (len(data), sha256(data).hexdigest()) for path, data in read.items()}
    words = f"hubconv maker/Miniature me/Miniature-NVFP4 --layout {layout}"
    run = Run(words, 12.5, {"hubconv": "0.1.0"}, files)
    # Its id changes with everything that changes bytes, which is for other tests.
    return make_report(plan, records, run).to_json() | {"plan_id": "0" * 16}


@pytest.mark.parametrize(("miniature", "layout"), CARDS)
def test_every_family_has_its_card(miniature, layout, checkpoints):
    golden = GOLDEN / f"{miniature}-{layout}.md"
    report = report_of(checkpoints(miniature), layout)
    said = SourceCard(license="mit", pipeline_tag="text-generation")
    facts = CardFacts("me/Miniature-NVFP4", report, said, pictures=frozenset(PICTURES))
    text = render_card(facts)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, "utf-8")
    assert golden.read_text("utf-8") == text


def test_every_profile_has_a_card():
    assert set(FAMILIES.values()) == set(LAYOUTS)
    assert {path.stem for path in GOLDEN.glob("*.md")} == {"-".join(card) for card in CARDS}


@pytest.mark.parametrize(("miniature", "layout"), CARDS)
def test_every_card_has_what_its_readers_look_for(miniature, layout):
    text = (GOLDEN / f"{miniature}-{layout}.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "maker/Miniature"
    assert front["base_model_relation"] == "quantized"
    # Without this tag the Hub shows no snippet for vLLM and SGLang.
    assert "transformers" in {front["library_name"], *front["tags"]}
    for heading in (
        "Size", "Serve", "What is in which precision", "How far from the source",
        "How it was made", "What was checked, and what was not", "Licence and credit",
    ):  # fmt: skip
        assert f"\n## {heading}\n" in text
    assert "vllm serve me/Miniature-NVFP4" in text
    assert f"hubconv verify me/Miniature-NVFP4 --source maker/Miniature@{COMMIT}" in text
    assert "Tensor parallelism" in text
