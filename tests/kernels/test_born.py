"""What the CPU's kernel does without tables, where FP8 was born as FP4, is what the reference does.

Every block here is nearly such a block: one number or another is what must send it to the tables.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.errors import IntegrityError
from hubconv.formats import recodes
from hubconv.formats.nvfp4 import E4M3_VALUES
from hubconv.formats.stored import StoredWeight, window
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.reference import ReferenceKernel

KERNEL, REFERENCE = CpuKernel(), ReferenceKernel("cpu")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=120)
ROWS, COLS = 64, 128

HALF, HOLE, FAR = 7, 6, 8
"""Steps below the largest number: to its twelfth, to what E2M1 lacks above it, to what lies below.

So where the largest is 1.5 of a power of two; each is one step less where it is a power itself.
"""


def codes(rng, top, steps, zeros):
    """[ROWS, COLS] E4M3 codes: so many steps below `top`, some of them zeros, of either sign."""
    below = rng.choice(steps, (ROWS, COLS))
    found = np.maximum(top - 4 * below, 0)
    found[rng.random((ROWS, COLS)) < zeros] = 0
    found[:, ::16] = np.where(rng.random((ROWS, COLS // 16)) < 0.9, top, found[:, ::16])
    return (found + 128 * rng.integers(0, 2, (ROWS, COLS))).astype(np.uint8)


def stored(numbers, scale):
    scales = np.full((1, 1), scale, np.float32)
    weight = StoredWeight("fp8", "F8_E4M3", ROWS, COLS, "F32", (ROWS, COLS))
    return window(weight, 0, numbers.tobytes(), scales.tobytes())


def assert_same(source, g):
    found, wanted = KERNEL.encode(source, g, "search"), REFERENCE.encode(source, g, "search")
    assert np.array_equal(found.scales, wanted.scales)
    assert np.array_equal(found.codes, wanted.codes)
    for name in ("elements", "blocks", "exact_blocks", "flushed_blocks", "low_scales"):
        assert getattr(found.quality, name) == getattr(wanted.quality, name)
    for name in ("error_sq", "weight_sq", "worst_block"):
        expected = pytest.approx(getattr(wanted.quality, name), rel=1e-12, abs=0)
        assert getattr(found.quality, name) == expected
    if wanted.quality.error_sq == 0:  # sums of squares of such numbers are exact
        assert found.quality == wanted.quality
    return found.quality


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    top=some.integers(1, 31).map(lambda steps: 4 * steps),
    steps=some.sampled_from([range(6), [0, 1, 2, 3, 4, 5, HALF], [0, 2, 4, 6], range(9), [0, 30]]),
    zeros=some.sampled_from([0, 0.1, 0.9]),
    binades=some.integers(-3, 14),
    scale=some.sampled_from([1, -1, 2.0**-9, -(2.0**-100), 2.0**60, 1.5, 0.0, 2.0**-140]),
)
def test_any_steps_under_any_scale(seed, top, steps, zeros, binades, scale):
    numbers = codes(np.random.default_rng(seed), top, steps, zeros)
    # The block scales lie from below the smallest that is searched to above the largest.
    g = 2.0 ** np.floor(np.log2(abs(E4M3_VALUES[top] * scale or 1) / 6)) * 2.0 ** (6 - binades)
    if 2.0**-126 <= g <= 2.0**120:
        assert_same(stored(numbers, scale), g)


@pytest.mark.parametrize("top", [4 * 17, 4 * 18], ids=["1.5 of a power", "a power"])
@pytest.mark.parametrize("odd", ["1", "2", "3", "hole", "far", "subnormal", "NaN's neighbour"])
@pytest.mark.parametrize("lane", range(16))
def test_one_number_that_does_not_belong(top, odd, lane):
    is_power = top % 8 == 0
    numbers = codes(np.random.default_rng(lane), top, range(5), 0.1)
    before = assert_same(stored(numbers, 1), 2.0**-4)
    numbers[3, 16 + lane] = {
        "1": top - 3,
        "2": top - 2,
        "3": top - 1,
        "hole": top - 4 * (HOLE - is_power),
        "far": top - 4 * (FAR - is_power),
        "subnormal": 4,
        "NaN's neighbour": 0x7E,
    }[odd]
    after = assert_same(stored(numbers, 1), 2.0**-4)

    assert before.exact_blocks == before.blocks
    assert after.exact_blocks == before.blocks - 1


@pytest.mark.parametrize("top", [4 * 17, 4 * 18], ids=["1.5 of a power", "a power"])
@pytest.mark.parametrize("binade", range(-12, 12))
def test_block_scales_of_every_size(top, binade):
    numbers = codes(np.random.default_rng(binade + 12), top, [0, 1, 2, 3, 5], 0.1)
    numbers[:, ::16] = top
    assert_same(stored(numbers, 1), 2.0**-binade)


def fp8_repack():
    numbers = codes(np.random.default_rng(0), 4 * 17, [0, 1, 2, 3, 4, 5, HALF], 0.1)
    numbers[:, ::16] = 4 * 17
    return stored(numbers, -0.25)


def mxfp4():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 256, (ROWS, COLS // 2), np.uint8) | 1  # no zeros in the low nibbles
    exponents = rng.integers(120, 128, (ROWS, COLS // 32), np.uint8)
    weight = StoredWeight("mxfp4", "I8", ROWS, COLS, "F8_E8M0", (1, 32))
    return window(weight, 0, pairs.tobytes(), exponents.tobytes())


@pytest.mark.parametrize("source", [fp8_repack(), mxfp4()], ids=["FP8", "MXFP4"])
def test_what_needs_no_tables_asks_for_none(source):
    kernel = CpuKernel(workers=1000)
    encoded = kernel.encode(source, 2.0**-6, "search")

    assert encoded.quality == REFERENCE.encode(source, 2.0**-6, "search").quality
    assert not kernel._room.__dict__["fp8"][1].have_scale.any()


def test_no_other_candidate_comes_before_the_one_that_is_taken():
    """Every set of magnitudes that E2M1 has, by the definition."""
    magnitudes = np.array([0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    for chosen in range(1, 2**7):
        present = magnitudes[[chosen >> bit & 1 == 1 for bit in range(7)]]
        block = [np.flatnonzero(E4M3_VALUES[:127] == number)[0] for number in present]
        numbers = np.resize(np.resize(block, 16).astype(np.uint8), (ROWS, COLS))
        assert assert_same(stored(numbers, 2.0**-5), 2.0**-8).exact_blocks == ROWS * COLS // 16


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    top=some.integers(1, 31).map(lambda steps: 4 * steps),
    steps=some.sampled_from([range(6), [0, 1, 2, 3, 4, 5, HALF], range(9), [0, 30]]),
    zeros=some.sampled_from([0, 0.5, 0.97]),
    scale=some.sampled_from([1, 2.0**-9, 2.0**-120, 2.0**120, 1.5, -1, 0.0]),
)
def test_re_spelling_in_groups_of_32(seed, top, steps, zeros, scale):
    source = stored(codes(np.random.default_rng(seed), top, steps, zeros), scale)
    for found, expected in zip(
        pairs_or_error(KERNEL, source), pairs_or_error(recodes, source), strict=True
    ):
        assert np.array_equal(found, expected)


def pairs_or_error(way, source):
    try:
        return way.fp8_to_mxfp4(source)
    except IntegrityError as error:
        return [str(error)]
