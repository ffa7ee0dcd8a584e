"""Every engine gives the same bytes, in any order, over any line, or says what is wrong in time."""

import gc
import hashlib
import itertools
import os
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubconv.embedded.faults import Rule
from hubconv.ends import FileEntry
from hubconv.errors import DamagedError, TemporaryError
from hubconv.folder import FolderSource
from hubconv.hub.fetching.course import chart
from hubconv.hub.fetching.slots import Slots
from hubconv.hub.fetching.turn import Turn
from hubconv.hub.source import Budget, HubSource
from hubconv.progress import SilentProgress

MIB = 1024 * 1024
SIZE = 6 * MIB + 12_345
NAME = "model.safetensors"
CONTENT = random.Random(7).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WINDOW = 300_000
HEADER = [(0, 8), (8, 5_000)]
ENGINES = ("xet", "hf_transfer", "http", "folder")
OF_HUB = ("xet", "hf_transfer", "http")
OF_LFS = ("hf_transfer", "http")
SLOT_BYTES = 4 * MIB


def windows(begin=5_000, end=SIZE, step=WINDOW):
    return [(first, min(first + step, end)) for first in range(begin, end, step)]


IN_ORDER = HEADER + windows()


@dataclass
class Bench:
    """A source whose only shard comes by one engine."""

    engine: str
    source: object
    place: Path
    hub: object = None
    waits: list = None

    def children(self):
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if b"hubconv.hub.fetching.child" in words and int(parent) == os.getpid():
                found.append(process.name)
        return found

    def is_tidy(self, idle_slots=0):
        left = list(self.place.iterdir()) if self.place.exists() else []
        return not self.children() and len(left) <= idle_slots * (self.engine == "hf_transfer")

    def engines_seen(self):
        """What the Hub served the bytes of the shard to."""
        kinds = self.hub.requests.kinds()
        return {name for name in ("xorb", "blob") if kinds.get(name)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shard")
    (folder / NAME).write_bytes(CONTENT)
    return folder


@pytest.fixture
def bench_of(studios, folder, tmp_path, monkeypatch):
    """Makes a bench; short waits, small pieces, so that small files show what large ones do."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr("hubconv.hub.source.SMALL_BYTES", 1000)
    monkeypatch.setattr("hubconv.hub.fetching.supply.PIECE_BYTES", MIB)
    monkeypatch.setattr("hubconv.hub.fetching.process.STALL_S", 3.0)
    used = []

    def make(engine, memory=16 * MIB):
        if engine == "folder":
            return Bench(engine, FolderSource(folder), tmp_path)
        studio = studios("xet" if engine == "xet" else "lfs")
        studio.hub.faults.clear()
        studio.token = None
        if "shard" not in studio._sources:
            studio._sources["shard"] = studio.put(folder, studio.name("shard"))
        slot_from = 0 if engine == "hf_transfer" else 1 << 60
        monkeypatch.setattr("hubconv.hub.source.SLOT_FROM_BYTES", slot_from)
        client = studio.client()
        monkeypatch.setattr("hubconv.hub.client.open_client", lambda *_: studio.client())
        place = tmp_path / engine / "slots"
        source = HubSource(client, studio._sources["shard"], "", place, Budget(memory))
        studio.hub.requests.clear()
        studio.waits.clear()
        used.append(studio)
        return Bench(engine, source, place, studio.hub, studio.waits)

    yield make
    for studio in used:
        studio.hub.faults.clear()
    gc.collect()


@contextmanager
def within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def read_all(bench, reads, order=None, *, whole=True):
    """Read ranges, prove, compare."""
    order, got = order or reads, []
    with bench.source.open(NAME, reads, whole=whole) as shard:
        for begin, end in order:
            room = bytearray(end - begin)
            assert shard.read_into(begin, memoryview(room)) == end - begin
            got.append(room)
        shard.prove()
    assert got == [CONTENT[begin:end] for begin, end in order]
    assert bench.is_tidy(idle_slots=1)


def sent(bench):
    return sum(request.sent_bytes for request in bench.hub.requests.find(kind="blob"))


def damage(bench, *reads):
    """Read ranges of what is damaged; what is said of it."""
    with pytest.raises(DamagedError) as damaged, bench.source.open(NAME, reads) as shard:
        prove(shard, reads)
    assert bench.is_tidy()
    assert damaged.value.exit_code == 7
    return str(damaged.value)


def prove(shard, reads):
    for begin, end in reads:
        shard.read(begin, end)
    shard.prove()


# ── reads ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("engine", ENGINES)
def test_announced_reads_come_in_order(bench_of, engine):
    bench = bench_of(engine)
    read_all(bench, IN_ORDER)
    if engine == "xet":
        assert bench.engines_seen() == {"xorb"}
    if engine in OF_LFS:
        assert bench.engines_seen() == {"blob"}
        assert SIZE <= sent(bench) <= SIZE + 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("memory", [16 * MIB, 200_000])
@pytest.mark.parametrize(
    "order",
    ["tail first", "head last", "backwards", "shuffled", "pairs", "twice", "gaps", "overlapping"],
)
def test_any_order_gives_the_same_bytes(bench_of, engine, memory, order):
    inner = windows()
    shuffled = random.Random(3).sample(inner, len(inner))
    reads = {
        "tail first": [*HEADER, inner[-1], *inner[:-1]],
        "head last": [*HEADER, *inner[1:], inner[0]],
        "backwards": [*HEADER, *reversed(inner)],
        "shuffled": [*HEADER, *shuffled],
        "pairs": [*HEADER, *(inner[i ^ 1] for i in range(len(inner) // 2 * 2))],
        "twice": [*HEADER, *inner[:4], *inner[:4], inner[3]],
        "gaps": [*HEADER, *inner[2::5]],
        "overlapping": [*HEADER, *((b - 1000, e) for b, e in inner)],
    }[order]
    with within(60):
        read_all(bench_of(engine, memory), reads)


@pytest.mark.parametrize("engine", ENGINES)
def test_reads_that_were_not_announced_are_served_too(bench_of, engine):
    bench = bench_of(engine, 2 * MIB)
    other = [(100, 200), (3 * MIB, 3 * MIB + 77), (0, 8), (SIZE - 5, SIZE)]
    read_all(bench, IN_ORDER, [*IN_ORDER[:6], *other, *IN_ORDER[6:]])
    read_all(bench, IN_ORDER, list(reversed(IN_ORDER[-4:])))
    read_all(bench, (), IN_ORDER)


@pytest.mark.parametrize("engine", ENGINES)
def test_announced_reads_may_be_taken_in_pieces_left_half_or_left_out(bench_of, engine):
    bench = bench_of(engine, MIB)
    pieces = [(0, 8), (8, 100), (5_000, 6_000), (6_000, 7_000), (305_000, 305_001), *windows()[5:]]
    read_all(bench, IN_ORDER, pieces)
    read_all(bench, [(0, 8), (8, 4 * MIB), *windows(4 * MIB)], [(0, 8), (8, 99), *windows(4 * MIB)])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_ends_where_it_ends(bench_of, engine):
    bench = bench_of(engine)
    with bench.source.open(NAME, [(0, SIZE + 100)]) as shard:
        room = bytearray(200)
        assert shard.read_into(SIZE - 50, memoryview(room)) == 50
        assert bytes(shard.read(SIZE - 50, SIZE + 50)) == CONTENT[-50:]
        assert shard.read_into(SIZE, memoryview(room)) == 0
        shard.prove()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("memory", [16 * MIB, 200_000])
def test_ranges_alone_are_fetched_where_no_proof_is_wanted(bench_of, engine, memory):
    bench = bench_of(engine, memory)
    reads = [(4 * MIB, 4 * MIB + 9_000), (100, 300), (2 * MIB, 2 * MIB + WINDOW), (100, 300)]
    read_all(bench, reads, whole=False)
    if engine in OF_LFS:
        assert sent(bench) == sum(end - begin for begin, end in reads)


def test_few_bytes_are_fetched_without_a_transfer(bench_of, monkeypatch, caplog):
    monkeypatch.setattr("hubconv.hub.source.SMALL_BYTES", MIB)
    with caplog.at_level("DEBUG", "hubconv"):
        read_all(bench_of("http"), [(2 * MIB, 2 * MIB + WINDOW), (5, 9)], whole=False)
    assert "requests, 0.3 MB" in caplog.text


@pytest.mark.parametrize("engine", ["xet", "http"])
def test_a_whole_file_passes_to_prove_a_part(bench_of, engine, caplog):
    bench = bench_of(engine)
    with caplog.at_level("INFO", "hubconv"):
        read_all(bench, [*HEADER, *windows(5 * MIB)])
    assert f"{engine}, 6.3 MB" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_leaving_early_leaves_nothing(bench_of, engine):
    bench = bench_of(engine, MIB)
    if bench.hub:
        bench.hub.faults.throttle("GET", "/(blob|xorb)/", 4 * MIB)
    with within(20):
        with bench.source.open(NAME, IN_ORDER) as shard:
            shard.read(0, 8)
        assert bench.is_tidy()
        with pytest.raises(KeyError), bench.source.open(NAME, IN_ORDER):
            raise KeyError
        assert bench.is_tidy()


# ── the course ───────────────────────────────────────────────────────────────────────────────────

ranges = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), min_size=1, max_size=40)


@given(ranges, st.integers(0, 200))
def test_what_is_held_stays_within_bounds_on_any_course(pairs, held_bytes):
    reads = [(begin, begin + size) for begin, size in pairs]
    course = chart(reads, held_bytes)
    assert sorted(course.streamed) == list(course.streamed)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(course.streamed))
    turns = [read for read, place in zip(reads, course.places, strict=True) if not place.apart]
    apart = [read for read, place in zip(reads, course.places, strict=True) if place.apart]
    assert (sorted(turns), tuple(apart)) == (list(course.streamed), course.apart)
    position = 0
    for turn, (_, end) in enumerate(turns):
        position = max(position, end)
        waiting = turns[turn + 1 :]
        assert sum(e - b for b, e in waiting if b < position) <= held_bytes


def test_reads_in_order_are_all_streamed():
    assert chart(IN_ORDER, 0).apart == ()
    swapped = windows()[:20]
    swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
    assert chart(swapped, WINDOW).apart == ()
    assert len(chart([(9000, 9010), *((b, b + 10) for b in range(0, 9000, 10))], 100).apart) == 1


# ── lines ────────────────────────────────────────────────────────────────────────────────────────

HALF = SIZE // 2
PASSING = {
    "500": {"action": "answer", "status": 500},
    "503": {"action": "answer", "status": 503},
    "expired link": {"action": "answer", "status": 403, "body": "<Error>expired</Error>"},
    "reset": {"action": "reset"},
    "cut short": {"action": "truncate", "at_byte": 70_000},
    "whole where a range was asked for": {"action": "answer", "status": 200, "body": "x" * 99},
    "another range": {
        "action": "answer",
        "status": 206,
        "body": "x" * 100,
        "headers": {"Content-Range": f"bytes 5-104/{SIZE}"},
    },
    "silence": {"action": "hang", "seconds": 8.0},
    "silent for a while": {"action": "delay", "seconds": 1.0},
}


@pytest.mark.parametrize("engine", OF_HUB)
@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("fault", PASSING)
def test_a_shard_comes_whole_over_a_bad_line(bench_of, engine, fault, skip):
    bench = bench_of(engine)
    path = "/(blob|xorb|v1/reconstructions)/"
    rule = bench.hub.faults.add(Rule(method="GET", path=path, skip=skip, **PASSING[fault]))
    with within(60):
        try:
            read_all(bench, IN_ORDER)
        except DamagedError:
            # hf_transfer takes a wrong answer for bytes; the unit is then made again.
            assert engine == "hf_transfer"
            read_all(bench, IN_ORDER)
    assert bench.hub.faults.struck(rule) == 1


@pytest.mark.parametrize("engine", OF_HUB)
def test_a_corrupted_byte_is_found_and_the_next_time_is_right(bench_of, engine):
    bench = bench_of(engine)
    # hf_xet hands on what it is given: it does not compare chunks with their hashes.
    bench.hub.faults.corrupt("GET", "/(blob|xorb)/", 70_000, times=None)
    assert SHA256 in damage(bench, *IN_ORDER)
    bench.hub.faults.clear()
    read_all(bench, IN_ORDER)


@pytest.mark.parametrize("engine", OF_LFS)
def test_a_shard_that_stays_wrong_is_refused_with_both_hashes(bench_of, engine):
    bench = bench_of(engine)
    bench.hub.faults.corrupt("GET", "/blob/", 70_000, times=None)
    wrong = bytearray(CONTENT)
    wrong[70_000] ^= 0xFF
    for _ in range(2):
        said = damage(bench, *HEADER)
        assert SHA256 in said
        assert hashlib.sha256(wrong).hexdigest() in said


def test_a_read_that_came_apart_and_wrong_is_found(bench_of, monkeypatch):
    bench = bench_of("http", 200_000)
    monkeypatch.setattr("hubconv.hub.fetching.supply.PIECE_BYTES", 50_000)
    tail = windows()[-1]
    reads = [*HEADER, tail, *windows()[:-1]]
    # The tail is asked for twice: by itself, and later where it passes.
    bench.hub.faults.corrupt("GET", "/blob/", tail[0] + 5, times=None)
    with bench.source.open(NAME, reads) as shard:
        assert bytes(shard.read(*tail)) != CONTENT[tail[0] : tail[1]]
        bench.hub.faults.clear()
        with pytest.raises(DamagedError, match=f"bytes {tail[0]} to {tail[1]}"):
            prove(shard, reads[3:])
    assert bench.is_tidy()


def test_a_read_nobody_announced_that_came_wrong_is_found(bench_of):
    bench = bench_of("http")
    with bench.source.open(NAME, IN_ORDER) as shard:
        prove(shard, IN_ORDER)
        bench.hub.faults.corrupt("GET", "/blob/", 9_005, times=1)
        assert bytes(shard.read(9_000, 9_010)) != CONTENT[9_000:9_010]
        with pytest.raises(DamagedError, match="bytes 9000 to 9010"):
            shard.prove()


@pytest.mark.parametrize("engine", OF_HUB)
@pytest.mark.parametrize("action", ["reset", "answer"])
def test_a_dead_line_ends_in_a_temporary_failure(bench_of, engine, action):
    bench = bench_of(engine)
    rule = Rule(action, "GET", "/(blob|xorb|v1/reconstructions)/", times=None, status=503)
    bench.hub.faults.add(rule)
    with within(120), pytest.raises(TemporaryError) as failed:
        read_all(bench, IN_ORDER)
    assert failed.value.exit_code == 5
    assert bench.is_tidy()


@pytest.mark.parametrize("engine", ["xet", "http"])
def test_a_silent_line_is_given_up(bench_of, engine, monkeypatch):
    monkeypatch.setattr("hubconv.hub.fetching.process.STALL_S", 0.5)
    bench = bench_of(engine)
    bench.hub.faults.hang("GET", "/(blob|xorb|v1/reconstructions)/", 30, times=None)
    with within(60), pytest.raises(TemporaryError):
        read_all(bench, IN_ORDER)
    assert bench.is_tidy()


def test_a_slow_worker_is_not_a_silent_line(bench_of, monkeypatch):
    monkeypatch.setattr("hubconv.hub.fetching.process.STALL_S", 0.5)
    bench = bench_of("http", MIB)
    with bench.source.open(NAME, IN_ORDER) as shard:
        shard.read(0, 8)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            time.sleep(0.01)
        assert MIB // 2 < shard._lanes[False].line.buffer._used <= MIB
        shard.prove()
    assert bench.waits == []


@pytest.mark.parametrize("engine", ["xet", "http"])
def test_no_token_is_seen_from_outside(bench_of, engine, caplog):
    from hubconv.embedded import DEMO_TOKEN

    bench = bench_of(engine, MIB)
    bench.hub.faults.answer("GET", "/(blob|xorb)/", 500, times=None)
    with caplog.at_level("DEBUG", "hubconv"), bench.source.open(NAME, IN_ORDER):
        until = time.monotonic() + 10
        while not bench.children() and time.monotonic() < until:
            time.sleep(0.01)
        words = [Path(f"/proc/{child}/cmdline").read_bytes() for child in bench.children()]
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)
    assert words
    assert "failed" in caplog.text
    assert not any(DEMO_TOKEN.encode() in word or b"http" in word for word in words)
    assert DEMO_TOKEN not in caplog.text
    assert "Signature=" not in caplog.text


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1))}, 600, 600),
        ({"RateLimit": '"api";r=0;t=55'}, 56, 56),
    ],
)
def test_a_busy_server_says_how_long_to_wait(bench_of, headers, least, most):
    bench = bench_of("http")
    bench.hub.faults.answer("GET", "/blob/", 429, headers=headers)
    read_all(bench, IN_ORDER)
    (wait,) = bench.waits
    assert least <= wait <= most


def test_what_has_come_is_not_fetched_again(bench_of):
    bench = bench_of("http")
    bench.hub.faults.reset("GET", "/blob/", skip=4, times=4)
    read_all(bench, IN_ORDER)
    assert sent(bench) < SIZE + 4 * MIB


def test_http_takes_over_where_xet_fails(bench_of):
    bench = bench_of("xet")
    bench.hub.faults.answer("GET", "/reconstructions/", 404, times=None)
    read_all(bench, IN_ORDER)
    assert bench.engines_seen() == {"blob"}


def test_a_slot_is_used_only_where_the_disk_may_be(bench_of):
    bench = bench_of("hf_transfer")
    bench.source.allow_disk(SIZE - 1)
    read_all(bench, IN_ORDER)
    assert {r.user_agent for r in bench.hub.requests.find(kind="blob")} == {""}


def test_a_proven_slot_is_written_over_and_one_in_doubt_is_not(bench_of):
    bench = bench_of("hf_transfer")
    bench.source.allow_disk(SIZE)
    read_all(bench, IN_ORDER)
    (slot,) = bench.place.iterdir()
    slot.write_bytes(b"-" * SIZE)  # whatever a shard leaves must not be taken for the next one
    read_all(bench, IN_ORDER)
    assert list(bench.place.iterdir()) == [slot]
    bench.hub.faults.corrupt("GET", "/blob/", 70_000, times=None)
    with pytest.raises(DamagedError), bench.source.open(NAME, IN_ORDER) as shard:
        shard.prove()
    assert bench.is_tidy()


def test_slots_of_all_sizes_stay_within_the_disk_that_they_may_have(tmp_path, monkeypatch):
    random_sizes = random.Random(11)
    slots = Slots(tmp_path / "slots", 1000, Turn())
    taken = []

    def bring(supply, slot, told):
        with slot.open("r+b" if slot.exists() else "wb") as file:
            file.write(supply.entry.size * b"x")
        return True

    monkeypatch.setattr(slots, "_bring", bring)
    for _ in range(300):
        if taken and (len(taken) == 3 or random_sizes.random() < 0.4):
            way, shard, _ = taken.pop(random_sizes.randrange(len(taken)))
            if random_sizes.random() < 0.7:
                shard.prove()
            way.__exit__(None, None, None)
        size = random_sizes.randint(1, 700)
        way = slots.fetched(SimpleNamespace(entry=FileEntry("a", size, "", "")))
        shard = way.__enter__()
        wanted = sum(held for _, _, held in taken) + size
        # Idle slots make way; what others hold does not.
        assert (shard is not None) == (wanted <= 1000)
        if shard is None:
            way.__exit__(None, None, None)
        else:
            assert shard.read(0, 2000) == size * b"x"
            taken.append((way, shard, size))
        assert sum(path.stat().st_size for path in (tmp_path / "slots").iterdir()) <= 1000


def test_the_log_says_who_brought_a_shard(bench_of, caplog):
    with caplog.at_level("INFO", "hubconv"):
        for engine in OF_HUB:
            read_all(bench_of(engine), IN_ORDER)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[1] for line in said] == ["xet,", "hf_transfer,", "http,"]


def test_a_transfer_dies_with_its_parent(bench_of, tmp_path):
    import subprocess
    import sys

    bench = bench_of("http")
    bench.hub.faults.throttle("GET", "/blob/", MIB)
    supply_order = (
        "import sys, json, os, time\n"
        "from pathlib import Path\n"
        "from hubconv.hub.fetching.process import Child\n"
        "order = json.loads(sys.stdin.read())\n"
        "with Child(order, Path(order['cache']), 60) as child:\n"
        "    child.fill(memoryview(bytearray(10)))\n"
        "    print(child._process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    import json

    from hubconv.hub.fetching.supply import Supply

    supply = Supply(bench.source._client, bench.source, bench.source.files()[NAME], tmp_path)
    order = supply.order("http", [(0, SIZE)]) | {"cache": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", supply_order], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        parent.stdin.write(json.dumps(order).encode())
        parent.stdin.close()
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
        parent.wait()
    until = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]:
            break
        time.sleep(0.01)
    else:
        assert not Path(f"/proc/{child}").exists()


# ── the worker ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("engine", OF_HUB)
def test_a_unit_made_over_a_damaged_line_is_made_again_once(bench_of, studios, engine):
    """The whole run: shards by this engine, one of them damaged on its first way."""
    bench_of(engine)
    studio = studios("xet" if engine == "xet" else "lfs")
    repo, sound = studio.source("deepseek_v4_sgl_fp8"), studio.name()
    studio.convert(repo, sound)
    # Every read of that place is wrong until the first unit was thrown away.
    studio.hub.faults.corrupt("GET", "/(blob|xorb)/", 600_000, times=None)
    told = []

    class Watching(SilentProgress):
        def converted(self, source_bytes):
            told.append(source_bytes)
            if source_bytes < 0:
                studio.hub.faults.clear()

    target = studio.name()
    convert_told(studio, repo, target, Watching())
    assert min(told) < 0
    made = {p: h for p, h in studio.tree(target).items() if p.endswith(".safetensors")}
    assert made.items() <= studio.tree(sound).items()


@pytest.mark.parametrize("engine", OF_HUB)
def test_a_unit_whose_line_stays_damaged_fails_with_both_hashes(bench_of, studios, engine):
    bench_of(engine)
    studio = studios("xet" if engine == "xet" else "lfs")
    repo, target = studio.source("deepseek_v4_sgl_fp8"), studio.name()
    studio.hub.faults.corrupt("GET", "/(blob|xorb)/", 600_000, times=None)
    with pytest.raises(DamagedError, match="arrived with hash") as damaged:
        studio.convert(repo, target)
    assert damaged.value.exit_code == 7
    assert studio.publishes(target) == []


def convert_told(studio, source, target, progress):
    from hubconv.pipeline import Request, convert
    from hubconv.steps.decide import Recipe

    work_dir = str(studio.folder / "work")
    recipe = Recipe(scales="amax")
    request = Request(source, target, device="cpu", workers=1, work_dir=work_dir, recipe=recipe)
    return convert(request, progress)
