"""The xet store: xorbs as they were uploaded, and for each file the chunk ranges it is made of.

The client cuts files into chunks, packs chunks into xorbs, and describes files in shards. A
shard's file entry also names the file's SHA-256, which is how the Hub learns what a commit means.
"""

import struct
import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubconv.embedded.records import read_json, write_json
from hubconv.embedded.refusals import Refusal

EMPTY_HASH = "0" * 64
_ENTRY_BYTES = 48
_SECTION_END = b"\xff" * 32
_HAS_VERIFICATION = 1 << 31
_HAS_METADATA = 1 << 30
_OFFSETS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Term:
    """Chunks `start` to `end` (exclusive) of a xorb, `size` bytes when unpacked."""

    xorb: str
    size: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class XetFile:
    """How a file is put together."""

    hash: str
    sha256: str | None
    size: int
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where the chunks of a xorb begin, packed and unpacked; the last item is the end."""

    packed: tuple[int, ...]
    unpacked: tuple[int, ...]


class XetStore:
    """Xorbs and file descriptions in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root / "xet"
        self._chunks: OrderedDict[str, Chunks] = OrderedDict()
        self._lock = threading.Lock()

    def xorb_path(self, xorb: str) -> Path:
        """Where a xorb lies."""
        return self._root / "xorbs" / xorb[:2] / xorb

    def keep_xorb(self, xorb: str, source: Path) -> bool:
        """Keep an uploaded xorb; False if it was there.

        Raises:
            Refusal: It does not read as a xorb.
        """
        if not _walk(source).packed[1:]:
            raise Refusal(400, f"Xorb {xorb} holds no chunk.")
        target = self.xorb_path(xorb)
        is_new = not target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        return is_new

    def keep_shard(self, shard: bytes) -> list[XetFile]:
        """Keep the file descriptions of a shard.

        Raises:
            Refusal: It does not read as a shard, or speaks of a xorb that is not here.
        """
        try:
            files = parse_shard(shard)
        except struct.error as error:
            raise Refusal(400, f"The shard cannot be read: {error}") from error
        for file in files:
            for term in file.terms:
                if not self.xorb_path(term.xorb).exists():
                    raise Refusal(400, f"The shard speaks of xorb {term.xorb}, which is not here.")
        for file in files:
            write_json(self._file_path(file.hash), asdict(file))
        return files

    def file(self, file_hash: str) -> XetFile | None:
        """How a file is put together, or None if it is not known."""
        value = read_json(self._file_path(file_hash))
        if value is None:
            return None
        terms = tuple(Term(**term) for term in value.pop("terms"))
        return XetFile(**value, terms=terms)

    def chunks(self, xorb: str) -> Chunks:
        """Where the chunks of a xorb lie."""
        with self._lock:
            known = self._chunks.get(xorb)
            if known is not None:
                self._chunks.move_to_end(xorb)
                return known
        found = _walk(self.xorb_path(xorb))
        with self._lock:
            self._chunks[xorb] = found
            while len(self._chunks) > _OFFSETS_KEPT:
                self._chunks.popitem(last=False)
        return found

    def plan(self, file: XetFile, first: int, end: int, xorb_url: str) -> dict[str, Any]:
        """What to fetch for the bytes `first` to `end` (exclusive) of a file.

        Args:
            file: The file.
            first: Its first byte wanted.
            end: The byte after the last one wanted.
            xorb_url: Where xorbs are served; the hash is appended.

        Returns:
            The `reconstructions` answer of the xet protocol, cut to whole chunks.
        """
        terms: list[dict[str, Any]] = []
        fetches: dict[str, list[dict[str, Any]]] = {}
        position, skip = 0, 0
        for term in file.terms:
            begins, position = position, position + term.size
            if position <= first or begins >= end:
                continue
            cut = _cut(term, self.chunks(term.xorb), first - begins, end - begins)
            if not terms:
                skip = max(first - begins - cut["skipped"], 0)
            chunk_range = {"start": cut["start"], "end": cut["end"]}
            terms.append({"hash": term.xorb, "unpacked_length": cut["size"], "range": chunk_range})
            fetch = {
                "range": chunk_range,
                "url": f"{xorb_url}{term.xorb}",
                "url_range": cut["url_range"],
            }
            known = fetches.setdefault(term.xorb, [])
            if fetch not in known:
                known.append(fetch)
        return {"offset_into_first_range": skip, "terms": terms, "fetch_info": fetches}

    def _file_path(self, file_hash: str) -> Path:
        return self._root / "files" / file_hash[:2] / f"{file_hash}.json"


def parse_shard(shard: bytes) -> list[XetFile]:
    """The files that a shard describes."""
    files: list[XetFile] = []
    at = _ENTRY_BYTES
    while shard[at : at + 32] != _SECTION_END:
        file_hash, flags, count = struct.unpack_from("<32sII", shard, at)
        at += _ENTRY_BYTES
        terms = []
        for _ in range(count):
            xorb, _, size, start, end = struct.unpack_from("<32sIIII", shard, at)
            terms.append(Term(hex_of(xorb), size, start, end))
            at += _ENTRY_BYTES
        at += _ENTRY_BYTES * count if flags & _HAS_VERIFICATION else 0
        sha256 = None
        if flags & _HAS_METADATA:
            (raw,) = struct.unpack_from("<32s", shard, at)
            sha256 = hex_of(raw)
            at += _ENTRY_BYTES
        size = sum(term.size for term in terms)
        files.append(XetFile(hex_of(file_hash), sha256, size, tuple(terms)))
    return files


def hex_of(raw: bytes) -> str:
    """A xet hash as text: four little-endian words, each written big end first."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def _walk(path: Path) -> Chunks:
    """Read the chunk headers of a xorb; what follows the last chunk is a footer we do not need."""
    packed, unpacked = [0], [0]
    size = path.stat().st_size
    with path.open("rb") as file:
        while packed[-1] + 8 <= size:
            file.seek(packed[-1])
            header = file.read(8)
            if header[0] != 0:
                break
            packed.append(packed[-1] + 8 + int.from_bytes(header[1:4], "little"))
            unpacked.append(unpacked[-1] + int.from_bytes(header[5:8], "little"))
    if packed[-1] > size:
        raise Refusal(400, "The xorb ends in the middle of a chunk.")
    return Chunks(tuple(packed), tuple(unpacked))


def _cut(term: Term, chunks: Chunks, first: int, end: int) -> dict[str, Any]:
    """Cut a term to the whole chunks that hold its bytes `first` to `end`."""
    origin = chunks.unpacked[term.start]
    start, stop = term.start, term.end
    while start + 1 < stop and chunks.unpacked[start + 1] - origin <= first:
        start += 1
    while stop - 1 > start and chunks.unpacked[stop - 1] - origin >= end:
        stop -= 1
    return {
        "start": start,
        "end": stop,
        "size": chunks.unpacked[stop] - chunks.unpacked[start],
        "skipped": chunks.unpacked[start] - origin,
        "url_range": {"start": chunks.packed[start], "end": chunks.packed[stop] - 1},
    }
