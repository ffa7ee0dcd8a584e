"""Completeness: what a config and a profile demand is there, or `hubconv verify` says so."""

import json
import re
import shutil

import pytest
from checkpoints.broken import INDEX, _drop, read_folder
from profiles.test_families import FAMILIES
from profiles.walks import SERVED, copy_of, plan_of, planned, publish, source_folder, staged

from hubconv.audit import audit
from hubconv.ends import MANIFEST
from hubconv.errors import SourceError
from hubconv.profiles import load_profiles
from hubconv.profiles.needs import missing, needs_of

UNASKED = re.compile(
    r"^(model\.)?mtp\.|^(vision_tower|mm_projector|model\.visual)\.|\.transformer\.shared_head\."
    r"|^(model\.(vision_tower|embed_vision)|vision_model|multi_modal_projector)\."
    r"|\.attention_sink_bias$"
)
"""Tensors whose presence only manifest, index and source prove: their sets differ by revision."""

UNASKED_OF = {"gemma4_bf16": r"\.layers\.0\.self_attn\.(k|v)_"}
"""The same of one family: which layers use another's keys and values, no key of the config says."""


def kind_of(tensor):
    return re.sub(r"\d+", "N", tensor)


@pytest.mark.parametrize("name", [*SERVED, *FAMILIES])
def test_each_kind_of_tensor_is_missed_without_source_index_or_manifest(tmp_path, name):
    walk = staged(name, tmp_path / "whole")
    publish(walk, tmp_path / "whole")
    for path in (MANIFEST, INDEX):
        (tmp_path / "whole" / path).unlink(missing_ok=True)
    assert {f.rule for f in audit(str(tmp_path / "whole")).findings} <= {"index.absent"}
    tied = json.loads((tmp_path / "whole" / "config.json").read_text())["tie_word_embeddings"]
    kinds = {kind_of(each): each for each in read_folder(tmp_path / "whole")}

    unseen = []
    for lost in kinds.values():
        broken = tmp_path / "broken"
        shutil.copytree(tmp_path / "whole", broken)
        _drop(broken, lost)
        stem = lost.rpartition(".")[0]
        errors = [f for f in audit(str(broken)).errors if stem in f.where or f.where in lost]
        unasked = UNASKED.search(lost) or re.search(UNASKED_OF.get(name, "(?!)"), lost)
        if not errors and not unasked and not (tied and lost == "lm_head.weight"):
            unseen.append(lost)
        shutil.rmtree(broken)

    assert unseen == []
    assert len(kinds) > 10


@pytest.mark.parametrize("name", ["deepseek_v3", "minimax_m2"])
def test_whole_layers_and_experts_are_counted_by_the_config(name):
    config = json.loads((source_folder(name) / "config.json").read_text())
    profile = next(each for each in load_profiles() if config["model_type"] in each.model_types)
    tensors = read_folder(source_folder(name))

    assert missing(profile.needs, config, tensors) == []
    for lost in (r"\.layers\.1\.", r"\.experts\.3\.", r"\.layers\.1\..*\.experts\."):
        left = [each for each in tensors if not re.search(lost, each)]
        assert missing(profile.needs, config, left)
    assert missing(profile.needs, {}, tensors) is None


@pytest.mark.parametrize("name", [*SERVED, *FAMILIES])
def test_a_source_that_lacks_nothing_is_not_blamed(name):
    assert not [warning for warning in plan_of(name).warnings if "lacks" in warning]


def test_a_source_that_lacks_a_tensor_is_planned_with_a_warning(tmp_path):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    lost = "model.layers.1.self_attn.kv_a_layernorm"
    _drop(folder, f"{lost}.weight")

    told = [warning for warning in planned(folder).warnings if "lacks 1 tensors" in warning]

    assert len(told) == 1
    assert lost in told[0]


def test_layers_of_glm_5_2_may_share_an_indexer(tmp_path):
    folder = copy_of("glm5_fp8", tmp_path / "source")
    for name in [n for n in read_folder(folder) if ".layers.1.self_attn.indexer." in n]:
        _drop(folder, name)
    assert [warning for warning in planned(folder).warnings if "lacks 5 tensors" in warning]

    config = json.loads((folder / "config.json").read_text())
    config["indexer_types"] = ["full", "shared", "full"]
    (folder / "config.json").write_text(json.dumps(config))

    assert not [warning for warning in planned(folder).warnings if "lacks" in warning]


def needs(**of):
    return needs_of({"layers": "n", "of": [{"names": ["x"], **of}]}, "p")


@pytest.mark.parametrize(
    ("when", "config", "layers"),
    [
        ("", {}, {0, 1}),
        ("bias", {"bias": True}, {0, 1}),
        ("bias", {}, set()),
        ("!bias", {"bias": False}, {0, 1}),
        ("kind=a|b", {"kind": "b"}, {0, 1}),
        ("kind=a|b", {"kind": "ab"}, set()),
        ("ratios[layer]", {"ratios": [0, 4]}, {1}),
        ("ratios[layer]=4", {"ratios": [4, 128]}, {0}),
        ("ratios[layer]=4", {"ratios": [4]}, {0}),
        ("layer<first", {"first": 1}, {0}),
        ("layer>=first", {"first": 1}, {1}),
        ("bias", {"text_config": {"bias": True}}, {0, 1}),
    ],
)
def test_a_condition_says_which_layers_need_a_name(when, config, layers):
    demanded = needs(each="layer", when=when)

    found = missing(demanded, {"n": 2} | config, ["a.layers.0.y", "a.layers.1.y"])

    assert found == [f"a.layers.{layer}.x" for layer in sorted(layers)]


@pytest.mark.parametrize("wrong", [{"each": "head"}, {"each": "layer", "when": "a & b"}])
def test_a_need_that_nobody_understands_is_refused(wrong):
    with pytest.raises(SourceError, match="a need nobody understands"):
        needs(**wrong)


def test_a_family_whose_profile_does_not_say_is_told_as_unchecked(tmp_path):
    walk = staged("llama_bf16", tmp_path)
    publish(walk, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "unheard_of"}
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert any("what it must have" in note for note in audit(str(tmp_path)).notes)
