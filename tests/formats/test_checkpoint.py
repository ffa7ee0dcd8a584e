"""Headers: nothing is accepted that the safetensors library rejects; some more is refused."""

import json
import struct

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from hubconv.errors import HeaderError
from hubconv.formats import checkpoint
from hubconv.formats.checkpoint import (
    LENGTH_BYTES,
    header_length,
    parse_header,
    parse_index,
    write_header,
    write_index,
)
from hubconv.formats.dtypes import BITS


def file_of(header: str | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text)) + text + data


def ours(content: bytes):
    """Tensors as (name, dtype, shape, data), or None where the file is refused."""
    try:
        length = header_length(content, len(content), "x.safetensors")
        end = LENGTH_BYTES + length
        tensors = parse_header(content[LENGTH_BYTES:end], len(content), "x.safetensors")
    except HeaderError:
        return None
    return {t.name: (t.dtype, t.shape, content[t.begin : t.end]) for t in tensors}


def theirs(content: bytes):
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {
        name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found
    }


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SOUND = file_of(json.dumps({"a": entry(), "b": entry("F32", (2, 1), (4, 12))}), bytes(range(12)))


def test_a_sound_file_is_read_as_the_library_reads_it():
    assert ours(SOUND) == theirs(SOUND)
    assert ours(SOUND) is not None


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_element_type_has_the_size_the_library_gives_it(dtype):
    nbytes = 8 * BITS[dtype] // 8
    content = file_of(json.dumps({"a": entry(dtype, (8,), (0, nbytes))}), bytes(nbytes))

    assert ours(content) == theirs(content)
    assert ours(content) is not None


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "empty file": b"",
    "seven bytes": b"\x02" + bytes(6),
    "length 0": struct.pack("<Q", 0),
    "length of 2^64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the cap": struct.pack("<Q", 100_000_001) + b"{}",
    "length beyond the file": struct.pack("<Q", 3) + b"{}",
    "not utf-8": file_of(b'{"\xff": 1}'),
    "a list": file_of("[]"),
    "a number": file_of("1"),
    "half of an object": file_of('{"a": '),
    "two objects": file_of("{}{}"),
    "byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "deep lists": file_of('{"a": ' + DEEP + "}"),
    "deep metadata": file_of('{"__metadata__": ' + DEEP + "}"),
    "data without tensors": file_of("{}", b"1234"),
    "data missing": file_of(json.dumps({"a": entry()}), b"123"),
    "data left over": file_of(json.dumps({"a": entry()}), b"12345"),
    "a hole": file_of(json.dumps({"a": entry(), "b": entry(offsets=(5, 9))}), bytes(9)),
    "a hole in front": file_of(json.dumps({"a": entry(offsets=(1, 5))}), bytes(5)),
    "an overlap": file_of(json.dumps({"a": entry(), "b": entry(offsets=(2, 6))}), bytes(6)),
    "twice the same bytes": file_of(json.dumps({"a": entry(), "b": entry()}), bytes(4)),
    "end before begin": file_of(json.dumps({"a": entry(offsets=(4, 0))}), bytes(4)),
    "negative begin": file_of(json.dumps({"a": entry(offsets=(-4, 0))}), bytes(4)),
    "negative side": file_of(json.dumps({"a": entry(shape=(-2, -2))}), bytes(4)),
    "minus nothing": file_of(json.dumps({"a": entry()}).replace("[0,", "[-0,"), bytes(4)),
    "float offset": file_of(json.dumps({"a": entry(offsets=(0.0, 4))}), bytes(4)),
    "exponent": file_of(json.dumps({"a": entry()}).replace("[4]", "[4e0]"), bytes(4)),
    "bool side": file_of(json.dumps({"a": entry("U8", (True,), (0, 1))}), bytes(1)),
    "offset of 2^63": file_of(json.dumps({"a": entry(offsets=(2**63, 2**63 + 4))}), bytes(4)),
    "offset of 2^64": file_of(json.dumps({"a": entry(offsets=(2**64, 2**64 + 4))}), bytes(4)),
    "side of 2^64": file_of(json.dumps({"a": entry(shape=(2**64, 0), offsets=(0, 0))})),
    "product of 2^80": file_of(json.dumps({"a": entry(shape=(2**40, 2**40))}), bytes(4)),
    "product of 2^80, then 0": file_of(
        json.dumps({"a": entry(shape=(2**40, 2**40, 0), offsets=(0, 0))})
    ),
    "a number of 5000 digits": file_of(json.dumps({"a": entry()}).replace("4", "9" * 5000)),
    "not a number": file_of(json.dumps({"a": entry()}).replace("[4]", "[NaN]"), bytes(4)),
    "unknown type": file_of(json.dumps({"a": entry("F7")}), bytes(4)),
    "type of lower case": file_of(json.dumps({"a": entry("u8")}), bytes(4)),
    "type that is no text": file_of(json.dumps({"a": entry(8)}), bytes(4)),
    "half a byte": file_of(json.dumps({"a": entry("F4", (3,), (0, 2))}), bytes(2)),
    "three offsets": file_of(json.dumps({"a": entry(offsets=(0, 4, 4))}), bytes(4)),
    "shape missing": file_of(json.dumps({"a": {"dtype": "U8", "data_offsets": [0, 4]}}), bytes(4)),
    "tensor that is none": file_of(json.dumps({"a": None})),
    "metadata of numbers": file_of(json.dumps({"__metadata__": {"a": 1}})),
    "metadata list": file_of(json.dumps({"__metadata__": []})),
    "half a surrogate pair": file_of('{"__metadata__": {"a": "\\ud800"}}'),
    "control character": file_of('{"__metadata__": {"a": "\n"}}'),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused_as_the_library_refuses_them(content):
    assert theirs(content) is None
    assert ours(content) is None


