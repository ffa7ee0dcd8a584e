"""Reading back from a Hub of either kind: other tools' repositories and our own."""

import json

import pytest
from checkpoints import foreign

from hubconv.audit import Depth, audit, compare

LINEARS = r"(self_attn|mlp)\.\w+_proj\.weight$"
FULL = Depth("full")


@pytest.fixture
def theirs(studio, tmp_path):
    """A repository as ModelOpt writes it, of the shared llama."""
    files = foreign.modelopt(studio.checkpoints("llama_bf16"), LINEARS)
    return studio.put(files.write(tmp_path / "theirs"), studio.name("theirs"))


@pytest.fixture
def ours(studio):
    target = studio.name()
    studio.convert(studio.source("llama_bf16"), target)
    return target


def test_a_repository_of_others_is_read_whole(studio, theirs):
    done = audit(theirs, studio.source("llama_bf16"), depth=FULL)

    assert done.findings == ()
    assert done.decoded == done.modules == 14
    assert done.whole.kept == 7
    assert done.commit == studio.log(theirs)[0].commit_id


def test_large_shards_stream_by(studio, theirs, monkeypatch):
    monkeypatch.setattr("hubconv.hub.source.SMALL_BYTES", 4096)
    monkeypatch.setattr("hubconv.audit.reading.CHUNK_BYTES", 8192)
    monkeypatch.setattr("hubconv.audit.whole.CHUNK_BYTES", 8192)

    done = audit(theirs, studio.source("llama_bf16"), depth=FULL)

    assert done.findings == ()
    assert done.decoded == done.modules == 14
    assert done.whole.hashed == 2


def test_our_own_is_what_its_manifest_and_its_record_say(studio, ours):
    done = audit(ours, studio.source("llama_bf16"), depth=FULL)

    assert done.findings == ()
    assert done.notes == ()
    assert done.whole.hashed == 2


def test_a_repository_with_faults_is_told_of_them(studio, tmp_path):
    files = foreign.compressed_tensors(studio.checkpoints("llama_bf16"), LINEARS, joint=False)
    files.left_out = set(files.names(r"layers\.1\.self_attn\.o_proj\.weight_scale$"))
    gone = files.drop(r"layers\.0\.mlp\.down_proj\.input_global_scale$")
    repo = studio.put(files.write(tmp_path / "x"), studio.name("faulty"))

    done = audit(repo)

    rules = {finding.rule for finding in done.errors}
    assert rules == {"partner.scale", "index.missing", "part.input-scale"}
    assert [f.where for f in done.errors if f.rule == "part.input-scale"] == gone


def test_fast_takes_a_handful_of_requests_and_no_weights(studio, theirs):
    studio.hub.requests.clear()

    done = audit(theirs, depth=Depth("fast"))

    assert done.findings == ()
    asked = studio.hub.requests.kinds()
    assert sum(asked.values()) <= 3 + 2 * 5, asked  # the repository, its tree; each of five files


def test_a_truncated_shard_on_the_hub_is_a_finding(studio, tmp_path):
    files = foreign.modelopt(studio.checkpoints("llama_bf16"), LINEARS)
    folder = files.write(tmp_path / "x")
    path = folder / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    repo = studio.put(folder, studio.name("cut"))

    for depth in (Depth("fast"), Depth(), FULL):
        done = audit(repo, studio.source("llama_bf16"), depth=depth)
        assert [f.where for f in done.errors if f.rule == "header.invalid"] == [path.name]


def test_a_revision_is_what_is_read(studio, theirs):
    before = studio.log(theirs)[0].commit_id
    config = json.loads(studio.read(theirs, "config.json"))
    config["quantization_config"] = {"quant_method": "awq"}
    studio.write(theirs, "config.json", json.dumps(config).encode())

    assert audit(theirs, revision=before).errors == ()
    assert audit(f"{theirs}@{before}").errors == ()
    assert audit(theirs).errors != ()


def test_a_folder_and_a_repository_are_compared(studio, ours, theirs, tmp_path):
    files = foreign.modelopt(studio.checkpoints("llama_bf16"), LINEARS)
    folder = files.write(tmp_path / "folder")

    same = compare(theirs, str(folder), depth=FULL)
    other = compare(ours, theirs, studio.source("llama_bf16"), depth=FULL)

    assert all(row.distance == 0 for row in same.by_role.values())
    assert same.kept.compared == same.kept.same_type == 7
    assert same.kept.differing == ()
    assert {role: row.weights for role, row in other.by_role.items()} == {
        "attention": 8,
        "dense_mlp": 6,
    }
    assert (other.a.layout, other.b.layout) == ("compressed-tensors", "modelopt")


def test_two_revisions_of_one_repository_are_compared(studio, theirs):
    before = studio.log(theirs)[0].commit_id
    config = json.loads(studio.read(theirs, "config.json"))
    config["rope_theta"] = 12345.0
    studio.write(theirs, "config.json", json.dumps(config).encode())

    done = compare(f"{theirs}@{before}", theirs)

    assert [row["key"] for row in done.config] == ["rope_theta"]
    assert done.a.result.view.commit != done.b.result.view.commit
