"""Every byte of a result: shards hashed once as they stream by, weights decoded meanwhile."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hubconv.audit.account import Account, Looked
from hubconv.audit.decoding import THREADS, Bench, unread
from hubconv.audit.packed import Packed
from hubconv.audit.reading import CHUNK_BYTES, chunks
from hubconv.ends import ShardBytes
from hubconv.errors import IntegrityError, SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.progress import Extent, Progress

if TYPE_CHECKING:
    from hubconv.formats.contract.finding import Severity

WAITING: Final = 2 * THREADS
"""Pieces that were read and not yet decoded: what bounds memory."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What came out of reading everything.

    Attributes:
        looked: Weights that were decoded.
        findings: What was wrong with files and kept tensors.
        hashed: Shards whose every byte was hashed.
        kept: Tensors that are as in the source, byte for byte.
        kept_other: Tensors that are of another type or shape there, or not there at all.
    """

    looked: tuple[Looked, ...]
    findings: tuple[Finding, ...]
    hashed: int
    kept: int
    kept_other: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a shard that are read at a time.

    Attributes:
        begin: The first.
        end: One past the last.
        account: Of the weight whose codes they are; None for anything else.
        rows: The first and one past the last of its rows.
        twin: The source's tensor to compare them with; None where there is none.
        offset: Where in that tensor they belong.
    """

    begin: int
    end: int
    account: Account | None = None
    rows: tuple[int, int] = (0, 0)
    twin: StoredTensor | None = None
    offset: int = 0


def read_whole(bench: Bench, weights: Sequence[Packed], progress: Progress) -> Whole:
    """Read every shard once, in order; a few megabytes are held at a time.

    Args:
        bench: What decoding takes.
        weights: Every NVFP4 weight.
        progress: Told of each shard.
    """
    result = bench.result
    files = result.view.files()
    progress.plan(Extent(len(result.shards), sum(files[shard].size for shard in result.shards)))
    by_shard: dict[str, list[Packed]] = {}
    for weight in weights:
        by_shard.setdefault(weight.codes.shard, []).append(weight)
    walk = _Walk(bench, progress)
    with ThreadPoolExecutor(THREADS) as pool:
        for shard in result.shards:
            walk.shard(shard, by_shard.get(shard, []), pool)
    return walk.done()


