"""FP8, MXFP4 and INT4 to NVFP4 by tables, where a block of 16 never straddles two scales.

MXFP4 is unpacked to E4M3 codes of the same numbers: what FP8 does without tables, it does too.
"""

from typing import Any, Final

import numpy as np
from numba import types

from hubconv.formats.nvfp4 import SEARCH_ORDER
from hubconv.kernels.cpu import born, jit, numbers, tables, vectors
from hubconv.kernels.cpu.arguments import (
    ALONE,
    INT4_PAIRS,
    OUTPUT,
    RULE,
    SHAPE,
    begun,
    counted,
    end,
)
from hubconv.kernels.cpu.jit import inlined
from hubconv.kernels.cpu.tables import LOWEST_OFFSET, TABLES


def _first_choices() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """By the set of candidates that none beats, bit n for offset n - 2: the offset tried first."""
    choices = np.zeros(1 << vectors.CANDIDATES, np.int64)
    for best in range(1, len(choices)):
        choices[best] = next(at for at in SEARCH_ORDER if best >> (at - LOWEST_OFFSET) & 1)
    return choices


_FIRST_CHOICE: Final = _first_choices()


@inlined
def _tabled(
    data: Any, at: Any, element: Any, top: Any, slot: Any, rule: Any, tabled: Any, out: Any,
    tally: Any,
) -> Any:  # fmt: skip
    """Round a block of 16 code bytes by tables; gives the tally with it."""
    count = len(tabled.values)
    chosen, codes = np.int64(tabled.plain[slot * count + top]), vectors.words(data, at)
    if rule.searched:
        if tabled.sizes[slot * count + top] == 0:
            chosen = np.int64(numbers.ONE)
        else:
            origin, first = tables.errors_at(tabled, slot, chosen)
            best = vectors.best_candidates(tabled.errors, origin, first, codes)
            chosen = numbers.clamped(chosen + _FIRST_CHOICE[best])
    tables.require_scale(tabled, slot, chosen, rule)
    out.scales[element >> 4] = np.uint8(chosen)
    edge = tables.edges_at(slot, chosen)
    vanished = top <= tabled.edges[edge + 1]
    flip = tables.flip_of(tabled, slot)
    vectors.pack_block(data, at, tabled.edges, edge, flip, out.codes, element >> 1)
    origin = tables.figures_at(tabled, slot, chosen)
    error, square = vectors.sum_figures(tabled.figures, origin, codes)
    return counted(tally, error, square, vanished, chosen)


@inlined
def _born(
    data: Any, at: Any, element: Any, top: Any, slot: Any, rule: Any, tabled: Any, out: Any
) -> Any:
    """Round 16 E4M3 codes that were born as FP4; gives the code of their scale and their square.

    The square is not above 0 where they were not, and then nothing else means anything.
    """
    plain = np.int64(tabled.plain[slot * len(tabled.values) + top])
    if top == 0 or not (born.may_be(vectors.words(data, at)) and born.is_inner(plain)):
        return plain, 0.0
    flip = tables.flip_of(tabled, slot)
    quarters = vectors.pack_born(data, at, top, flip, 0, out.codes, element >> 1)
    chosen = born.scale_of(plain, top)
    out.scales[element >> 4] = np.uint8(chosen)
    return chosen, born.square_of(quarters, chosen, rule)


@inlined
def _block(
    data: Any, at: Any, element: Any, slot: Any, may_be_born: Any, rule: Any, tabled: Any,
    out: Any, tally: Any,
) -> Any:  # fmt: skip
    """Round the 16 code bytes at a place; gives the tally with them."""
    top = vectors.largest_code(data, at)
    if not np.isfinite(tabled.sizes[slot * len(tabled.values) + top]):
        return counted(tally, np.nan, np.nan, False, 0)
    if may_be_born:
        chosen, square = _born(data, at, element, top, slot, rule, tabled, out)
        if square > 0:
            return counted(tally, 0.0, square, False, chosen)
    return _tabled(data, at, element, top, slot, rule, tabled, out, tally)


@inlined
def _stretch(
    data: Any, first: Any, last: Any, slot: Any, packing: Any, rule: Any, tabled: Any, out: Any
) -> None:
    """Round elements of one row under one scale, from one to another."""
    tally = begun(out.figures)
    may_be_born = rule.searched and packing != INT4_PAIRS and tables.is_power(tabled, slot)
    for at in range(first, last, 16):
        if packing == ALONE:
            tally = _block(data, at, at, slot, may_be_born, rule, tabled, out, tally)
            continue
        if packing == INT4_PAIRS:
            vectors.unpack_int4(data, at >> 1, tabled.unpacked)
        else:
            vectors.unpack_e2m1(data, at >> 1, tabled.unpacked)
        tally = _block(tabled.unpacked, 0, at, slot, may_be_born, rule, tabled, out, tally)
    end(out.figures, tally)


@jit.compiled(types.none(jit.BYTES, jit.FLOATS, SHAPE, RULE, TABLES, OUTPUT))
def encode(data: Any, scales: Any, shape: Any, rule: Any, tabled: Any, out: Any) -> None:
    """Round rows of coded weights, one rectangle of equal scale after the other.

    Args:
        data: [rows * row bytes] uint8; E4M3 codes, or pairs of E2M1 codes or of integers.
        scales: [scale rows * scale columns] float32.
        shape: Where the rows lie among the scales.
        rule: How to round.
        tabled: Tables of the magnitude codes; filled.
        out: Written.
    """
    per_row = -(-shape.cols // shape.scale_cols)
    first = 0
    while first < shape.rows:
        band = (first + shape.before) // shape.scale_rows
        last = min(shape.rows, (band + 1) * shape.scale_rows - shape.before)
        for column in range(per_row):
            slot = tables.slot_of(tabled, scales[band * per_row + column], rule)
            left = column * shape.scale_cols
            right = min(shape.cols, left + shape.scale_cols)
            for row in range(first, last):
                begin = row * shape.cols
                stretch = (begin + left, begin + right, slot, shape.packing)
                _stretch(data, *stretch, rule, tabled, out)
        first = last
