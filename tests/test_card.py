"""Cards: true, whole, and deaf to what a source's texts would like them to do."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hubconv.card import (
    CardFacts,
    SourceCard,
    kept_sections,
    markup,
    read_front_matter,
    render_card,
    render_template,
    rendering,
    templates_folder,
)
from hubconv.errors import UsageError
from hubconv.formats.front_matter import LICENSES, write_front_matter

GOLDEN = Path(__file__).parent / "golden"
FP8 = "FP8 128x128"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def role(name, action, before, after, count, bytes_before, bytes_after, *reasons):
    return {
        "role": name,
        "action": action,
        "before": before,
        "after": after,
        "count": count,
        "bytes_before": bytes_before,
        "bytes_after": bytes_after,
        "reasons": list(reasons),
    }


def quality(name, weights, error, sqnr, exact, *, blocks=1000, flushed=0, low=0):
    return {
        "name": name,
        "weights": weights,
        "relative_error": error,
        "sqnr_db": sqnr,
        "blocks": blocks,
        "exact_blocks": exact,
        "flushed_blocks": flushed,
        "low_scales": low,
        "worst_block": 2 * error,
    }


def moe_in_compressed_tensors():
    """A mixture of experts in FP8 whose experts became NVFP4."""
    return {
        "plan_id": "8950a2cda34bc115",
        "source": "maker/Great-Model",
        "commit": COMMIT,
        "family": "DeepSeek V3",
        "layout": "compressed-tensors",
        "policy": "experts",
        "activations": "w4a16",
        "scales": "search",
        "input_scale": 1.0,
        "bytes_before": 688_000_000_000,
        "bytes_after": 400_000_000_000,
        "parameters": 671_000_000_000,
        "bits_before": 8.2,
        "bits_after": 4.77,
        "nvfp4_parameters": 654_000_000_000,
        "nvfp4_bits": 4.5,
        "shards": 163,
        "partner_sets": 14_848,
        "roles": [
            role("routed_expert", "nvfp4", FP8, "NVFP4", 44_544, 654 * 10**9, 368 * 10**9),
            role("attention", "rename", FP8, FP8, 244, 11 * 10**9, 11 * 10**9),
            role("mtp_expert", "keep", FP8, FP8, 768, 9 * 10**9, 9 * 10**9, "MTP layer"),
            role("norm", "keep", "BF16", "BF16", 305, 10**6, 10**6),
            role("dropped", "drop", "FP32", "left out", 61, 10**4, 0, "recomputed by every engine"),
        ],
        "quality": quality("all", 44_544, 0.0817, 21.76, 3),
        "by_role": [quality("routed_expert", 44_544, 0.0817, 21.76, 3, low=1)],
        "by_layer": [quality("3", 768, 0.08, 21.9, 3), quality("4", 768, 0.0834, 21.6, 0)],
        "by_layer_and_role": [
            {"layer": "3", "role": "routed_expert", "weights": 768, "relative_error": 0.08},
            {"layer": "4", "role": "routed_expert", "weights": 768, "relative_error": 0.0834},
        ],
        "worst": [quality("model.layers.4.mlp.experts.7.down_proj", 1, 0.09, 20.9, 0, flushed=1)],
        "drops": [{"name": "recomputed by every engine", "count": 61}],
        "recodes": [{"name": "widen_to_f32", "count": 244}],
        "parallel": [{"name": "down_proj", "columns": 2048, "limit": 128}],
        "copies": [
            {"path": "LICENSE", "size": 1064, "sha256": "ab" * 32},
            {"path": "modeling_great.py", "size": 75_000, "sha256": "cd" * 32},
        ],
        "warnings": ["The index lists 2 tensors that no shard holds."],
        "findings": [],
        "devices": ["cuda:0 (NVIDIA H200)"],
        "verified": {
            "shards": 163,
            "tensors": 134_000,
            "partner_sets": 14_848,
            "decoded": 8,
            "notes": [],
        },
        "published": None,
        "command": "hubconv maker/Great-Model me/Great-Model-NVFP4 --device cuda",
        "seconds": 4210.0,
        "versions": {"hubconv": "0.1.0", "torch": "2.13.0"},
    }


def v4_from_mxfp4():
    """The official spelling of DeepSeek V4: exact, and larger than its source."""
    return moe_in_compressed_tensors() | {
        "source": "maker/Great-V4",
        "family": "DeepSeek V4",
        "layout": "modelopt-v4",
        "activations": "w4a4",
        "bytes_before": 865_000_000_000,
        "bytes_after": 913_000_000_000,
        "bits_before": 4.33,
        "bits_after": 4.57,
        "roles": [
            role("routed_expert", "nvfp4", "MXFP4", "NVFP4", 46_000, 800 * 10**9, 848 * 10**9),
            role("attention", "keep", "FP8 128x128", "FP8 128x128", 244, 65 * 10**9, 65 * 10**9),
        ],
        "quality": quality("all", 46_000, 0.0, None, 1000),
        "by_role": [quality("routed_expert", 46_000, 0.0, None, 1000)],
        "by_layer": [quality("0", 46_000, 0.0, None, 1000)],
        "by_layer_and_role": [
            {"layer": "0", "role": "routed_expert", "weights": 46_000, "relative_error": 0.0}
        ],
        "worst": [],
        "drops": [],
        "recodes": [],
        "parallel": [{"name": "w2", "columns": 3072, "limit": 64}],
        "copies": [{"path": "LICENSE", "size": 1064, "sha256": "ab" * 32}],
        "warnings": [],
        "findings": ["config.json: something to look at"],
        "command": "hubconv maker/Great-V4 me/Great-V4-NVFP4",
    }


MAKER = SourceCard(
    license="other",
    license_name="great-license",
    license_link="LICENSE-MODEL",
    pipeline_tag="text-generation",
    library_name="transformers",
    language=("en", "no"),
    tags=("conversational", "fp8", "region:us"),
)
FACTS = CardFacts("me/Great-Model-NVFP4", moe_in_compressed_tensors(), MAKER)
V4_FACTS = CardFacts(
    "me/Great-V4-NVFP4", v4_from_mxfp4(), SourceCard(license="mit", license_link="LICENSE")
)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def shape(text):
    """What a card's body is built of: headings, cells of table rows, fences, list items, HTML."""
    kinds = []
    fenced = False
    for line in text.split("\n---\n", 1)[1].splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            continue
        found = re.match(r"#{1,6} |```|- |<[^>]*>|\d+\. |>|    ", line)
        if line.startswith("|"):
            kinds.append(line.replace("\\|", "").count("|"))
        elif found:
            kinds.append(found[0])
        kinds += re.findall(r"(?<!\\)\]\(|<!--|\$\$|\{\{|\{%|<\w", re.sub(r"`[^`]*`", "", line))
    return kinds


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("compressed-tensors", replace(FACTS, kept=("## My notes\n\nWorks for me.",))),
        ("modelopt-v4", V4_FACTS),
    ],
)
def test_the_card_is_the_one_people_agreed_on(name, facts):
    golden = GOLDEN / f"card-{name}.md"
    text = render_card(facts)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert golden.read_text("utf-8") == text


