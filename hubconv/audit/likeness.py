"""How alike a weight is in two results: equal codes, equal scales, distance, error of each."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from hubconv.audit.counterparts import Stored
from hubconv.audit.origin import Origin
from hubconv.audit.pairing import Pair
from hubconv.audit.reading import (
    Bytes2D,
    Floats,
    codes_of,
    decode,
    dequantize,
    scales_of,
    steps,
    window_of,
)
from hubconv.audit.sides import Matrix, shape_of
from hubconv.ends import Source
from hubconv.errors import SourceError
from hubconv.formats import stored
from hubconv.formats.fidelity import quality_of
from hubconv.formats.nvfp4 import Quality

NOTHING: Final = Quality()
_NO_SCALES: Final = np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, slots=True)
class Likeness:
    """Sums over rows of weights in two results; they add up.

    Attributes:
        weights: Weights of which rows were compared.
        codes: Codes of weights that are NVFP4 in both.
        equal_codes: Those that are the same.
        scales: Block scales of these.
        equal_scales: Those that are the same.
        distance_sq: Sum of squared differences between the two, decoded.
        a_sq: Sum of squares of the first.
        b_sq: Sum of squares of the second.
        a: How far the first is from the source; count 0 where nothing was compared.
        b: How far the second is.
    """

    weights: int = 0
    codes: int = 0
    equal_codes: int = 0
    scales: int = 0
    equal_scales: int = 0
    distance_sq: float = 0.0
    a_sq: float = 0.0
    b_sq: float = 0.0
    a: Quality = NOTHING
    b: Quality = NOTHING

    def __add__(self, other: "Likeness") -> "Likeness":
        return Likeness(
            self.weights + other.weights,
            self.codes + other.codes,
            self.equal_codes + other.equal_codes,
            self.scales + other.scales,
            self.equal_scales + other.equal_scales,
            self.distance_sq + other.distance_sq,
            self.a_sq + other.a_sq,
            self.b_sq + other.b_sq,
            self.a + other.a,
            self.b + other.b,
        )

    @property
    def distance(self) -> float:
        """Relative Frobenius distance, against the mean of both; 0 where both are zero."""
        mean = (self.a_sq + self.b_sq) / 2
        return math.sqrt(self.distance_sq / mean) if mean else 0.0


class Twins:
    """Two results, and perhaps their source, whose rows are compared.

    Args:
        a: Where the first lies.
        b: Where the second lies.
        origin: The source; None to compare the two alone.
    """

    def __init__(self, a: Source, b: Source, origin: Origin | None) -> None:
        self._views = (a, b)
        self._origin = origin

    def compare(self, pair: Pair, factors: tuple[float, float], rows: tuple[int, int]) -> Likeness:
        """Some rows of a weight.

        Args:
            pair: The weight.
            factors: What decoded codes are multiplied with; unused for what is not NVFP4.
            rows: The first and one past the last.

        Raises:
            SourceError: They cannot be read, or hold what is no number.
        """
        first, last = rows
        a = _Rows(self._views[0], pair.a, factors[0], first, last)
        b = _Rows(self._views[1], pair.b, factors[1], first, last)
        wanted = self._wanted(pair, first, last)
        total = _equal(a, b)
        for begin, end in steps(last - first, a.cols):
            total += _apart(a, b, begin, end, wanted)
        return total

    def _wanted(self, pair: Pair, first: int, last: int) -> stored.Window | None:
        if self._origin is None:
            return None
        found = self._origin.weights.find(pair.module)
        if found is None or found.shape != shape_of(pair.a):
            return None
        return window_of(self._origin.view, found, first, last)


class _Rows:
    """Rows of a weight, read and not yet decoded."""

    def __init__(self, view: Source, matrix: Matrix, factor: float, first: int, last: int) -> None:
        self.cols = shape_of(matrix)[1]
        self.codes: Bytes2D | None = None
        self.scales: Bytes2D = _NO_SCALES
        self._factor = factor
        self._window: stored.Window | None = None
        if isinstance(matrix, Stored):
            self._window = window_of(view, matrix, first, last)
        else:
            self.codes = codes_of(view, matrix, first, last)
            self.scales = scales_of(view, matrix, first, last)

    def values(self, first: int, last: int) -> Floats:
        """Decoded; zero where a scale is no number, which verify tells of."""
        if self._window is not None:
            return dequantize(self._window.part(first, last))
        if self.codes is None:
            raise SourceError("There is nothing to decode.")
        values = decode(self.codes[first:last], self.scales[first:last], self._factor)
        return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)

    def quality(self, values: Floats, wanted: Floats, first: int, last: int) -> Quality:
        """How far they are from the source."""
        if self.codes is not None:
            return quality_of(values, wanted, self.scales[first:last])
        return Quality(
            elements=wanted.size,
            error_sq=float(np.square(values - wanted).sum()),
            weight_sq=float(np.square(wanted).sum()),
        )


def _equal(a: _Rows, b: _Rows) -> Likeness:
    if a.codes is None or b.codes is None:
        return Likeness()
    low = (a.codes & 15) == (b.codes & 15)
    high = (a.codes >> 4) == (b.codes >> 4)
    return Likeness(
        codes=2 * a.codes.size,
        equal_codes=int(low.sum()) + int(high.sum()),
        scales=a.scales.size,
        equal_scales=int((a.scales == b.scales).sum()),
    )


def _apart(a: _Rows, b: _Rows, first: int, last: int, wanted: stored.Window | None) -> Likeness:
    ours, theirs = a.values(first, last), b.values(first, last)
    qualities = (Quality(), Quality())
    if wanted is not None:
        truth = dequantize(wanted.part(first, last))
        qualities = (
            a.quality(ours, truth, first, last),
            b.quality(theirs, truth, first, last),
        )
    return Likeness(
        distance_sq=float(np.square(ours - theirs).sum()),
        a_sq=float(np.square(ours).sum()),
        b_sq=float(np.square(theirs).sum()),
        a=qualities[0],
        b=qualities[1],
    )
