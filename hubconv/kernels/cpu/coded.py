"""FP8, MXFP4 and INT4 to NVFP4 by tables, where a block of 16 never straddles two scales."""

from typing import Any, Final

import numpy as np
from numba import types

from hubconv.formats.nvfp4 import SEARCH_ORDER
from hubconv.kernels.cpu import jit, numbers, tables, vectors
from hubconv.kernels.cpu.arguments import ALONE, INT4_PAIRS, OUTPUT, RULE, SHAPE, count
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
def _block(data: Any, at: Any, element: Any, slot: Any, rule: Any, tabled: Any, out: Any) -> None:
    """Round the 16 code bytes at a place."""
    top = vectors.largest_code(data, at)
    size = tabled.sizes[slot * len(tabled.values) + top]
    if not np.isfinite(size):
        out.figures[6] += 1
        return
    chosen = np.int64(tabled.plain[slot * len(tabled.values) + top])
    if rule.searched:
        if size == 0:
            chosen = np.int64(numbers.ONE)
        else:
            origin = tables.errors_at(tabled, slot, chosen)
            best = vectors.best_candidates(tabled.errors, origin, data, at)
            chosen = numbers.clamped(chosen + _FIRST_CHOICE[best])
    tables.require_scale(tabled, slot, chosen, rule)
    out.scales[element >> 4] = np.uint8(chosen)
    edge = tables.edges_at(slot, chosen)
    flip = np.int64((tabled.keys[slot] >> np.uint64(24)) & np.uint64(0x80))
    vectors.pack_block(data, at, tabled.edges, edge, flip, out.codes, element >> 1)
    origin = tables.figures_at(tabled, slot, chosen)
    error, square = vectors.sum_figures(tabled.figures, origin, data, at)
    count(out.figures, error, square, top <= tabled.edges[edge + 1], chosen)


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
                for at in range(row * shape.cols + left, row * shape.cols + right, 16):
                    if shape.packing == ALONE:
                        _block(data, at, at, slot, rule, tabled, out)
                        continue
                    if shape.packing == INT4_PAIRS:
                        vectors.unpack_int4(data, at >> 1, tabled.unpacked)
                    else:
                        vectors.unpack_e2m1(data, at >> 1, tabled.unpacked)
                    _block(tabled.unpacked, 0, at, slot, rule, tabled, out)
        first = last
