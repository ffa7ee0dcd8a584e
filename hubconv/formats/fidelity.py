"""How far decoded NVFP4 values may be from the weights they stand for, and how they are off.

Rounding alone keeps a block of 16 within a fifth of its norm: no value of it is farther away than
one scale, which is a sixth of its largest weight. What is farther has another cause: a wrong global
scale, another weight's bytes, or scales that a calibration has moved between neighbours.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from hubconv.formats.nvfp4 import BLOCK, E4M3_VALUES, MIN_SEARCHED_SCALE, Quality

Floats = npt.NDArray[np.float64]
Cause = Literal["", "scale", "columns", "rows", "far"]

SOUND_ERROR: Final = 0.25
"""Relative Frobenius error of a block that no rounding to E2M1 with a fitting scale passes: the
worst block there is has 0.20, and the block scale's own rounding adds a sixteenth of that."""

FLOOR: Final = 4 * MIN_SEARCHED_SCALE
"""In units of the global scale: what a block may be off besides, where even the smallest block
scale is too large for its weights."""

FIT_ROWS: Final = 32
"""Fewer rows than this could be fitted by a factor for each column whatever they hold."""


@dataclass(frozen=True, slots=True)
class ScaleFaults:
    """Block scales that no encoder writes, and those that an engine does not honour.

    Attributes:
        blocks: Scales looked at.
        nan: Those that are not numbers.
        negative: Those below zero.
        low: Those above zero and below 2^-6, which vLLM's Marlin kernel takes for zero.
    """

    blocks: int = 0
    nan: int = 0
    negative: int = 0
    low: int = 0

    def __add__(self, other: "ScaleFaults") -> "ScaleFaults":
        return ScaleFaults(
            self.blocks + other.blocks,
            self.nan + other.nan,
            self.negative + other.negative,
            self.low + other.low,
        )


