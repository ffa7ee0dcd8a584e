"""watch.toml as it is read, and every fault of it with its path."""

import pytest

from hubconv.cli.matrix import MOST_JOBS, key_of, matrix
from hubconv.errors import UsageError
from hubconv.steps.decide import Recipe
from hubconv.watch import Look, read_list
from hubconv.watch.listing import recipe_asked

WHOLE = """
[defaults]
target = "my-org/{name}-NVFP4"
layout = "modelopt"
visibility = "private"
runner = ["self-hosted", "gpu"]

[[entry]]
source = "deepseek-ai/DeepSeek-V4-Flash"
layout = "modelopt-v4"
visibility = "as-source"
runner = "ubuntu-latest"
time-limit = "2h"
max-disk = "12GB"

[[entry]]
source = "Qwen/*"
include = ["Qwen3*"]
exclude = ["*-GGUF"]
target = "my-org/{org}-{name}-NVFP4"
revision = "stable"
policy = "mlp"
activations = "w4a4"
scales = "amax"
mtp = "drop"
code = "skip"
keep = ['lm_head$', 'a b']
quantize = ['shared']
input-scales-from = "nvidia/Qwen3-NVFP4"
max-shard-size = "5GB"
"""


def read(folder, text):
    file = folder / "watch.toml"
    file.write_text(text)
    return read_list(file)


def test_an_entry_says_what_defaults_do_not(tmp_path):
    one, many = read(tmp_path, WHOLE).wishes
    assert (one.source, one.is_pattern, one.where) == (
        "deepseek-ai/DeepSeek-V4-Flash", False, "entry[0]"
    )  # fmt: skip
    assert one.target_of(one.source) == "my-org/DeepSeek-V4-Flash-NVFP4"
    assert one.recipe == Recipe(layout="modelopt-v4")
    assert (one.private, one.runner) == (None, "ubuntu-latest")
    assert (one.time_limit_s, one.max_disk) == (7200.0, 12 * 10**9)
    assert (many.is_pattern, many.include, many.exclude) == (True, ("Qwen3*",), ("*-GGUF",))
    assert many.target_of("Qwen/Qwen3-1B") == "my-org/Qwen-Qwen3-1B-NVFP4"
    assert (many.private, many.runner, many.revision) == (True, ("self-hosted", "gpu"), "stable")
    assert many.recipe == Recipe(
        layout="modelopt", policy="mlp", activations="w4a4", scales="amax", mtp="drop",
        code="skip", keep=("lm_head$", "a b"), quantize=("shared",),
        input_scales_from="hf://nvidia/Qwen3-NVFP4", max_shard_bytes=5 * 10**9,
    )  # fmt: skip
    assert many.time_limit_s == 5.5 * 3600


