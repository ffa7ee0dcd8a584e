"""Headers are known again by their bytes; any other one is read for what it says."""

import json
import struct
from dataclasses import replace

import pytest
from profiles.walks import staged

from hubconv.formats.checkpoint import LENGTH_BYTES, parse_header
from hubconv.steps.readback import read_planned, read_tensors


class Counted:
    """A view that notes what is read of it."""

    def __init__(self, view):
        self._view = view
        self.reads = []

    def files(self):
        return self._view.files()

    def read(self, path, begin, end):
        self.reads.append((path, begin, end))
        return self._view.read(path, begin, end)


def respelled(path, change):
    """Write a header of the same length that says something else, or the same in other words."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:LENGTH_BYTES])
    end = LENGTH_BYTES + length
    text = change(content[LENGTH_BYTES:end].decode()).encode()
    assert len(text) == length
    assert text != content[LENGTH_BYTES:end]
    path.write_bytes(content[:LENGTH_BYTES] + text + content[end:])


@pytest.fixture
def walk(tmp_path):
    return staged("deepseek_v3", tmp_path)


def first_shard(walk):
    return walk.shards / walk.plan.units[0].shard


def test_a_unit_knows_what_its_header_says(walk):
    for unit in walk.plan.units:
        header = unit.header()
        assert len(header) == unit.header_bytes
        assert unit.tensors() == parse_header(header[LENGTH_BYTES:], unit.nbytes, unit.shard)


def test_headers_as_planned_are_read_once_and_no_byte_more(walk):
    view = Counted(walk.staging.view())

    headers = read_planned(view, walk.plan.units)

    assert sorted(view.reads) == sorted((u.shard, 0, u.header_bytes) for u in walk.plan.units)
    assert (headers.findings, headers.are_planned) == ((), True)
    shards = [unit.shard for unit in walk.plan.units]
    assert headers.tensors == read_tensors(walk.staging.view(), shards)[0]


def test_a_header_that_says_the_same_in_other_words_is_right(walk):
    planned = read_planned(walk.staging.view(), walk.plan.units)

    def turned(text):
        table = json.loads(text)
        return json.dumps(dict(reversed(table.items())), separators=(",", ":")).ljust(len(text))

    respelled(first_shard(walk), turned)

    found = read_planned(walk.staging.view(), walk.plan.units)
    assert found == replace(planned, are_planned=False)
    # The journal's hash of the shard is another all the same.
    assert {finding.rule for finding in walk.verified().errors} <= {"staged.content"}


def test_a_header_of_the_same_length_with_another_element_type_is_found(walk):
    respelled(first_shard(walk), lambda text: text.replace('"dtype":"U8"', '"dtype":"I8"', 1))

    assert {"expected.differs", "part.dtype"} <= {f.rule for f in walk.verified().errors}


def test_a_header_of_the_same_length_that_is_no_json_is_found(walk):
    respelled(first_shard(walk), lambda text: text.replace("{", "[", 1))

    assert "header.invalid" in {finding.rule for finding in walk.verified().errors}


def test_a_shard_that_is_missing_is_not_as_planned(walk):
    first_shard(walk).unlink()

    assert not read_planned(walk.staging.view(), walk.plan.units).are_planned
    assert {"staged.missing", "expected.missing"} <= {f.rule for f in walk.verified().errors}


def test_a_shard_that_grew_behind_a_right_header_is_found(walk):
    path = first_shard(walk)
    path.write_bytes(path.read_bytes() + b"\0" * 8)

    assert "header.invalid" in {finding.rule for finding in walk.verified().errors}
