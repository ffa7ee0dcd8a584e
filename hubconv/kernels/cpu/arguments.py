"""What the compiled functions are given: how to round, where the scales lie, what to fill."""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from hubconv.kernels.cpu import jit, numbers
from hubconv.kernels.cpu.jit import inlined

FIGURES: Final = 7
"""Blocks that are exact, flushed, of a low scale; error, square, worst ratio; blocks not finite."""


ALONE, E2M1_PAIRS, INT4_PAIRS = range(3)
"""What a byte of coded weights holds: one E4M3 code, or two codes, the first in the low nibble."""


class Rule(NamedTuple):
    """How to round.

    Attributes:
        global_scale: float32.
        reciprocal: 1 / global_scale, float32; exact for `search`.
        searched: Nine block scales are tried; otherwise ModelOpt's rule holds.
    """

    global_scale: np.float32
    reciprocal: np.float32
    searched: bool


class Shape(NamedTuple):
    """Where some rows of a weight lie among its scales.

    Attributes:
        rows: Rows.
        cols: Columns, in elements.
        scale_rows: Rows under one scale.
        scale_cols: Columns under one scale.
        before: Rows under the first scale that lie before these.
        packing: What a byte of coded weights holds.
    """

    rows: int
    cols: int
    scale_rows: int
    scale_cols: int
    before: int
    packing: int


class Output(NamedTuple):
    """What is written.

    Attributes:
        codes: [rows * columns / 2] uint8.
        scales: [rows * columns / 16] uint8.
        figures: [FIGURES] float64, added to.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint8]
    figures: npt.NDArray[np.float64]


RULE: Final = types.NamedTuple([jit.FLOAT, jit.FLOAT, jit.FLAG], Rule)
SHAPE: Final = types.NamedUniTuple(jit.INT, 6, Shape)
OUTPUT: Final = types.NamedTuple([jit.BYTES_OUT, jit.BYTES_OUT, jit.DOUBLES_OUT], Output)


@inlined
def begun(figures: Any) -> Any:
    """The figures as a tuple: what is counted by one stays in registers."""
    return (
        figures[0], figures[1], figures[2], figures[3], figures[4], figures[5], figures[6],
    )  # fmt: skip


@inlined
def counted(tally: Any, error: Any, square: Any, vanished: Any, scale: Any) -> Any:
    """A tally with one block more: its error and square, and the code of its scale.

    A square that is NaN or infinite is that of a block which is not finite.
    """
    exact, flushed, low, errors, squares, worst, broken = tally
    if not np.isfinite(square):
        return exact, flushed, low, errors, squares, worst, broken + 1.0
    ratio = error / square if error > worst * square else worst
    return (
        exact + np.float64(error == 0),
        flushed + np.float64((square > 0) & vanished),
        low + np.float64(scale < numbers.LOWEST_SEARCHED),
        errors + error,
        squares + square,
        ratio,
        broken,
    )


@inlined
def end(figures: Any, tally: Any) -> None:
    """Write a tally where it began."""
    for at in range(FIGURES):
        figures[at] = tally[at]
