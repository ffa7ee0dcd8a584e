import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.errors import IntegrityError, ScaleError
from hubconv.formats.recodes import (
    bf16_to_fp8_block,
    fp8_to_mxfp4,
    pow2_to_e8m0,
    widen_to_f32,
)
from hubconv.formats.stored import NonFiniteError, StoredWeight, dequantize, scale_values, window

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
E8M0, BLOCK = "F8_E8M0", (4, 64)


def mxfp4_weights(rng, rows, cols, lowest, spread):
    """[rows, cols] float32 of E2M1 values under a power of two for each 32, signed zeros too."""
    magnitudes = rng.choice(np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32), (rows, cols))
    exponents = rng.integers(lowest, lowest + spread + 1, (rows, cols // 32)).repeat(32, 1)
    signs = rng.choice(np.array([-1, 1], np.float32), (rows, cols))
    return np.ldexp(magnitudes * signs, exponents).astype(np.float32)


def f32_window(weights):
    weight = StoredWeight("plain", "F32", *weights.shape)
    return window(weight, 0, weights.astype(np.float32).tobytes())


def bf16_window(weights, first_row=0):
    bits = (weights.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    weight = StoredWeight("plain", "BF16", first_row + len(weights), weights.shape[1])
    return window(weight, first_row, bits.tobytes())


def read_fp8(codes, scales, block=BLOCK):
    weight = StoredWeight("fp8", "F8_E4M3", *codes.shape, E8M0, block)
    return window(weight, 0, codes.tobytes(), scales.tobytes())


def read_mxfp4(pairs, scales):
    weight = StoredWeight("mxfp4", "I8", len(pairs), 2 * pairs.shape[1], E8M0, (1, 32))
    return dequantize(window(weight, 0, pairs.tobytes(), scales.tobytes()))


def assert_same_numbers(actual, expected):
    assert np.array_equal(actual, expected)
    assert np.array_equal(np.signbit(actual), np.signbit(expected))


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    rows=some.integers(1, 9),
    groups=some.integers(1, 5),
    lowest=some.integers(-60, 50),
    spread=some.integers(0, 9),
)
def test_mxfp4_repacked_as_fp8_comes_back(seed, rows, groups, lowest, spread):
    weights = mxfp4_weights(np.random.default_rng(seed), rows, 32 * groups, lowest, spread)
    codes, scales = bf16_to_fp8_block(bf16_window(weights), BLOCK)
    repacked = read_fp8(codes, scales)
    assert_same_numbers(dequantize(repacked), weights)
    assert_same_numbers(read_mxfp4(*fp8_to_mxfp4(repacked)), weights)


@pytest.mark.parametrize("lowest", [-127, -126, 119, 125])
def test_mxfp4_at_the_ends_of_e8m0(lowest):
    weights = mxfp4_weights(np.random.default_rng(1), 4, 64, lowest, 0)
    assert_same_numbers(read_mxfp4(*fp8_to_mxfp4(f32_window(weights))), weights)


def test_the_largest_of_a_group_becomes_4_or_6_and_a_group_of_zeros_gets_scale_1():
    weights = np.zeros((1, 96), np.float32)
    weights[0, 0], weights[0, 32] = 0.5, -1.5
    pairs, scales = fp8_to_mxfp4(f32_window(weights))
    assert pairs[0, [0, 16]].tolist() == [0x06, 0x0F]
    assert scales.tolist() == [[127 - 3, 127 - 2, 127]]


@pytest.mark.parametrize("wrong", [1.25, 0.25, 7, 1e-30, 1e-45])
def test_what_is_not_mxfp4_is_refused_with_its_place(wrong):
    weights = mxfp4_weights(np.random.default_rng(2), 5, 96, 0, 0)
    weights[3, 64:] = 4
    weights[3, 70] = wrong
    with pytest.raises(
        IntegrityError, match=r"1 of 15 blocks of 1x32 .* at row 3, column 64\. Keep the tensor"
    ):
        fp8_to_mxfp4(f32_window(weights))


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    rows=some.integers(1, 9),
    cols=some.integers(1, 150),
    exponent=some.integers(-100, 100),
)
def test_any_fp8_blocks_come_back_from_bf16(seed, rows, cols, exponent):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (rows, cols)).astype(np.uint8)
    codes[codes & 0x7F == 0x7F] = 0
    shape = (-(-rows // BLOCK[0]), -(-cols // BLOCK[1]))
    scales = rng.integers(exponent + 123, exponent + 131, shape).astype(np.uint8)
    weights = dequantize(read_fp8(codes, scales))
    again, again_scales = bf16_to_fp8_block(bf16_window(weights), BLOCK)
    assert_same_numbers(dequantize(read_fp8(again, again_scales)), weights)
    full = [
        (codes[row : row + 4, col : col + 64] & 0x7F).max() > 0x76
        for row in range(0, rows, 4)
        for col in range(0, cols, 64)
    ]  # a code above 224 leaves one choice: the bytes themselves return
    assert (again_scales.ravel()[full] == scales.ravel()[full]).all()


def test_the_vendors_scale_is_the_smallest_that_fits():
    weights = np.zeros((12, 64), np.float32)
    weights[0, 0], weights[4, 0] = 448, 480  # 480 needs twice the scale
    codes, scales = bf16_to_fp8_block(bf16_window(weights), BLOCK)
    assert scales.tolist() == [[127], [128], [127]]
    assert codes[[0, 4], 0].tolist() == [0x7E, 0x77]


def test_what_is_not_fp8_is_refused_with_its_place():
    weights = np.ones((8, 128), np.float32)
    weights[6, 100] = 1 + 2**-4  # five significant bits
    with pytest.raises(
        IntegrityError, match=r"1 of 4 blocks of 4x64 .*E4M3.* at row 12, column 64\."
    ):
        bf16_to_fp8_block(bf16_window(weights, first_row=8), BLOCK)


def test_a_spread_that_fp8_cannot_hold_is_refused():
    weights = np.ones((4, 64), np.float32)
    weights[0, 0] = 2.0**-18  # 2^8 down to 2^-9 is what one scale holds
    with pytest.raises(IntegrityError, match="E4M3 codes times one power of two"):
        bf16_to_fp8_block(bf16_window(weights), BLOCK)
    weights[0, 0] = 2.0**-17
    codes, scales = bf16_to_fp8_block(bf16_window(weights), BLOCK)
    assert np.array_equal(dequantize(read_fp8(codes, scales)), weights)


def test_nan_is_refused_as_everywhere():
    weights = np.ones((4, 64), np.float32)
    weights[1, 2] = np.nan
    with pytest.raises(NonFiniteError):
        bf16_to_fp8_block(bf16_window(weights), BLOCK)
    with pytest.raises(NonFiniteError):
        fp8_to_mxfp4(f32_window(weights))


def test_windows_recode_to_the_same_bytes_as_the_whole():
    weights = mxfp4_weights(np.random.default_rng(3), 12, 128, -5, 6)
    whole = bf16_to_fp8_block(bf16_window(weights), BLOCK)
    parts = [bf16_to_fp8_block(bf16_window(weights[at : at + 4], at), BLOCK) for at in (0, 4, 8)]
    for place in (0, 1):
        assert np.array_equal(np.concatenate([part[place] for part in parts]), whole[place])
    repacked = read_fp8(*whole)
    pairs, scales = fp8_to_mxfp4(repacked)
    later_pairs, later_scales = fp8_to_mxfp4(repacked.part(4, 12))
    assert np.array_equal(later_pairs, pairs[4:])
    assert np.array_equal(later_scales, scales[4:])


def test_powers_of_two_become_e8m0_and_nothing_else_does():
    powers = np.array([[2.0**exponent for exponent in range(-127, 128)]], np.float32)
    assert pow2_to_e8m0(powers).tolist() == [list(range(255))]
    assert pow2_to_e8m0(powers.reshape(5, 51)).shape == (5, 51)
    for wrong in (0.0, -0.0, -1.0, 3.0, 1.0000001, 2.0**-128, 2.0**-149, np.inf, np.nan):
        scales = np.array([[1, 1], [wrong, 2]], np.float32)
        with pytest.raises(IntegrityError, match=r"1 of 4 scales .*first at \[1, 0\]"):
            pow2_to_e8m0(scales)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_widening_changes_no_number(dtype):
    rng = np.random.default_rng(4)
    if dtype == "F32":
        raw = rng.standard_normal(100).astype(np.float32).tobytes()
    else:
        raw = np.arange(0, 0x7C00, 7, dtype=np.uint16).tobytes()
    wide = widen_to_f32(raw, dtype)
    assert np.frombuffer(wide, np.float32).tolist() == scale_values(raw, dtype, (-1,)).tolist()


def test_widening_refuses_what_is_no_float():
    with pytest.raises(ScaleError):
        widen_to_f32(b"\0" * 4, "I32")
