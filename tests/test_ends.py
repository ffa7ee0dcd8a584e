"""Words that name an end, and the records of the journal."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles.walks import result

from hubconv.errors import UsageError
from hubconv.records import UnitRecord
from hubconv.words import EndRef, parse_end


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("org/name", EndRef("hub", "org/name")),
        ("org/name@main", EndRef("hub", "org/name", "main")),
        ("org/name@refs/pr/3", EndRef("hub", "org/name", "refs/pr/3")),
        ("hf://org/name", EndRef("hub", "org/name")),
        ("./x", EndRef("folder", "x")),
        ("../x", EndRef("folder", "../x")),
        ("/x/y", EndRef("folder", "/x/y")),
        (".", EndRef("folder", ".")),
    ],
)
def test_a_word_names_a_repository_or_a_folder(tmp_path, monkeypatch, word, meant):
    monkeypatch.chdir(tmp_path)
    assert parse_end(word) == meant


@pytest.mark.parametrize(
    "word", ["name", "", "a/b/c", "org/", "/".join(["o", "n" * 97]), "org/a..b", "org/a--b", "ø/x"]
)
def test_a_word_that_names_nothing_is_refused(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        parse_end(word)
    assert refused.value.exit_code == 2


def test_a_word_that_could_be_both_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)

    with pytest.raises(UsageError, match="hf://org/name for the repository"):
        parse_end("org/name")

    assert parse_end("hf://org/name").kind == "hub"
    assert parse_end("./org/name").kind == "folder"


def test_a_record_survives_its_json():
    for record in result("llama_bf16_tied").records:
        assert UnitRecord.from_json(record.to_json()) == record
        # Every field of the record, of its weights and of their figures.
        assert json.loads(record.to_json()) == json.loads(json.dumps(dataclasses.asdict(record)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(json_values, st.sampled_from(["tensors", "shape", "quality", "module"]))
def test_json_that_is_no_record_is_a_value_error(value, key):
    record = json.loads(result("llama_bf16_tied").records[0].to_json())
    if key == "tensors":
        record[key] = value
    else:
        record["tensors"][0][key] = value

    try:
        UnitRecord.from_json(json.dumps(record))
    except ValueError:
        return


@given(st.one_of(st.binary(max_size=20), json_values.map(lambda v: json.dumps(v).encode())))
def test_bytes_that_are_no_record_are_a_value_error(text):
    try:
        UnitRecord.from_json(text)
    except ValueError:
        return
    pytest.fail("it was taken for a record")


def test_json_of_endless_depth_is_no_record():
    with pytest.raises(ValueError, match="not a unit record"):
        UnitRecord.from_json("[" * 100_000)
