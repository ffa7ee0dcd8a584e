"""Headers and indexes that are made to cost more than they weigh."""

import json
import resource
import struct
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from profiles.walks import copy_of, planned

from hubconv.errors import HeaderError, SourceError
from hubconv.folder import FolderSource
from hubconv.formats import checkpoint
from hubconv.formats.checkpoint import INDEX_NAME, parse_index
from hubconv.hub.source import HubSource
from hubconv.manifest import read_manifest
from hubconv.steps import inventory
from hubconv.steps.inventory import read_header, take_inventory

# ── the length ───────────────────────────────────────────────────────────────────────────────


class Counted:
    """A shard that counts what is read of it."""

    def __init__(self, content, size):
        self.content, self.size, self.asked = content, size, []

    def read(self, path, begin, end):
        self.asked.append(end - begin)
        return self.content[begin:end]


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 100_000_001, 10**12])
def test_a_length_bomb_is_refused_after_one_read_and_nothing_is_allocated(length):
    shard = Counted(struct.pack("<Q", length) + b"{" * 100, 5 * 10**9)
    tracemalloc.start()
    with pytest.raises(HeaderError, match=f"announces a header of {length}"):
        read_header(shard, SimpleNamespace(path="x.safetensors", size=shard.size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shard.asked == [inventory.FIRST_READ_BYTES]
    assert peak < 1_000_000


@contextmanager
def endless():
    """A server that knows no ranges and never ends its answer; yields its address and a count."""
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(5 * 10**9))
            self.end_headers()
            with suppress(OSError):
                sent.extend(self.wfile.write(bytes(1_000_000)) for _ in range(5000))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_ignores_the_range_is_not_listened_to_any_longer(lfs_studio, tmp_path):
    view = HubSource(lfs_studio.client(), lfs_studio.source(), "", tmp_path)
    with endless() as (address, sent):
        view.link = lambda _: SimpleNamespace(location=address)
        assert view.read("model-00001-of-00002.safetensors", 0, 300_000) == bytes(300_000)
        assert sum(sent) < 100_000_000
        with pytest.raises(SourceError, match="does not serve ranges"):
            view.read("model-00001-of-00002.safetensors", 8, 300_000)


# ── how many ─────────────────────────────────────────────────────────────────────────────────

BOMB = """
import resource, struct, sys
from hubconv.formats.checkpoint import parse_header
empty = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
header = ("{" + ",".join(f'"t{n}":{empty}' for n in range(900_000)) + "}").encode()
limit = 2_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(len(parse_header(header, 8 + len(header), "x.safetensors")), len(header))
"""


def test_a_bomb_of_empty_tensors_is_read_in_bounded_memory():
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("900000 ")
    assert resource.RLIMIT_AS  # the limit is one of this system


def test_the_cap_on_tensors_counts_all_shards_together(tmp_path, monkeypatch):
    folder = copy_of("llama_bf16", tmp_path / "source")
    (folder / INDEX_NAME).unlink()
    count = len(take_inventory(FolderSource(folder)).tensors)
    monkeypatch.setattr(inventory, "MAX_TENSORS", count)
    assert len(take_inventory(FolderSource(folder)).tensors) == count
    monkeypatch.setattr(inventory, "MAX_TENSORS", count - 1)
    with pytest.raises(HeaderError, match=f"list more than {count - 1} tensors"):
        take_inventory(FolderSource(folder))


def test_the_cap_on_tensors_holds_for_an_index_too(monkeypatch):
    text = json.dumps({"weight_map": dict.fromkeys("ab", "x.safetensors")}).encode()
    assert parse_index(text, ["x.safetensors"])
    monkeypatch.setattr(checkpoint, "MAX_TENSORS", 1)
    with pytest.raises(HeaderError, match="lists 2 tensors"):
        parse_index(text, ["x.safetensors"])


@pytest.mark.parametrize("indexed", [False, True])
def test_shards_have_a_cap(tmp_path, monkeypatch, indexed):
    folder = copy_of("llama_bf16", tmp_path / "source")
    if not indexed:
        (folder / INDEX_NAME).unlink()
    monkeypatch.setattr(inventory, "MAX_SHARDS", 1)
    with pytest.raises(SourceError, match="has 2 shards; the cap is 1"):
        planned(folder)


def test_large_headers_are_read_one_at_a_time(tmp_path, monkeypatch):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    (folder / INDEX_NAME).unlink()
    parse, inside, most = inventory.parse_header, [], []

    def watched(header, size, shard):
        inside.append(shard)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.remove(shard)
        return parse(header, size, shard)

    monkeypatch.setattr(inventory, "parse_header", watched)
    take_inventory(FolderSource(folder))
    assert max(most) > 1
    most.clear()
    monkeypatch.setattr(inventory, "LARGE_HEADER_BYTES", 1)
    take_inventory(FolderSource(folder))
    assert max(most) == 1


@pytest.mark.parametrize(
    ("name", "cap"), [("config.json", "MAX_CONFIG_BYTES"), (INDEX_NAME, "MAX_JSON_BYTES")]
)
def test_a_file_above_its_cap_is_not_even_read(tmp_path, monkeypatch, name, cap):
    folder = copy_of("llama_bf16", tmp_path / "source")
    source = FolderSource(folder)
    size, read = source.files()[name].size, []
    monkeypatch.setattr(inventory, cap, size)
    assert take_inventory(source).tensors
    monkeypatch.setattr(inventory, cap, size - 1)
    monkeypatch.setattr(
        source, "read", lambda *asked, r=source.read: read.append(asked) or r(*asked)
    )
    with pytest.raises(SourceError, match=rf"{name}.* is {size} bytes long"):
        take_inventory(source)
    assert name not in [asked[0] for asked in read]


def test_an_enormous_manifest_counts_as_none(tmp_path, monkeypatch):
    (tmp_path / "hubconv.json").write_text('{"files": {}}')
    assert read_manifest(FolderSource(tmp_path)) == {"files": {}}
    monkeypatch.setattr("hubconv.manifest.MAX_MANIFEST_BYTES", 3)
    assert read_manifest(FolderSource(tmp_path)) is None


# ── the index ────────────────────────────────────────────────────────────────────────────────

names = st.one_of(
    st.sampled_from([
        "a.safetensors", "b/c.safetensors", "../a.safetensors", "/a.safetensors",
        "a\\b.safetensors", "a.safetensors\n", ".safetensors", "b/../a.safetensors", "x.bin", "",
    ]),
    st.text(max_size=12),
    st.none(),
    st.integers(),
)  # fmt: skip
LISTED = (
    "a.safetensors", "b/c.safetensors", "../a.safetensors", "/a.safetensors", "x.bin", "",
    "b/../a.safetensors",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.one_of(st.sampled_from("abcd"), st.text(max_size=8)), names, max_size=2),
    st.sets(st.sampled_from(LISTED)),
)
@example({"a": "../a.safetensors"}, set(LISTED))
@example({"a": "b/../a.safetensors", "b": "a.safetensors"}, set(LISTED))
@example({"a": "/a.safetensors"}, set(LISTED))
@example({"a": "x.bin"}, set(LISTED))
def test_no_index_leads_out_of_the_pinned_tree(weight_map, listed):
    try:
        found = parse_index(json.dumps({"weight_map": weight_map}).encode(), listed)
    except HeaderError:
        return
    assert found == weight_map
    assert set(found.values()) <= listed & {"a.safetensors", "b/c.safetensors"}


