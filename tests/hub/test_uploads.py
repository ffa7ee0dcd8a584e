"""Every way a shard's bytes reach the Hub keeps the same promises, whatever the line does."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hubconv.errors import BrokenLineError, IntegrityError, NotAllowedError, TemporaryError
from hubconv.formats.checkpoint import write_header
from hubconv.hub.uploading import background, lfs, process, uploads
from hubconv.records import UnitRecord
from hubconv.work import unit as unit_of_work

FEW = ", few cores"
ENGINES = ("xet stream", "xet file", "lfs", "lfs in parts", "lfs in parts, few cores")
FILES = ENGINES[1:]
SHARD = "model-00001-of-00001.safetensors"
PART_BYTES = 1_000_000
SIZE = 3_500_000


@dataclass
class Line:
    """A Hub, a target on it, and the staging of one plan by one engine."""

    hub: object
    engine: str
    folder: Path
    waits: list = field(default_factory=list)
    ended: list = field(default_factory=list)

    def __post_init__(self):
        from huggingface_hub import HfApi

        from hubconv.embedded import DEMO_TOKEN

        self.api = HfApi(endpoint=self.hub.endpoint, token=DEMO_TOKEN)
        self.repo = f"demo/{self.folder.name}"
        self.api.create_repo(self.repo, exist_ok=True)
        self.staging = self.open()

    def open(self):
        from hubconv.hub.client import HubClient
        from hubconv.hub.privacy import Guard
        from hubconv.hub.publisher import Publisher
        from hubconv.hub.staging import HubStaging

        client = HubClient(self.api, wait=self.waits.append)
        publisher = Publisher(
            client,
            self.repo,
            create_pr=False,
            tag=False,
            public_after=False,
            guard=Guard(self.repo, ""),
        )

        def at_once():
            if self.ended:
                raise self.ended[0]

        return HubStaging(client, self.repo, "plan", self.folder / "work", publisher, at_once)

    def send(self, data, name=SHARD):
        """Write a shard in pieces, as a conversion does, and note it."""
        with self.staging.create(name) as sink:
            for begin in range(0, len(data), 700_001):
                sink.write(data[begin : begin + 700_001])
            staged = sink.finish()
        self.staging.add(record_of(staged))
        return staged

    def settle(self, data):
        """Send a shard, and wait until it is staged."""
        staged = self.send(data)
        self.staging.flush()
        return staged

    def holds(self, data):
        """Whether the repository holds this content, committed or not."""
        repo = self.hub._state.catalog.find("model", self.repo)
        return repo.large(hashlib.sha256(data).hexdigest()) is not None

    def content(self, name=SHARD):
        from hubconv.hub.source import HubSource

        view = self.staging.view()
        assert isinstance(view, HubSource)
        return view.read(name, 0, view.files()[name].size)

    def left(self):
        """Files of shards in the work folder."""
        return [path for path in (self.folder / "work").rglob("*.safetensors*") if path.is_file()]

    @property
    def route(self):
        """Where the engine sends bytes: method and path."""
        return {
            "xet stream": ("POST", "/v1/xorbs/"),
            "xet file": ("POST", "/v1/xorbs/"),
            "lfs": ("PUT", "/upload/"),
            "lfs in parts": ("PUT", "/part/"),
        }[self.engine.removesuffix(FEW)]

    def strike(self, **fault):
        from hubconv.embedded.faults import Rule

        method, path = self.route
        return self.hub.faults.add(Rule(method=method, path=path, **fault))


def record_of(staged):
    return UnitRecord("plan", staged.path, staged.size, staged.sha256, (), "cpu", "0", 0.0)


def shard(size=SIZE):
    """A shard nobody has: random bytes under a header."""
    header = write_header([("weight", "U8", (size,))])
    return header + os.urandom(size)


@pytest.fixture(scope="session")
def hubs(tmp_path_factory):
    from contextlib import ExitStack

    from hubconv.embedded import EmbeddedHub, Knobs

    with ExitStack() as stack:
        made = {}

        def hub(engine):
            kind = "xet" if engine.startswith("xet") else engine.removesuffix(FEW)
            if kind not in made:
                small = Knobs(part_bytes=PART_BYTES, multipart_from_bytes=PART_BYTES)
                knobs = small if kind == "lfs in parts" else Knobs()
                mode = "xet" if kind == "xet" else "lfs"
                folder = tmp_path_factory.mktemp("hub")
                made[kind] = stack.enter_context(EmbeddedHub(folder, mode=mode, knobs=knobs))
            return made[kind]

        yield hub


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let waits of the client and of hf_xet be short."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "100ms")


@pytest.fixture
def lines(hubs, tmp_path, monkeypatch):
    opened = []

    def line(engine):
        monkeypatch.setattr(uploads, "STREAMS", 0 if engine == "xet file" else 2)
        monkeypatch.setattr(lfs, "FEW_CORES", 1 << 20 if engine.endswith(FEW) else 0)
        hub = hubs(engine)
        hub.faults.clear()
        hub.requests.clear()
        opened.append(hub)
        return Line(hub, engine, tmp_path)

    yield line
    for hub in opened:
        hub.faults.clear()


@pytest.fixture(params=ENGINES)
def line(request, lines):
    return lines(request.param)


@pytest.fixture(params=FILES)
def file_line(request, lines):
    return lines(request.param)


@pytest.fixture
def impatient(monkeypatch):
    """Let silence be noticed after a moment, by every engine."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def factory():
        client = default_client_factory()
        client.timeout = httpx2.Timeout(5, read=1)
        return client

    monkeypatch.setattr(process, "STALL_S", 2.0)
    monkeypatch.setattr(lfs, "STALL_S", 2.0)
    monkeypatch.setattr(lfs, "SLOWEST_BYTES_A_S", 1e9)
    set_client_factory(factory)
    yield
    set_client_factory(default_client_factory)


