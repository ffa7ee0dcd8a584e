"""What the device is asked: how stored bytes lie, which code is for them, what its figures mean.

Knows nothing of Triton: loading what Triton compiled before does without it.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hubconv.formats.nvfp4 import BLOCK, Quality, Scales
from hubconv.formats.stored import Window

LANES: Final = 128
"""Blocks that a program works on at a time."""

TILES: Final = 8
"""How often it does."""

FIGURES: Final = 4
"""Numbers that each program of `encode` leaves for `quality`."""

SIZES: Final = (
    "blocks",
    "per_row",
    "row_factor",
    "row_shift",
    "first_in_band",
    "band_factor",
    "band_shift",
    "col_factor",
    "col_shift",
    "scale_cols",
)
"""Parameters of every kernel that say how bytes lie, int32, in their order."""

_COUNTS: Final = "<u2"  # four in the place of one figure: no program has so many blocks


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled kernel.

    Attributes:
        kernel: `amax`, `encode` or `respell`.
        form: fp8, mxfp4, int4, BF16, F16 or F32.
        mixed: A block of 16 can lie under several scales.
        rule: `search` or `amax`, for `encode`.
        extreme: The global scale is far from those of common weights, for `encode` with `amax`.
    """

    kernel: str
    form: str
    mixed: bool
    rule: str = ""
    extreme: bool = False

    @property
    def name(self) -> str:
        """For files."""
        parts = [self.kernel, self.form, "mixed" * self.mixed, self.rule, "extreme" * self.extreme]
        return "-".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Geometry:
    """How stored bytes lie, for whoever computes on a device.

    Attributes:
        form: fp8, mxfp4, int4, BF16, F16 or F32.
        blocks: Blocks of 16 weights.
        blocks_per_row: Of them in a row.
        first_in_band: Rows between the start of the first row of scales and the first row.
        block_rows: Rows that share a scale.
        block_cols: Columns that share a scale.
        scale_cols: Scales in a row of them.
    """

    form: str
    blocks: int
    blocks_per_row: int
    first_in_band: int = 0
    block_rows: int = 1
    block_cols: int = BLOCK
    scale_cols: int = 0

    @property
    def mixed(self) -> bool:
        """Whether a block of 16 can lie under several scales."""
        return self.block_cols % BLOCK != 0 and self.scale_cols > 1

    @property
    def programs(self) -> int:
        """How many programs a launch has whose lanes have a block each."""
        return -(-self.blocks // (LANES * TILES))

    @property
    def group_programs(self) -> int:
        """How many programs a launch has whose lanes have two blocks each."""
        return -(-self.blocks // (2 * LANES * TILES))

    @property
    def has_groups(self) -> bool:
        """Whether two blocks, side by side and under one scale, make a group of 32 everywhere."""
        one_scale = self.scale_cols <= 1 or self.block_cols % (2 * BLOCK) == 0
        return self.blocks_per_row % 2 == 0 and one_scale

    def sizes(self) -> list[Any]:
        """Values of `SIZES`: divisors are factors and shifts."""
        across = self.block_cols if self.mixed else max(self.block_cols // BLOCK, 1)
        if self.scale_cols <= 1:
            across = self.blocks_per_row
        values = (
            self.blocks,
            self.blocks_per_row,
            *_divisor(self.blocks_per_row),
            self.first_in_band,
            *_divisor(self.block_rows),
            *_divisor(across),
            self.scale_cols,
        )
        return [ctypes.c_int32(value) for value in values]


def _divisor(number: int) -> tuple[int, int]:
    """A factor of 32 bits, taken for a signed number, and a shift that divide 31 bits exactly."""
    shift = (number - 1).bit_length()
    return -(-(2 ** (31 + shift)) // number) - 2**32, shift


def geometry(window: Window) -> Geometry:
    """How the bytes of a window lie; columns a multiple of 16."""
    weight = window.weight
    per_row = weight.cols // BLOCK
    if weight.kind == "plain":
        return Geometry(weight.dtype, window.rows * per_row, per_row)
    block_rows, block_cols = weight.block
    return Geometry(
        weight.kind,
        window.rows * per_row,
        per_row,
        window.first_row % block_rows,
        block_rows,
        block_cols,
        weight.scale_shape[1],
    )


def amax_variant(layout: Geometry) -> Variant:
    """The kernel that finds largest magnitudes."""
    return Variant("amax", layout.form, layout.mixed)


def encode_variant(layout: Geometry, global_scale: float, rule: Scales) -> Variant:
    """The kernel that rounds, for a global scale."""
    extreme = rule == "amax" and not 2.0**-50 <= global_scale <= 2.0**-9
    return Variant("encode", layout.form, layout.mixed, rule, extreme)


def respell_variant(layout: Geometry) -> Variant:
    """The kernel that spells FP8 as MXFP4 again."""
    return Variant("respell", layout.form, layout.mixed)


def pointers(addresses: Sequence[int]) -> list[Any]:
    """Parameters that are addresses on the device."""
    return [ctypes.c_uint64(address) for address in addresses]


def scalars(global_scale: float) -> list[Any]:
    """The global scale and its reciprocal, float32, as `encode` takes them."""
    return [ctypes.c_float(global_scale), ctypes.c_float(1 / global_scale)]


def quality(figures: npt.NDArray[np.float64], blocks: int) -> tuple[Quality, int]:
    """What the figures of some programs say, and how many blocks hold something not finite.

    Args:
        figures: [programs, FIGURES] float64.
        blocks: Blocks that they have seen.
    """
    columns = np.ascontiguousarray(figures.T)
    counts = columns[3].view(_COUNTS).reshape(-1, 4).sum(0, np.int64)
    exact, flushed, low, bad = counts.tolist()
    found = Quality(
        elements=blocks * BLOCK,
        blocks=blocks,
        exact_blocks=exact,
        flushed_blocks=flushed,
        low_scales=low,
        error_sq=float(columns[0].sum()),
        weight_sq=float(columns[1].sum()),
        worst_block=math.sqrt(columns[2].max()),
    )
    return found, bad
