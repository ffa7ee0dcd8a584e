"""Uploads by plain LFS: a finished file, whole, or in parts over several connections."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubconv import allowance
from hubconv.ends import StagedFile
from hubconv.errors import IntegrityError
from hubconv.hub.client import HubClient
from hubconv.hub.compat import ask_lfs, complete_parts, lfs_addition, parts_of, send_by_lfs
from hubconv.hub.uploading.parts_child import CONNECTIONS
from hubconv.hub.uploading.process import STALL_S, Child
from hubconv.hub.uploading.sent import log_sent
from hubconv.hub.waiting import AtOnce

FEW_CORES: Final = 4
"""On so many a byte must not cost more than the client's own way to send it takes."""

SLOWEST_BYTES_A_S: Final = 200_000
"""Parts report when they are whole: on a line slower than this they are taken for lost."""


@dataclass(frozen=True, slots=True)
class LfsLine:
    """Where shards go that are sent by LFS.

    Attributes:
        client: How to reach the Hub.
        repo: `org/name`.
        branch: The branch that they will be committed to.
        folder: For what a child process says.
        at_once: Asked in every wait; raises where the run must end now.
    """

    client: HubClient
    repo: str
    branch: str
    folder: Path
    at_once: AtOnce

    def send_file(self, staged: StagedFile, file: Path, *, plainly: bool = False) -> None:
        """Send a finished file, unless the Hub has it; called again where the line broke.

        Args:
            staged: What it is.
            file: Where it lies.
            plainly: By the client's own way, part after part.

        Raises:
            IntegrityError: The server speaks of another file.
            BrokenLineError: The child process died, failed or stalled.
        """
        started = time.monotonic()
        api = self.client.api
        operation = lfs_addition(staged.path, file, staged.sha256)
        # Links to send to grow old: they are asked for at every try.
        answer = ask_lfs(api, self.repo, self.branch, operation)
        if (answer["oid"], answer["size"]) != (staged.sha256, staged.size):
            raise IntegrityError(
                f"{staged.path} has sha256 {staged.sha256}; the server was asked for it and "
                f"speaks of {answer['oid']}.",
                "The server is faulty; nothing was committed.",
            )
        if "actions" not in answer:
            log_sent("nothing: the Hub had it", staged, started)
            return
        parts = None if plainly else parts_of(operation, answer)
        if parts is None:
            send_by_lfs(api, operation, answer)
            log_sent("lfs", staged, started)
            return
        child, by = _sender()
        complete_parts(api, operation, answer, self._send_parts(child, by, file, *parts))
        log_sent(f"lfs in {len(parts[0])} parts by {by}", staged, started)

    def _send_parts(
        self, name: str, by: str, file: Path, urls: list[str], size: int
    ) -> list[dict[str, str]]:
        patience = STALL_S + CONNECTIONS * size / SLOWEST_BYTES_A_S
        order = {"file": str(file), "urls": urls, "chunk_size": size}
        what = f"Sending {file.name} by {by}"
        with Child(name, what, order, self.folder, self.at_once, patience) as child:
            headers: list[dict[str, str]] = child.answer()["headers"]
        return headers


def _sender() -> tuple[str, str]:
    """The child process that sends parts on this machine, and whose way it is."""
    is_small = allowance.cores() <= FEW_CORES
    return ("plain_child", "the client") if is_small else ("parts_child", "hf_transfer")
