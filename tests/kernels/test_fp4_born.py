"""Weights that were born as FP4 come through without a loss."""

import numpy as np
import pytest
import weightmakers
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.formats import nvfp4
from hubconv.formats.recodes import bf16_to_fp8_block
from hubconv.formats.stored import StoredWeight, dequantize, window
from hubconv.kernels import choose

KERNEL = choose("cpu")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


def decoded(stored, g):
    encoded = KERNEL.encode(stored, g, "search")
    return encoded.quality, nvfp4.decode(encoded.codes, encoded.scales, g)


def mxfp4(rng, rows, cols, lowest, spread, largest_code=7):
    """E2M1 codes up to a largest one, under exponents that spread over `spread` binades."""
    codes = rng.integers(0, largest_code + 1, (rows, cols)) + 8 * rng.integers(0, 2, (rows, cols))
    codes = codes.astype(np.uint8)
    exponents = rng.integers(lowest, lowest + spread + 1, (rows, cols // 32))
    exponents.flat[0], exponents.flat[-1] = lowest, lowest + spread
    weight = StoredWeight("mxfp4", "I8", rows, cols, "F8_E8M0", (1, 32))
    pairs = codes[:, 0::2] | codes[:, 1::2] << 4
    return window(weight, 0, pairs.tobytes(), (exponents + 127).astype(np.uint8).tobytes())


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    spread=some.integers(0, 14),
    lowest=some.integers(-110, 100),
    largest_code=some.integers(1, 7),
)
def test_mxfp4_is_exact_while_its_exponents_spread_over_at_most_14(
    seed, spread, lowest, largest_code
):
    source = mxfp4(np.random.default_rng(seed), 8, 256, lowest, spread, largest_code)
    # The largest code decides where the global scale falls; exactness counts from there.
    g = nvfp4.global_scale(6.0 * 2.0 ** (lowest + spread))
    quality, values = decoded(source, g)
    assert quality.exact_blocks == quality.blocks == 128
    assert quality.error_sq == quality.worst_block == quality.relative_error == 0
    assert np.array_equal(values, dequantize(source))


@PROPERTY
@given(seed=some.integers(0, 2**32 - 1), spread=some.integers(0, 14))
def test_the_global_scale_of_the_weights_themselves_is_as_good(seed, spread):
    source = mxfp4(np.random.default_rng(seed), 8, 256, -9, spread)
    quality, values = decoded(source, nvfp4.global_scale(KERNEL.amax(source)))
    assert quality.exact_blocks == quality.blocks
    assert np.array_equal(values, dequantize(source))


@PROPERTY
@given(seed=some.integers(0, 2**32 - 1), spread=some.integers(0, 9))
def test_the_fp8_repack_of_mxfp4_gives_the_same_values(seed, spread):
    source = mxfp4(np.random.default_rng(seed), 144, 160, -12, spread)
    weights = dequantize(source)
    as_bf16 = (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    plain = window(StoredWeight("plain", "BF16", 144, 160), 0, as_bf16)
    codes, scales = bf16_to_fp8_block(plain, (128, 128))
    repack = StoredWeight("fp8", "F8_E4M3", 144, 160, "F8_E8M0", (128, 128))
    repacked = window(repack, 0, codes.tobytes(), scales.tobytes())
    assert np.array_equal(dequantize(repacked), weights)
    g = nvfp4.global_scale(KERNEL.amax(source))
    assert KERNEL.amax(repacked) == KERNEL.amax(source)
    first, second = decoded(source, g), decoded(repacked, g)
    assert first[0].exact_blocks == second[0].exact_blocks == second[0].blocks
    assert np.array_equal(first[1], second[1])
    assert np.array_equal(first[1], weights)


def test_the_plain_rule_loses_what_the_search_keeps():
    source = mxfp4(np.random.default_rng(6), 64, 512, -12, 4)
    amax = KERNEL.amax(source)
    plain = KERNEL.encode(source, nvfp4.global_scale_amax(amax), "amax").quality
    searched = KERNEL.encode(source, nvfp4.global_scale(amax), "search").quality
    assert plain.relative_error > 0.02
    assert searched.relative_error == 0
    assert searched.sqnr_db == float("inf")


@pytest.mark.parametrize("flavour", ["gaussian", "ties"])
def test_search_is_never_worse_than_amax_over_6_under_the_same_global_scale(flavour):
    rng = np.random.default_rng(7)
    stored = weightmakers.plain(rng, "BF16", 64, 512, flavour, -6).window()
    g = nvfp4.global_scale(KERNEL.amax(stored))
    searched = KERNEL.encode(stored, g, "search").quality
    plain = KERNEL.encode(stored, g, "amax").quality
    assert searched.error_sq <= plain.error_sq
