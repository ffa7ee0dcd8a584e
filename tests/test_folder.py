"""A folder as target: whatever kills a run, finished shards stay and nothing is mistaken."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from profiles.walks import bench_of, copy_of, make, publish, result, source_folder, staged

from hubconv.ends import MANIFEST
from hubconv.errors import NotAllowedError, ResourceError, SourceError
from hubconv.folder import FolderSource, FolderTarget
from hubconv.folder import staging as staging_module

TESTS = Path(__file__).parent


def killed(script: str, *words: object) -> None:
    """Run a script that kills itself without warning."""
    start = "import os, signal, sys; from pathlib import Path\n"
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script), *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


KILLED_IN_MID_UNIT = """
    from profiles.walks import bench_of, make
    from hubconv.files import FileSink
    bench = bench_of(Path(sys.argv[1]), Path(sys.argv[2]))
    make(bench, bench.plan.units[0])
    wrote = FileSink.write
    def write(self, data):
        wrote(self, data)
        self._file.flush()
        if self._size > 50_000:
            os.kill(os.getpid(), signal.SIGKILL)
    FileSink.write = write
    make(bench, bench.plan.units[1])
"""

KILLED_IN_MID_PUBLISH = """
    from profiles.walks import convert, publish
    from hubconv.folder import FolderStaging
    walk = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    moved = FolderStaging._move
    left = [int(sys.argv[3])]
    def move(self, staged, path):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        moved(self, staged, path)
    FolderStaging._move = move
    publish(walk, Path(sys.argv[2]))