def test_entries_that_are_no_files_are_passed_over(lfs_studio, tmp_path):
    """Links to folders, submodules and what the Hub may invent: none of them is a file."""
    source = lfs_studio.source()
    entries = [
        {"type": "file", "path": "config.json", "size": 2, "oid": "1" * 40},
        {"type": "directory", "path": "assets", "size": 0, "oid": "2" * 40},
        {"type": "submodule", "path": "evil.json", "size": 0, "oid": "3" * 40},
        {"type": "symlink", "path": "model.safetensors", "size": 11, "oid": "4" * 40},
    ]
    lfs_studio.hub.faults.answer("GET", "/tree/", 200, body=json.dumps(entries))
    assert set(HubSource(lfs_studio.client(), source, "", tmp_path).files()) == {"config.json"}


# ── links in a folder ────────────────────────────────────────────────────────────────────────


def test_a_link_that_leads_out_of_a_folder_publishes_nothing(tmp_path, caplog):
    folder = copy_of("llama_bf16", tmp_path / "source")
    secret = tmp_path / "secret.json"
    secret.write_text('{"key": "private"}')
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../secret.json")
    (folder / "vocab.json").symlink_to("tokenizer_config.json")
    copied = {entry.path for entry in planned(folder).copies}
    assert "tokenizer.json" not in copied
    assert "vocab.json" in copied
    assert "tokenizer.json is a link that leads out" in caplog.text


def test_links_of_a_download_cache_are_followed(tmp_path):
    blobs, folder = tmp_path / "models--x/blobs", tmp_path / "models--x/snapshots/abc"
    plain = copy_of("llama_bf16", tmp_path / "plain")
    folder.mkdir(parents=True)
    blobs.mkdir()
    for path in (path for path in plain.iterdir() if path.is_file()):
        path.rename(blobs / f"blob-{path.name}")
        (folder / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    assert "tokenizer.json" in {entry.path for entry in planned(folder).copies}


def test_a_link_in_a_target_is_foreign_content_like_any_file(tmp_path):
    from hubconv.folder import FolderTarget

    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/link.json").symlink_to("../mine.json")
    assert set(FolderTarget(tmp_path / "target").files()) == {"link.json"}
