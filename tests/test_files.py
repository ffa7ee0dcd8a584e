"""Files are whole under their name, or not there."""

import fcntl
import hashlib
import pathlib

import numpy as np
import pytest
from profiles.walks import result

from hubconv.errors import IntegrityError, ResourceError
from hubconv.files import FileSink, PositionedFile, check_opens, sha256_of


def test_a_sink_writes_hashes_and_counts(tmp_path):
    path = tmp_path / "deep" / "file"
    with FileSink(path, "name") as sink:
        for piece in (b"ab", bytearray(b"cd"), memoryview(b"ef")):
            sink.write(piece)
        assert not path.exists()
        staged = sink.finish()

    assert path.read_bytes() == b"abcdef"
    assert (staged.path, staged.size) == ("name", 6)
    assert staged.sha256 == sha256_of(path) == hashlib.sha256(b"abcdef").hexdigest()


def test_wide_views_are_counted_in_bytes(tmp_path):
    with FileSink(tmp_path / "file", "file") as sink:
        sink.write(np.arange(5, dtype="<u4").data)
        assert sink.finish().size == 20


def test_a_sink_that_is_not_finished_leaves_nothing(tmp_path):
    with FileSink(tmp_path / "file", "file") as sink:
        sink.write(b"abc")

    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    sink = FileSink(tmp_path / "file", "file")

    with sink:
        sink.write(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"

    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_sink_outside_its_block_refuses(tmp_path):
    sink = FileSink(tmp_path / "file", "file")
    with pytest.raises(ValueError, match="with block"):
        sink.write(b"x")
    with pytest.raises(ValueError, match="with block"):
        sink.finish()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ResourceError) as told, FileSink(tmp_path / "file" / "x", "x"):
        pass

    assert told.value.exit_code == 8


def test_reading_by_position_ends_where_the_file_ends(tmp_path):
    (tmp_path / "file").write_bytes(b"abcdef")

    with PositionedFile(tmp_path / "file") as file:
        assert file.read(1, 3) == b"bc"
        assert file.read(4, 9) == b"ef"
        assert file.read(9, 12) == b""
        assert file.read(2, 2) == b""


def test_a_shard_that_the_library_refuses_is_told(tmp_path):
    walk = result("llama_bf16_tied")
    shard = walk.shards / "model.safetensors"
    check_opens(shard, shard.name)

    (tmp_path / "cut").write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="refuses cut"):
        check_opens(tmp_path / "cut", "cut")


def test_a_file_that_is_swept_before_its_lock_is_made_again(tmp_path, monkeypatch):
    """Two processes of one run share a folder: one begins a file while the other sweeps."""
    real, swept = fcntl.flock, []

    def sweeping(file, operation):
        real(file, operation)
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(file.name)
            pathlib.Path(file.name).unlink()

    monkeypatch.setattr(fcntl, "flock", sweeping)
    with FileSink(tmp_path / "made", "made") as sink:
        sink.write(b"whole")
        sink.finish()

    assert swept
    assert (tmp_path / "made").read_bytes() == b"whole"
