"""What the CPU makes of the canary's windows, kept on the disk.

To load the CPU's kernel takes longer than to open a device, and a process that has a device needs
it for little else.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from hubconv.formats import nvfp4, stored
from hubconv.formats.nvfp4 import (
    BLOCK,
    Encoded,
    Quality,
    Scales,
    global_scale,
    global_scale_amax,
)
from hubconv.formats.stored import Window
from hubconv.kernels import Kernel, cpu
from hubconv.kernels.cache import cache_folder, keep

RULES: Final[tuple[Scales, ...]] = ("search", "amax")

_LINE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What the CPU makes of a window.

    Attributes:
        largest: Its largest magnitude.
        made: Its NVFP4 bytes and their quality, for each of `RULES`.
    """

    largest: float
    made: tuple[Encoded, ...]

    def asked(self) -> list[tuple[Scales, float, Encoded]]:
        """Each rule, the global scale under which it was asked for, and what came out."""
        scales = global_scale(self.largest), global_scale_amax(self.largest)
        return list(zip(RULES, scales, self.made, strict=True))

    def to_bytes(self) -> bytes:
        """A line of JSON, then codes and scales of each rule."""
        code = b"".join(part.tobytes() for each in self.made for part in (each.codes, each.scales))
        facts: dict[str, Any] = {
            "largest": self.largest,
            "quality": [asdict(each.quality) for each in self.made],
            "code": hashlib.sha256(code).hexdigest(),
        }
        return json.dumps(facts).encode() + b"\n" + code

    @classmethod
    def from_bytes(cls, content: bytes, rows: int, cols: int) -> Self:
        """What `to_bytes` wrote of a window of [rows, cols].

        Raises:
            ValueError: It is something else, or damaged.
        """
        line, _, code = content.partition(b"\n")
        facts = json.loads(line[:_LINE_BYTES])
        if not isinstance(facts, dict) or facts.get("code") != hashlib.sha256(code).hexdigest():
            raise ValueError("not an answer")
        parts = np.frombuffer(code, np.uint8).reshape(len(RULES), -1)
        codes = rows * cols // 2
        made = tuple(
            Encoded(
                part[:codes].reshape(rows, cols // 2),
                part[codes:].reshape(rows, cols // BLOCK),
                Quality(**quality),
            )
            for part, quality in zip(parts, facts["quality"], strict=True)
        )
        largest = float(facts["largest"])
        if not math.isfinite(largest):
            raise ValueError("not a magnitude")
        return cls(largest, made)


def answer(window: Window, reference: Callable[[], Kernel]) -> Answer:
    """What the CPU makes of a window: found on the disk, or made now.

    Args:
        window: The window.
        reference: Gives the CPU's kernel.
    """
    place = _place(window)
    if place is not None:
        try:
            return Answer.from_bytes(place.read_bytes(), window.rows, window.weight.cols)
        except (OSError, ValueError, TypeError, KeyError):
            pass
    kernel = reference()
    largest = kernel.amax(window)
    scales = global_scale(largest), global_scale_amax(largest)
    made = (kernel.encode(window, g, rule) for g, rule in zip(scales, RULES, strict=True))
    found = Answer(largest, tuple(made))
    if place is not None:
        keep(place, found.to_bytes())
    return found


def _place(window: Window) -> Path | None:
    """A file under a name that changes with the question, and with whatever answers it."""
    asked = hashlib.sha256(repr((window.weight, window.first_row)).encode())
    asked.update(window.data.tobytes())
    asked.update(window.scales.tobytes())
    rules = hashlib.sha256()
    for source in (nvfp4.__file__, stored.__file__):
        rules.update(Path(source).read_bytes())
    versions = (metadata.version("numba"), rules.hexdigest())
    folder = cache_folder("canary", Path(cpu.__file__).parent, *versions)
    return folder / f"{asked.hexdigest()[:16]}.answer" if folder else None