"""


def test_after_a_kill_in_mid_unit_only_the_missing_units_are_made(tmp_path):
    source = source_folder("deepseek_v3")
    killed(KILLED_IN_MID_UNIT, source, tmp_path)
    assert list(tmp_path.rglob("*.partial"))

    bench = bench_of(source, tmp_path)
    found = bench.staging.records()

    assert list(tmp_path.rglob("*.partial")) == []
    assert list(found) == [bench.plan.units[0].shard]
    missing = [unit for unit in bench.plan.units if unit.shard not in found]
    made = [make(bench, unit) for unit in missing]
    assert [record.sha256 for record in (*found.values(), *made)] == [
        record.sha256 for record in result("deepseek_v3").records
    ]


@pytest.mark.parametrize("moves", [0, 1, 3, 4])
def test_after_a_kill_in_mid_publish_nothing_is_made_again(tmp_path, moves):
    source = source_folder("deepseek_v3")
    killed(KILLED_IN_MID_PUBLISH, source, tmp_path, moves)
    assert not (tmp_path / MANIFEST).exists()

    target = FolderTarget(tmp_path)
    target.check("")
    assert dict(target.files()) == {}, "half a publish must not look like somebody else's files"
    bench = bench_of(source, tmp_path)
    found = bench.staging.records()

    assert sorted(found) == sorted(unit.shard for unit in bench.plan.units)


def test_taking_back_leaves_what_other_people_put_there(tmp_path):
    killed(KILLED_IN_MID_PUBLISH, source_folder("deepseek_v3"), tmp_path, 4)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model-00001-of-000003.safetensors").write_bytes(b"another file of the same name")

    FolderTarget(tmp_path).check("")

    assert set(FolderTarget(tmp_path).files()) == {
        "notes.txt",
        "model-00001-of-000003.safetensors",
    }


def test_a_publish_killed_after_its_manifest_is_complete(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    discard, staging_module.FolderStaging.discard = (
        staging_module.FolderStaging.discard,
        lambda _: None,
    )
    try:
        publish(walk, tmp_path)
    finally:
        staging_module.FolderStaging.discard = discard

    target = FolderTarget(tmp_path)
    target.check("")
    assert target.published(walk.plan.plan_id) is not None
    assert (tmp_path / "model.safetensors").exists()
    target.tidy(walk.plan.plan_id)
    assert not (tmp_path / ".hubconv").exists()


def test_a_file_of_the_same_name_and_size_is_not_taken_for_ours(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    shard = walk.shards / "model.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.unlink()
    (tmp_path / "model.safetensors").write_bytes(content)

    assert walk.staging.records() == {}
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_a_shard_of_another_size_than_recorded_is_made_again(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    shard = walk.shards / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])

    assert walk.staging.records() == {}


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"null", b"[]", b"{}", b'{"tensors": 3}', b'{"tensors": [], "x": 1}', b"\xff\xfe"],
)
def test_records_that_are_none_are_ignored(tmp_path, garbage):
    walk = staged("llama_bf16_tied", tmp_path)
    record = next((tmp_path / ".hubconv").rglob("units/*.json"))
    record.write_bytes(garbage)

    assert walk.staging.records() == {}


def test_a_record_that_names_another_file_than_its_own_is_ignored(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    record = next((tmp_path / ".hubconv").rglob("units/*.json"))
    outside = tmp_path.parent / "outside.safetensors"
    (walk.shards / "model.safetensors").rename(outside)
    told = json.loads(record.read_text()) | {"shard": "../outside.safetensors"}
    record.write_text(json.dumps(told))

    assert walk.staging.records() == {}
    assert outside.exists()


def test_records_of_another_plan_are_ignored(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    record = next((tmp_path / ".hubconv").rglob("units/*.json"))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"plan_id": "0" * 16}))

    assert walk.staging.records() == {}


def test_a_publish_shows_every_file_and_the_manifest_last(tmp_path, monkeypatch):
    moves = []
    moved = staging_module.FolderStaging._move

    def move(self, staged, path):
        moves.append(path)
        moved(self, staged, path)

    monkeypatch.setattr(staging_module.FolderStaging, "_move", move)
    walk = staged("deepseek_v3", tmp_path)
    publish(walk, tmp_path)

    assert moves[-1] == MANIFEST
    assert moves[-2] == "config.json"
    assert set(FolderTarget(tmp_path).files()) == set(moves)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(moves)


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    bench = bench_of(source_folder("llama_bf16_tied"), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="File too large") as raised:
            make(bench, bench.plan.units[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert raised.value.exit_code == 8
    assert "finished shards are kept" in raised.value.next_step
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_disk_that_turns_out_full_when_bytes_reach_it_publishes_nothing(tmp_path, monkeypatch):
    walk = staged("llama_bf16_tied", tmp_path)
    before = os.fsync

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        publish(walk, tmp_path)
    monkeypatch.setattr(os, "fsync", before)

    assert not (tmp_path / MANIFEST).exists()
    assert len(walk.staging.records()) == len(walk.records)


def test_after_a_crash_of_the_machine_shards_are_hashed_before_they_are_trusted(
    tmp_path, monkeypatch
):
    walk = staged("deepseek_v3", tmp_path)
    walk.staging.records()
    lost = walk.shards / walk.records[0].shard
    with lost.open("r+b") as file:  # a page that never reached the disk
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))

    # The same run of the machine vouches for what was written in it ...
    assert len(walk.staging.records()) == len(walk.records)
    # ... and another does not, nor does a system that cannot tell.
    for anew in ("another", ""):
        monkeypatch.setattr(staging_module, "machine_run", lambda anew=anew: anew)
        found = FolderTarget(tmp_path).stage(walk.plan.plan_id).records()
        assert set(found) == {record.shard for record in walk.records[1:]}
        monkeypatch.undo()


def test_shards_of_several_machines_are_hashed_before_they_are_trusted(tmp_path):
    walk = staged("deepseek_v3", tmp_path)
    walk.staging.records()
    with (walk.shards / walk.records[0].shard).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))
    assert len(walk.staging.records()) == len(walk.records)
    bench = next((tmp_path / ".hubconv").iterdir())
    (bench / "machines" / "another").write_text("its boot")
    assert set(walk.staging.records()) == {record.shard for record in walk.records[1:]}


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    target = FolderTarget(tmp_path)
    with target.stage("plan").create("x.bin") as sink:
        sink.write(b"abc")
        again = target.stage("plan")
        with again.create("x.bin") as other:  # nor written over by another at the same shard
            other.write(b"abc")
            sink.finish()
            other.finish()
    assert (tmp_path / ".hubconv/plan/shards/x.bin").read_bytes() == b"abc"
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_place_that_is_a_folder_already_is_told(tmp_path):
    walk = staged("llama_bf16_tied", tmp_path)
    (tmp_path / "config.json" / "x").mkdir(parents=True)

    with pytest.raises(ResourceError):
        publish(walk, tmp_path)


def test_a_target_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(NotAllowedError) as refused:
        FolderTarget(tmp_path / "file" / "target").check("")

    assert refused.value.exit_code == 4


def test_a_source_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is not a folder"):
        FolderSource(tmp_path / "nothing")


def test_hidden_files_are_not_seen_and_linked_shards_are(tmp_path):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.json").write_text("{}")
    (folder / ".hidden").write_text("")
    blob = tmp_path / "blob"
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    (folder / "loop").symlink_to("loop")

    files = FolderSource(folder).files()

    assert not [path for path in files if path.startswith(".")]
    assert "loop" not in files
    assert files["model.safetensors"].size == blob.stat().st_size


def test_a_file_that_vanished_is_told(tmp_path):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    source = FolderSource(folder)
    (folder / "model.safetensors").unlink()

    with pytest.raises(SourceError, match="cannot be read"):
        source.read("model.safetensors", 0, 8)
