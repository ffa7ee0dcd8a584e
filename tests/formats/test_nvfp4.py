import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.formats.nvfp4 import (
    E4M3_VALUES,
    Quality,
    decode,
    global_scale,
    global_scale_amax,
    measure,
)

PROPERTY = settings(derandomize=True, deadline=None)
FLT_MAX = float(np.finfo(np.float32).max)
SIZES = some.floats(2**-149, FLT_MAX, width=32, allow_subnormal=True)


@PROPERTY
@given(some.lists(some.tuples(some.integers(0, 2**40), *[some.floats(0, 1e80)] * 3), max_size=9))
def test_the_total_of_qualities_is_their_sum_in_any_order(figures):
    all_of_them = [Quality(n, n, n, n, n, *floats) for n, *floats in figures]

    total = Quality.total(all_of_them)

    assert total == Quality.total(all_of_them[::-1])
    one_by_one = sum(all_of_them, Quality())
    assert dataclasses.astuple(total) == pytest.approx(dataclasses.astuple(one_by_one), rel=1e-12)
    assert total.elements == one_by_one.elements


def test_the_e4m3_table_holds_the_landmarks():
    landmarks = {0x00: 0, 0x01: 2**-9, 0x07: 7 * 2**-9, 0x08: 2**-6, 0x38: 1, 0x39: 1.125}
    landmarks |= {0x7E: 448, 0x81: -(2**-9), 0xB8: -1, 0xFE: -448}
    assert {code: float(E4M3_VALUES[code]) for code in landmarks} == landmarks
    assert np.flatnonzero(np.isnan(E4M3_VALUES)).tolist() == [0x7F, 0xFF]
    assert (np.diff(E4M3_VALUES[:0x7F]) > 0).all()
    assert np.signbit(E4M3_VALUES[0x80])


@PROPERTY
@given(amax=SIZES)
def test_the_global_scale_is_the_smallest_power_of_two_with_room_for_six_times_256(amax):
    g = Fraction(global_scale(amax))
    assert math.frexp(g)[0] == 0.5
    assert amax <= 1536 * g
    assert amax > 1536 * g / 2 or g == Fraction(2) ** -126


@pytest.mark.parametrize("exponent", [-125, -100, -66, -1, 0, 1, 64, 116])
def test_the_global_scale_is_right_on_a_boundary_and_next_to_it(exponent):
    at = np.float32(1536 * 2.0**exponent)
    below, above = np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(np.inf))
    assert global_scale(float(at)) == 2.0**exponent
    assert global_scale(float(below)) == 2.0**exponent
    assert global_scale(float(above)) == 2.0 ** (exponent + 1)


def test_the_global_scale_stays_normal_and_is_1_for_zeros():
    assert global_scale(0) == 1
    assert global_scale(2.0**-149) == 2.0**-126
    assert global_scale(FLT_MAX) == 2.0**118


@PROPERTY
@given(amax=SIZES)
def test_the_global_scale_of_amax_is_one_float32_division(amax):
    expected = float(np.float32(float(Fraction(amax) / 2688)))
    assert global_scale_amax(amax) == max(expected, 2.0**-126)


def test_the_global_scale_of_amax_is_normal_and_1_for_zeros():
    assert global_scale_amax(0) == 1
    assert global_scale_amax(2.0**-149) == 2.0**-126


def test_decoding_puts_the_even_column_in_the_low_nibble():
    codes = np.array([[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]], np.uint8)
    values = decode(codes, np.array([[0x40]], np.uint8), 0.5)  # scale 2
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert values.dtype == np.float64
    assert values.tolist() == [e2m1 + [-value for value in e2m1]]


def test_decoding_scales_each_block_of_16():
    codes = np.full((2, 16), 0x22, np.uint8)
    scales = np.array([[0x38, 0x40], [0x08, 0x7F]], np.uint8)
    values = decode(codes, scales, 4.0)
    assert values[0].tolist() == [4.0] * 16 + [8.0] * 16
    assert values[1, :16].tolist() == [2.0**-4] * 16
    assert np.isnan(values[1, 16:]).all()


def test_measuring_counts_exact_flushed_and_low_blocks():
    weights = np.zeros((1, 64))
    weights[0, :16] = 2  # exact
    weights[0, 16:32] = 0.1  # flushed
    weights[0, 32:48] = 2.5  # off by a fifth
    codes = np.zeros((1, 32), np.uint8)
    codes[0, :8] = codes[0, 16:24] = 0x44
    scales = np.array([[0x38, 0x04, 0x38, 0x38]], np.uint8)
    quality = measure(weights, codes, scales, 1.0)
    assert (quality.elements, quality.blocks) == (64, 4)
    assert (quality.exact_blocks, quality.flushed_blocks, quality.low_scales) == (2, 1, 1)
    assert quality.error_sq == pytest.approx(16 * 0.1**2 + 16 * 0.5**2)
    assert quality.worst_block == 1
    assert quality.relative_error == pytest.approx(math.sqrt(quality.error_sq / quality.weight_sq))


def test_qualities_add_up():
    first = Quality(32, 2, 1, 0, 0, 1.0, 100.0, 0.25)
    second = Quality(16, 1, 0, 1, 1, 2.0, 2.0, 1.0)
    assert first + second == Quality(48, 3, 1, 1, 1, 3.0, 102.0, 1.0)
    assert Quality().relative_error == 0
    assert first.sqnr_db == pytest.approx(20)
