"""Opened shards of the Hub that touch no disk: a small one in memory, a large one as it streams."""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

from hubconv.ends import ByteRange, FileEntry
from hubconv.errors import TemporaryError
from hubconv.hub.fetching.course import chart, in_order
from hubconv.hub.fetching.line import Line, Span
from hubconv.hub.fetching.proof import FileProof, hash_like, wrong_hash
from hubconv.hub.fetching.supply import Supply

APART_SHARE: Final = 4
"""A second line has one part in so many of a shard's memory."""

BESIDES_BYTES: Final = 8 * 1024 * 1024
"""Memory of the line that serves a read nobody announced."""


Told = Callable[[int, int], None]


class HeldShard:
    """A small file, whole in memory."""

    any_order = True

    def __init__(self, entry: FileEntry, data: bytes) -> None:
        self._entry, self._data = entry, memoryview(data)

    def read(self, begin: int, end: int) -> memoryview:
        """Bytes [begin, end)."""
        return self._data[begin:end]

    def read_into(self, begin: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from `begin` on; how many came."""
        piece = self._data[begin : begin + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def prove(self) -> None:
        """Compare its hash.

        Raises:
            DamagedError: It has another than the tree names.
        """
        wanted = self._entry.sha256 or self._entry.stamp
        found = hash_like(wanted, self._data)
        if found != wanted:
            raise wrong_hash(self._entry.path, found, wanted)


class RangedShard:
    """A few small ranges of a file, each fetched when it is read; nothing is proven.

    Args:
        entry: The file.
        fetch: Brings bytes [begin, end).
    """

    any_order = True

    def __init__(self, entry: FileEntry, fetch: Callable[[int, int], bytes]) -> None:
        self._entry, self._fetch = entry, fetch
        self.brought = 0

    def read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end); fewer only where the file ends."""
        data = self._fetch(begin, min(end, self._entry.size))
        self.brought += len(data)
        return data

    def read_into(self, begin: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from `begin` on; how many came."""
        data = self.read(begin, begin + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def prove(self) -> None:
        """Nothing: ranges have no hash."""


class _Lane:
    """A line, and the hashes of what came over it where those are wanted."""

    def __init__(
        self, supply: Supply, spans: Sequence[Span], room: int, proof: FileProof | None = None,
        told: Told = lambda _came, _left: None, *, hashed: bool = False,
    ) -> None:  # fmt: skip
        self._spans, self._proof, self._hashed = spans, proof, hashed
        self._digests: dict[int, hashlib._Hash] = {}
        self.kept = [index for index, span in enumerate(spans) if span.kept]
        self.line = Line(supply, spans, room, self._pass, told)

    def _pass(self, span: int, begin: int, piece: memoryview) -> None:
        if self._proof is not None:
            self._proof.feed(begin, piece)
        if self._hashed:
            self._digests.setdefault(span, hashlib.sha256()).update(piece)

    def given(self) -> Iterator[tuple[ByteRange, str]]:
        """Every span that came, with its hash."""
        for span, digest in self._digests.items():
            yield (self._spans[span].begin, self._spans[span].end), digest.hexdigest()


class StreamedShard:
    """A shard that passes once, in the order of its bytes.

    Reads that the stream cannot serve within its memory come over a second line, and reads that
    nobody announced over a third. What came over another line than the one that was hashed must
    have the hash that the same bytes had there.

    Args:
        supply: The file.
        reads: What will be read, in order; none is empty, all are inside the file.
        memory: Bytes held at most.
        whole: It will be proven; else the ranges alone are fetched.
        told: Told the bytes that came over the main line and that are left, now and then.
    """

    any_order = False

    def __init__(
        self,
        supply: Supply,
        reads: Sequence[ByteRange],
        memory: int,
        told: Told = lambda _came, _left: None,
        *,
        whole: bool,
    ) -> None:
        self._supply, self._entry, self._reads = supply, supply.entry, reads
        # Half of the stream's share for what must wait its turn, half to run ahead.
        share = memory - memory // APART_SHARE
        self._course = chart(reads, share // 2) if whole else in_order(reads)
        self._turn = 0
        self._turns: dict[int, deque[int]] = defaultdict(deque)
        for turn, (begin, _) in enumerate(reads):
            self._turns[begin].append(turn)
        # All of the file must pass, whatever the engine: hf_xet does not compare the chunks that
        # it is given with their hashes (tests/hub/test_engines.py shows it).
        self._proof = FileProof(self._course.apart) if whole else None
        self._given: list[tuple[ByteRange, str]] = []
        self._lanes: dict[bool, _Lane] = {}
        self.engines: set[str] = set()
        self.brought = 0
        if whole:
            room = share if self._course.apart else memory
            self._lanes[False] = _Lane(supply, self._spans(), room, self._proof, told)
        if self._course.apart:
            spans = [Span(begin, end) for begin, end in self._course.apart]
            room = memory // APART_SHARE if whole else memory
            self._lanes[True] = _Lane(supply, spans, room, hashed=self._proof is not None)

    def _spans(self) -> list[Span]:
        """The whole file, in parts that are kept and parts that only pass."""
        spans: list[Span] = []
        position = 0
        for begin, end in self._course.streamed:
            if position < begin:
                spans.append(Span(position, begin, kept=False))
            spans.append(Span(begin, end))
            position = end
        if position < self._entry.size:
            spans.append(Span(position, self._entry.size, kept=False))
        return spans

    # ── reading ──────────────────────────────────────────────────────────────────────────────

    def read(self, begin: int, end: int) -> bytearray:
        """Bytes [begin, end); fewer only where the file ends."""
        data = bytearray(max(min(end, self._entry.size) - begin, 0))
        self.read_into(begin, memoryview(data))
        return data

    def read_into(self, begin: int, buffer: memoryview) -> int:
        """Fill a buffer with the bytes from `begin` on; how many came.

        Raises:
            HubconvError: The line failed for good.
        """
        want = min(len(buffer), max(self._entry.size - begin, 0))
        came = 0
        while came < want:
            came += self._some(begin + came, buffer[came:want])
        return want

    def _some(self, begin: int, room: memoryview) -> int:
        for turn in self._turns_at(begin):
            place = self._course.places[turn]
            lane = self._lanes[place.apart]
            offset = begin - self._reads[turn][0]
            came = lane.line.buffer.take(lane.kept[place.index], offset, room)
            if came:
                return came
        return self._besides(begin, room)

    def _turns_at(self, begin: int) -> Iterator[int]:
        """The announced read under way where it holds the byte, then the next that begins there."""
        if self._reads and self._reads[self._turn][0] <= begin < self._reads[self._turn][1]:
            yield self._turn
        later = self._turns.get(begin)
        while later and later[0] <= self._turn:
            later.popleft()
        if later:
            turn = later.popleft()
            for left in range(self._turn, turn):
                place = self._course.places[left]
                lane = self._lanes[place.apart]
                lane.line.buffer.refuse(lane.kept[place.index])
            self._turn = turn
            yield turn

    def _besides(self, begin: int, room: memoryview) -> int:
        """Serve a read that nobody announced, over a line of its own."""
        span = Span(begin, begin + len(room))
        lane = _Lane(self._supply, [span], BESIDES_BYTES, hashed=self._proof is not None)
        try:
            came = 0
            while came < len(room):
                some = lane.line.buffer.take(0, came, room[came:])
                if not some:
                    raise TemporaryError(f"{self._entry.path}: {came} of {len(room)} bytes came.")
                came += some
            lane.line.buffer.drain()
        finally:
            self._close(lane)
        self._given += lane.given()
        return came

    # ── proof ────────────────────────────────────────────────────────────────────────────────

    def prove(self) -> None:
        """Let the rest of the file pass, then compare hashes.

        Raises:
            DamagedError: Some bytes are not what the tree names.
        """
        if self._proof is None:
            return
        for lane in self._lanes.values():
            lane.line.buffer.drain()
        self._compare(self._proof)
        given = [*self._given, *(self._lanes[True].given() if True in self._lanes else ())]
        late = self._matched(self._proof, given)
        if late:
            self._pass_again(late)

    def _compare(self, proof: FileProof) -> None:
        if self._entry.sha256 and proof.sha256 != self._entry.sha256:
            raise wrong_hash(self._entry.path, proof.sha256, self._entry.sha256)

    def _matched(
        self, proof: FileProof, given: Sequence[tuple[ByteRange, str]]
    ) -> list[tuple[ByteRange, str]]:
        """What the proof cannot speak of."""
        late = []
        for wanted, digest in given:
            seen = proof.of(wanted)
            if not seen:
                late.append((wanted, digest))
            elif seen != digest:
                begin, end = wanted
                name = f"{self._entry.path}, bytes {begin} to {end},"
                raise wrong_hash(name, digest, seen)
        return late

    def _pass_again(self, late: Sequence[tuple[ByteRange, str]]) -> None:
        """Prove reads that nobody announced: their bytes had passed before they were asked for."""
        proof = FileProof(wanted for wanted, _ in late)
        lane = _Lane(self._supply, [Span(0, self._entry.size, kept=False)], BESIDES_BYTES, proof)
        try:
            lane.line.buffer.drain()
        finally:
            self._close(lane)
        self._compare(proof)
        self._matched(proof, late)

    # ── end ──────────────────────────────────────────────────────────────────────────────────

    def so_far(self) -> tuple[str, int]:
        """Engines that brought bytes, and how many bytes; for the log."""
        lines = [lane.line for lane in self._lanes.values()]
        engines = self.engines.union(*(line.engines for line in lines))
        return "+".join(sorted(engines)), self.brought + sum(line.brought for line in lines)

    def _close(self, lane: _Lane) -> None:
        lane.line.close()
        self.engines |= lane.line.engines
        self.brought += lane.line.brought

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in self._lanes.values():
            self._close(lane)
