"""The header parser against the safetensors library.

Nothing is accepted that the library rejects, and what both accept they read alike: a file that
passes our checks is the file that an engine loads.
"""

import json
import struct

import safetensors

from fuzz.target import run
from hubconv.errors import HeaderError
from hubconv.formats import checkpoint
from hubconv.formats.checkpoint import LENGTH_BYTES, header_length, parse_header

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


class DifferenceError(Exception):
    """Raised when the two readers do not agree."""


def ours(data: bytes) -> Tensors | None:
    """Tensors as hubconv reads them; None where the file is refused."""
    try:
        end = LENGTH_BYTES + header_length(data, len(data), "x.safetensors")
        tensors = parse_header(data[LENGTH_BYTES:end], len(data), "x.safetensors")
    except HeaderError:
        return None
    return {t.name: (t.dtype, t.shape, data[t.begin : t.end]) for t in tensors}


def theirs(data: bytes) -> Tensors | None:
    """Tensors as the library reads them; None where the file is refused."""
    try:
        found = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {
        name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in found
    }


def mended(data: bytes) -> bytes:
    """The same with a length that ends where the JSON seems to: what is behind it is reached."""
    end = data.rfind(b"}") + 1
    return struct.pack("<Q", max(end - LENGTH_BYTES, 0)) + data[LENGTH_BYTES:]


def names_in(data: bytes) -> list[str]:
    """Every key of a header that JSON can read, those that stand twice too."""
    (length,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    pairs = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length], object_pairs_hook=list)
    return [name for name, _ in pairs]


def check(data: bytes) -> None:
    """Compare both readings of a file, as it is and with its length mended.

    Raises:
        DifferenceError: We accept what the library refuses, or a name twice, or read another file.
    """
    for each in (data, mended(data)):
        found = ours(each)
        if found is None:
            continue
        if found != theirs(each):
            raise DifferenceError(f"hubconv reads {sorted(found)[:3]}, the library does not")
        names = names_in(each)
        if len(names) != len(set(names)):
            raise DifferenceError("a name stands twice and was accepted")


if __name__ == "__main__":
    run(check, "header", [checkpoint])
