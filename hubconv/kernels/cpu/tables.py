"""What each code of a source becomes, tabled by its scale.

All weights under one scale that have the same magnitude code are the same number, and the codes are
few. Errors, boundaries and block scales are worked out once for each, when first asked for.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from hubconv.formats.nvfp4 import E4M3_VALUES
from hubconv.kernels.cpu import jit, numbers
from hubconv.kernels.cpu.arguments import RULE
from hubconv.kernels.cpu.jit import inlined
from hubconv.kernels.cpu.vectors import WIDTH

LOWEST_OFFSET: Final = -2
_STEP: Final = 8  # codes from one group of candidates to the next
_GROUPS: Final = 17  # the last one begins at the base code that is nearest to the highest, 0x7E
_LINE: Final = 64  # bytes that come from memory together
_SCALES: Final = 128
_EDGES: Final = 16
_FRACTION_BITS: Final = 23


class Tables(NamedTuple):
    """Tables of some scales over n magnitude codes; every array is flat.

    Attributes:
        shift: The lowest bit of a scale, float32, that chooses its slot.
        values: [n] float32, what a code means without its scale; NaN for a code that means NaN.
        keys: [slots] uint64, bits of the scale that a slot belongs to, or more than 32 bits.
        sizes: [slots, n] float32, magnitudes of the weights.
        units: [slots, n] float32, the same in units of the global scale.
        plain: [slots, n] int32, code of the plain block scale under that largest magnitude.
        errors: [slots, GROUPS, n, WIDTH] float32, squared error in units of the global scale under
            the block scale whose code is 8 times the group, plus the column, less 2, clamped. Half
            of a group is in the next one too, so that a row of nine candidates around any base is
            read from one line of memory.
        have_errors: [slots, GROUPS] uint8, which groups are there.
        figures: [slots, 128, n, 2] float64, squared error and square under a block scale.
        edges: [slots, 128, 16] int8, boundaries for `vectors.pack_block`.
        have_scale: [slots, 128] uint8, which block scales have figures and edges.
        candidates: [8 GROUPS + 8] float32, block scales of the columns of `errors`.
        marks: [n] int32, overwritten.
        unpacked: [16] uint8, overwritten.
    """

    shift: int
    values: npt.NDArray[np.float32]
    keys: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.float32]
    units: npt.NDArray[np.float32]
    plain: npt.NDArray[np.int32]
    errors: npt.NDArray[np.float32]
    have_errors: npt.NDArray[np.uint8]
    figures: npt.NDArray[np.float64]
    edges: npt.NDArray[np.int8]
    have_scale: npt.NDArray[np.uint8]
    candidates: npt.NDArray[np.float32]
    marks: npt.NDArray[np.int32]
    unpacked: npt.NDArray[np.uint8]


_ELEMENTS: Final = (
    np.float32, np.uint64, np.float32, np.float32, np.int32, np.float32, np.uint8, np.float64,
    np.int8, np.uint8, np.float32, np.int32, np.uint8,
)  # fmt: skip
TABLES: Final = types.NamedTuple([jit.INT, *map(jit.array, _ELEMENTS)], Tables)


def empty_tables(values: npt.NDArray[np.float32], exponent: int, fraction: int) -> Tables:
    """Tables without content.

    Args:
        values: What the magnitude codes mean.
        exponent: How many bits of a scale's exponent, the lowest, choose its slot: scales next to
            each other find room side by side.
        fraction: How many of its fraction, the highest, choose besides.
    """
    slots, count = 1 << (exponent + fraction), len(values)
    codes = np.arange(_STEP * (_GROUPS - 1) + WIDTH) + LOWEST_OFFSET
    codes = codes.clip(numbers.LOWEST_SEARCHED, numbers.HIGHEST)
    return Tables(
        shift=_FRACTION_BITS - fraction,
        values=values.copy(),
        keys=np.full(slots, 1 << 32, np.uint64),
        sizes=np.empty(slots * count, np.float32),
        units=np.empty(slots * count, np.float32),
        plain=np.empty(slots * count, np.int32),
        errors=_on_lines(slots * _GROUPS * count * WIDTH),
        have_errors=np.zeros(slots * _GROUPS, np.uint8),
        figures=np.empty(slots * _SCALES * count * 2, np.float64),
        edges=np.empty(slots * _SCALES * _EDGES, np.int8),
        have_scale=np.zeros(slots * _SCALES, np.uint8),
        candidates=E4M3_VALUES[codes],
        marks=np.empty(count, np.int32),
        unpacked=np.empty(16, np.uint8),
    )


def _on_lines(count: int) -> npt.NDArray[np.float32]:
    """[count] float32 that begin where a line of memory does."""
    room = np.empty(4 * count + _LINE, np.uint8)
    first = -room.ctypes.data % _LINE
    return room[first : first + 4 * count].view(np.float32)


def clear(tables: Tables) -> None:
    """Forget what the tables hold, for another rule."""
    tables.keys.fill(1 << 32)


@inlined
def slot_of(tables: Any, scale: Any, rule: Any) -> Any:
    """The slot of a scale, float32; made ready where it belonged to another."""
    bits = np.uint64(np.float32(scale).view(np.uint32))
    slot = np.int64((bits >> np.uint64(tables.shift)) & np.uint64(len(tables.keys) - 1))
    if tables.keys[slot] != bits:
        tables.keys[slot] = bits
        _start(tables, slot, scale, rule)
    return slot


@inlined
def is_power(tables: Any, slot: Any) -> Any:
    """Whether the scale of a slot is a power of two, or the negative of one."""
    return (tables.keys[slot] & np.uint64(0x7FFFFF)) == 0


@inlined
def flip_of(tables: Any, slot: Any) -> Any:
    """0x80 where the scale of a slot is negative, 0 elsewhere."""
    return np.int64((tables.keys[slot] >> np.uint64(24)) & np.uint64(0x80))


@inlined
def errors_at(tables: Any, slot: Any, base: Any) -> Any:
    """(origin, first column) of the errors of nine candidates around a base code.

    They are worked out where they are missing.
    """
    group = slot * _GROUPS + base // _STEP
    if not tables.have_errors[group]:
        _add_errors(tables, slot, base // _STEP)
    return group * len(tables.values) * WIDTH, base % _STEP


@inlined
def require_scale(tables: Any, slot: Any, code: Any, rule: Any) -> None:
    """Make the figures and edges of a block scale, where they are missing."""
    if not tables.have_scale[slot * _SCALES + code]:
        _add_scale(tables, slot, code, rule)


@inlined
def figures_at(tables: Any, slot: Any, code: Any) -> Any:
    """Where the figures of a block scale begin."""
    return (slot * _SCALES + code) * len(tables.values) * 2


@inlined
def edges_at(slot: Any, code: Any) -> Any:
    """Where the edges of a block scale begin."""
    return (slot * _SCALES + code) * _EDGES


@jit.compiled(types.none(TABLES, jit.INT, jit.FLOAT, RULE))
def _start(tables: Any, slot: Any, scale: Any, rule: Any) -> None:
    """Begin the tables of a scale: magnitudes and plain block scales of all codes."""
    count = len(tables.values)
    for code in range(count):
        size = abs(tables.values[code] * scale)
        unit = size * rule.reciprocal
        if rule.searched:
            plain = numbers.searched_base(unit)
        else:
            plain = numbers.modelopt_scale(size, rule.global_scale)
        tables.sizes[slot * count + code] = size
        tables.units[slot * count + code] = unit
        tables.plain[slot * count + code] = plain
    tables.have_errors[slot * _GROUPS : (slot + 1) * _GROUPS] = 0
    tables.have_scale[slot * _SCALES : (slot + 1) * _SCALES] = 0


@jit.compiled(types.none(TABLES, jit.INT, jit.INT))
def _add_errors(tables: Any, slot: Any, group: Any) -> None:
    """Work out the errors of all codes under the candidates of a group."""
    count = len(tables.values)
    tables.have_errors[slot * _GROUPS + group] = 1
    # Slices, because an index that might be negative keeps a loop from being vectorised; and a loop
    # of a length that the compiler knows would be unrolled instead.
    scales = tables.candidates[group * _STEP : group * _STEP + WIDTH]
    units = tables.units[slot * count : (slot + 1) * count]
    errors = tables.errors[(slot * _GROUPS + group) * count * WIDTH :]
    for code in range(count):
        unit = units[code]
        row = errors[code * WIDTH : (code + 1) * WIDTH]
        for column in range(len(row)):
            scale = scales[column]
            error = numbers.nearest(unit / scale) * scale - unit
            row[column] = error * error


@jit.compiled(types.none(TABLES, jit.INT, jit.INT, RULE))
def _add_scale(tables: Any, slot: Any, code: Any, rule: Any) -> None:
    """Work out figures and edges of all codes under one block scale."""
    count = len(tables.values)
    tables.have_scale[slot * _SCALES + code] = 1
    scale = numbers.e4m3_value(np.int32(code))
    unit = scale * rule.global_scale
    step = np.float64(scale) * np.float64(rule.global_scale)
    begin = figures_at(tables, slot, code)
    figures = tables.figures[begin : begin + 2 * count]
    sizes = tables.sizes[slot * count : (slot + 1) * count]
    units = tables.units[slot * count : (slot + 1) * count]
    marks = tables.marks
    searched = rule.searched
    for at in range(count):
        size = sizes[at]
        scaled = units[at] / scale if searched else size / unit
        magnitude = numbers.nearest(scaled)
        error = np.float64(size) - np.float64(magnitude) * step
        figures[2 * at] = error * error
        figures[2 * at + 1] = np.float64(size) * np.float64(size)
        has_sign = (size if searched else scaled) != 0
        marks[at] = numbers.e2m1_code(magnitude) + 1 if has_sign else 0
    edge = edges_at(slot, code)
    tables.edges[edge : edge + _EDGES] = 0  # code 0 means zero, and has no sign
    for at in range(count):
        tables.edges[edge + tables.marks[at]] = at
    for which in range(edge + 1, edge + 8):
        tables.edges[which] = max(tables.edges[which], tables.edges[which - 1])
