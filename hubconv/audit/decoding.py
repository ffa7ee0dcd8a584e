"""Weights of a result decoded and held against the source: some rows, whole weights, or all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from hubconv.audit.account import Account, Looked
from hubconv.audit.choosing import choose
from hubconv.audit.counterparts import Stored
from hubconv.audit.depth import USUAL_ROWS, Depth
from hubconv.audit.origin import Origin
from hubconv.audit.packed import Packed
from hubconv.audit.reading import (
    Bytes2D,
    Place,
    chunks,
    codes_of,
    place_of,
    scales_of,
    window_of,
)
from hubconv.audit.result import Result
from hubconv.errors import IntegrityError, SourceError
from hubconv.formats.contract import Finding

THREADS: Final = 4
"""Weights looked at side by side: a Hub answers a read after a while, and each holds a window."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What decoding needs.

    Attributes:
        result: The result.
        origin: Its source; None to decode alone.
        scalars: Stored global scales by place.
        recorded: What hubconv noted of each weight when it made it, by module.
    """

    result: Result
    origin: Origin | None
    scalars: Mapping[Place, float]
    recorded: Mapping[str, Mapping[str, Any]]

    def account(self, weight: Packed) -> Account | None:
        """A new account of a weight; None where its global scale is no number to multiply with."""
        stored = self.scalars.get(place_of(weight.scalar))
        factor = weight.multiplier(stored) if stored is not None else 0.0
        if not 0 < factor < float("inf"):
            return None
        return Account(
            weight,
            self.result.role_of(weight.module),
            factor,
            self.counterpart(weight),
            self.recorded.get(weight.module),
            is_ours=self.result.is_ours,
        )

    def counterpart(self, weight: Packed) -> Stored | None:
        """The source's weight of the same name."""
        return self.origin.weights.find(weight.module) if self.origin is not None else None

    def add(self, account: Account, first: int, last: int, codes: Bytes2D | None = None) -> None:
        """Read rows of a weight, and of the source, and count them.

        Args:
            account: Of the weight.
            first: The first row.
            last: One past the last.
            codes: Their codes, where they were read already.
        """
        weight, view = account.weight, self.result.view
        if codes is None:
            codes = codes_of(view, weight, first, last)
        scales = scales_of(view, weight, first, last)
        window = None
        if account.origin is not None and self.origin is not None:
            window = window_of(self.origin.view, account.origin, first, last)
        account.add(codes, scales, window)


def chosen(result: Result, packed: Mapping[str, Packed], depth: Depth) -> list[Packed]:
    """The weights that a look of this depth decodes."""
    if depth.kind == "fast":
        return []
    if depth.kind == "full":
        return list(packed.values())
    return choose(
        packed.values(),
        depth.weights,
        depth.seed,
        name_of=lambda weight: weight.module,
        role_of=result.role_of,
    )


def look(
    bench: Bench,
    weights: Sequence[Packed],
    *,
    whole: bool,
    told: Callable[[Packed], None] = lambda _: None,
) -> list[Looked]:
    """Decode some weights, several at a time.

    Args:
        bench: What it takes.
        weights: Which.
        whole: All of their rows, or the first ones only.
        told: Told of each weight that is done.
    """

    def one(weight: Packed) -> Looked | None:
        account = bench.account(weight)
        if account is None:
            return None
        try:
            for first, last in _rows(weight, whole=whole):
                bench.add(account, first, last)
        except (SourceError, IntegrityError) as error:
            return unread(account, error)
        finally:
            told(weight)
        return account.close()

    with ThreadPoolExecutor(THREADS) as pool:
        return [found for found in pool.map(one, weights) if found is not None]


def unread(account: Account, error: SourceError | IntegrityError) -> Looked:
    """What came out of a weight of which not all could be read."""
    done = account.close()
    finding = Finding("file.unreadable", done.module, f"{error.what} It was not decoded.")
    return Looked(done.module, done.role, done.rows, None, (finding,))


def _rows(weight: Packed, *, whole: bool) -> Iterator[tuple[int, int]]:
    if whole:
        yield from chunks(weight)
    else:
        yield 0, min(weight.rows, USUAL_ROWS)
