"""The embedded Hub as a process of its own, and the environment of those who talk to it."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HUBCONV = [sys.executable, "-m", "hubconv"]
HF = str(Path(sys.executable).with_name("hf"))


@dataclass(frozen=True)
class Hub:
    """A running Hub.

    Attributes:
        endpoint: Its URL.
        pid: Its process.
        mode: `xet` or `lfs`.
        folder: Where clients keep their home, caches and scratch files.
    """

    endpoint: str
    pid: int
    mode: str
    folder: Path

    def environment(self, client: str) -> dict[str, str]:
        """The environment of a client that has run nothing before."""
        home, scratch = self.folder / client / "home", self.folder / client / "tmp"
        scratch.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        plain = {"HF_HUB_DISABLE_XET": "1"} if self.mode == "lfs" and client != "hubconv" else {}
        return kept | plain | {
            "HF_ENDPOINT": self.endpoint, "HF_TOKEN": "hf_embedded_demo", "HF_HOME": str(home),
            "TMPDIR": str(scratch), "HF_XET_TELEMETRY_ENABLED": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip

    def passed(self) -> tuple[int, int]:
        """Bytes (down, up) that have passed the line so far."""
        with urllib.request.urlopen(f"{self.endpoint}/_embedded/line") as answer:
            counted = json.load(answer)
        return counted["down"], counted["up"]


@contextmanager
def running(folder: Path, mode: str, *more: str) -> Iterator[Hub]:
    """A Hub over `folder`/hub; without --rate among the words, no line stands before it."""
    command = [*HUBCONV, "hub", "--root", str(folder / "hub"), "--port", "0", "--mode", mode]
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True) as process:
        try:
            first = process.stdout.readline() if process.stdout is not None else ""
            endpoint = first.split("HF_ENDPOINT=")[1].split()[0]
            yield Hub(endpoint, process.pid, mode, folder)
        finally:
            process.terminate()
