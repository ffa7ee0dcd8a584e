"""Experts that are stacked or turned, from Hub to Hub: the same bytes as between folders."""

import hashlib

import pytest
from profiles.walks import result

from hubconv.hub.source import HubSource
from hubconv.steps.decide import Recipe


@pytest.mark.parametrize("name", ["llama4_bf16", "step35_fp8"])
@pytest.mark.parametrize("max_shard_bytes", [0, 300_000])
def test_the_way_of_the_bytes_changes_none(studio, name, max_shard_bytes):
    target = studio.name()
    recipe = Recipe(max_shard_bytes=max_shard_bytes)
    studio.convert(studio.source(name), target, recipe=recipe)
    walk = result(name, max_shard_bytes=max_shard_bytes)

    view = HubSource(studio.client(), target, "main", studio.folder / "slots")
    here = {path: entry.sha256 for path, entry in view.files().items() if "safetensors" in path}
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in walk.shards.glob("*")
    }
    assert {path: sha for path, sha in here.items() if not path.endswith("json")} == there
