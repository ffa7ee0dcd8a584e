"""The uploads of one run: which engine takes a shard, and what a stopped run leaves."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from hubconv.ends import Sink, StagedFile
from hubconv.errors import BrokenLineError
from hubconv.hub.client import HubClient, pause
from hubconv.hub.room import out_bytes
from hubconv.hub.uploading.background import Background
from hubconv.hub.uploading.lfs import LfsLine
from hubconv.hub.uploading.xet import XetLine, XetSink
from hubconv.hub.waiting import AtOnce

STREAMS: Final = 2
"""A shard is streamed so often; then it goes through a file, from which it can be sent again."""

PLAINLY_FROM: Final = 3
"""From this try on a file in parts is sent by the client's own way."""


class Uploads:
    """Takes the bytes of output shards to the Hub.

    Args:
        client: How to reach it.
        repo: `org/name`.
        branch: Where the shards will be committed.
        work_dir: For shards and caches on their way.
        xet: The Hub takes uploads through Xet.
        sent: Told of each shard that the Hub has, in whatever thread sent it.
        at_once: Asked in every wait; raises where the run must end now.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        branch: str,
        work_dir: Path,
        *,
        xet: bool,
        sent: Callable[[StagedFile], None],
        at_once: AtOnce,
    ) -> None:
        self._client = client
        self._xet = xet
        self._sent = sent
        self._begun: Counter[str] = Counter()
        self._background = Background(work_dir / "out", self._send, sent, at_once)
        self._stream = XetLine(client, repo, branch, work_dir / "xet", at_once)
        self._xet_file = replace(self._stream, at_once=self._background.check)
        self._lfs = LfsLine(client, repo, branch, work_dir / "lfs", self._background.check)

    def create(self, path: str) -> Sink:
        """A sink for one shard; blocks while there is no room for another one.

        Raises:
            HubconvError: An earlier shard could not be sent, or the run must end.
        """
        self._background.raise_failure()
        if not self._xet:
            return self._background.create(path)
        self._begun[path] += 1
        if self._begun[path] > STREAMS:
            return self._background.create(path)
        if self._begun[path] > 1:
            self._client.wait(pause(BrokenLineError(""), self._begun[path] - 1))
        return XetSink(self._stream, path, self._sent)

    def settle(self) -> None:
        """Wait until nothing is on its way; in a run that was signalled, for a moment only."""
        self._background.settle()

    def raise_failure(self) -> None:
        """Tell of a shard that could not be sent, once.

        Raises:
            HubconvError: There is one.
        """
        self._background.raise_failure()

    def disk_bytes(self, largest_shard: int, room: int) -> int:
        """What uploads will take of the disk at a time, in bytes; of little room one shard."""
        taken = out_bytes(largest_shard, room, streams=self._xet)
        if not self._xet:
            self._background.shards_on_disk = max(taken // max(largest_shard, 1), 1)
        return taken

    def _send(self, staged: StagedFile, file: Path) -> None:
        tries: Counter[str] = Counter()

        def once() -> None:
            tries[staged.path] += 1
            if self._xet:
                self._xet_file.send_file(staged, file)
            else:
                plainly = tries[staged.path] >= PLAINLY_FROM
                self._lfs.send_file(staged, file, plainly=plainly)

        self._client.call(f"Uploading {staged.path}", once)
        self._client.passed(staged.size)
