"""Any weights to NVFP4 by arithmetic: plain ones, and coded ones that tables would not serve.

64 blocks at a time lie side by side, so that each step is one loop over lanes.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from hubconv.formats.nvfp4 import SEARCH_ORDER
from hubconv.formats.stored import INT4_ZERO
from hubconv.kernels.cpu import jit, numbers
from hubconv.kernels.cpu.arguments import OUTPUT, RULE, SHAPE, begun, counted, end
from hubconv.kernels.cpu.jit import inlined

BF16, F16, F32, FP8, INT4 = range(5)

_LANES: Final = 64
_TILE: Final = 16 * _LANES
_INFINITY: Final = np.float32(np.inf)


class Lanes(NamedTuple):
    """Room for 64 blocks; all of it is overwritten.

    Attributes:
        values: [64, 16] float32, weights as they follow one another.
        weights: [16, 64] float32, the same, block beside block.
        units: [16, 64] float32, magnitudes in units of the global scale.
        tops: [64] float32, largest magnitudes.
        plain: [64] int32, codes of the plain block scales.
        chosen: [64] int32, codes of the block scales.
        scales: [64] float32, block scales.
        least: [64] float32, the smallest error so far.
        nibbles: [16, 64] uint8, E2M1 codes with signs.
        vanished: [64] int32, 1 where no magnitude is above zero.
        errors: [64] float64, squared errors.
        squares: [64] float64, squared weights.
    """

    values: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    units: npt.NDArray[np.float32]
    tops: npt.NDArray[np.float32]
    plain: npt.NDArray[np.int32]
    chosen: npt.NDArray[np.int32]
    scales: npt.NDArray[np.float32]
    least: npt.NDArray[np.float32]
    nibbles: npt.NDArray[np.uint8]
    vanished: npt.NDArray[np.int32]
    errors: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


_ELEMENTS: Final = (
    (np.float32, _TILE), (np.float32, _TILE), (np.float32, _TILE), (np.float32, _LANES),
    (np.int32, _LANES), (np.int32, _LANES), (np.float32, _LANES), (np.float32, _LANES),
    (np.uint8, _TILE), (np.int32, _LANES), (np.float64, _LANES), (np.float64, _LANES),
)  # fmt: skip
LANES: Final = types.NamedTuple([jit.array(element) for element, _ in _ELEMENTS], Lanes)


def empty_lanes() -> Lanes:
    """Room for one thread."""
    arrays: Any = (np.empty(count, element) for element, count in _ELEMENTS)
    return Lanes(*arrays)


@inlined
def _squared(lanes: Any, at: Any, scale: Any) -> Any:
    """Squared error of one lane's weight under a block scale, in units of the global scale."""
    unit = lanes.units[at]
    error = numbers.nearest(unit / scale) * scale - unit
    return error * error


@inlined
def _four(lanes: Any, at: Any, scale: Any) -> Any:
    """Four of them by adjacent pairs."""
    left = _squared(lanes, at, scale) + _squared(lanes, at + _LANES, scale)
    right = _squared(lanes, at + 2 * _LANES, scale) + _squared(lanes, at + 3 * _LANES, scale)
    return left + right


@jit.compiled(types.none(LANES, RULE))
def _measure(lanes: Any, rule: Any) -> None:
    """Lay blocks side by side; find their largest magnitudes and their plain block scales."""
    for row in range(16):
        for lane in range(_LANES):
            lanes.weights[row * _LANES + lane] = lanes.values[lane * 16 + row]
    lanes.tops[:] = 0
    for row in range(16):
        weights = lanes.weights[row * _LANES : (row + 1) * _LANES]
        units = lanes.units[row * _LANES : (row + 1) * _LANES]
        for lane in range(_LANES):
            size = abs(weights[lane])
            units[lane] = size * rule.reciprocal
            lanes.tops[lane] = size if size > lanes.tops[lane] else lanes.tops[lane]
    for lane in range(_LANES):
        top = lanes.tops[lane]
        searched = numbers.searched_base(top * rule.reciprocal)
        modelopt = numbers.modelopt_scale(top, rule.global_scale)
        lanes.plain[lane] = searched if rule.searched else modelopt
        lanes.chosen[lane] = lanes.plain[lane]


@jit.compiled(types.none(LANES))
def _search(lanes: Any) -> None:
    """Choose among nine block scales: the smallest error, the earliest of equals."""
    lanes.least[:] = _INFINITY
    for offset in SEARCH_ORDER:
        for lane in range(_LANES):
            code = numbers.clamped(lanes.plain[lane] + np.int32(offset))
            scale = numbers.e4m3_value(code)
            upper = _four(lanes, lane, scale) + _four(lanes, lane + 4 * _LANES, scale)
            at = lane + 8 * _LANES
            lower = _four(lanes, at, scale) + _four(lanes, at + 4 * _LANES, scale)
            error = upper + lower
            better = error < lanes.least[lane]
            lanes.chosen[lane] = code if better else lanes.chosen[lane]
            lanes.least[lane] = error if better else lanes.least[lane]
    for lane in range(_LANES):
        if lanes.tops[lane] == 0:
            lanes.chosen[lane] = numbers.ONE