# --- What is promised -----------------------------------------------------------------------------


def test_the_hub_has_the_bytes_that_were_written(line, caplog):
    caplog.set_level("INFO", logger="hubconv")
    data = shard()
    staged = line.send(data)
    line.staging.flush()
    assert staged.sha256 == hashlib.sha256(data).hexdigest()
    assert staged.size == len(data)
    assert line.content() == data
    assert set(line.staging.records()) == {SHARD}
    assert line.left() == []
    by = "the client" if line.engine.endswith(FEW) else "hf_transfer"
    in_parts = line.engine.startswith("lfs in parts")
    engine = f"lfs in 4 parts by {by}" if in_parts else line.engine
    assert re.search(rf"{len(data)} bytes by {engine} in \d+\.\d s", caplog.text)
    assert not line.hub.requests.count(kind="telemetry")


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine.startswith("lfs")])
def test_what_the_hub_has_is_not_sent_again(lines, engine, caplog):
    caplog.set_level("INFO", logger="hubconv")
    line, data = lines(engine), shard()
    line.send(data)
    line.staging.flush()
    line.hub.requests.clear()
    line.send(data, "other.safetensors")
    line.staging.flush()
    assert line.hub.requests.count(method="PUT") == 0
    assert "nothing: the Hub had it" in caplog.text
    assert line.content("other.safetensors") == data


def test_without_finish_nothing_remains(line):
    data = shard()

    def give_up():
        with line.staging.create(SHARD) as sink:
            sink.write(data)
            raise RuntimeError("the unit failed")

    with pytest.raises(RuntimeError):
        give_up()
    line.staging.flush()
    assert not line.holds(data)
    assert line.left() == []
    assert SHARD not in line.staging.view().files()
    # The place on the disk is free again.
    for name in ("a.safetensors", "b.safetensors", "c.safetensors"):
        line.send(shard(1000), name)
    line.staging.flush()
    assert len(line.staging.records()) == 3


def test_a_shard_that_no_reader_could_open_is_refused(line):
    data = bytearray(shard(1000))
    data[12:16] = b"!!!!"
    with pytest.raises(IntegrityError, match="refuses"):
        line.send(bytes(data))
    line.staging.flush()
    assert not line.holds(data)
    assert line.left() == []


def test_a_small_piece_at_a_time_is_enough(line):
    data = shard(200)
    with line.staging.create(SHARD) as sink:
        for byte in data:
            sink.write(bytes([byte]))
        staged = sink.finish()
    line.staging.add(record_of(staged))
    line.staging.flush()
    assert line.content() == data