TWICE = '{"a":' + json.dumps(entry()) + ',"a":' + json.dumps(entry()) + "}"
STRICTER = {
    "space before the object": file_of(" {}"),
    "a name twice": file_of(TWICE, bytes(4)),
    "newline in a name": file_of(json.dumps({"a\nb": entry()}), bytes(4)),
    "nothing for a name": file_of(json.dumps({"": entry()}), bytes(4)),
    "text turned round": file_of(json.dumps({"a\u202eb": entry()}), bytes(4)),
    "null in a name": file_of(json.dumps({"a\0b": entry()}), bytes(4)),
    "name of 513 letters": file_of(json.dumps({"a" * 513: entry()}), bytes(4)),
    "seventy dimensions": file_of(json.dumps({"a": entry("U8", (1,) * 70, (0, 1))}), bytes(1)),
}


@pytest.mark.parametrize("content", STRICTER.values(), ids=STRICTER)
def test_what_only_the_library_takes_is_refused(content):
    assert theirs(content) is not None
    assert ours(content) is None


def test_a_key_twice_within_a_tensor_is_refused():
    text = '{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}'
    assert ours(file_of(text, bytes(4))) is None


def test_an_unknown_key_within_a_tensor_is_refused():
    assert ours(file_of(json.dumps({"a": entry() | {"more": 1}}), bytes(4))) is None


def test_many_names_of_which_the_last_is_double_are_refused_at_once():
    empty = json.dumps(entry("U8", (0,), (0, 0)))
    names = [f'"{number}":{empty}' for number in range(100_000)]
    assert ours(file_of("{" + ",".join([*names, names[-1]]) + "}")) is None


def test_more_tensors_than_the_cap_are_refused(monkeypatch):
    monkeypatch.setattr(checkpoint, "MAX_TENSORS", 1)
    assert ours(SOUND) is None


def test_messages_name_shard_and_tensor():
    content = HOSTILE["a hole"]
    with pytest.raises(HeaderError, match=r"^b in part\.safetensors leaves a hole") as refused:
        parse_header(content[8:-9], len(content), "part.safetensors")
    assert refused.value.exit_code == 3


# --- By the thousand ------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-2, 16),
    st.sampled_from([2**31, 2**53, 2**62, 2**63, 2**64, 0.0, 4.0, True, None, "4"]),
)
tensors = st.fixed_dictionaries({
    "dtype": st.sampled_from([*BITS, "F3", "", None]),
    "shape": st.one_of(st.lists(numbers, max_size=4), numbers),
    "data_offsets": st.one_of(st.lists(numbers, min_size=1, max_size=3), numbers),
})
headers = st.dictionaries(
    st.one_of(st.sampled_from(["a", "b", "__metadata__"]), st.text(max_size=4)),
    st.one_of(tensors, st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2)),
    max_size=4,
)


