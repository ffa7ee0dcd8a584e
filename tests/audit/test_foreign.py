"""Repositories that other tools made: sound ones pass, and each fault of the others is named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import foreign
from checkpoints.broken import INDEX, _rewrite, read
from profiles.walks import source_folder

from hubconv.audit import Depth, audit

LINEARS = r"(self_attn|mlp)\.\w+_proj\.weight$"
EXPERTS = r"experts\.\d+\.\w+_proj\.weight$"
MODELOPT_MOE = ("lm_head", "*.self_attn*", "*.mlp.gate")
CT_MOE = ("lm_head", r"re:.*self_attn.*", r"re:.*mlp\.gate$")
FULL = Depth("full")

LLAMA = "llama_bf16"
MOE = "qwen3_moe_bf16"


def modelopt(name=LLAMA, **more):
    like, ignore = (EXPERTS, MODELOPT_MOE) if name == MOE else (LINEARS, ("lm_head",))
    return foreign.modelopt(source_folder(name), like, **{"ignore": ignore, **more})


def ct(name=LLAMA, **more):
    like, ignore = (EXPERTS, CT_MOE) if name == MOE else (LINEARS, ("lm_head",))
    return foreign.compressed_tensors(source_folder(name), like, **{"ignore": ignore, **more})


SOUND = {
    "modelopt": lambda: modelopt(),
    "modelopt, file beside alone": lambda: modelopt(form="file"),
    "modelopt w4a16": lambda: modelopt(algo="W4A16_NVFP4"),
    "modelopt moe": lambda: modelopt(MOE),
    "modelopt moe, file beside alone": lambda: modelopt(MOE, form="file"),
    "llm-compressor": lambda: ct(),
    "llm-compressor w4a16": lambda: ct(activations="w4a16"),
    "llm-compressor moe": lambda: ct(MOE),
}


def found(files, folder, source=None, depth=FULL):
    """Findings of a look at it, as (severity, code) to the names."""
    done = audit(
        str(files.write(folder)), str(source_folder(source)) if source else "", depth=depth
    )
    table = {}
    for finding in done.findings:
        table.setdefault((finding.severity, finding.rule), []).append(finding)
    return table


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_one_has_nothing_wrong_and_all_of_it_is_compared(tmp_path, name):
    files = SOUND[name]()
    source = source_folder(MOE if "moe" in name else LLAMA)

    done = audit(str(files.write(tmp_path / "x")), str(source), depth=FULL)

    assert done.findings == ()
    assert done.decoded == done.modules > 10
    assert done.whole.hashed == 2
    assert done.whole.kept_other == 0
    for _, quality in done.by_role.values():
        assert 0.09 < quality.relative_error < 0.1  # the plain rule's, by any writer
    assert ["no hubconv.json" in note for note in done.notes] == [True]


def test_the_nested_form_in_config_json_is_a_warning_and_with_w4a16_an_error(tmp_path):
    assert set(found(modelopt(form="nested"), tmp_path / "a")) == {("warning", "config.nested")}
    weight_only = found(modelopt(form="nested", algo="W4A16_NVFP4"), tmp_path / "b")
    assert ("error", "config.nested") in weight_only


@pytest.mark.parametrize(
    ("make", "name"),
    [(modelopt, LLAMA), (modelopt, MOE), (ct, LLAMA), (ct, MOE)],
)
def test_unequal_partner_scales_are_found_with_the_modules_that_engines_fuse(tmp_path, make, name):
    table = found(make(name, joint=False), tmp_path / "x", name)

    findings = table.pop(("error", "partner.scale"))
    assert not [key for key in table if key[0] == "error"]
    assert all("global scales differ" in finding.what for finding in findings)
    leaves = {tuple(n.rpartition(".")[2] for n in f.where.split(", ")) for f in findings}
    dense = {("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")}
    assert leaves == ({("gate_proj", "up_proj")} if name == MOE else dense)


def test_partners_of_a_family_without_a_profile_are_guessed_from_what_engines_fuse(tmp_path):
    files = modelopt(joint=False)
    files.config["model_type"] = "gpt_oss"

    assert ("error", "partner.scale") in found(files, tmp_path / "x")


@pytest.mark.parametrize(
    ("make", "pattern"), [(modelopt, r"\.input_scale$"), (ct, r"\.input_global_scale$")]
)
def test_missing_input_scales_are_an_error_where_activations_are_quantized(tmp_path, make, pattern):
    files = make()
    gone = files.drop(pattern)

    table = found(files, tmp_path / "x")

    assert sorted(f.where for f in table.pop(("error", "part.input-scale"))) == sorted(gone)
    assert table == {}


def test_missing_input_scales_of_weight_only_modelopt_are_a_warning(tmp_path):
    files = modelopt(algo="W4A16_NVFP4")
    files.drop(r"\.input_scale$")

    assert set(found(files, tmp_path / "x")) == {("warning", "part.input-scale")}


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (modelopt, "*.block_sparse_moe.gate"),
        (modelopt, "model.layers.7.mlp"),
        (ct, r"re:.*vision_tower.*"),
        (ct, "model.layers.9.mlp.gate"),
    ],
)
def test_an_ignore_entry_that_names_nothing_is_a_warning(tmp_path, make, entry):
    files = make()
    files.quant["ignore"].append(entry)
    if files.hf_quant:
        files.hf_quant["quantization"]["exclude_modules"].append(entry)

    table = found(files, tmp_path / "x")

    assert [f.where for f in table[("warning", "config.ignore-idle")]] == ["ignore"]
    assert repr(entry) in table[("warning", "config.ignore-idle")][0].what
    assert not [key for key in table if key[0] == "error"]


def test_an_ignore_list_without_its_prefix_names_nothing_and_so_nothing_is_ignored(tmp_path):
    files = ct(MOE, ignore=("lm_head", r".*self_attn.*", r".*mlp\.gate$"))

    table = found(files, tmp_path / "x")

    assert len(table[("error", "config.regex-prefix")]) == 2
    assert len(table[("warning", "config.ignore-idle")]) == 2
    kept = {f.where for f in table[("error", "match.kept")]}
    assert "model.layers.0.self_attn.o_proj" in kept


def test_a_head_that_is_the_embedding_may_be_ignored_in_vain(tmp_path):
    files = foreign.compressed_tensors(source_folder("llama_bf16_tied"), LINEARS)
    files.shards = 1

    assert found(files, tmp_path / "x") == {}


def test_a_target_that_names_nothing_is_a_warning(tmp_path):
    files = ct()
    files.quant["config_groups"]["group_0"]["targets"].append(r"re:.*\.experts\..*")

    assert ("warning", "config.target-idle") in found(files, tmp_path / "x")


def test_tensors_that_are_not_in_the_index_are_found(tmp_path):
    files = modelopt()
    files.left_out = set(files.names(r"layers\.1\.mlp\.down_proj"))

    table = found(files, tmp_path / "x")

    assert {f.where for f in table[("error", "index.missing")]} == files.left_out
    assert set(table) == {("error", "index.missing")}


def test_a_quantized_module_in_the_ignore_list_is_found(tmp_path):
    files = ct(ignore=("lm_head", "model.layers.0.mlp.down_proj"))

    table = found(files, tmp_path / "x")

    assert {f.where for f in table[("error", "match.quantized")]} == {
        "model.layers.0.mlp.down_proj"
    }


# ── global scales of the other convention ────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "pattern"), [(modelopt, r"weight_scale_2$"), (ct, r"weight_global_scale$")]
)
def test_a_scale_that_is_the_reciprocal_is_told_without_the_source(tmp_path, make, pattern):
    files = make()
    for name in files.names(pattern):
        value = np.frombuffer(files.tensors[name].data, "<f4")
        files.put(name, data=(1 / value).astype("<f4").tobytes())

    table = found(files, tmp_path / "x")

    assert set(table) == {("error", "scale.reciprocal")}
    assert len(table[("error", "scale.reciprocal")]) == 14


def test_the_factor_of_a_wrong_scale_is_told_with_the_source(tmp_path):
    files = ct()
    wrong = "model.layers.1.mlp.down_proj.weight_global_scale"
    files.scale(wrong, 0.5)

    table = found(files, tmp_path / "x", LLAMA)

    (finding,) = table[("error", "decoded.scale")]
    assert finding.where == "model.layers.1.mlp.down_proj"
    assert "times the source's" in finding.what
    assert float(finding.what.split("decode to ")[1].split(" ")[0]) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_global_scale_that_is_no_positive_number_is_found_and_not_decoded(tmp_path, value):
    files = modelopt()
    wrong = "model.layers.1.mlp.down_proj.weight_scale_2"
    files.put(wrong, data=np.array(value, "<f4").tobytes())

    table = found(files, tmp_path / "x", LLAMA)

    assert {key for key in table if key[0] == "error"} == {("error", "scale.value")}
    assert table[("error", "scale.value")][0].where == wrong


# ── block scales and weights ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("byte", "word"), [(0x7F, "1 of"), (0xFF, "1 of"), (0xB8, "1 are below")])
@pytest.mark.parametrize("source", [LLAMA, None])
def test_a_block_scale_that_is_nan_or_negative_is_found_without_any_source(
    tmp_path, byte, word, source
):
    files = ct()
    wrong = "model.layers.0.self_attn.o_proj.weight_scale"
    data = files.tensors[wrong].data
    files.put(wrong, data=data[:77] + bytes([byte]) + data[78:])

    table = found(files, tmp_path / "x", source)

    (finding,) = table[("error", "scale.block")]
    assert finding.where == wrong
    assert word in finding.what


def test_scales_that_marlin_takes_for_zero_are_a_warning_for_vllm(tmp_path):
    files = modelopt()
    wrong = "model.layers.0.self_attn.o_proj.weight_scale"
    data = files.tensors[wrong].data
    files.put(wrong, data=bytes([5]) + data[1:])

    table = found(files, tmp_path / "x")

    (finding,) = table.pop(("warning", "scale.low"))
    assert (finding.engines, table) == (("vllm",), {})


def smoothed(files, axis):
    """Multiply columns or rows of a weight by other powers of two; exact in the block scales."""
    name = "model.layers.0.mlp.down_proj.weight_scale"
    scales = np.frombuffer(files.tensors[name].data, np.uint8).reshape(files.tensors[name].shape)
    moved = np.array(scales)
    if axis == "columns":
        moved[:, ::2] -= 8
    else:
        moved[::2] -= 16
    files.put(name, data=moved.tobytes())
    return files


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_scales_that_a_calibration_moved_are_a_warning_of_others(tmp_path, axis):
    table = found(smoothed(modelopt(), axis), tmp_path / "x", LLAMA)

    (finding,) = table.pop(("warning", "decoded.smoothed"))
    assert axis in finding.what
    assert not [key for key in table if key[0] == "error"]


def test_another_weights_bytes_are_an_error(tmp_path):
    files = modelopt()
    one, two = (f"model.layers.{n}.self_attn.o_proj.weight" for n in (0, 1))
    files.tensors[one], files.tensors[two] = (
        replace(files.tensors[two], name=one),
        replace(files.tensors[one], name=two),
    )

    table = found(files, tmp_path / "x", LLAMA)

    assert {f.where for f in table[("error", "decoded.far")]} == {
        "model.layers.0.self_attn.o_proj",
        "model.layers.1.self_attn.o_proj",
    }


def test_a_kept_tensor_that_is_not_the_sources_is_a_warning_of_others(tmp_path):
    files = modelopt()
    files.put("model.norm.weight", data=bytes(len(files.tensors["model.norm.weight"].data)))

    table = found(files, tmp_path / "x", LLAMA)

    assert [f.where for f in table[("warning", "kept.differs")]] == ["model.norm.weight"]
    assert set(table) == {("warning", "kept.differs")}


def test_what_the_source_has_and_the_result_has_not_is_found(tmp_path):
    files = modelopt()
    files.config["model_type"] = "something_new"  # no profile says what it must have
    files.drop(r"layers\.1\.input_layernorm|layers\.1\.self_attn\.o_proj")

    table = found(files, tmp_path / "x", LLAMA)

    assert {f.where for f in table[("error", "source.lost")]} == {
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.self_attn.o_proj.weight",
    }


def test_another_models_source_is_told_by_shape(tmp_path):
    table = found(modelopt(), tmp_path / "x", "llama_fp8_rows")
    assert not [key for key in table if key[1] == "source.shape"]  # the same shapes, other bytes

    files = modelopt()
    name = "model.layers.0.mlp.down_proj"
    for end, cols in (("weight", 96), ("weight_scale", 12)):
        tensor = files.tensors[f"{name}.{end}"]
        rows, half = tensor.shape
        array = np.frombuffer(tensor.data, np.uint8).reshape(rows, half)[:, :cols]
        files.put(tensor.name, shape=(rows, cols), data=array.tobytes())
    table = found(files, tmp_path / "y", LLAMA)
    assert [f.where for f in table[("error", "source.shape")]] == [name]


# ── experts in one tensor ────────────────────────────────────────────────────────────────────


def test_experts_in_one_tensor_are_decoded_one_by_one(tmp_path):
    files = modelopt(MOE)
    foreign.fuse_experts(files)
    folder = files.write(tmp_path / "x")

    done = audit(str(folder), str(source_folder(MOE)), depth=FULL)

    assert {f.rule for f in done.findings} == {"part.fused"}
    assert done.errors == ()
    assert done.decoded == done.modules == 24


def test_a_fault_within_experts_in_one_tensor_names_the_expert(tmp_path):
    files = modelopt(MOE)
    foreign.fuse_experts(files)
    name = "model.layers.1.mlp.experts.gate_up_proj_weight_scale_2"
    values = np.array(np.frombuffer(files.tensors[name].data, "<f4"))
    values[2] *= 4
    files.put(name, data=values.tobytes())

    table = found(files, tmp_path / "x", MOE)

    assert {f.where for f in table[("error", "decoded.scale")]} == {
        "model.layers.1.mlp.experts.2.gate_proj",
        "model.layers.1.mlp.experts.2.up_proj",
    }


def test_experts_that_lie_the_other_way_round_are_checked_and_not_decoded(tmp_path):
    files = modelopt(MOE)
    foreign.fuse_experts(files, transposed=True)
    folder = files.write(tmp_path / "x")

    done = audit(str(folder), str(source_folder(MOE)), depth=FULL)

    assert {f.rule for f in done.findings} == {"part.fused"}
    assert any("cannot be decoded" in note for note in done.notes)


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        (r"layers\.0.*experts\.down_proj_weight_scale$", "part.missing"),
        (r"layers\.0.*experts\.down_proj_weight_scale_2$", "part.missing"),
        (r"layers\.0.*experts\.down_proj_input_scale$", "part.input-scale"),
    ],
)
def test_a_missing_companion_of_experts_in_one_tensor_is_found(tmp_path, pattern, code):
    files = modelopt(MOE)
    foreign.fuse_experts(files)
    (gone,) = files.drop(pattern)

    assert [f.where for f in found(files, tmp_path / "x")[("error", code)]] == [gone]


@pytest.mark.parametrize(("end", "code"), [("", "part.shape"), ("_2", "part.scalar")])
def test_scales_that_do_not_fit_experts_in_one_tensor_are_found(tmp_path, end, code):
    files = modelopt(MOE)
    foreign.fuse_experts(files)
    name = f"model.layers.0.mlp.experts.down_proj_weight_scale{end}"
    old = files.tensors[name]
    shape = (3, *old.shape[1:])
    files.put(name, shape=shape, data=old.data[: 3 * len(old.data) // 4])

    assert [f.where for f in found(files, tmp_path / "x")[("error", code)]] == [name]


# ── files that cannot be read ────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path):
    return modelopt().write(tmp_path / "x")


def rules(folder, **more):
    return {f.rule for f in audit(str(folder), **more).errors}


@pytest.mark.parametrize("depth", ["fast", "rows", "full"])
@pytest.mark.parametrize("source", [LLAMA, ""])
@pytest.mark.parametrize("number", [1, 2])
def test_a_truncated_shard_is_one_finding_and_the_rest_is_read(folder, number, depth, source):
    path = folder / f"model-0000{number}-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-9])

    done = audit(str(folder), str(source_folder(source)) if source else "", depth=Depth(depth))

    assert [f.where for f in done.errors if f.rule == "header.invalid"] == [path.name]
    # What the index says is in there is not called missing besides.
    assert not [f for f in done.errors if f.rule in {"index.ghost", "need.missing", "source.lost"}]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"not json", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_a_bad_header_is_a_finding(folder, content):
    (folder / "model-00002-of-00002.safetensors").write_bytes(content)

    assert "header.invalid" in rules(folder)


def test_a_shard_that_may_not_be_read_is_a_finding(folder):
    path = folder / "model-00002-of-00002.safetensors"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file that gives nothing

    assert rules(folder) & {"header.invalid", "header.unreadable", "index.shard-missing"}


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("config.json", None, "config.missing"),
        ("config.json", "{", "file.unreadable"),
        ("config.json", "[]", "file.unreadable"),
        ("config.json", "[" * 100_000, "file.unreadable"),
        (INDEX, "{", "file.unreadable"),
        (INDEX, "[]", "file.unreadable"),
        (INDEX, "{}", "file.unreadable"),
        (INDEX, '{"weight_map": 3}', "file.unreadable"),
        (INDEX, '{"weight_map": {"a": 3}}', "file.unreadable"),
        ("hf_quant_config.json", "3", "file.unreadable"),
    ],
)
def test_a_configuration_or_index_that_is_none_is_a_finding(folder, path, content, code):
    (folder / path).unlink()
    if content is not None:
        (folder / path).write_text(content)

    assert code in rules(folder)


def test_a_shard_that_the_index_counts_on_is_missing(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()

    done = audit(str(folder))

    assert [f.where for f in done.errors if f.rule == "index.shard-missing"] == [
        "model-00002-of-00002.safetensors"
    ]


def test_a_total_size_that_is_wrong_is_a_warning(folder):
    index = json.loads((folder / INDEX).read_text())
    index["metadata"]["total_size"] += 1
    (folder / INDEX).write_text(json.dumps(index))

    done = audit(str(folder))

    assert [(f.severity, f.rule) for f in done.findings] == [("warning", "index.total-size")]


def test_files_that_loaders_pass_over_are_noted(folder):
    shard = folder / "model-00001-of-00002.safetensors"
    (folder / "consolidated.safetensors").write_bytes(shard.read_bytes())
    (folder / "original").mkdir()
    (folder / "original" / "a.safetensors").write_bytes(b"junk")

    done = audit(str(folder))

    assert done.findings == ()
    assert any("2 safetensors files" in note for note in done.notes)


def test_a_shard_that_the_index_does_not_name_is_loaded_by_nobody(folder):
    extra = replace(read(folder / "model-00001-of-00002.safetensors")[0], name="stray.weight")
    _rewrite(folder / "stray.safetensors", [extra])

    assert {"index.missing"} <= rules(folder)
