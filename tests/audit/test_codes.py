"""Codes are stable and each has its advice; no configuration ends in a crash."""

import ast
import copy
import json
import re
from pathlib import Path

import pytest
from checkpoints import foreign
from formats.test_contract import OURS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles.walks import source_folder

import hubconv
from hubconv.audit import audit
from hubconv.audit.advice import ADVICE
from hubconv.formats.contract import check

HOUSE = Path(hubconv.__file__).parent
ROOMS = ("audit", "formats/contract", "steps/readback.py", "steps/verify.py")
CODE = re.compile(
    r"(config|file|header|index|tree|expected|need|source|kept|part|partner|scale|fused|decoded|"
    r"match|v4|staged)\.[a-z-]+(?<!json)"
)
STAGED = {"staged.missing", "staged.content"}


def codes():
    """Every code that stands in the rooms that make findings, but in the table of advice."""
    found = set()
    for room in ROOMS:
        place = HOUSE / room
        for path in [place] if place.is_file() else sorted(place.glob("*.py")):
            if path.name == "advice.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= {node.value} if CODE.fullmatch(node.value) else set()
    return found


def test_every_code_has_its_advice_and_no_advice_is_for_nothing():
    assert codes() - STAGED == set(ADVICE)
    assert len(ADVICE) > 50


def test_advice_says_something():
    for code, advice in ADVICE.items():
        assert len(advice.split()) > 2, code


# ── strangers' JSON ──────────────────────────────────────────────────────────────────────────

KEYS = [
    "quant_method", "quant_algo", "moe_quant_algo", "config_groups", "ignore", "exclude_modules",
    "group_size", "quantized_layers", "producer", "quantization", "weights", "input_activations",
    "targets", "format", "num_bits", "block_structure", "name", "group_0", "weight_block_size",
    "quantization_status", "kv_cache_quant_algo", "strategy",
]  # fmt: skip
WORDS = [
    "modelopt", "compressed-tensors", "fp8", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION", "re:(",
    "re:.*", "*", "[", "Linear", "lm_head", "", "compressed", "nvfp4-pack-quantized", "float",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 20), st.floats(), st.sampled_from(WORDS),
    st.text(max_size=8),
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    ),
    max_leaves=20,
)
TABLE = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["modelopt", "compressed-tensors", "fp8", "awq", None, 3]),
    entry=TABLE,
    nested=st.one_of(st.none(), TABLE),
    more=TABLE,
)
def test_no_configuration_ends_in_a_crash(method, entry, nested, more):
    files = SMALL["moe ct" if method == "compressed-tensors" else "moe modelopt"]
    quantization = {"quant_method": method, **entry}
    config = {"model_type": "llama", "quantization_config": quantization, **more}
    extra = {"hf_quant_config.json": nested} if nested is not None else {}

    for finding in check(files, config, extra, partners=[["a", "b"]]):
        assert finding.rule in ADVICE
        assert finding.what


def small(name):
    tensors = OURS[name]().tensors
    return {n: t for n, t in tensors.items() if "layers." not in n or ".layers.1." in n}


SMALL = {name: small(name) for name in ("moe ct", "moe modelopt")}


def mutations(value, path=()):
    """Every place in a table, its value taken for another kind of thing."""
    for other in (None, 3, "x", [], {}, [3], {"a": 3}, True):
        yield path, other
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from mutations(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from mutations(inner, (*path, number))


def put(table, path, value):
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value


@pytest.mark.parametrize("name", ["moe ct", "moe modelopt", "v3 ct", "v3 modelopt", "v4"])
def test_no_entry_of_another_kind_ends_in_a_crash(name):
    files = OURS[name]()
    tensors = {n: t for n, t in files.tensors.items() if "layers." not in n or "layers.1." in n}
    whole = {"config": files.config["quantization_config"], "extra": files.extra}
    found = [(path, value) for path, value in mutations(whole) if len(path) > 1]
    some = found[:: max(len(found) // 150, 1)]
    for path, value in some:
        changed = copy.deepcopy(whole)
        put(changed, path, value)
        config = {**files.config, "quantization_config": changed["config"]}
        check(tensors, config, {k: v for k, v in changed["extra"].items() if isinstance(v, dict)})
    assert len(some) > 100


@pytest.mark.parametrize("depth", [10, 900, 940, 960, 980, 100_000])
def test_tables_within_tables_end(tmp_path, depth):
    files = foreign.modelopt(source_folder("llama_bf16"), r"(self_attn|mlp)\.\w+_proj\.weight$")
    folder = files.write(tmp_path / "x")
    deep = '{"x":' * depth + "3" + "}" * depth
    text = json.dumps(files.config)[:-1] + f', "more": {deep}}}'
    (folder / "config.json").write_text(text)

    done = audit(str(folder))

    if depth == 10:
        assert done.errors == ()
    if depth == 100_000:
        assert "file.unreadable" in {f.rule for f in done.errors}
