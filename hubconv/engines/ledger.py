"""Which unit is where: waiting, at a worker, finished; and how many workers each has cost.

Workers are lost, results come twice or after the worker was given up. Here that is arithmetic.
"""

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from typing import Final

from hubconv.errors import IntegrityError
from hubconv.records import UnitRecord
from hubconv.steps.shards import Unit

LOSSES: Final = 3
"""A unit that has cost so many workers is not given to another."""


class Ledger:
    """Units and the workers that have them. Not thread safe: one driver keeps it.

    Args:
        units: What is to be made, in order.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._order = [unit.shard for unit in units]
        self._waiting = deque(units)
        self._given: dict[Hashable, list[Unit]] = {}
        self._losses: Counter[str] = Counter()
        self._records: dict[str, UnitRecord] = {}
        self._converted: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether every unit is finished."""
        return len(self._records) == len(self._order)

    @property
    def running(self) -> int:
        """Units that workers have."""
        return sum(len(units) for units in self._given.values())

    def load(self, worker: Hashable) -> int:
        """Units that a worker has."""
        return len(self._given.get(worker, ()))

    @property
    def next(self) -> Unit | None:
        """The unit that is given next; None where none waits."""
        while self._waiting and self._waiting[0].shard in self._records:
            self._waiting.popleft()  # its late result has come meanwhile
        return self._waiting[0] if self._waiting else None

    def give(self, worker: Hashable) -> Unit | None:
        """The next unit, now at a worker; None where none waits."""
        unit = self.next
        if unit is not None:
            self._given.setdefault(worker, []).append(self._waiting.popleft())
        return unit

    def converted(self, shard: str, source_bytes: int) -> bool:
        """So many more source bytes of a unit are dealt with; whether they count."""
        if shard in self._records:  # made already, by another worker
            return False
        self._converted[shard] += source_bytes
        return True

    def made(self, worker: Hashable, record: UnitRecord) -> bool:
        """A worker's result; whether it is the first for its unit."""
        mine = self._given.get(worker, [])
        mine[:] = [unit for unit in mine if unit.shard != record.shard]
        first = record.shard in self._order and record.shard not in self._records
        if first:
            self._records[record.shard] = record
        return first

    def back(self, worker: Hashable) -> None:
        """A worker has not begun what it was given, and never will."""
        self._waiting.extendleft(reversed(self._given.pop(worker, [])))

    def failed(self, worker: Hashable, shard: str) -> None:
        """A worker could not make a unit, and said why: nobody tries again."""
        mine = self._given.get(worker, [])
        mine[:] = [unit for unit in mine if unit.shard != shard]

    def lost(self, worker: Hashable, how: str) -> int:
        """A worker is gone; what it had waits for others, at the front.

        Args:
            worker: Which.
            how: It ended, in words.

        Returns:
            Source bytes that were dealt with in vain.

        Raises:
            IntegrityError: A unit has cost too many workers.
        """
        vain = 0
        units = [unit for unit in self._given.pop(worker, []) if unit.shard not in self._records]
        for unit in units:
            vain += self._converted.pop(unit.shard, 0)
            self._losses[unit.shard] += 1
        self._waiting.extendleft(reversed(units))
        for unit in units:
            if self._losses[unit.shard] >= LOSSES:
                raise IntegrityError(
                    f"{unit.shard} was in the hands of {LOSSES} workers that were lost; the last "
                    f"one {how}.",
                    "Look at the log of that machine (dmesg) for the reason, such as memory, and "
                    "try fewer --workers; finished shards are kept.",
                )
        return vain

    def records(self) -> list[UnitRecord]:
        """Finished units, in the order in which they were asked for."""
        return [self._records[shard] for shard in self._order if shard in self._records]