def test_the_job_summary_is_the_one_people_agreed_on():
    golden = GOLDEN / "job-summary.md"
    text = render_template("job_summary.md.jinja", {"report": moe_in_compressed_tensors()})
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert golden.read_text("utf-8") == text


def test_every_layout_has_its_serving_text():
    dense = moe_in_compressed_tensors()
    texts = [
        render_card(replace(FACTS, report=dense | {"layout": layout, "activations": activations}))
        for layout in ("compressed-tensors", "modelopt")
        for activations in ("w4a16", "w4a4")
    ]
    assert len(set(texts)) == 4
    assert all("Not tried by hubconv on this checkpoint" in text for text in texts)


def test_the_front_matter_says_what_the_hub_wants_to_know():
    assert front(render_card(FACTS)) == {
        "base_model": "maker/Great-Model",
        "base_model_relation": "quantized",
        "license": "other",
        "license_name": "great-license",
        "license_link": f"https://huggingface.co/maker/Great-Model/blob/{COMMIT}/LICENSE-MODEL",
        "language": ["en", "no"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["nvfp4", "compressed-tensors", "hubconv", "vllm", "conversational"],
        "quantized_by": "hubconv",
    }


def test_a_copied_licence_stays_a_link_into_the_repository():
    assert front(render_card(V4_FACTS))["license_link"] == "LICENSE"


@pytest.mark.parametrize(
    ("source", "base", "relation", "original"),
    [
        ("sgl/Great-FP8", "maker/Great", "", "maker/Great"),
        ("mirror/great", "maker/Great", "", "maker/Great"),
        ("some/Other", "maker/Great", "quantized", "maker/Great"),
        ("maker/Great", "maker/Great-Base", "", "maker/Great"),
        ("maker/Great", "maker/Great-Base", "finetune", "maker/Great"),
        ("maker/Great-Instruct", "maker/Great", "", "maker/Great-Instruct"),
        ("maker/Great", "maker/Great", "quantized", "maker/Great"),
    ],
)
def test_the_original_of_a_repack_is_the_base_model(source, base, relation, original):
    said = SourceCard(base_model=(base,), base_model_relation=relation)
    facts = CardFacts("me/x", moe_in_compressed_tensors() | {"source": source}, said)
    text = render_card(facts)
    assert front(text)["base_model"] == original
    assert ("another spelling of" in text) is (original != source)


def test_a_folder_gives_no_base_model_and_no_path():
    report = moe_in_compressed_tensors() | {"source": "great", "commit": ""}
    text = render_card(CardFacts("/home/someone/secret/out", report, SourceCard()))
    assert "base_model" not in front(text)
    assert "secret" not in text
    assert "the folder `great`" in text
    assert "names no licence" in text


def test_a_card_can_be_made_before_anything_is_measured():
    report = moe_in_compressed_tensors() | {
        "quality": quality("all", 0, 0.0, None, 0, blocks=0),
        "by_role": [],
        "by_layer": [],
        "by_layer_and_role": [],
        "worst": [],
        "devices": [],
        "verified": None,
        "command": "",
        "versions": {},
    }
    text = render_card(replace(FACTS, report=report))
    assert "Not measured yet" in text
    assert "The result was not read back" in text


def test_nobody_runs_code_that_travels_along_unwarned():
    assert "hubconv has not run or reviewed it" in render_card(FACTS)
    assert "hubconv has not run or reviewed it" not in render_card(V4_FACTS)


def test_a_template_that_asks_for_what_there_is_not_fails():
    with pytest.raises(UsageError, match="no_such_number"):
        render_card(FACTS, "{{ front_matter }}{{ report.no_such_number }}")
    with pytest.raises(UsageError, match="cannot be filled in"):
        render_card(FACTS, "{% if %}")


def test_a_template_runs_no_code():
    with pytest.raises(UsageError, match="cannot be filled in"):
        render_card(FACTS, "{{ ().__class__.__base__.__subclasses__() }}")


def test_a_template_of_ones_own_has_all_facts():
    assert render_card(FACTS, "{{ report.source }} {{ '%.1f' | format(report.bits_after) }}") == (
        "maker/Great-Model 4.8\n"
    )


hostile = st.one_of(
    st.text(max_size=80),
    st.sampled_from([
        "---\nbase_model: evil/x\n---",
        "# heading\n\n| a | b |\n|---|---|",
        "x | y | z",
        "[click](javascript:alert(1)) ![i](https://evil.example/x.png)",
        "<script>alert(1)</script><!-- keep -->",
        "{{ 7 * 7 }}{% include 'x' %}",
        "```\nrm -rf /\n```",
        "a`b``c",
        "$$\\int$$ \\(x\\)",
        "1. one\n- two\n+ three\n> four",
        "https://evil.example www.evil.example a@b.example @someone #12",
        "\u202egnp.exe\x00\x1b[2J",
        "&lt;b&gt; &#60;b&#62;",
        "**bold** __bold__ ~~gone~~ *x*",
        "=====\n-----",
        "\U0001f600 ﷽",
    ]),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(hostile)
def test_no_string_changes_the_shape_of_a_card(text):
    def poisoned(said):
        report = moe_in_compressed_tensors()
        report["warnings"] = report["findings"] = [said]
        report["devices"] = [said]
        report["family"] = said
        report["command"] = said
        report["versions"] = {"hubconv": said}
        report["roles"] = [
            role(said, "nvfp4", said, "NVFP4", 1, 2, 1),
            role("mtp_expert", "keep", said, said, 1, 2, 1, said),
        ]
        report["worst"] = [quality(said, 1, 0.1, 20.0, 0)]
        report["drops"] = [{"name": said, "count": 1}]
        report["copies"] = [{"path": said, "size": 1, "sha256": said}]
        said_card = replace(MAKER, license_name=said, language=(said,), license_link="")
        return render_card(CardFacts("me/x", report, said_card))

    text = text or "x"
    harmless, card_text = poisoned("harmless"), poisoned(text)
    assert shape(card_text) == shape(harmless)
    assert kept_sections(card_text) == []
    assert front(card_text) == front(harmless) | {"license_name": text, "language": [text]}


@settings(max_examples=300, deadline=None)
@given(st.text(), st.lists(st.text()))
def test_front_matter_written_is_front_matter_read(text, items):
    written = write_front_matter({"one": text, "many": tuple(items), "last": "x"})
    assert written.count("\n---\n") == 1
    assert yaml.safe_load(written.split("---\n")[1]) == {
        "one": text,
        "many": items or None,
        "last": "x",
    }


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("-:[]{}\"'&*|>#!,\n abcé0~%@\\"), max_size=120))
def test_no_front_matter_stops_the_reading(text):
    said = read_front_matter(f"---\nlicense: mit\n{text}\n---\n")
    assert said.license in {"mit", ""}
    read_front_matter(text)


