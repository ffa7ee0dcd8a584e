"""The fuzz targets: a short run with atheris where it is, and plain mutations always."""

import importlib
import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TARGETS = ("header", "index")
SECONDS = 2


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("name", TARGETS)
def test_no_mutation_of_a_seed_gets_past_a_reader(name):
    from fuzz.target import mutations, seeds

    check = importlib.import_module(f"fuzz.{name}").check
    beginnings = seeds(name)
    assert len(beginnings) >= 6
    for data in mutations(beginnings, 10_000, seed=1):
        check(data)


def test_mutations_reach_what_is_accepted_and_what_is_not():
    from fuzz.header import mended, ours
    from fuzz.target import mutations, seeds

    found = [ours(mended(data)) for data in mutations(seeds("header"), 5_000, seed=2)]
    assert sum(each is not None for each in found) > 50
    assert sum(each is None for each in found) > 1_000


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_a_short_run_with_atheris_finds_nothing(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"fuzz.{name}", f"-max_total_time={SECONDS}", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr


# ── the targets would see it ─────────────────────────────────────────────────────────────────


def file_of(header, data=b""):
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_parser_that_takes_the_last_of_two_names_is_caught(monkeypatch):
    from fuzz import header
    from hubconv.formats import checkpoint

    entry = json.dumps({"dtype": "U8", "shape": [4], "data_offsets": [0, 4]})
    twice = file_of(f'{{"a":{entry},"a":{entry}}}', bytes(4))
    header.check(twice)
    monkeypatch.setattr(checkpoint, "_unique_keys", dict)
    with pytest.raises(header.DifferenceError, match="twice"):
        header.check(twice)


def test_a_parser_that_lets_tensors_overlap_is_caught(monkeypatch):
    from fuzz import header
    from hubconv.formats import checkpoint

    monkeypatch.setattr(checkpoint, "_check_cover", lambda *_: None)
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    with pytest.raises(header.DifferenceError):
        header.check(file_of(json.dumps({"a": entry, "b": entry}), bytes(4)))


def test_an_index_that_leaves_the_tree_is_caught(monkeypatch):
    from fuzz import index

    monkeypatch.setattr(index, "parse_index", lambda *_: {"a": "../a.safetensors"})
    with pytest.raises(index.BreachError):
        index.check(b"\0{}")


def test_front_matter_that_changes_on_its_way_is_caught(monkeypatch):
    from fuzz import index

    monkeypatch.setattr(index, "write_front_matter", lambda _: "---\nlicense: gpl\n---\n")
    with pytest.raises(index.BreachError):
        index.check(b"\1---\nlicense: mit\n---\n")
