"""Hashes of what passed, to be compared with what the tree names and with what was given."""

import hashlib
from collections.abc import Iterable
from typing import Final

from hubconv.ends import ByteRange
from hubconv.errors import DamagedError

SHA256_DIGITS: Final = 64


class FileProof:
    """Hashes a file as it passes from its first byte to its last, and ranges of it besides.

    Args:
        ranges: Ranges whose own hashes are wanted; they may meet each other.
    """

    def __init__(self, ranges: Iterable[ByteRange] = ()) -> None:
        self._whole = hashlib.sha256()
        self._ahead = sorted(set(ranges), reverse=True)
        self._open: dict[ByteRange, hashlib._Hash] = {}
        self._done: dict[ByteRange, str] = {}

    def feed(self, begin: int, piece: memoryview) -> None:
        """The next bytes of the file."""
        self._whole.update(piece)
        end = begin + len(piece)
        while self._ahead and self._ahead[-1][0] < end:
            self._open[self._ahead.pop()] = hashlib.sha256()
        for wanted, digest in list(self._open.items()):
            first, last = max(wanted[0], begin), min(wanted[1], end)
            digest.update(piece[first - begin : last - begin])
            if wanted[1] <= end:
                self._done[wanted] = self._open.pop(wanted).hexdigest()

    @property
    def sha256(self) -> str:
        """Of the whole file."""
        return self._whole.hexdigest()

    def of(self, wanted: ByteRange) -> str:
        """Hash of a range; empty where it did not pass whole."""
        return self._done.get(wanted, "")


def hash_like(wanted: str, data: bytes | memoryview) -> str:
    """The hash of a file, of the kind that a tree names for it: sha256 or git's own."""
    if not wanted:
        return ""
    if len(wanted) == SHA256_DIGITS:
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def wrong_hash(path: str, found: str, wanted: str) -> DamagedError:
    """What is said of a file whose content is not what the tree names."""
    return DamagedError(
        f"{path} arrived with hash {found}; the Hub names {wanted}.",
        "The file or the line is damaged; nothing of it was used. Run again, and if it repeats "
        "tell the source's publisher.",
    )