def test_a_commit_needs_the_hash_alone(line):
    """What was uploaded by one process is committed by another, without its bytes."""
    from huggingface_hub.errors import BadRequestError

    from hubconv.hub.compat import by_hash

    data = shard()
    staged = line.send(data)
    line.staging._uploads.settle()
    line.hub.requests.clear()
    line.api.create_commit(
        line.repo, [by_hash(staged.path, staged.sha256, staged.size)], commit_message="by hash"
    )
    asked = [request.kind for request in line.hub.requests.all()]
    assert asked == ["commit"]
    entry = next(iter(line.api.get_paths_info(line.repo, staged.path)))
    assert (entry.lfs.sha256, entry.size) == (staged.sha256, staged.size)
    unknown = by_hash("lost.safetensors", hashlib.sha256(b"lost").hexdigest(), 4)
    with pytest.raises(BadRequestError):
        line.api.create_commit(line.repo, [unknown], commit_message="lost")


def test_nothing_is_committed_before_the_hub_has_it(lines, monkeypatch):
    line = lines("lfs")
    monkeypatch.setattr("hubconv.hub.staging.GROUP_UNITS", 1)
    line.strike(action="delay", seconds=1.0)
    line.send(shard(1000))
    assert line.staging.records() == {}
    line.staging.flush()
    kinds = [r.kind for r in line.hub.requests.all() if r.kind in {"lfs_put", "commit"}]
    assert kinds == ["lfs_put", "commit"]
    assert set(line.staging.records()) == {SHARD}


# --- A bad line -----------------------------------------------------------------------------------

