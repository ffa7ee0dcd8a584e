"""`hubconv verify` and `hubconv compare` as a shell and a program see them."""

import json

import pytest
from checkpoints import foreign
from profiles.walks import source_folder

from hubconv.cli import main

LINEARS = r"(self_attn|mlp)\.\w+_proj\.weight$"


@pytest.fixture
def run(capsys):
    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def make(tmp_path):
    count = iter(range(100))

    def write(change=lambda files: None, **more):
        files = foreign.modelopt(source_folder("llama_bf16"), LINEARS, **more)
        change(files)
        return files.write(tmp_path / f"x{next(count)}")

    return write


def test_a_sound_repository_ends_with_0(run, make):
    code, out, _ = run("verify", make(), "--source", source_folder("llama_bf16"), "--full")

    assert code == 0
    assert "Nothing wrong found." in out
    assert "14 weights compared with the source (every weight)" in out


def test_warnings_alone_end_with_0_and_are_listed(run, make):
    code, out, _ = run("verify", make(form="nested"))

    assert code == 0
    assert "warning config.nested" in out
    assert "do:" in out


def test_errors_end_with_7_and_say_where_and_what_to_do(run, make):
    code, out, err = run("verify", make(joint=False), "-q")

    assert code == 7
    assert "error   partner.scale" in out
    assert "model.layers.0.self_attn.q_proj" in out
    assert "Quantize them with one global scale" in out
    assert "faults that loaders trip over" in err


def test_json_lists_findings_by_stable_codes(run, make):
    def damage(files):
        files.drop(r"\.input_scale$")
        files.quant["ignore"].append("*.nothing.here")

    code, out, _ = run("verify", make(damage), "--json")
    told = json.loads(out.strip().splitlines()[0])

    assert code == 7
    assert (told["status"], told["errors"], told["warnings"]) == ("faulty", 15, 1)
    table = {row["code"]: row for row in told["findings"]}
    assert set(table) == {"part.input-scale", "config.ignore-idle", "config.hf-quant"}
    row = table["part.input-scale"]
    assert (row["severity"], row["count"]) == ("error", 14)
    assert len(row["where"]) == 14
    assert row["do"].startswith("Write input scales")
    assert set(row) == {"code", "severity", "what", "more", "where", "count", "engines", "do"}


def test_a_long_list_of_names_is_cut(run, make):
    code, out, _ = run("verify", make(lambda files: files.drop(r"\.input_scale$")))

    assert code == 7
    (line,) = [line for line in out.splitlines() if line.strip().startswith("where:")]
    assert line.endswith("and 11 more")


@pytest.mark.parametrize(
    "words", [["--full", "--fast"], ["--full", "--sample", "3"], ["--fast", "--sample", "3"]]
)
def test_depths_that_contradict_each_other_are_refused(run, make, words):
    code, _, err = run("verify", make(), *words)

    assert code == 2
    assert "contradict each other" in err


@pytest.mark.parametrize("words", [["--sample", "0"], ["--sample", "x"], ["--seed", "-1"]])
def test_numbers_that_are_none_are_refused(run, make, words):
    assert run("verify", make(), *words)[0] == 2


def test_a_sample_tells_its_seed(run, make):
    source = source_folder("llama_bf16")
    code, out, _ = run("verify", make(), "--source", source, "--sample", 3, "--seed", 11)

    assert code == 0
    assert "3 weights, seed 11" in out


def test_names_out_of_a_repository_do_not_steer_the_terminal(run, make):
    def damage(files):
        files.quant["ignore"].append("\x1b[2J*.none\u202e")

    code, out, _ = run("verify", make(damage))

    assert "\x1b" not in out
    assert "\u202e" not in out
    assert code in {0, 7}


def test_compare_ends_with_0_where_results_differ(run, make):
    other = make(lambda files: files.scale("model.layers.0.mlp.up_proj.weight_scale_2", 2))

    code, out, _ = run("compare", make(), other, "--full", "-q")
    assert (code, out) == (0, "")
    code, out, _ = run("compare", make(), other, "--full")
    assert code == 0
    assert "13 of 14 equal" in out
    code, out, _ = run("compare", make(), other, "--json", "--source", source_folder("llama_bf16"))
    told = json.loads(out)
    assert (code, told["status"], told["depth"]) == (0, "compared", "rows")
    assert {row["name"] for row in told["by_role"]} == {"attention", "dense_mlp"}
    assert all(row["error_a"] < row["error_b"] for row in told["by_role"]
               if row["name"] == "dense_mlp")  # fmt: skip


def test_compare_ends_with_3_where_they_are_of_two_models(run, make, tmp_path):
    moe = foreign.modelopt(
        source_folder("qwen3_moe_bf16"), r"experts\.\d+\.\w+_proj\.weight$"
    ).write(tmp_path / "moe")

    code, out, err = run("compare", make(), moe, "--json")

    assert code == 3
    assert "not two results of one model" in json.loads(out)["what"]
    assert "same source" in err


def test_compare_refuses_what_is_not_there(run, make):
    assert run("compare", make(), "./nothing")[0] == 3
    assert run("compare", make())[0] == 2


def test_an_expression_that_would_never_end_ends_with_7(run, tmp_path, monkeypatch):
    from hubconv.formats.contract import expressions

    monkeypatch.setattr(expressions, "PATIENCE_S", 0.2)
    expressions.compiled.cache_clear()
    ignore = ("lm_head", r"re:((\w|\w\w|[.])+)+[!?]")
    files = foreign.compressed_tensors(source_folder("llama_bf16"), LINEARS, ignore=ignore)

    code, _, err = run("verify", files.write(tmp_path / "x"))

    assert code == 7
    assert "takes more than" in err
    assert "repeats within repeats" in err
    expressions.compiled.cache_clear()


@pytest.mark.parametrize("entry", ["re:(", "re:" + "(" * 5000, "re:a{99999999999999}"], ids=len)
def test_an_expression_that_is_none_is_a_finding(run, tmp_path, entry):
    files = foreign.compressed_tensors(
        source_folder("llama_bf16"), LINEARS, ignore=("lm_head", entry)
    )

    code, out, _ = run("verify", files.write(tmp_path / "x"))

    assert code == 7
    assert "config.regex" in out