class _Walk:
    def __init__(self, bench: Bench, progress: Progress) -> None:
        self._bench = bench
        self._progress = progress
        self._looked: list[Looked] = []
        self._findings: list[Finding] = []
        self._differing: dict[str, None] = {}
        self._hashed = 0
        self._kept = 0
        self._other = 0
        self._tensors: dict[str, list[StoredTensor]] = {}
        for tensor in bench.result.tensors.values():
            self._tensors.setdefault(tensor.shard, []).append(tensor)
        self._nvfp4 = {
            part.name
            for module in bench.result.modules.values()
            if module.kind == "nvfp4"
            for part in module.parts.values()
        }

    def done(self) -> Whole:
        severity: Severity = "error" if self._bench.result.is_ours else "warning"
        what = "Its bytes are not the source's."
        differing = (
            Finding("kept.differs", name, what, severity=severity) for name in self._differing
        )
        return Whole(
            tuple(self._looked),
            (*self._findings, *differing),
            self._hashed,
            self._kept - len(self._differing),
            self._other,
        )

    def shard(self, shard: str, weights: Sequence[Packed], pool: ThreadPoolExecutor) -> None:
        """One shard, from its first byte to its last."""
        began, size = time.monotonic(), self._bench.result.view.files()[shard].size
        self._progress.unit_started(shard)
        accounts = [a for weight in weights if (a := self._bench.account(weight)) is not None]
        failed: dict[str, SourceError | IntegrityError] = {}
        try:
            pieces = list(self._pieces(shard, size, accounts))
            digest = self._stream(shard, size, pieces, pool, failed)
            self._prove(shard, digest)
        except (SourceError, IntegrityError) as error:
            self._findings.append(Finding("file.unreadable", shard, error.what))
            failed |= {account.weight.module: error for account in accounts}
        for account in accounts:
            fault = failed.get(account.weight.module)
            self._looked.append(account.close() if fault is None else unread(account, fault))
        self._progress.unit_finished(shard, size, time.monotonic() - began)

    def _pieces(self, shard: str, size: int, accounts: Sequence[Account]) -> Iterator[_Piece]:
        """All of a shard, in order."""
        places: list[tuple[int, int, Account | StoredTensor]] = [
            (account.weight.codes.begin, account.weight.codes.end, account) for account in accounts
        ]
        codes = {(begin, end) for begin, end, _ in places}
        parts = {account.weight.codes.of for account in accounts} - {None}
        places += [
            (tensor.begin, tensor.end, tensor)
            for tensor in self._tensors.get(shard, ())
            if (tensor.begin, tensor.end) not in codes and tensor not in parts
        ]
        position = 0
        for begin, end, what in sorted(places, key=lambda place: place[:2]):
            yield from _plain(position, begin)
            if isinstance(what, Account):
                half = what.weight.cols // 2
                for first, last in chunks(what.weight):
                    yield _Piece(begin + first * half, begin + last * half, what, (first, last))
            else:
                yield from _plain(begin, end, self._twin(what))
            position = end
        yield from _plain(position, size)

    def _twin(self, tensor: StoredTensor) -> StoredTensor | None:
        """The source's tensor that must hold the same bytes."""
        origin = self._bench.origin
        if origin is None or tensor.name in self._nvfp4:
            return None
        twin = origin.tensor(tensor.name)
        if twin is None or (twin.dtype, twin.nbytes) != (tensor.dtype, tensor.nbytes):
            self._other += 1
            return None
        self._kept += 1
        return twin

    def _stream(
        self,
        shard: str,
        size: int,
        pieces: Sequence[_Piece],
        pool: ThreadPoolExecutor,
        failed: dict[str, SourceError | IntegrityError],
    ) -> str:
        digest = hashlib.sha256()
        waiting: deque[tuple[_Piece, Future[None]]] = deque()
        view = self._bench.result.view
        try:
            with view.open(shard, [(0, size)], whole=False) as opened:
                for piece in pieces:
                    content = _content(opened, shard, piece)
                    digest.update(content)
                    self._progress.converted(len(content))
                    if piece.account is None and piece.twin is None:
                        continue
                    if len(waiting) >= WAITING:
                        _settle(*waiting.popleft(), failed)
                    waiting.append((piece, pool.submit(self._work, piece, content)))
        finally:
            while waiting:
                _settle(*waiting.popleft(), failed)
        return digest.hexdigest()

    def _work(self, piece: _Piece, content: bytes) -> None:
        """Decode, or compare, one piece."""
        if piece.account is not None:
            first, last = piece.rows
            codes = np.frombuffer(content, np.uint8).reshape(last - first, -1)
            self._bench.add(piece.account, first, last, codes)
        elif piece.twin is not None and self._bench.origin is not None:
            begin = piece.twin.begin + piece.offset
            same = self._bench.origin.view.read(piece.twin.shard, begin, begin + len(content))
            if same != content:
                self._differing[piece.twin.name] = None

    def _prove(self, shard: str, digest: str) -> None:
        """The hash of what was read against the tree's and the manifest's."""
        self._hashed += 1
        result = self._bench.result
        entry = result.view.files()[shard]
        told: Mapping[str, str] = {
            "the tree names": entry.sha256,
            "hubconv.json names": str(
                ((result.manifest or {}).get("files") or {}).get(shard, {}).get("sha256", "")
            ),
        }
        for who, wanted in told.items():
            if wanted and wanted != digest:
                what = f"Its bytes have sha256 {digest}; {who} {wanted}."
                self._findings.append(Finding("tree.content", shard, what))


def _plain(begin: int, end: int, twin: StoredTensor | None = None) -> Iterator[_Piece]:
    for first in range(begin, end, CHUNK_BYTES):
        yield _Piece(first, min(first + CHUNK_BYTES, end), twin=twin, offset=first - begin)


def _content(opened: ShardBytes, shard: str, piece: _Piece) -> bytes:
    content = bytes(opened.read(piece.begin, piece.end))
    if len(content) != piece.end - piece.begin:
        raise IntegrityError(f"{shard} ends before its byte {piece.end}.")
    return content


def _settle(
    piece: _Piece, work: Future[None], failed: dict[str, SourceError | IntegrityError]
) -> None:
    """Wait for a piece; what could not be read is remembered with its weight."""
    try:
        work.result()
    except (SourceError, IntegrityError) as error:
        if piece.account is None:
            raise
        failed[piece.account.weight.module] = error