@st.composite
def laid_out(draw):
    """Headers that are nearly sound: tensors one after the other, then perhaps one number off."""
    header, position = {}, 0
    for name in draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(sorted(BITS)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        count = 1
        for side in shape:
            count *= side
        size = count * BITS[dtype] // 8
        begin = position + draw(st.sampled_from([0] * 12 + [1, -1]))
        end = position + size + draw(st.sampled_from([0] * 12 + [1, -1]))
        header[name] = entry(dtype, shape, (begin, end))
        position += size
    return header, max(0, position + draw(st.sampled_from([0] * 12 + [1, -1])))


@settings(max_examples=400, deadline=None)
@given(laid_out())
def test_nearly_sound_headers_are_judged_as_the_library_judges_them(made):
    header, size = made
    content = file_of(json.dumps(header), bytes(size))

    assert ours(content) == theirs(content)


@settings(max_examples=300, deadline=None)
@given(headers, st.binary(max_size=16), st.sampled_from(["", " ", "\t", "x", "\0"]))
def test_nothing_is_accepted_that_the_library_rejects(header, data, after):
    content = file_of(json.dumps(header) + after, data)

    found = ours(content)

    assert found is None or found == theirs(content)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255), st.integers(0, len(SOUND)))
def test_a_changed_byte_or_a_cut_is_never_accepted_alone(place, byte, length):
    changed = bytearray(SOUND)
    changed[place] = byte

    for content in (bytes(changed), SOUND[:length]):
        found = ours(content)
        assert found is None or found == theirs(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_random_bytes_are_never_accepted_alone(content):
    found = ours(content)
    assert found is None or found == theirs(content)


names = st.text("abcXYZ019_.-/", min_size=1, max_size=20)
written = st.lists(
    st.tuples(names, st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 5), max_size=3)),
    unique_by=lambda made: made[0],
    max_size=6,
).filter(
    lambda made: all(
        json.dumps(shape) and (_count(shape) * BITS[dtype]) % 8 == 0 for _, dtype, shape in made
    )
)


def _count(shape):
    count = 1
    for side in shape:
        count *= side
    return count


@settings(max_examples=200, deadline=None)
@given(written)
def test_what_is_written_is_read_back_by_both(made):
    header = write_header(made)
    size = sum(_count(shape) * BITS[dtype] // 8 for _, dtype, shape in made)
    content = header + bytes(size)

    assert len(header) % 8 == 0
    found = ours(content)
    assert found is not None
    assert found == theirs(content)
    assert {name: (dtype, shape) for name, (dtype, shape, _) in found.items()} == {
        name: (dtype, tuple(shape)) for name, dtype, shape in made
    }


def test_a_name_is_not_written_twice():
    with pytest.raises(HeaderError, match="written twice"):
        write_header([("a", "U8", (1,)), ("a", "U8", (1,))])


# --- The index ------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, st.sampled_from(["a.safetensors", "b/c.safetensors"]), min_size=1))
def test_an_index_is_read_back_and_sorted(weight_map):
    text = write_index(weight_map, 7)

    assert parse_index(text, ["a.safetensors", "b/c.safetensors"]) == weight_map
    expected = {"metadata": {"total_size": 7}, "weight_map": dict(sorted(weight_map.items()))}
    assert text == json.dumps(expected, indent=2).encode() + b"\n"


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/x.safetensors",
        "a/../x.safetensors",
        "x.bin",
        "x.safetensors\n",
        "",
        None,
        3,
        "absent.safetensors",
        "a\\x.safetensors",
        "\u0445.safetensors",
    ],
)
def test_an_index_that_points_elsewhere_is_refused(shard):
    text = json.dumps({"weight_map": {"a": shard}}).encode()
    with pytest.raises(HeaderError) as refused:
        parse_index(text, ["x.safetensors", "x.bin", "../x.safetensors", "/x.safetensors"])
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a\\n": "x.safetensors"}}',
        b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        b"[" * 100_000,
    ],
)
def test_an_index_that_is_none_is_refused(text):
    with pytest.raises(HeaderError):
        parse_index(text, ["x.safetensors", "y.safetensors"])