FAULTS = {
    "500": {"action": "answer", "status": 500},
    "503": {"action": "answer", "status": 503},
    "429": {"action": "answer", "status": 429, "headers": {"Retry-After": "1"}},
    "reset": {"action": "reset"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_got_over(line, fault):
    data = shard()
    rule = line.strike(**FAULTS[fault])
    line.send(data)
    line.staging.flush()
    assert line.hub.faults.struck(rule) == 1
    assert line.content() == data


@pytest.mark.parametrize("fault", FAULTS)
def test_every_other_request_is_repeated_too(line, fault):
    paths = {
        "xet stream": ["/xet-write-token/", "/v1/shards"],
        "xet file": ["/xet-write-token/", "/v1/shards"],
        "lfs": ["/objects/batch", "/info/lfs/verify"],
        "lfs in parts": ["/objects/batch", "/complete_multipart", "/info/lfs/verify"],
    }
    from hubconv.embedded.faults import Rule

    line.staging = line.open()
    rules = [
        line.hub.faults.add(Rule(path=path, **FAULTS[fault]))
        for path in paths[line.engine.removesuffix(FEW)]
    ]
    # A token that is still good is not asked for again.
    from huggingface_hub.utils import _xet

    _xet.XET_CONNECTION_INFO_CACHE.clear()
    data = shard()
    line.send(data)
    line.staging.flush()
    assert [line.hub.faults.struck(rule) for rule in rules] == [1] * len(rules)
    assert line.content() == data


def test_silence_is_ended_and_a_file_sent_again(file_line, impatient):
    data = shard()
    rule = file_line.strike(action="hang", seconds=8)
    started = time.monotonic()
    file_line.send(data)
    file_line.staging.flush()
    assert time.monotonic() - started < 30
    assert file_line.hub.faults.struck(rule) == 1
    assert file_line.content() == data


def test_silence_in_a_stream_loses_it(lines, impatient):
    line = lines("xet stream")
    line.strike(action="hang", seconds=8, times=None)
    data = shard()
    with pytest.raises(BrokenLineError, match="nothing moved") as broken:
        line.send(data)
    assert broken.value.exit_code == 5
    assert not line.holds(data)
    assert line.left() == []


def test_an_outage_surfaces_with_its_exit_code(file_line):
    file_line.strike(action="answer", status=503, times=None)
    with pytest.raises(TemporaryError, match="failed 6 times") as failed:
        file_line.settle(shard(PART_BYTES * 2))
    assert failed.value.exit_code == 5
    assert file_line.left() == []
    file_line.staging.flush()
    assert file_line.staging.records() == {}


def refused_at(line, place):
    line.send(shard(1000))
    line.staging._uploads.settle()
    if place == "create":
        line.staging.create("next.safetensors")
    elif place == "add":
        line.staging.add(record_of_nothing())
    else:
        line.staging.flush()


def record_of_nothing():
    return UnitRecord("plan", "next.safetensors", 1, "0" * 64, (), "cpu", "0", 0.0)


@pytest.mark.parametrize("place", ["create", "add", "flush"])
def test_a_refusal_in_the_background_surfaces_next(lines, place):
    line = lines("lfs")
    line.strike(action="answer", status=403, times=None)
    with pytest.raises(NotAllowedError) as refused:
        refused_at(line, place)
    assert refused.value.exit_code == 4
    assert refused.value.__cause__ is not None


def test_a_file_of_parts_is_sent_plainly_where_several_connections_fail(lines, monkeypatch):
    line = lines("lfs in parts")
    monkeypatch.setattr(lfs.LfsLine, "_send_parts", broken_parts)
    data = shard()
    line.send(data)
    line.staging.flush()
    assert line.content() == data
    assert len(line.waits) == 2


@pytest.mark.parametrize("sender", ["plain_child", "parts_child"])
@pytest.mark.parametrize(("status", "times"), [(403, None), (503, 1)])
def test_no_link_of_a_part_is_told_or_kept(lines, sender, status, times, tmp_path):
    line = lines("lfs in parts")
    line.strike(action="answer", status=status, times=times)
    state = line.hub._state
    link = state.link("/part/upload/1", origin=state.cdn, begin=0)
    assert "signature=" in link
    (tmp_path / "file").write_bytes(b"x" * PART_BYTES)
    order = {"file": str(tmp_path / "file"), "urls": [link], "chunk_size": PART_BYTES}
    done = subprocess.run(
        [sys.executable, "-m", f"hubconv.hub.uploading.{sender}"],
        input=json.dumps({**order, "parent": os.getpid()}) + "\n",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ("error" in json.loads(done.stdout)) == (status == 403)
    assert "signature=" not in done.stdout + done.stderr


def broken_parts(*_):
    raise BrokenLineError("hf_transfer failed")


def test_a_server_that_speaks_of_another_file_is_not_believed(lines):
    line = lines("lfs")
    other = json.dumps({"objects": [{"oid": "0" * 64, "size": 1}]})
    line.hub.faults.answer("POST", "/objects/batch", 200, body=other)
    with pytest.raises(IntegrityError, match="speaks of 0000") as wrong:
        line.settle(shard())  # the failure surfaces while the shard is noted, or after
    assert wrong.value.exit_code == 7
    assert line.staging.records() == {}


@pytest.mark.parametrize("engine", ["xet stream", "xet file"])
def test_bytes_that_changed_on_their_way_are_not_committed(lines, engine, monkeypatch):
    line = lines(engine)
    answer = process.Child.answer
    monkeypatch.setattr(
        process.Child, "answer", lambda child: {**answer(child), "sha256": "0" * 64}
    )
    with pytest.raises(IntegrityError, match="uploaded as") as wrong:
        line.settle(shard())
    assert wrong.value.exit_code == 7
    assert line.staging.records() == {}


def test_a_branch_that_is_gone_is_said_to_be_gone(line):
    from huggingface_hub.utils import _xet

    from hubconv.errors import ConflictError

    _xet.XET_CONNECTION_INFO_CACHE.clear()
    line.api.delete_branch(line.repo, branch="hubconv/plan")
    with pytest.raises(ConflictError, match="is gone"):
        line.settle(shard(1000))


# --- Children -------------------------------------------------------------------------------------


def kill_streams(monkeypatch, times):
    """Kill the child of the first streams in their middle; returns the count of work on units."""
    from hubconv.hub.uploading.xet import XetSink

    write, once, killed, made = XetSink.write, unit_of_work._once, [], []

    def fragile(sink, data):
        write(sink, data)
        if len(killed) < times and sink._size > 100_000:
            killed.append(sink._name)
            os.kill(sink._child._process.pid, signal.SIGKILL)
            sink._child._process.wait()

    def counted(bench, unit, converted):
        made.append(unit.shard)
        return once(bench, unit, converted)

    monkeypatch.setattr(XetSink, "write", fragile)
    monkeypatch.setattr(unit_of_work, "_once", counted)
    return made


@pytest.mark.parametrize("times", [1, 2])
def test_a_unit_whose_stream_broke_is_made_again(xet_studio, monkeypatch, caplog, times):
    caplog.set_level("INFO", logger="hubconv")
    studio, first, second = xet_studio, xet_studio.name(), xet_studio.name()
    studio.convert(studio.source(), first)
    caplog.clear()
    made = kill_streams(monkeypatch, times)
    done = studio.convert(studio.source(), second)
    units = [unit.shard for unit in done.plan.units]
    assert made == [units[0]] * times + units
    right, found = studio.tree(first), studio.tree(second)
    assert all(found[path] == right[path] for path in units)
    assert ("xet file" in caplog.text) == (times == uploads.STREAMS)
    assert len(studio.publishes(second)) == 1


def test_a_unit_whose_streams_all_break_ends_the_run(xet_studio, monkeypatch):
    studio, target = xet_studio, xet_studio.name()
    monkeypatch.setattr(uploads, "STREAMS", 3)
    made = kill_streams(monkeypatch, 3)
    with pytest.raises(BrokenLineError) as broken:
        studio.convert(studio.source(), target)
    assert broken.value.exit_code == 5
    assert len(made) == 3
    assert studio.convert(studio.source(), target).status == "published"


def test_a_child_says_why_it_failed(lines):
    line = lines("xet stream")
    line.strike(action="answer", status=403, times=None)
    with pytest.raises(BrokenLineError, match="403"):
        line.send(shard())


def test_no_token_is_seen_in_a_list_of_processes(lines):
    from hubconv.embedded import DEMO_TOKEN

    line = lines("xet stream")
    with line.staging.create(SHARD) as sink:
        pid = sink._child._process.pid
        assert DEMO_TOKEN not in Path(f"/proc/{pid}/cmdline").read_text()


def resident_bytes(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_stalled_server_holds_the_conversion_up_and_memory_down(lines):
    line = lines("xet stream")
    line.strike(action="hang", seconds=60, times=None)
    passed = []

    def write(sink):
        with suppress(EndedError):
            for number in range(75):
                sink.write(os.urandom(4_000_000))
                passed.append(number)

    class EndedError(TemporaryError):
        pass

    with line.staging.create(SHARD) as sink:
        writing = threading.Thread(target=write, args=(sink,))
        writing.start()
        seen = 0
        while writing.is_alive() and (not seen or len(passed) > seen):
            seen = len(passed)
            writing.join(3.0)
        child = resident_bytes(sink._child._process.pid)
        assert writing.is_alive(), "300 MB went somewhere"
        line.ended.append(EndedError("enough"))
        writing.join(5)
        assert not writing.is_alive()
    assert len(passed) * 4_000_000 < 250_000_000
    assert child < 500_000_000, child


# --- The disk -------------------------------------------------------------------------------------


def test_the_disk_that_is_needed_is_known(line):
    small = line.staging.disk_bytes(5_000_000_000, 10**12) < 100_000_000
    assert small == line.engine.startswith("xet")
    if not small:
        assert line.staging.disk_bytes(5_000_000_000, 10**12) == 10_000_000_000
        assert line.staging.disk_bytes(5_000_000_000, 9_999_999_999) == 5_000_000_000
        # ... and then one shard waits for the other.
        assert line.staging._uploads._background.shards_on_disk == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_two_output_shards_at_most_lie_on_the_disk(lfs_studio, tmp_path, workers):
    from hubconv.steps.decide import Recipe

    studio, target, work = lfs_studio, lfs_studio.name(), tmp_path / "work"
    studio.hub.faults.delay("PUT", "/upload/", 0.2, times=None)
    most, ended = [0], threading.Event()

    def watch():
        while not ended.is_set():
            most.append(len([path for path in work.glob("*/out/*") if path.is_file()]))
            ended.wait(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        done = studio.convert(
            studio.source(),
            target,
            work_dir=str(work),
            workers=workers,
            recipe=Recipe(scales="amax", max_shard_bytes=150_000),
        )
    finally:
        ended.set()
        watching.join()
    assert len(done.plan.units) > 4
    assert max(most) == background.SHARDS_ON_DISK


def test_xet_leaves_nothing_on_the_disk(xet_studio, tmp_path):
    studio, work = xet_studio, tmp_path / "work"
    seen = []
    from hubconv.hub.staging import HubStaging

    with pytest.MonkeyPatch.context() as patch:
        add = HubStaging.add

        def look(staging, record):
            add(staging, record)
            seen.append(list(work.rglob("xet/*")))

        patch.setattr(HubStaging, "add", look)
        studio.convert(studio.source(), studio.name(), work_dir=str(work))
    assert seen
    assert all(folders == [] for folders in seen)
