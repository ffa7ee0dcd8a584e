"""Source bytes of a unit: from the shards it opens, and by range from all others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from hubconv.ends import ShardBytes, Source
from hubconv.errors import DamagedError, HubconvError
from hubconv.formats import stored
from hubconv.formats.stored import StoredWeight, Window
from hubconv.profiles.stored_as import require_shape
from hubconv.steps.decide import Job
from hubconv.steps.schedule import Limits, Read, Task, reads_of, window_rows, windows

Bytes = npt.NDArray[np.uint8]
Stage = Callable[[int], Bytes]
"""Gives memory to read into: pinned, where a GPU copies from it."""


class Reader:
    """Reads tensors for one unit.

    Args:
        source: Where they are.
        limits: Sizes of windows.
        stage: Gives memory for windows.
    """

    def __init__(self, source: Source, limits: Limits, stage: Stage) -> None:
        self._source = source
        self._stage = stage
        self.limits = limits
        self.opened: dict[str, ShardBytes] = {}
        self._matrix: tuple[tuple[str, tuple[int, int]], Bytes] | None = None

    def read(self, read: Read) -> Bytes:
        """The bytes of a read, in memory of their own.

        Raises:
            DamagedError: The source gave fewer.
        """
        return self._into(np.empty(read.end - read.begin, np.uint8), read)

    def _into(self, data: Bytes, read: Read) -> Bytes:
        begin, end = read.in_file
        shard = self.opened.get(read.tensor.shard)
        if shard is not None:
            came = shard.read_into(begin, data.data)
        else:
            found = self._source.read(read.tensor.shard, begin, end)
            came = len(found)
            data[:came] = np.frombuffer(found, np.uint8)[: end - begin]
        if came != end - begin:
            raise DamagedError(
                f"{read.tensor.shard} ends inside {read.tensor.name}: {came} of {end - begin} "
                "bytes.",
                "The file changed or was cut short: run the same command again.",
            )
        return data

    def windows(self, job: Job) -> Iterator[Window]:
        """A weight in windows of whole rows, each with its scales.

        Raises:
            ScaleError: The source states another shape for a packed weight.
        """
        weight = job.weight
        if weight is None:
            return
        stated = job.stated_shape
        if stated is not None:
            require_shape(weight, stated, self.read(Read(stated, 0, stated.nbytes)).tobytes())
        if weight.turned is not None:
            yield from self._turned(job, weight)
            return
        last, scales = None, np.empty(0, np.uint8)
        for window in windows(job, self.limits):
            if window.scales is not None and window.scales != last:
                last, scales = window.scales, self.read(window.scales)
            room = self._stage(window.data.end - window.data.begin)
            data = self._into(room, window.data)
            yield stored.window(weight, window.first_row, data, scales)

    def _turned(self, job: Job, weight: StoredWeight) -> Iterator[Window]:
        """A weight whose matrix is stored the other way round.

        The matrix stays in memory until another is asked for: gate and up often share one.
        """
        for read in reads_of(Task("measure", job), self.limits):
            key = (read.tensor.shard, read.in_file)
            if self._matrix is None or self._matrix[0] != key:
                self._matrix = None  # first, so that two never exist at once
                self._matrix = (key, self.read(read))
        if self._matrix is None:
            raise ValueError(f"nothing of {job.module} was read")
        for first, rows in window_rows(weight, self.limits.window_bytes):
            room = self._stage(rows * weight.row_bytes)
            ready, data = stored.upright(weight, self._matrix[1], first, room)
            yield stored.window(ready, first, data)

    @contextmanager
    def measuring(self, task: Task) -> Iterator["Reader"]:
        """A reader for a job whose windows are not held: of ranges that are fetched besides.

        Where shards may be read in any order at no cost, that is this one.
        """
        shards = {tensor.shard for tensor in task.job.reads}
        free = all(shard in self.opened and self.opened[shard].any_order for shard in shards)
        if task.held or free:
            yield self
            return
        ranges = list(reads_of(task, self.limits))
        besides = Reader(self._source, self.limits, self._stage)
        shard = task.job.reads[0].shard
        wanted = [read.in_file for read in ranges if read.tensor.shard == shard]
        with self._source.open(shard, wanted, whole=False) as opened:
            besides.opened[shard] = opened
            yield besides

    def prove(self) -> None:
        """Prove every opened shard.

        Raises:
            DamagedError: What was read is not what the source names.
        """
        for shard in self.opened.values():
            shard.prove()

    def explain(self, error: HubconvError) -> HubconvError:
        """The reason of an error: damage on the way, where there was any."""
        try:
            self.prove()
        except DamagedError as damaged:
            return damaged
        return error
