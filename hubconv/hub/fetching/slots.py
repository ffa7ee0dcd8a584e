"""Slots: whole files on the disk, brought by hf_transfer over several connections.

A download has the line to itself (see `turn`): while one worker converts what came the next one's
shard is on its way. A file that has been proven is written over by the next shard: memory that the
system has for it already takes bytes two to five times as fast as fresh memory does.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubconv.ends import FileEntry
from hubconv.files import PositionedFile
from hubconv.hub.client import explain, is_passing, pause
from hubconv.hub.fetching import process
from hubconv.hub.fetching.process import Child, DiskFullError, LineError
from hubconv.hub.fetching.proof import wrong_hash
from hubconv.hub.fetching.supply import HF_TRANSFER, TRIES_EACH, Supply
from hubconv.hub.fetching.turn import Turn

LOG: Final = logging.getLogger(__name__)


class SlotShard(PositionedFile):
    """A file that lies in its slot whole; hashed while it is read."""

    def __init__(self, path: Path, entry: FileEntry) -> None:
        super().__init__(path)
        self._path, self._entry = path, entry
        self.is_proven = False
        self._sha256 = ""
        self._fault: OSError | None = None
        self._hashing = threading.Thread(target=self._hash, name="slot", daemon=True)
        self._hashing.start()

    def _hash(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._fault = error

    def prove(self) -> None:
        """Compare its hash, when it is there.

        Raises:
            DamagedError: It has another than the tree names.
        """
        self._hashing.join()
        if self._fault is not None:
            raise self._fault
        if self._entry.sha256 and self._sha256 != self._entry.sha256:
            raise wrong_hash(self._entry.path, self._sha256, self._entry.sha256)
        self.is_proven = True


@dataclass(frozen=True, slots=True)
class _Slot:
    """A file, and how long it is."""

    path: Path
    size: int


class Slots:
    """The room that shards on their way have on the disk.

    Args:
        place: Folder of the slots.
        disk_bytes: What they may take together; None for what is free.
        turn: Whose turn it is to have the line.
    """

    def __init__(self, place: Path, disk_bytes: int | None, turn: Turn) -> None:
        self._place = place
        self.disk_bytes = disk_bytes
        self._used = 0  # by all slots, idle ones among them
        self._count = 0
        self._idle: list[_Slot] = []
        self._counting = threading.Lock()
        self._turn = turn

    @contextmanager
    def fetched(self, supply: Supply) -> Iterator[SlotShard | None]:
        """A file in a slot; None where no room is left, or hf_transfer brings it to no end."""
        slot = self._reserve(supply.entry.size)
        if slot is None:
            yield None
            return
        is_proven = False
        try:
            with self._turn.taken() as told:
                done = self._bring(supply, slot.path, told)
            if not done:
                yield None
                return
            with SlotShard(slot.path, supply.entry) as shard:
                yield shard
                is_proven = shard.is_proven
        finally:
            with self._counting:
                self._idle.append(slot)
                if not is_proven:  # it may have holes, or be read still
                    self._drop(slot)

    def _reserve(self, size: int) -> _Slot | None:
        """A slot of so many bytes; an idle one where there is one."""
        with self._counting:
            self._place.mkdir(parents=True, exist_ok=True)
            had = self._idle[-1] if self._idle else None
            for other in self._idle[:-1]:
                if not self._has_room(size, had):
                    self._drop(other)
            if not self._has_room(size, had):
                return None
            if had is None:
                self._count += 1
                self._used += size
                return _Slot(self._place / f"slot-{self._count}", size)
            self._idle.remove(had)
            if had.size > size:
                os.truncate(had.path, size)
            self._used += size - had.size
            return _Slot(had.path, size)

    def _has_room(self, size: int, had: _Slot | None) -> bool:
        more = size - (had.size if had else 0)
        if self.disk_bytes is not None and self._used + more > self.disk_bytes:
            return False
        return shutil.disk_usage(self._place).free >= more

    def _drop(self, idle: _Slot) -> None:
        idle.path.unlink(missing_ok=True)
        self._idle.remove(idle)
        self._used -= idle.size

    def _bring(self, supply: Supply, slot: Path, told: Callable[[int, int], None]) -> bool:
        path = supply.entry.path
        for attempt in range(1, TRIES_EACH + 1):
            try:
                self._download(supply, slot, told)
            except DiskFullError:
                break
            except Exception as error:
                supply.at_once()
                if not isinstance(error, LineError) and not is_passing(error):
                    raise explain(error, f"Fetching {path}") from error
                LOG.info("%s: hf_transfer failed: %s", path, error)
                supply.links.forget(path)
                supply.client.wait(pause(error, attempt))
            else:
                return True
            slot.unlink(missing_ok=True)  # what is left has holes
        return False

    def _download(self, supply: Supply, slot: Path, told: Callable[[int, int], None]) -> None:
        order = {**supply.order(HF_TRANSFER, ()), "path": str(slot)}
        room, came, size = memoryview(bytearray(4096)), 0, supply.entry.size
        with Child(order, self._place, process.STALL_S, supply.at_once) as child:
            while pieces := child.read_into(room):
                came = min(came + pieces * order["piece_bytes"], size)
                told(came, size - came)
            child.check()
        have = slot.stat().st_size
        if have != size or came != size:
            raise LineError(f"{min(have, came)} of {size} bytes came")