ENTRY = '[[entry]]\nsource = "a/b"\ntarget = "c/d"\n'


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        ("", "entry", "there is none"),
        ("entry = 3", "entry", "expected `array`, got `int`"),
        ('colour = "red"', "colour", "is unknown; known here: defaults, entry"),
        ('[defaults]\nsource = "a/b"', "defaults.source", "is unknown"),
        (ENTRY + 'sauce = "x"', "entry[0].sauce", "is unknown; known here: target, layout"),
        ('[[entry]]\ntarget = "c/d"', "entry[0].source", "is missing"),
        ('[[entry]]\nsource = "a/b"', "entry[0].target", "is missing, here and in defaults"),
        (ENTRY + ENTRY + "policy = 3", "entry[1].policy", "expected `str`, got `int`"),
        (ENTRY + 'policy = "most"', "entry[0].policy", "'most' is none of experts, mlp"),
        (ENTRY + 'layout = "gguf"', "entry[0].layout", "'gguf' is none of compressed-tensors"),
        ('[defaults]\nlayout = "gguf"\n' + ENTRY, "defaults.layout", "'gguf' is none of"),
        (ENTRY + 'visibility = "hidden"', "entry[0].visibility", "invalid enum value 'hidden'"),
        (ENTRY + 'keep = ["ok", "("]', "entry[0].keep[1]", "is no regular expression"),
        (ENTRY + 'keep = ["ok", 3]', "entry[0].keep[1]", "expected `str`, got `int`"),
        (ENTRY + 'quantize = ["["]', "entry[0].quantize[0]", "is no regular expression"),
        (ENTRY + 'input-scales-from = "x"', "entry[0].input-scales-from", "is no repository"),
        (ENTRY + 'max-disk = "lots"', "entry[0].max-disk", "'lots' is no size"),
        (ENTRY + 'max-shard-size = "5 apples"', "entry[0].max-shard-size", "is no size"),
        (ENTRY + 'time-limit = "soon"', "entry[0].time-limit", "'soon' is no time"),
        (ENTRY + 'time-limit = "0"', "entry[0].time-limit", "'0' is no time"),
        (ENTRY + "runner = []", "entry[0].runner", "is empty"),
        (ENTRY + 'runner = ["x", ""]', "entry[0].runner", "is empty"),
        (ENTRY + 'include = ["x"]', "entry[0].include", "goes with a pattern"),
        (ENTRY.replace("a/b", "just-a-name"), "entry[0].source", "is no repository"),
        (ENTRY.replace("a/b", "./folder"), "entry[0].source", "is no repository"),
        (ENTRY.replace("a/b", "a/b@dev"), "entry[0].source", "write revision = 'dev'"),
        (ENTRY.replace("a/b", "*/b"), "entry[0].source", "is no repository"),
        (ENTRY.replace("c/d", "c/{nam}"), "entry[0].target", "{nam} stands for nothing"),
        (ENTRY.replace("c/d", "c"), "entry[0].target", "is no repository"),
        (ENTRY.replace("c/d", "A/B"), "entry[0].target", "is the source itself"),
        (ENTRY.replace("c/d", "{org}/{name}"), "entry[0].target", "is the source itself"),
        (ENTRY.replace("a/b", "a/*"), "entry[0].target", "{name} must stand in the target"),
        (ENTRY + ENTRY.replace("c/d", "C/D"), "entry[1].target", "is the target of entry[0]"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_path(tmp_path, text, path, said):
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    assert refused.value.what.startswith(f"{tmp_path / 'watch.toml'}: {path}: ")
    assert said in refused.value.what


def test_what_is_no_toml_is_told_with_its_line(tmp_path):
    with pytest.raises(UsageError, match=r"is not valid TOML: .*line 2"):
        read(tmp_path, "a = 1\nb = ?\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_list(tmp_path / "nothing.toml")


# ── the matrix ───────────────────────────────────────────────────────────────────────────────


def test_a_job_of_the_matrix_says_everything_and_splits_no_word(tmp_path):
    one, many = read(tmp_path, WHOLE).wishes
    source = "Qwen/Qwen3-1B"
    looked = [
        Look(one, one.source, one.target_of(one.source), "new"),
        Look(many, source, many.target_of(source), "out of date"),
        Look(many, "Qwen/Qwen3-2B", "my-org/two", "in progress"),
        Look(many, "Qwen/Qwen3-3B", "my-org/three", "up to date"),
    ]
    begun, aged, new = matrix(looked)["include"]
    assert [each["state"] for each in (begun, aged, new)] == ["in progress", "out of date", "new"]
    assert aged == {
        "key": "my-org/qwen-qwen3-1b-nvfp4",
        "source": source,
        "revision": "stable",
        "target": "my-org/Qwen-Qwen3-1B-NVFP4",
        "options": "--layout\nmodelopt\n--policy\nmlp\n--activations\nw4a4\n--input-scales-from\n"
        "hf://nvidia/Qwen3-NVFP4\n--scales\namax\n--mtp\ndrop\n--max-shard-size\n5000000000\n"
        "--code\nskip\n--keep\nlm_head$\n--keep\na b\n--quantize\nshared\n--private",
        "runner": ["self-hosted", "gpu"],
        "time-limit": "19800s",
        "timeout-minutes": 350,
        "state": "out of date",
    }
    assert (new["revision"], new["runner"]) == ("", "ubuntu-latest")
    assert (new["time-limit"], new["timeout-minutes"]) == ("7200s", 140)
    assert new["options"] == "--layout\nmodelopt-v4\n--max-disk\n12000000000"


def test_a_matrix_holds_what_github_takes_and_keys_are_apart(tmp_path):
    (wish,) = read(tmp_path, '[[entry]]\nsource = "a/*"\ntarget = "b/{name}"').wishes
    looked = [Look(wish, f"a/m{n}", f"b/m{n}", "new") for n in range(MOST_JOBS + 1)]
    jobs = matrix(looked)["include"]
    assert len(jobs) == len({job["key"] for job in jobs}) == MOST_JOBS
    assert matrix([]) == {"include": []}
    assert key_of("A/b") == key_of("a/B")
    assert len({key_of("a-/b"), key_of("a/b"), key_of("a/b-")}) == 3


def test_a_lender_is_compared_by_its_name():
    recipe = Recipe(input_scales_from="hf://nvidia/X@main")
    made = {"recipe": {"input_scales_from": "nvidia/X@0123456"}}
    assert recipe_asked(made, recipe) == ""
    assert recipe_asked({"recipe": {"input_scales_from": ""}}, recipe) == "input-scales-from"
    assert recipe_asked({}, Recipe()) == recipe_asked({"recipe": 3}, Recipe()) == ""