def test_ordinary_front_matter_is_read():
    said = read_front_matter(
        "---\r\n"
        "license: MIT   # of course\r\n"
        'license_link: "LICENSE"\r\n'
        "language:\r\n- en\r\n  - zh\r\n"
        "base_model: [deepseek-ai/DeepSeek-V4, 'other/Model']\r\n"
        "datasets: some-data\r\n"
        "model-index:\r\n- name: x\r\n  results:\r\n  - task: y\r\n"
        "library_name: transformers\r\n"
        "extra_gated_prompt: |\r\n  Do not\r\n  license: apache-2.0\r\n"
        "pipeline_tag:\r\n"
        "tags: []\r\n"
        "---\r\n# Model\r\nlicense: gpl\r\n"
    )
    assert said == SourceCard(
        license="mit",
        license_link="LICENSE",
        language=("en", "zh"),
        base_model=("deepseek-ai/DeepSeek-V4", "other/Model"),
        datasets=("some-data",),
        library_name="transformers",
    )


@pytest.mark.parametrize(
    "line",
    [
        "license: &a mit",
        "license: *a",
        "license: !!python/object:os.system mit",
        "license: {a: b}",
        "license: >\n  mit",
        "license: mit\n  more",
        "license:\n  name: mit",
        "license: mit\nlicense: gpl",
        "license: [mit, [gpl]]",
        'license: "\\x6dit"',
    ],
)
def test_odd_yaml_is_dropped(line):
    said = read_front_matter(f"---\nlibrary_name: x\n{line}\nlanguage: en\n---\n")
    assert (said.license, said.library_name, said.language) == ("", "x", ("en",))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("license: '<b>'", "license"),
        ("license_link: javascript:alert(1)", "license_link"),
        ("license_link: ../../etc/passwd", "license_link"),
        ("license_link: http://plain.example/x", "license_link"),
        ("base_model: not a repository", "base_model"),
        ("base_model: ../../x/y", "base_model"),
        ("language: ['e n']", "language"),
        ("pipeline_tag: 'Text {{ x }}'", "pipeline_tag"),
        ("base_model_relation: stolen", "base_model_relation"),
    ],
)
def test_values_out_of_form_are_dropped_with_a_note(line, key):
    said = read_front_matter(f"---\n{line}\n---\n")
    assert not getattr(said, key)
    assert len(said.notes) == 1
    assert key in said.notes[0]


