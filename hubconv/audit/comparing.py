"""`hubconv compare A B`: two NVFP4 results of one model, weight by weight."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from hubconv.audit.choosing import choose, rank
from hubconv.audit.decoding import THREADS
from hubconv.audit.depth import USUAL_ROWS, Depth
from hubconv.audit.kept import Kept, compare_kept
from hubconv.audit.likeness import Likeness, Twins
from hubconv.audit.origin import Origin
from hubconv.audit.packed import Packed
from hubconv.audit.pairing import Pair, Paired, config_differences, pair_up
from hubconv.audit.reading import Place, chunks, place_of, read_scalars
from hubconv.audit.sides import Matrix, Side, open_side
from hubconv.audit.verifying import MOST_SCALARS, open_origin_of
from hubconv.errors import IntegrityError, SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.opening import Scratch, open_source
from hubconv.progress import Extent, Progress

COMPARED_WEIGHTS: Final = 32


@dataclass(frozen=True, slots=True)
class Scalars:
    """Global scales, or input scales, of weights that are NVFP4 in both results.

    Attributes:
        compared: Pairs whose values were read.
        equal: Those with the same value, as multipliers.
        least: Smallest quotient of the first's by the second's; 1 where nothing was compared.
        most: Largest.
    """

    compared: int = 0
    equal: int = 0
    least: float = 1.0
    most: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two results have in common, and what not.

    Attributes:
        a: The first.
        b: The second.
        depth: How much of them was read.
        paired: Their weights by twos.
        by_role: What came of those that were compared.
        global_scales: Of weights that are NVFP4 in both.
        input_scales: Likewise.
        kept: All other tensors.
        config: Entries of config.json that differ.
        source: What both were compared with; empty for none.
        recorded: Errors by role as the manifests state them, where no source was asked for:
            role to (of the first, of the second).
        notes: What was not compared, and why.
    """

    a: Side
    b: Side
    depth: Depth
    paired: Paired
    by_role: Mapping[str, Likeness]
    global_scales: Scalars
    input_scales: Scalars
    kept: Kept
    config: Sequence[Mapping[str, Any]]
    source: str
    recorded: Mapping[str, tuple[float | None, float | None]]
    notes: tuple[str, ...]


