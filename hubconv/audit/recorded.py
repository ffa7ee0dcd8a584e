"""What hubconv noted of each weight when it made it: the details beside its manifest."""

import json
import zlib
from collections.abc import Iterator
from typing import Any, Final

from hubconv.audit.result import Result
from hubconv.errors import IntegrityError, SourceError
from hubconv.steps.report import TENSOR_DETAILS

MOST_STORED_BYTES: Final = 64 * 1024 * 1024
MOST_BYTES: Final = 512 * 1024 * 1024
"""Unpacked: the largest model known takes a tenth of it."""

_WINDOW: Final = 16 + zlib.MAX_WBITS  # the format of gzip


def recorded_weights(result: Result) -> dict[str, dict[str, Any]]:
    """Sums by module; empty where there are none that can be read."""
    entry = result.view.files().get(TENSOR_DETAILS)
    if not result.is_ours or entry is None or entry.size > MOST_STORED_BYTES:
        return {}
    try:
        packed = result.view.read(TENSOR_DETAILS, 0, entry.size)
        return {row["module"]: row for row in _rows(packed)}
    except (SourceError, IntegrityError, zlib.error, ValueError, RecursionError):
        return {}


def _rows(packed: bytes) -> Iterator[dict[str, Any]]:
    unpacking = zlib.decompressobj(_WINDOW)
    text = unpacking.decompress(packed, MOST_BYTES)
    if unpacking.unconsumed_tail:
        return
    for line in text.splitlines():
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("module"), str):
            yield row