def test_a_licence_the_hub_does_not_list_is_passed_on_as_other():
    said = read_front_matter("---\nlicense: Modified-MIT\n---\n")
    assert (said.license, said.license_name) == ("other", "modified-mit")
    assert {"mit", "apache-2.0", "other"} <= LICENSES


def test_front_matter_without_end_is_not_read():
    assert read_front_matter("---\nlicense: mit\n").license == ""
    assert read_front_matter("# no front matter\n") == SourceCard()
    assert read_front_matter("") == SourceCard()
    long = "---\nlicense: mit\n" + "# padding\n" * 10_000 + "---\n"
    assert read_front_matter(long).license == ""


def test_an_alias_bomb_costs_nothing():
    bomb = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for before, here in zip("abcdefgh", "bcdefghi", strict=True):
        bomb.append(f"{here}: &{here} [{','.join([f'*{before}'] * 9)}]")
    bomb += ["tags: *i", "license: mit"]
    started = time.monotonic()
    said = read_front_matter("---\n" + "\n".join(bomb) + "\n---\n")
    assert time.monotonic() - started < 0.5
    assert (said.tags, said.license) == ((), "mit")


def test_what_a_person_wrote_survives_every_run():
    mine = "## Mine\n\n| a | b |\n|---|---|\n| {{ x }} | `y` |"
    first = render_card(replace(FACTS, kept=(mine, "second")))
    kept = kept_sections(first)
    assert kept == [mine, "second"]
    assert render_card(replace(FACTS, kept=tuple(kept))) == first


def test_an_unclosed_section_loses_nothing():
    assert kept_sections("x\n<!-- keep -->\nto the end\n") == ["to the end"]
    assert kept_sections("<!--keep-->\n\n<!-- /keep -->") == []


def test_templates_are_found_in_a_checkout_and_in_a_wheel(monkeypatch, tmp_path):
    assert (templates_folder() / "model_card.md.jinja").is_file()
    (tmp_path / "templates").mkdir()
    monkeypatch.setattr(rendering.resources, "files", lambda _: tmp_path)
    assert templates_folder() == tmp_path / "templates"


def test_shares_are_never_rounded_to_whole():
    shares = (markup.share(part, 10_000) for part in (0, 1, 5000, 9999, 10_000))
    shown = [str(share).replace("\N{NO-BREAK SPACE}", " ") for share in shares]
    assert shown == ["0 %", "0.1 %", "50.0 %", "99.9 %", "100 %"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (0.0817, "0.0817"), (1.2e-5, "1.2e-05"), (1.0, "1.0000")]
)
def test_an_error_of_zero_is_told_from_a_small_one(value, shown):
    assert str(markup.error_figure(value)) == shown