def compare(
    a: str,
    b: str,
    source: str = "",
    *,
    work_dir: str = "",
    depth: Depth | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Hold two results side by side.

    Args:
        a: A repository, perhaps with a revision, or a folder.
        b: Another.
        source: What both were made from; empty to compare them with each other alone.
        work_dir: Folder for temporary files.
        depth: How much of them is read; some rows of 32 weights where nothing is said.
        progress: Told how far a look at every weight is.

    Raises:
        SourceError: There is nothing to read, or they are not of one model.
    """
    depth = depth or Depth("rows", COMPARED_WEIGHTS)
    with Scratch(work_dir) as scratch:
        sides = (
            open_side(open_source(a, "", scratch / "a")),
            open_side(open_source(b, "", scratch / "b")),
        )
        paired = pair_up(*sides)
        if paired.reasons:
            raise SourceError(
                f"{a} and {b} are not two results of one model: {'; '.join(paired.reasons)}.",
                "Name two results of the same source.",
            )
        if not (sides[0].packed or sides[1].packed):
            raise SourceError(
                f"Neither {a} nor {b} holds an NVFP4 weight that can be decoded.",
                "hubconv verify says what is wrong with a result.",
            )
        origin = open_origin_of(sides[0].result, source, scratch) if source else None
        return _Compare(sides[0], sides[1], paired, origin, depth, progress or Progress()).run()


@dataclass(slots=True)
class _Compare:
    a: Side
    b: Side
    paired: Paired
    origin: Origin | None
    depth: Depth
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def run(self) -> Comparison:
        for name, side in (("first", self.a), ("second", self.b)):
            faults = side.result.findings
            self.notes += [f"of the {name}: {f.where}: {f.what}" for f in faults[:3]]
            if side.unread:
                told = f"{len(side.unread)} NVFP4 weights cannot be decoded as they stand"
                self.notes.append(f"of the {name}: {told}, such as {side.unread[0]}")
        chosen = self._chosen()
        scalars = self._read_scalars(chosen)
        if self.depth.kind != "full":
            self.notes.append("bytes of tensors that neither has in NVFP4: --full compares them")
        kept = compare_kept(self.a, self.b, reads=self.depth.kind == "full")
        by_role = self._by_role(chosen, scalars)
        both = [pair for pair in self.paired.pairs if pair.are_nvfp4]
        return Comparison(
            self.a,
            self.b,
            self.depth,
            self.paired,
            by_role,
            _quotients(both, scalars, lambda weight: weight.scalar),
            _quotients(both, scalars, lambda weight: weight.input_scale),
            kept,
            config_differences(self.a, self.b),
            self.origin.view.ref if self.origin is not None else "",
            {} if self.origin is not None else _recorded(self.a, self.b),
            tuple(self.notes),
        )

    def _chosen(self) -> list[Pair]:
        if self.depth.kind == "full":
            return list(self.paired.pairs)
        return choose(
            self.paired.pairs,
            self.depth.weights,
            self.depth.seed,
            name_of=lambda pair: pair.module,
            role_of=self.a.result.role_of,
        )

    # ── scales ───────────────────────────────────────────────────────────────────────────────

    def _read_scalars(self, chosen: Sequence[Pair]) -> tuple[dict[Place, float], ...]:
        """Values by place, of the first and of the second: those of the same weights."""
        pairs = [pair for pair in self.paired.pairs if pair.are_nvfp4]
        is_hub = bool(self.a.result.view.commit or self.b.result.view.commit)
        most = MOST_SCALARS // 4
        if is_hub and self.depth.kind != "full" and len(pairs) > most:
            pairs = sorted(pairs, key=lambda pair: rank(self.depth.seed, pair.module))[:most]
            self.notes.append(f"global scales of all weights: those of {most} were read")
        views = self.a.result.view, self.b.result.view
        wanted: tuple[list[StoredTensor], list[StoredTensor]] = ([], [])
        for pair in {**dict.fromkeys(pairs), **dict.fromkeys(chosen)}:
            for side, weight in zip(wanted, (pair.a, pair.b), strict=True):
                if isinstance(weight, Packed):
                    side += [t for t in (weight.scalar, weight.input_scale) if t is not None]
        found = []
        for view, tensors in zip(views, wanted, strict=True):
            try:
                found.append(read_scalars(view, tensors))
            except (SourceError, IntegrityError) as error:
                self.notes.append(f"scales of {view.ref}: {error.what}")
                found.append({})
        return tuple(found)

    # ── weights ──────────────────────────────────────────────────────────────────────────────

    def _by_role(
        self, chosen: Sequence[Pair], scalars: Sequence[Mapping[Place, float]]
    ) -> dict[str, Likeness]:
        twins = Twins(self.a.result.view, self.b.result.view, self.origin)

        def one(pair: Pair) -> tuple[Pair, Likeness | str]:
            factors = _factor(pair.a, scalars[0]), _factor(pair.b, scalars[1])
            if None in factors:
                return pair, "its global scale is no number to multiply with"
            total = Likeness(weights=1)
            try:
                for rows in self._rows(pair):
                    total += twins.compare(pair, (factors[0] or 0.0, factors[1] or 0.0), rows)
            except (SourceError, IntegrityError) as error:
                return pair, error.what
            return pair, total

        found: dict[str, Likeness] = {}
        for pair, likeness in self._in_order(chosen, one):
            if isinstance(likeness, str):
                self.notes.append(f"{pair.module}: {likeness}")
            else:
                found[pair.role] = found.get(pair.role, Likeness()) + likeness
        return dict(sorted(found.items()))

    def _rows(self, pair: Pair) -> Iterator[tuple[int, int]]:
        weight = pair.a if isinstance(pair.a, Packed) else pair.b
        if not isinstance(weight, Packed):
            return
        if self.depth.kind == "rows":
            yield 0, min(weight.rows, USUAL_ROWS)
        else:
            yield from chunks(weight)

    def _in_order(
        self,
        chosen: Sequence[Pair],
        one: Callable[[Pair], tuple[Pair, Likeness | str]],
    ) -> Iterator[tuple[Pair, Likeness | str]]:
        """One shard of the first after the other, several of its weights at a time."""
        by_shard: dict[str, list[Pair]] = {}
        for pair in chosen:
            by_shard.setdefault(_data(pair.a).shard, []).append(pair)
        files = self.a.result.view.files()
        self.progress.plan(Extent(len(by_shard), sum(files[shard].size for shard in by_shard)))
        with ThreadPoolExecutor(THREADS) as pool:
            for shard, pairs in sorted(by_shard.items()):
                began = time.monotonic()
                self.progress.unit_started(shard)
                left = files[shard].size
                for done in pool.map(one, pairs):
                    dealt_with = min(_data(done[0].a).nbytes, left)
                    left -= dealt_with
                    self.progress.converted(dealt_with)
                    yield done
                self.progress.converted(left)
                self.progress.unit_finished(shard, files[shard].size, time.monotonic() - began)


def _data(matrix: Matrix) -> StoredTensor:
    return matrix.codes if isinstance(matrix, Packed) else matrix.data


def _factor(matrix: object, scalars: Mapping[Place, float]) -> float | None:
    """What decoded codes are multiplied with; 1 for what is not NVFP4, None for what cannot be."""
    if not isinstance(matrix, Packed):
        return 1.0
    value = scalars.get(place_of(matrix.scalar))
    factor = matrix.multiplier(value) if value is not None else 0.0
    return factor if 0 < factor < math.inf else None


def _quotients(
    pairs: Sequence[Pair],
    scalars: Sequence[Mapping[Place, float]],
    pick: Callable[[Packed], StoredTensor | None],
) -> Scalars:
    found = []
    for pair in pairs:
        values = []
        for weight, known in zip((pair.a, pair.b), scalars, strict=True):
            scalar = pick(weight) if isinstance(weight, Packed) else None
            stored = known.get(place_of(scalar)) if scalar is not None else None
            if isinstance(weight, Packed) and stored is not None:
                values.append(weight.multiplier(stored))
        if len(values) == 2 and all(0 < value < math.inf for value in values):
            found.append(values[0] / values[1])
    equal = sum(abs(quotient - 1) < 1e-6 for quotient in found)  # a reciprocal rounds once more
    return Scalars(len(found), equal, min(found, default=1.0), max(found, default=1.0))


def _recorded(a: Side, b: Side) -> dict[str, tuple[float | None, float | None]]:
    """Errors by role against the source, as each manifest states them."""
    ours, theirs = _stated(a), _stated(b)
    return {role: (ours.get(role), theirs.get(role)) for role in dict.fromkeys([*ours, *theirs])}


def _stated(side: Side) -> dict[str, float]:
    quality = (side.result.manifest or {}).get("quality")
    rows = quality.get("by_role") if isinstance(quality, dict) else None
    found: dict[str, float] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get("relative_error"), int | float):
            found[str(row.get("name"))] = float(row["relative_error"])
    return found