def scale_faults(scales: npt.NDArray[np.uint8]) -> ScaleFaults:
    """What is wrong with some block scales, by their bits alone."""
    magnitude = scales & 0x7F
    values = E4M3_VALUES[magnitude]
    return ScaleFaults(
        scales.size,
        int((magnitude == 0x7F).sum()),
        int(((scales > 0x80) & (magnitude != 0x7F)).sum()),
        int(((magnitude > 0) & (values < MIN_SEARCHED_SCALE)).sum()),
    )


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Sums over each block of 16 values."""

    error: Floats
    wanted: Floats
    decoded: Floats

    @classmethod
    def of(cls, decoded: Floats, wanted: Floats) -> "_Blocks":
        tables = np.square(decoded - wanted), np.square(wanted), np.square(decoded)
        return cls(*(table.reshape(-1, BLOCK).sum(1) for table in tables))

    def quality(self, scales: npt.NDArray[np.uint8]) -> Quality:
        relative = self.error / np.where(self.wanted == 0, 1, self.wanted)
        return Quality(
            elements=BLOCK * len(self.error),
            blocks=len(self.error),
            exact_blocks=int((self.error == 0).sum()),
            flushed_blocks=int(((self.wanted > 0) & (self.decoded == 0)).sum()),
            low_scales=int((E4M3_VALUES[scales] < MIN_SEARCHED_SCALE).sum()),
            error_sq=float(self.error.sum()),
            weight_sq=float(self.wanted.sum()),
            worst_block=math.sqrt(float(relative.max(initial=0))),
        )


def quality_of(decoded: Floats, wanted: Floats, scales: npt.NDArray[np.uint8]) -> Quality:
    """How far some decoded rows are from the source's.

    Args:
        decoded: [rows, cols], finite.
        wanted: [rows, cols], finite.
        scales: [rows, cols / 16] uint8, the block scales they were decoded with.
    """
    return _Blocks.of(decoded, wanted).quality(scales)


class Fidelity:
    """Sums over the windows of one weight, decoded and as the source has it. Not thread safe.

    Args:
        cols: Columns of the weight.
    """

    def __init__(self, cols: int) -> None:
        self.rows = 0
        self.nonfinite = 0
        self.far_blocks = 0
        self._quality = Quality()
        self._decoded_sq = 0.0
        self._dot = 0.0
        self._floor_sq = 0.0
        self._unfit_by_row = 0.0
        self._by_col = np.zeros((3, cols), np.float64)

    def add(
        self,
        decoded: Floats,
        wanted: Floats,
        scales: npt.NDArray[np.uint8],
        global_scale: float,
    ) -> None:
        """Count some rows.

        Args:
            decoded: [rows, cols], what the result's bytes mean.
            wanted: [rows, cols], the source's weights; finite.
            scales: [rows, cols / 16] uint8, the block scales these rows were decoded with.
            global_scale: The factor they were decoded with.
        """
        self.rows += len(decoded)
        bad = ~np.isfinite(decoded)
        if bad.any():
            self.nonfinite += int(bad.sum())
            decoded = np.where(bad, 0.0, decoded)
        blocks = _Blocks.of(decoded, wanted)
        self._count_blocks(blocks, scales, global_scale)
        squares, ours, dots = np.square(wanted), np.square(decoded), decoded * wanted
        self._by_col += np.stack([squares.sum(0), ours.sum(0), dots.sum(0)])
        row = (len(decoded), -1)
        dot = dots.reshape(-1, BLOCK).sum(1).reshape(row).sum(1)
        square, mine = blocks.wanted.reshape(row).sum(1), blocks.decoded.reshape(row).sum(1)
        self._decoded_sq += float(mine.sum())
        self._dot += float(dot.sum())
        self._unfit_by_row += _unfit(square, mine, dot)

    def _count_blocks(
        self, blocks: "_Blocks", scales: npt.NDArray[np.uint8], global_scale: float
    ) -> None:
        floor = FLOOR * abs(global_scale)
        if not math.isfinite(floor):
            floor = 0.0
        bound = SOUND_ERROR * np.sqrt(blocks.wanted) + floor
        self.far_blocks += int((np.sqrt(blocks.error) > bound).sum())
        self._floor_sq += floor * floor * len(blocks.error)
        self._quality += blocks.quality(scales)

    @property
    def quality(self) -> Quality:
        """How far these rows are from the source's."""
        return self._quality

    @property
    def factor(self) -> float:
        """What the source's weights would have to be multiplied with to come nearest."""
        weight_sq = self._quality.weight_sq
        return self._dot / weight_sq if weight_sq else 1.0

    def cause(self) -> Cause:
        """Why these rows cannot be the source's weights, rounded; empty where they can.

        scale: all are one factor off. columns, rows: a factor for each column or row explains
        them, as calibrations leave it. far: nothing does.
        """
        quality = self._quality
        bound = SOUND_ERROR * math.sqrt(quality.weight_sq) + math.sqrt(self._floor_sq)
        if math.sqrt(quality.error_sq) <= bound:
            return ""
        sound = SOUND_ERROR**2 * self._decoded_sq
        whole = np.array([quality.weight_sq]), np.array([self._decoded_sq]), np.array([self._dot])
        if self._dot > 0 and _unfit(*whole) <= sound:
            return "scale"
        if self.rows >= FIT_ROWS and self._decoded_sq > 0 and _unfit(*self._by_col) <= sound:
            return "columns"
        if self._by_col.shape[1] >= FIT_ROWS and self._decoded_sq > 0:
            return "rows" if self._unfit_by_row <= sound else "far"
        return "far"


def _unfit(squares: Floats, ours: Floats, dots: Floats) -> float:
    """What of the squares of `ours` a positive factor for each entry leaves unexplained."""
    explained = np.square(np.maximum(dots, 0)) / np.where(squares == 0, 1, squares)
    return float(np.maximum(ours - explained, 0).sum())
