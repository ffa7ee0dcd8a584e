"""What one publish takes away, refuses and carries over."""

import json
from types import SimpleNamespace

import pytest

from hubconv.ends import FileEntry
from hubconv.folder import FolderSource, FolderTarget
from hubconv.steps.publish import (
    MAX_CARD_BYTES,
    foreign_files,
    other_source,
    source_card,
    stale_files,
)

OURS = {"files": {"model-1.safetensors": {}, "config.json": {}, "old.json": {}}}


def tree(*paths):
    return {path: FileEntry(path, 1) for path in paths}


def test_files_of_the_earlier_publish_go_when_they_are_no_longer_part():
    present = tree("config.json", "old.json", "model-1.safetensors", "notes.txt")
    assert stale_files(present, OURS, {"config.json"}) == ("model-1.safetensors", "old.json")


@pytest.mark.parametrize(
    "path", ["pytorch_model.bin", "x/model.safetensors", "a.gguf", "model.safetensors.index.json"]
)
def test_weights_of_anybody_go_because_no_index_names_them(path):
    assert stale_files(tree(path, "notes.txt"), None, {"config.json"}) == (path,)


def test_what_is_part_of_the_new_publish_stays():
    assert (
        stale_files(tree("config.json", "a.safetensors"), OURS, {*OURS["files"], "a.safetensors"})
        == ()
    )


@pytest.mark.parametrize(
    "path", [".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.txt", "hubconv.json"]
)
def test_what_comes_with_making_a_repository_is_not_foreign(path):
    assert foreign_files(tree(path), None) == ()


def test_foreign_is_what_no_publish_of_ours_names():
    assert foreign_files(tree("config.json", "train.py"), OURS) == ("train.py",)
    assert foreign_files(tree("config.json"), None) == ("config.json",)
    assert foreign_files(tree("assets/error.png"), OURS) == ()
    assert foreign_files(tree("assets/error.png"), None) == ("assets/error.png",)


def test_another_source_is_told_by_its_name():
    plan = SimpleNamespace(source="demo/x", commit="1" * 40)
    folder = SimpleNamespace(source="/home/me/x", commit="")
    assert other_source({"source": {"repo": "demo/x"}}, plan) == ""
    assert other_source({"source": {"repo": "demo/z"}}, plan) == "demo/z"
    assert other_source({"source": {"repo": "x"}}, folder) == ""
    assert other_source({}, plan) == other_source(None, plan) == ""


def test_an_enormous_card_of_the_source_is_not_read(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n" + "x" * MAX_CARD_BYTES)
    assert source_card(FolderSource(tmp_path)).license != "mit"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert source_card(FolderSource(tmp_path)).license == "mit"


def test_a_damaged_manifest_counts_as_none(tmp_path):
    target = FolderTarget(tmp_path)
    for text in ("{", "[]", "null", "{}", '{"files": {"config.json": 1}}', "[" * 100_000):
        (tmp_path / "hubconv.json").write_text(text)
        assert target.manifest() is None
    sound = OURS | {"files": {"config.json": {"size": 1, "sha256": "0" * 64}}}
    (tmp_path / "hubconv.json").write_text(json.dumps(sound))
    assert target.manifest() == sound
