"""Small weights on which a device must give the bytes of the CPU before it is trusted with others.

A driver, a compiler or a card can be at fault; that must show before a checkpoint is written.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from hubconv.errors import IntegrityError
from hubconv.formats import recodes, stored
from hubconv.formats.nvfp4 import E2M1, E4M3_VALUES, Encoded, Quality, Scales
from hubconv.formats.stored import INT4_ZERO, Bytes2D, StoredWeight, Window
from hubconv.kernels import Kernel
from hubconv.kernels.cuda.answers import answer

_ROWS: Final = 72
_SKIPPED: Final = 29  # rows before the window, so that it begins within a row of scales
_COLS: Final = 544
_INT4_ZEROS: Final = INT4_ZERO * 0x11  # a byte of two of them
_SEVEN: Final = 0x7E  # an E4M3 code whose fraction no E2M1 code has
_AWKWARD: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 0.0, -0.0)

BeginLargest = Callable[[Window], Callable[[], float]]
Respell = Callable[[Window], tuple[Bytes2D, Bytes2D] | None]
BeginEncode = Callable[[Window, float, Scales], Callable[[], Encoded]]


def check(
    form: str,
    *,
    mixed: bool,
    reference: Callable[[], Kernel],
    begin_amax: BeginLargest,
    begin_encode: BeginEncode,
) -> None:
    """Compare what a device makes of some windows with what the CPU makes of them.

    All of it is begun before the first of it is waited for, as a unit does with its windows.

    Args:
        form: fp8, mxfp4, int4, BF16, F16 or F32.
        mixed: Whether blocks of 16 lie under several scales; fp8 and int4 alone.
        reference: Gives the kernel that is right, where its answer is not known yet.
        begin_amax: Begins the device's largest magnitude.
        begin_encode: Begins the device's rounding.

    Raises:
        IntegrityError: A byte or a figure differs.
    """
    # The kernels have a way of their own for global scales far from those of common weights.
    windows = [_window(form, exponent, mixed=mixed) for exponent in (0, -13)]
    right = [answer(window, reference) for window in windows]
    largest = [
        (begin_amax(window), told.largest) for window, told in zip(windows, right, strict=True)
    ]
    encoded = [
        (begin_encode(window, scale, rule), expected)
        for window, told in zip(windows, right, strict=True)
        for rule, scale, expected in told.asked()
    ]
    same = all(found() == expected for found, expected in largest)
    if not all([same, *(_equal(expected, found()) for found, expected in encoded)]):
        raise IntegrityError(
            f"The CUDA device gives other bytes than the CPU for {form} weights.",
            "Use --device cpu, and report the card, its driver, torch and Triton.",
        )


def check_respelling(respell: Respell) -> None:
    """Compare what a device makes of FP8 that was born as MXFP4 with what the definition makes.

    Args:
        respell: Spells a window as MXFP4; None where a group of it is no such thing.

    Raises:
        IntegrityError: A byte differs, or a group that is not exact passes for one that is.
    """
    window = _born_as_mxfp4()
    expected, found = recodes.fp8_to_mxfp4(window), respell(window)
    same = found is not None and all(map(np.array_equal, expected, found))
    other = window.data.copy()
    other[_ROWS // 2, _COLS // 2] = _SEVEN
    damaged = stored.window(window.weight, _SKIPPED, other.tobytes(), window.scales.tobytes())
    if not same or respell(damaged) is not None:
        raise IntegrityError(
            "The CUDA device gives other bytes than the CPU for FP8 weights spelled as MXFP4.",
            "Use --device cpu, and report the card, its driver, torch and Triton.",
        )


def _equal(expected: Encoded, found: Encoded) -> bool:
    wanted, figures = expected.quality, found.quality
    return (
        np.array_equal(expected.codes, found.codes)
        and np.array_equal(expected.scales, found.scales)
        and _counts(wanted) == _counts(figures)
        and math.isclose(wanted.error_sq, figures.error_sq, rel_tol=1e-12)
        and math.isclose(wanted.weight_sq, figures.weight_sq, rel_tol=1e-12)
        and math.isclose(wanted.worst_block, figures.worst_block, rel_tol=1e-12)
    )


def _counts(quality: Quality) -> tuple[int, ...]:
    counts = (quality.elements, quality.blocks, quality.exact_blocks)
    return (*counts, quality.flushed_blocks, quality.low_scales)


def _window(form: str, exponent: int, *, mixed: bool) -> Window:
    """Awkward weights that all carry 2^exponent."""
    random = np.random.default_rng(16)
    rows = _SKIPPED + _ROWS
    if form == "fp8":
        weight = StoredWeight("fp8", "F8_E4M3", rows, _COLS, "F32", (5, 24) if mixed else (48, 128))
        data = random.integers(0, 256, (_ROWS, _COLS)).astype(np.uint8)
        data[data & 0x7F == 0x7F] = 0x80
    elif form == "mxfp4":
        weight = StoredWeight("mxfp4", "I8", rows, _COLS, "F32", (1, 32))
        data = random.integers(0, 256, (_ROWS, _COLS // 2)).astype(np.uint8)
    elif form == "int4":
        weight = StoredWeight("int4", "I32", rows, _COLS, "F32", (1, 24 if mixed else 32))
        data = random.integers(0, 256, (_ROWS, _COLS // 2)).astype(np.uint8)
    else:
        weight = StoredWeight("plain", form, rows, _COLS)
        data = _plain(random, form, exponent)
    zero = _INT4_ZEROS if form == "int4" else 0
    data[1] = zero
    data[2, 32:] = zero
    needed = len(weight.scale_rows(_SKIPPED, _ROWS)), weight.scale_shape[1]
    factors = random.random(needed, np.float32) + np.float32(0.5)
    factors *= np.exp2(random.integers(exponent - 12, exponent, needed)).astype(np.float32)
    return stored.window(weight, _SKIPPED, data.tobytes(), factors.tobytes())


def _born_as_mxfp4() -> Window:
    """FP8 codes of E2M1 codes under every power of two that leaves them exact."""
    random = np.random.default_rng(32)
    weight = StoredWeight("fp8", "F8_E4M3", _SKIPPED + _ROWS, _COLS, "F32", (48, 32))
    shape = (_ROWS, _COLS // 32, 32)
    sizes = random.choice(E2M1, shape) * np.exp2(random.integers(-8, 7, (*shape[:2], 1)))
    data = np.searchsorted(E4M3_VALUES[:127], sizes).astype(np.uint8).reshape(_ROWS, _COLS)
    data |= random.integers(0, 2, data.shape).astype(np.uint8) << np.uint8(7)
    data[1] = 0x80
    needed = len(weight.scale_rows(_SKIPPED, _ROWS)), weight.scale_shape[1]
    factors = np.exp2(random.integers(-60, 60, needed)).astype(np.float32)
    return stored.window(weight, _SKIPPED, data.tobytes(), factors.tobytes())


def _plain(random: np.random.Generator, dtype: str, exponent: int) -> npt.NDArray[np.uint8]:
    """[rows, row bytes] uint8: numbers of many sizes, boundaries of E2M1, an outlier."""
    values = random.standard_normal((_ROWS, _COLS), np.float32)
    values *= np.exp2(random.integers(-9, 9, (_ROWS, 1))).astype(np.float32)
    values[3:24] = random.choice(np.array(_AWKWARD, np.float32), (21, _COLS)) * np.sign(
        values[3:24]
    )
    values[24:32] *= np.float32(2.0**-13)
    values[5, 7] = 30000
    values *= np.float32(2.0**exponent)
    if dtype == "F32":
        return values.view(np.uint8)
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint8)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
