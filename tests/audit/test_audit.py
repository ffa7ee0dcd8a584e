"""Reading any checkpoint back: with and without manifest, with and without its source."""

import json

import pytest
from profiles.walks import SERVED, publish, result, source_folder, staged

from hubconv.audit import audit, audit_json, render_audit
from hubconv.ends import MANIFEST
from hubconv.errors import SourceError


@pytest.fixture
def published(tmp_path):
    def make(name, **recipe):
        target = tmp_path / name
        walk = staged(name, target, **recipe)
        publish(walk, target, recipe=recipe, source={"repo": str(source_folder(name))})
        return target

    return make


def rules(done):
    return {finding.rule for finding in done.errors}


@pytest.mark.parametrize("name", SERVED)
def test_a_sound_folder_has_nothing_wrong(published, name):
    target = published(name)

    done = audit(str(target), str(source_folder(name)))

    assert done.findings == ()
    assert done.notes == ()
    assert done.decoded == 8
    assert done.modules == len([j for j in result(name).plan.jobs if j.action == "nvfp4"])
    assert audit_json(done)["status"] == "sound"
    assert "Nothing wrong found." in render_audit(done)


def test_options_of_the_manifest_are_planned_again(published):
    target = published("llama_bf16", policy="mlp", layout="modelopt")

    done = audit(str(target), str(source_folder("llama_bf16")))

    assert done.findings == ()


def test_without_manifest_and_source_it_says_what_was_not_checked(published):
    target = published("deepseek_v3")
    (target / MANIFEST).unlink()

    done = audit(str(target))

    assert done.findings == ()
    assert len(done.notes) == 2
    assert "no hubconv.json" in done.notes[0]
    assert "--source" in done.notes[1]


@pytest.mark.parametrize(
    "garbage", [b"", b"[]", b'{"files": []}', b'{"files": {"a": 3}}', b'{"files": {"a": {}}}']
)
def test_a_manifest_that_is_none_counts_as_none_and_is_told(published, garbage):
    target = published("llama_bf16_tied")
    (target / MANIFEST).write_bytes(garbage)

    done = audit(str(target))

    assert done.errors == ()
    assert [finding.rule for finding in done.findings] == ["tree.manifest-unreadable"]
    assert "no hubconv.json" in done.notes[0]


@pytest.mark.parametrize("recipe", [[1], {"keep": 3}, {"keep": [3]}, {"unknown": 1}, "x"])
def test_a_strange_recipe_in_the_manifest_is_told(published, recipe):
    target = published("llama_bf16_tied")
    manifest = json.loads((target / MANIFEST).read_text()) | {"recipe": recipe}
    (target / MANIFEST).write_text(json.dumps(manifest))

    done = audit(str(target), str(source_folder("llama_bf16_tied")))

    assert done.notes or done.decoded


def test_one_flipped_byte_is_found_by_the_manifest(published):
    target = published("llama_bf16_tied")
    path = target / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    done = audit(str(target))

    assert rules(done) == {"tree.manifest"}
    assert "model.safetensors has sha256" in done.errors[0].what


def test_a_truncated_shard_is_found_even_without_a_manifest(published):
    target = published("deepseek_v3")
    (target / MANIFEST).unlink()
    path = next(target.glob("model-00001*"))
    path.write_bytes(path.read_bytes()[:-1])

    assert "header.invalid" in rules(audit(str(target)))


def test_a_missing_shard_is_found_even_without_a_manifest(published):
    target = published("deepseek_v3")
    (target / MANIFEST).unlink()
    next(target.glob("model-00001*")).unlink()

    assert rules(audit(str(target)))


def test_weights_of_another_model_are_found_with_the_source(published, tmp_path):
    from checkpoints.recipes import RECIPES

    target = published("llama_bf16_tied")
    RECIPES["llama_bf16_tied"](tmp_path / "other", seed=5)

    assert "decoded.far" in rules(audit(str(target), str(tmp_path / "other")))


def test_a_changed_config_is_found(published):
    target = published("llama_bf16_tied")
    (target / MANIFEST).unlink()
    config = json.loads((target / "config.json").read_text())
    del config["quantization_config"]
    (target / "config.json").write_text(json.dumps(config))

    done = audit(str(target))

    assert rules(done)
    assert audit_json(done)["status"] == "faulty"
    assert done.errors[0].rule in render_audit(done)


def test_a_folder_without_weights_cannot_be_audited(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(SourceError, match="holds no safetensors weights"):
        audit(str(tmp_path))
