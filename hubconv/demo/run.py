"""The demonstration itself: a Hub, a source repository, the real command, its result."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubconv.demo import deepseek_v4
from hubconv.embedded import EmbeddedHub
from hubconv.errors import HubconvError

SOURCE: Final = "demo-org/DeepSeek-V4-Miniature-FP8"
TARGET: Final = "demo/DeepSeek-V4-Miniature-NVFP4"
TOKEN: Final = "hf_embedded_demo"  # noqa: S105 - opens nothing but the embedded Hub

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shown:
    """Where the demonstration's result lies.

    Attributes:
        target: Repository on the embedded Hub.
        folder: Its content on this disk, as a user would download it.
        card: The model card.
    """

    target: str
    folder: Path
    card: Path


def run_demo(folder: Path, say: Say) -> Shown:
    """Make a source repository on a fresh Hub, convert it with the real command, verify it.

    Args:
        folder: Receives the Hub's data, the source and the result.
        say: Told what happens, line by line.

    Raises:
        HubconvError: A command failed; its own message stands above.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedHub(folder / "hub") as hub:
        environment = _environment(hub.endpoint, folder)
        say(f"An embedded Hub runs at {hub.endpoint}; its data lies in {folder / 'hub'}.")
        made = folder / "source"
        deepseek_v4.fp8_repack(made)
        command = [_hf(), "upload", SOURCE, str(made), ".", "--quiet"]
        _run(command, environment, say, shown=f"hf upload {SOURCE} {made} .")
        hubconv = [sys.executable, "-m", "hubconv"]
        for words in (
            ["plan", SOURCE],
            [SOURCE, TARGET, "--device", "cpu"],
            ["verify", TARGET, "--source", SOURCE],
            [SOURCE, TARGET, "--device", "cpu"],
        ):
            _run([*hubconv, *words], environment, say, shown="hubconv " + " ".join(words))
        result = folder / "result"
        command = [_hf(), "download", TARGET, "--local-dir", str(result), "--quiet"]
        _run(command, environment, say, shown=f"hf download {TARGET} --local-dir {result}")
    return Shown(TARGET, result, result / "README.md")


def _hf() -> str:
    """The `hf` command that was installed beside this interpreter."""
    beside = Path(sys.executable).with_name("hf")
    return str(beside) if beside.exists() else "hf"


def _environment(endpoint: str, folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING_FACE_", "HUBCONV_"))
    }
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str((folder / "hf-home").resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_XET_TELEMETRY_ENABLED": "0",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


def _run(command: list[str], environment: dict[str, str], say: Say, *, shown: str) -> None:
    say(f"\n$ {shown}")
    done = subprocess.run(command, env=environment, check=False, timeout=300)  # noqa: S603
    if done.returncode:
        raise HubconvError(f"`{shown}` ended with exit code {done.returncode}.")
