"""Tensors that neither of two results has in NVFP4: alike in type, and byte for byte."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hubconv.audit.decoding import THREADS
from hubconv.audit.reading import CHUNK_BYTES
from hubconv.audit.sides import Side
from hubconv.formats.checkpoint import StoredTensor

Twin = tuple[StoredTensor, StoredTensor]


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors that neither result has in NVFP4.

    Attributes:
        same_type: Those of one type and size in both.
        other_type: (type in the first, in the second, how many) of the others.
        compared: Those whose bytes were compared.
        differing: Names of those that were not the same.
    """

    same_type: int
    other_type: tuple[tuple[str, str, int], ...]
    compared: int
    differing: tuple[str, ...]


def compare_kept(a: Side, b: Side, *, reads: bool) -> Kept:
    """Hold what both have kept side by side.

    Args:
        a: The first result.
        b: The second.
        reads: Compare bytes too, a few megabytes at a time.

    Raises:
        SourceError: They cannot be read.
    """
    same: list[Twin] = []
    other: dict[tuple[str, str], int] = {}
    for mine, theirs in _twins(a, b):
        if (mine.dtype, mine.nbytes) == (theirs.dtype, theirs.nbytes):
            same.append((mine, theirs))
        else:
            key = (mine.dtype, theirs.dtype)
            other[key] = other.get(key, 0) + 1
    compared = same if reads else []

    def is_equal(twin: Twin) -> bool:
        return _are_equal(a, b, twin)

    with ThreadPoolExecutor(THREADS) as pool:
        found = zip(compared, pool.map(is_equal, compared), strict=True)
        differing = tuple(mine.name for (mine, _), equal in found if not equal)
    table = tuple((*key, count) for key, count in sorted(other.items()))
    return Kept(len(same), table, len(compared), differing)


def _twins(a: Side, b: Side) -> Iterator[Twin]:
    """Tensors of one name in both that belong to no NVFP4 weight."""
    nvfp4 = {
        part.name
        for side in (a, b)
        for module in side.result.modules.values()
        if module.kind == "nvfp4"
        for part in module.parts.values()
    }
    for name, tensor in a.result.tensors.items():
        twin = b.result.tensors.get(name)
        if twin is not None and name not in nvfp4:
            yield tensor, twin


def _are_equal(a: Side, b: Side, twin: Twin) -> bool:
    mine, theirs = twin
    for offset in range(0, mine.nbytes, CHUNK_BYTES):
        size = min(CHUNK_BYTES, mine.nbytes - offset)
        pieces = (
            side.result.view.read(t.shard, t.begin + offset, t.begin + offset + size)
            for side, t in ((a, mine), (b, theirs))
        )
        if next(pieces) != next(pieces):
            return False
    return True
