"""How much of a run is done, how fast, and how long the rest takes: of each stage and of all."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from hubconv.quantities import human_bytes, human_rate, human_time

Stage = Literal["fetch", "convert", "upload"]

STAGES: Final[tuple[Stage, ...]] = ("fetch", "convert", "upload")

LUMP_BYTES: Final = 16_000_000

RATE_SECONDS: Final = 60.0
"""The rate shown is that of the last minute: a line that slowed down shows at once."""


@dataclass(frozen=True, slots=True)
class Extent:
    """So much work.

    Attributes:
        units: Output shards.
        source_bytes: What is read for them.
        target_bytes: What they hold.
    """

    units: int = 0
    source_bytes: int = 0
    target_bytes: int = 0


NOTHING: Final = Extent()


@dataclass(slots=True)
class Flow:
    """Bytes that pass one stage. Not thread safe: its owner holds a lock.

    The rate counts only what passes from now on, not what an earlier run did.

    Attributes:
        clock: Seconds that never go back.
        total: Bytes of the whole.
        done: Of them, those that have passed.
    """

    clock: Callable[[], float]
    total: int = 0
    done: int = 0
    _here: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._samples.append((self.clock(), 0))

    def passed(self, nbytes: int) -> None:
        """Count bytes, or take back what was in vain; what passes twice ends at the end."""
        self._here += nbytes
        self.done = max(min(self.done + nbytes, self.total), 0)
        now = self.clock()
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, self._here))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()

    @property
    def is_told(self) -> bool:
        """Whether anything was counted: between folders nothing is fetched."""
        return self._here > 0

    @property
    def share(self) -> float:
        """Of the whole, 0 to 1."""
        return self.done / max(self.total, 1)

    @property
    def rate(self) -> float:
        """Bytes a second over the last minute; 0 where nothing is known yet."""
        began, before = self._samples[0]
        seconds = self.clock() - began
        return max(self._here - before, 0) / seconds if seconds > 0 else 0.0

    def words(self) -> list[str]:
        """Bytes, time left and rate, the most important first."""
        words = [f"{human_bytes(self.done)} of {human_bytes(self.total)}"]
        if self.rate > 0:
            left = (self.total - self.done) / self.rate
            words += [f"{human_time(left)} left", human_rate(self.rate)]
        return words


class Lumps:
    """Gathers the bytes that pass until they are worth telling another process.

    What is left in the end is told to nobody: it is no more than a lump of each stage.

    Args:
        told: Told a stage and its bytes since it was told before.
    """

    def __init__(self, told: Callable[[Stage, int], None]) -> None:
        self._told = told
        self._lock = threading.Lock()
        self._gathered: dict[Stage, int] = {}

    def passed(self, stage: Stage, nbytes: int) -> None:
        """So many more bytes of a stage, from any thread."""
        with self._lock:
            gathered = self._gathered.get(stage, 0) + nbytes
            self._gathered[stage] = 0 if abs(gathered) >= LUMP_BYTES else gathered
        if abs(gathered) >= LUMP_BYTES:
            self._told(stage, gathered)


class Tally:
    """Shards that are done, and the bytes of each stage.

    Args:
        clock: Seconds that never go back.
        whole: All there is to do.
        done: What of it an earlier run has done.
    """

    def __init__(
        self, clock: Callable[[], float], whole: Extent = NOTHING, done: Extent = NOTHING
    ) -> None:
        self.total_units = whole.units
        self.done_units = done.units
        self.flows: Mapping[Stage, Flow] = {
            "fetch": Flow(clock, whole.source_bytes, done.source_bytes),
            "convert": Flow(clock, whole.source_bytes, done.source_bytes),
            "upload": Flow(clock, whole.target_bytes, done.target_bytes),
        }

    @property
    def convert(self) -> Flow:
        """What is converted."""
        return self.flows["convert"]

    @property
    def shards(self) -> str:
        """`4/64 shards`."""
        return f"{self.done_units}/{self.total_units} shards"

    @property
    def streams(self) -> bool:
        """Whether bytes come or go by a line, so that there is more to tell than one stage."""
        return self.flows["fetch"].is_told or self.flows["upload"].is_told

    def words(self) -> list[str]:
        """Shards, then bytes, time left and rate of what is converted."""
        return [self.shards, *self.convert.words()]

    def summary(self) -> str:
        """All stages on one line, for a log."""
        if not self.streams:
            return "  ".join(self.words())
        told = (f"{stage} {', '.join(self.flows[stage].words())}" for stage in STAGES)
        return "; ".join((self.shards, *told))