@jit.compiled(types.none(LANES, RULE))
def _round(lanes: Any, rule: Any) -> None:
    """Round under the chosen block scales, and sum up what that costs."""
    lanes.errors[:] = 0
    lanes.squares[:] = 0
    lanes.vanished[:] = 1
    for lane in range(_LANES):
        lanes.scales[lane] = numbers.e4m3_value(lanes.chosen[lane])
    for row in range(16):
        weights = lanes.weights[row * _LANES : (row + 1) * _LANES]
        units = lanes.units[row * _LANES : (row + 1) * _LANES]
        nibbles = lanes.nibbles[row * _LANES : (row + 1) * _LANES]
        for lane in range(_LANES):
            weight, scale = weights[lane], lanes.scales[lane]
            size = abs(weight)
            plain = size / (scale * rule.global_scale)
            scaled = units[lane] / scale if rule.searched else plain
            magnitude = numbers.nearest(scaled)
            negative = (weight < 0) & ((plain != 0) | rule.searched)
            code = numbers.e2m1_code(magnitude)
            nibbles[lane] = np.uint8(code | (8 if negative else 0))
            lanes.vanished[lane] = 0 if code > 0 else lanes.vanished[lane]
            step = np.float64(scale) * np.float64(rule.global_scale)
            error = np.float64(size) - np.float64(magnitude) * step
            lanes.errors[lane] += error * error
            lanes.squares[lane] += np.float64(size) * np.float64(size)


@jit.compiled(types.none(LANES, jit.INT, jit.INT, OUTPUT))
def _write(lanes: Any, at: Any, blocks: Any, out: Any) -> None:
    """Write some blocks, the first of them block `at`, and count them."""
    tally = begun(out.figures)
    for lane in range(blocks):
        for pair in range(8):
            even = lanes.nibbles[2 * pair * _LANES + lane]
            odd = lanes.nibbles[(2 * pair + 1) * _LANES + lane]
            out.codes[(at + lane) * 8 + pair] = np.uint8(even | (odd << 4))
        chosen, square = lanes.chosen[lane], lanes.squares[lane]
        out.scales[at + lane] = np.uint8(chosen)
        vanished = lanes.vanished[lane] != 0
        tally = counted(tally, lanes.errors[lane], square, vanished, chosen)
    end(out.figures, tally)


@inlined
def _plain_values(data: Any, at: Any, size: Any, kind: Any, values: Any) -> None:
    """Write float32 numbers from the bytes of BF16, F16 or F32 ones."""
    if kind == F32:
        stored = data[4 * at : 4 * (at + size)]
        for index in range(size):
            low = np.uint32(stored[4 * index]) | np.uint32(stored[4 * index + 1]) << 8
            high = np.uint32(stored[4 * index + 2]) | np.uint32(stored[4 * index + 3]) << 8
            values[index] = np.uint32(low | (high << 16)).view(np.float32)
        return
    stored = data[2 * at : 2 * (at + size)]
    for index in range(size):
        bits = np.uint32(stored[2 * index]) | np.uint32(stored[2 * index + 1]) << 8
        plain = np.uint32(bits << 16).view(np.float32)
        values[index] = numbers.half_value(bits) if kind == F16 else plain


@inlined
def _fp8_values(codes: Any, at: Any, scale: Any, values: Any) -> None:
    """Write as many float32 numbers as there is room for, from E4M3 codes under one scale."""
    some = codes[at : at + len(values)]
    for index in range(len(values)):
        values[index] = numbers.signed_e4m3(np.uint32(some[index])) * scale


@inlined
def _int4_values(pairs: Any, at: Any, scale: Any, values: Any) -> None:
    """The same from integers stored as 0 to 15, two in a byte; `at` is even, and so is the room."""
    some = pairs[at >> 1 : (at + len(values)) >> 1]
    for index in range(len(some)):
        low, high = np.int32(some[index] & 15), np.int32(some[index] >> 4)
        values[2 * index] = np.float32(low - INT4_ZERO) * scale
        values[2 * index + 1] = np.float32(high - INT4_ZERO) * scale


@inlined
def _scaled_values(
    data: Any, at: Any, size: Any, kind: Any, scales: Any, shape: Any, values: Any
) -> None:
    """Write float32 numbers from codes, one stretch under one scale after the other."""
    per_row = -(-shape.cols // shape.scale_cols)
    done = 0
    while done < size:
        row, col = (at + done) // shape.cols, (at + done) % shape.cols
        column = col // shape.scale_cols
        stretch = min(min(shape.cols, (column + 1) * shape.scale_cols) - col, size - done)
        scale = scales[(row + shape.before) // shape.scale_rows * per_row + column]
        if kind == INT4:
            _int4_values(data, at + done, scale, values[done : done + stretch])
        else:
            _fp8_values(data, at + done, scale, values[done : done + stretch])
        done += stretch


@jit.compiled(types.none(jit.BYTES, jit.INT, jit.FLOATS, SHAPE, RULE, LANES, OUTPUT))
def encode(data: Any, kind: Any, scales: Any, shape: Any, rule: Any, lanes: Any, out: Any) -> None:
    """Round rows of weights, 64 blocks after the other.

    Args:
        data: [rows * row bytes] uint8.
        kind: BF16, F16, F32, FP8 or INT4.
        scales: [scale rows * scale columns] float32; empty for plain weights.
        shape: Where the rows lie among the scales.
        rule: How to round.
        lanes: Overwritten.
        out: Written.
    """
    elements = shape.rows * shape.cols
    for at in range(0, elements, _TILE):
        size = min(_TILE, elements - at)
        if size < _TILE:
            lanes.values[:] = 0
        if kind >= FP8:
            _scaled_values(data, at, size, kind, scales, shape, lanes.values)
        else:
            _plain_values(data, at, size, kind, lanes.values)
        _measure(lanes, rule)
        if rule.searched:
            _search(lanes)
        _round(lanes, rule)
        _write(lanes, at // 16, size // 16, out)
