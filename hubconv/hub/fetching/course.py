"""Which reads one stream through a file can serve, and which are fetched apart.

A stream passes each byte once. What it passes before its turn must be held, and what may be held
is bounded: a read that would make the stream pass too much too early (a tensor of the file's end
that is wanted first) is fetched by a range of its own instead. So the stream never waits for room
while its reader waits for the stream.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hubconv.ends import ByteRange


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a read come from.

    Attributes:
        apart: By a range of their own, else by the stream.
        index: Of the range, among those that come that way.
    """

    apart: bool
    index: int


@dataclass(frozen=True, slots=True)
class Course:
    """How the reads of a shard are served.

    Attributes:
        streamed: Ranges that the stream serves, in the order of the file; none meets another.
        apart: Ranges fetched by themselves, in the order they are read.
        places: For every read, in order, where its bytes come from.
    """

    streamed: tuple[ByteRange, ...]
    apart: tuple[ByteRange, ...]
    places: tuple[Place, ...]


def in_order(reads: Sequence[ByteRange]) -> Course:
    """Every read fetched by itself, in the order of reading."""
    return Course((), tuple(reads), tuple(Place(True, index) for index in range(len(reads))))


def chart(reads: Sequence[ByteRange], held_bytes: int) -> Course:
    """The course on which no more than so many bytes are held at any time.

    Args:
        reads: Ranges in the order they are read; none is empty.
        held_bytes: What may be held of bytes that the stream passed before their turn.
    """
    by_place = sorted(range(len(reads)), key=reads.__getitem__)
    rank = [0] * len(reads)
    for place, read in enumerate(by_place):
        rank[read] = place
    begins = [reads[read][0] for read in by_place]
    ahead = _Sums(end - begin for begin, end in (reads[read] for read in by_place))
    chosen: list[int] = []
    taken = _Taken()
    position = held = 0
    for read, (begin, end) in enumerate(reads):
        size = end - begin
        ahead.add(rank[read], -size)
        if taken.meets(begin, end):
            continue
        if end <= position:
            held -= size  # passed already, and held since
        else:
            first, last = bisect_left(begins, position), bisect_left(begins, end)
            passed = ahead.before(last) - ahead.before(first)
            if held + passed > held_bytes:
                continue
            position, held = end, held + passed
        taken.add(begin, end)
        chosen.append(read)
    return _course(reads, chosen)


def _course(reads: Sequence[ByteRange], chosen: Sequence[int]) -> Course:
    streamed = sorted(chosen, key=reads.__getitem__)
    where = {read: Place(False, index) for index, read in enumerate(streamed)}
    apart = [read for read in range(len(reads)) if read not in where]
    where |= {read: Place(True, index) for index, read in enumerate(apart)}
    return Course(
        tuple(reads[read] for read in streamed),
        tuple(reads[read] for read in apart),
        tuple(where[read] for read in range(len(reads))),
    )


class _Sums:
    """Sums over the beginning of a list whose numbers change (a Fenwick tree)."""

    def __init__(self, numbers: Iterable[int]) -> None:
        values = list(numbers)
        self._tree = [0] * (len(values) + 1)
        for index, value in enumerate(values):
            self.add(index, value)

    def add(self, index: int, value: int) -> None:
        index += 1
        while index < len(self._tree):
            self._tree[index] += value
            index += index & -index

    def before(self, index: int) -> int:
        total = 0
        while index:
            total += self._tree[index]
            index -= index & -index
        return total


class _Taken:
    """Ranges none of which meets another."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def meets(self, begin: int, end: int) -> bool:
        place = bisect_left(self._begins, end)
        return place > 0 and self._ends[place - 1] > begin

    def add(self, begin: int, end: int) -> None:
        place = bisect_left(self._begins, begin)
        self._begins.insert(place, begin)
        self._ends.insert(place, end)
