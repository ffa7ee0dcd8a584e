from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracle
import pytest
import torch
import weightmakers
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.errors import ResourceError, UsageError
from hubconv.formats import nvfp4
from hubconv.formats.stored import StoredWeight, dequantize, window
from hubconv.kernels import choose, magnitude
from hubconv.kernels.reference import ReferenceKernel

KERNEL = ReferenceKernel("cpu")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


@some.composite
def stored_weights(draw):
    """Weights of every kind, scale type, block shape and flavour."""
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    rows = draw(some.integers(1, 5))
    cols = 16 * draw(some.integers(1, 4))
    flavour = draw(some.sampled_from(weightmakers.FLAVOURS))
    exponent = draw(some.sampled_from([0, 0, 0, -7, -50, -66, -75, -110, -149, 20, 64, 100]))
    kind = draw(some.sampled_from(["plain", "fp8", "mxfp4", "int4"]))
    if kind == "plain":
        dtype = draw(some.sampled_from(["BF16", "F16", "F32"]))
        return weightmakers.plain(rng, dtype, rows, cols, flavour, exponent)
    if kind == "mxfp4":
        return weightmakers.mxfp4(rng, rows, 2 * cols, flavour, exponent)
    if kind == "int4":
        group = draw(some.sampled_from([32, 32, 16, 64, 8, 24, 40, cols]))
        scale_dtype = draw(some.sampled_from(["BF16", "F16", "F32"]))
        return weightmakers.int4(rng, rows, cols, group, scale_dtype, flavour, exponent)
    block = draw(some.sampled_from([(2, 32), (3, 48), (1, 24), (4, 7), (1, cols), (rows, cols)]))
    scale_dtype = draw(some.sampled_from(["F32", "BF16", "F16", "F8_E8M0"]))
    return weightmakers.fp8(rng, rows, cols, block, scale_dtype, flavour, exponent)


def global_scale(amax, rule):
    return nvfp4.global_scale(amax) if rule == "search" else nvfp4.global_scale_amax(amax)


def assert_same_bytes(stored, rule):
    weights = oracle.dequantize(stored.weight, stored.data, stored.scales)
    amax = float(np.abs(weights).max())
    assert KERNEL.amax(stored.window()) == amax
    g = global_scale(amax, rule)
    codes, scales = oracle.encode(weights, g, rule)
    encoded = KERNEL.encode(stored.window(), g, rule)
    assert encoded.scales.tolist() == scales.tolist()
    assert encoded.codes.tolist() == codes.tolist()
    return encoded, weights, g


@PROPERTY
@given(stored=stored_weights())
def test_every_source_dequantizes_as_the_book_says(stored):
    expected = oracle.dequantize(stored.weight, stored.data, stored.scales)
    actual = dequantize(stored.window())
    assert actual.dtype == np.float32
    assert np.array_equal(actual, expected)
    assert np.array_equal(np.signbit(actual), np.signbit(expected))


@pytest.mark.parametrize("rule", ["search", "amax"])
@settings(PROPERTY, max_examples=150)
@given(stored=stored_weights())
def test_every_source_gives_the_bytes_of_the_book(rule, stored):
    assert_same_bytes(stored, rule)


@pytest.mark.parametrize(
    ("unit", "block"),
    [  # two of -1, +1, -2, +2 and +5, +6 are equally good: the one tried first stays
        (32, [0, 0, 0, 0, 1, 0, 1, -10, 0, 0, 3, 0, -3, -6, -4, 4]),
        (32, [15, -5, -12, -9, 13, -1, 6, 0, 0, 0, -11, -9, 9, 10, 0, -15]),
        (32, [0, -5, 0, 8, 10, 0, 0, 7, -7, 8, 4, 0, 0, -12, 0, -10]),
        (32, [0, -10, 4, 10, -12, -4, -8, 0, 5, -2, -2, 0, 0, 0, 4, -10]),
        (32, [9, 8, 0, 7, 9, 0, -12, 0, 0, 0, 7, 11, -15, -12, 0, 3]),
        # equally good on paper, and the order of the float32 sum decides
        (100.1, [3, 0, 14, -3, -11, 13, 0, 0, 9, 0, 0, -14, 0, 12, 0, -7]),
        (33.3, [0, -4, 15, 0, -8, 0, 11, 0, -6, 0, 10, -10, 0, -2, 2, 0]),
        (33.3, [0, 0, 8, 0, 3, -4, 0, 0, -14, 6, -7, 6, -3, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("exponent", [0, -70, 100])
def test_the_order_of_candidates_and_of_sums_decides_between_equals(unit, block, exponent):
    g = 2.0**exponent
    weights = np.array([block], np.float32) * np.float32(unit) * np.float32(g)
    stored = window(StoredWeight("plain", "F32", 1, 16), 0, weights.tobytes())
    codes, scales = oracle.encode(weights, g, "search")
    encoded = KERNEL.encode(stored, g, "search")
    assert encoded.scales.tolist() == scales.tolist()
    assert encoded.codes.tolist() == codes.tolist()


@pytest.mark.parametrize("rule", ["search", "amax"])
@PROPERTY
@given(stored=stored_weights())
def test_quality_is_what_decoding_shows(rule, stored):
    encoded, weights, g = assert_same_bytes(stored, rule)
    expected = nvfp4.measure(weights, encoded.codes, encoded.scales, g)
    found = encoded.quality
    counts = ["elements", "blocks", "exact_blocks", "flushed_blocks", "low_scales"]
    assert [getattr(found, name) for name in counts] == [getattr(expected, name) for name in counts]
    assert found.error_sq == pytest.approx(expected.error_sq, rel=1e-12, abs=0)
    assert found.weight_sq == pytest.approx(expected.weight_sq, rel=1e-12, abs=0)
    assert found.worst_block == pytest.approx(expected.worst_block, rel=1e-12, abs=0)


@pytest.mark.parametrize("rule", ["search", "amax"])
@PROPERTY
@given(stored=stored_weights(), cuts=some.lists(some.integers(1, 4), max_size=4))
def test_windows_of_any_size_give_the_same_bytes(rule, stored, cuts):
    g = global_scale(KERNEL.amax(stored.window()), rule)
    whole = KERNEL.encode(stored.window(), g, rule)
    edges = sorted({0, stored.weight.rows, *(cut for cut in cuts if cut < stored.weight.rows)})
    parts = [stored.window(*edge) for edge in pairwise(edges)]
    pieces = [KERNEL.encode(part, g, rule) for part in parts]
    assert max(KERNEL.amax(part) for part in parts) == KERNEL.amax(stored.window())
    assert np.concatenate([piece.codes for piece in pieces]).tolist() == whole.codes.tolist()
    assert np.concatenate([piece.scales for piece in pieces]).tolist() == whole.scales.tolist()
    assert sum(piece.quality.blocks for piece in pieces) == whole.quality.blocks


def test_the_576_rows_of_a_partial_last_block_are_read_right():
    rng = np.random.default_rng(1)
    stored = weightmakers.fp8(rng, 576, 208, (128, 128), "F32", "gaussian", -8)
    assert stored.weight.scale_shape == (5, 2)
    weights = dequantize(stored.window())
    as_plain = window(StoredWeight("plain", "F32", 576, 208), 0, weights.tobytes())
    g = nvfp4.global_scale(KERNEL.amax(stored.window()))
    expected = KERNEL.encode(as_plain, g, "search")
    actual = KERNEL.encode(stored.window(), g, "search")
    assert KERNEL.amax(stored.window()) == np.abs(weights).max()
    assert (actual.codes == expected.codes).all()
    assert (actual.scales == expected.scales).all()


@pytest.mark.parametrize("rule", ["search", "amax"])
@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_chunks_do_not_show(rule, kind, monkeypatch):
    rng = np.random.default_rng(2)
    if kind == "fp8":
        stored = weightmakers.fp8(rng, 37, 96, (8, 32), "BF16", "gaussian", -9)
    else:
        stored = weightmakers.int4(rng, 37, 96, 32, "BF16", "gaussian", -9)
    g = global_scale(KERNEL.amax(stored.window()), rule)
    whole = KERNEL.encode(stored.window(), g, rule)
    small = ReferenceKernel("cpu")
    monkeypatch.setattr(small, "_elements", 200)
    chunked = small.encode(stored.window(), g, rule)
    assert (chunked.codes == whole.codes).all()
    assert (chunked.scales == whole.scales).all()
    assert chunked.quality.blocks == whole.quality.blocks
    assert chunked.quality.error_sq == pytest.approx(whole.quality.error_sq, rel=1e-12)


@pytest.mark.parametrize("kind", ["fp8", "mxfp4", "int4", "plain"])
@pytest.mark.parametrize("chunk_bytes", [1, 70, 1 << 18])
def test_the_largest_magnitude_is_found_in_any_chunk(kind, chunk_bytes, monkeypatch):
    monkeypatch.setattr(magnitude, "_CHUNK_BYTES", chunk_bytes)
    rng = np.random.default_rng(10)
    for row in range(11):
        codes = rng.integers(0, 3, (11, 64)).astype(np.uint8)
        codes[row, 37] = 0x77
        scales = np.ones((3, 3), np.float32).tobytes()
        if kind == "fp8":
            source = window(
                StoredWeight("fp8", "F8_E4M3", 11, 64, "F32", (5, 24)), 0, codes, scales
            )
        elif kind == "mxfp4":
            weight = StoredWeight("mxfp4", "I8", 11, 128, "F8_E8M0", (1, 32))
            source = window(weight, 0, codes, bytes([127] * 44))
        elif kind == "int4":
            weight = StoredWeight("int4", "I32", 11, 128, "F32", (1, 32))
            nibbles = np.where(codes == 0x77, 0x80, codes + np.uint8(0x77))  # -8 alone is as large
            source = window(weight, 0, nibbles, np.ones((11, 4), np.float32).tobytes())
        else:
            source = window(StoredWeight("plain", "BF16", 11, 32), 0, codes)
        assert KERNEL.amax(source) == np.abs(dequantize(source)).max()
        assert KERNEL.amax(source.part(row, row + 1)) == KERNEL.amax(source)


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_the_zero_of_int4_is_zero_and_its_largest_is_below_zero(scale):
    weight = StoredWeight("int4", "I32", 1, 32, "F32", (1, 32))
    stored = window(weight, 0, b"\xf0\x88" + b"\x88" * 14, np.float32(scale).tobytes())
    assert dequantize(stored)[0, :4].tolist() == [-8 * scale, 7 * scale, 0, 0]
    assert KERNEL.amax(stored) == 8
    for rule in ("search", "amax"):
        codes = KERNEL.encode(stored, global_scale(8.0, rule), rule).codes
        assert (codes[0, 0] & 8, codes[0, 0] >> 7) == ((8, 0) if scale > 0 else (0, 1))
        assert not codes[0, 1:].any()


def test_int4_partners_share_the_larger_of_their_magnitudes():
    rng = np.random.default_rng(12)
    gate = weightmakers.int4(rng, 7, 96, 32, "BF16", "gaussian", -9)
    up = weightmakers.int4(rng, 7, 96, 32, "BF16", "gaussian", -6)
    both = weightmakers.Stored(
        replace(gate.weight, rows=14), gate.data + up.data, gate.scales + up.scales
    )
    joint = max(KERNEL.amax(gate.window()), KERNEL.amax(up.window()))
    assert joint == KERNEL.amax(both.window()) == np.abs(dequantize(both.window())).max()
    whole = KERNEL.encode(both.window(), nvfp4.global_scale(joint), "search")
    for rows, part in ((slice(0, 7), gate), (slice(7, 14), up)):
        encoded = KERNEL.encode(part.window(), nvfp4.global_scale(joint), "search")
        assert np.array_equal(encoded.codes, whole.codes[rows])
        assert np.array_equal(encoded.scales, whole.scales[rows])


def test_under_amax_a_negative_number_that_vanishes_in_the_division_is_positive():
    weights = np.zeros((1, 16), np.float32)
    weights[0, :2] = 3e38, -(2.0**-149)  # ModelOpt asks for the sign after its division
    stored = window(StoredWeight("plain", "F32", 1, 16), 0, weights.tobytes())
    g = nvfp4.global_scale_amax(float(weights[0, 0]))
    assert KERNEL.encode(stored, g, "amax").codes[0, 0] >> 4 == 0
    assert KERNEL.encode(stored, nvfp4.global_scale(3e38), "search").codes[0, 0] >> 4 == 8


@pytest.mark.parametrize("rule", ["search", "amax"])
def test_a_tensor_of_zeros_gets_codes_0_and_scales_of_1(rule):
    zeros = weightmakers.plain(np.random.default_rng(3), "BF16", 3, 32, "zeros")
    assert KERNEL.amax(zeros.window()) == 0
    encoded = KERNEL.encode(zeros.window(), global_scale(0, rule), rule)
    assert not encoded.codes.any()
    assert (encoded.scales == 0x38).all()
    assert encoded.quality.exact_blocks == encoded.quality.blocks == 6
    assert encoded.quality.relative_error == 0


def test_no_rows_are_no_error():
    empty = window(StoredWeight("plain", "BF16", 8, 32), 4, b"")
    assert KERNEL.amax(empty) == 0
    encoded = KERNEL.encode(empty, 1.0, "search")
    assert encoded.codes.shape == (0, 16)
    assert encoded.quality == nvfp4.Quality()


def test_minus_zero_becomes_zero_and_a_small_negative_keeps_its_sign():
    block = np.array([[6.0, -0.0, -0.01, *[0.0] * 13]], np.float32)
    stored = window(StoredWeight("plain", "F32", 1, 16), 0, block.tobytes())
    encoded = KERNEL.encode(stored, nvfp4.global_scale(6.0), "search")
    assert encoded.codes[0, 0] & 15 == 7
    assert encoded.codes[0, 0] >> 4 == 0
    assert encoded.codes[0, 1] & 15 == 8


def test_an_outlier_is_seen_in_the_flushed_blocks():
    weights = np.random.default_rng(4).standard_normal((64, 256), np.float32) / 2
    weights[5, 7] = 6 * 160 * 1024
    stored = window(StoredWeight("plain", "F32", 64, 256), 0, weights.tobytes())
    quality = KERNEL.encode(stored, nvfp4.global_scale(6 * 160 * 1024), "search").quality
    assert quality.blocks == 1024
    assert quality.flushed_blocks == 1023
    assert quality.relative_error < 1e-4  # which would look perfect
    assert quality.worst_block == 1


def test_scales_below_two_to_minus_six_are_counted_under_amax_and_never_searched():
    weights = np.ones((2, 32), np.float32)
    weights[1] = 2.0**-16
    stored = window(StoredWeight("plain", "F32", 2, 32), 0, weights.tobytes())
    plain = KERNEL.encode(stored, nvfp4.global_scale_amax(1.0), "amax")
    searched = KERNEL.encode(stored, nvfp4.global_scale(1.0), "search")
    assert plain.quality.low_scales == 2
    assert searched.quality.low_scales == 0
    assert (searched.scales >= 0x08).all()


@pytest.mark.parametrize("rule", ["search", "amax"])
def test_the_smallest_numbers_of_float32_do_not_divide_by_zero(rule):
    weights = np.zeros((4, 64), np.float32)
    weights[0, :32] = 2.0**-149
    weights[1, 0], weights[2, 0] = 2.0**-140, -(2.0**-130)
    stored = window(StoredWeight("plain", "F32", 4, 64), 0, weights.tobytes())
    g = global_scale(KERNEL.amax(stored), rule)
    encoded = KERNEL.encode(stored, g, rule)
    codes, scales = oracle.encode(weights, g, rule)
    assert encoded.codes.tolist() == codes.tolist()
    assert encoded.scales.tolist() == scales.tolist()
    assert encoded.quality == nvfp4.measure(weights, codes, scales, g)


@pytest.mark.parametrize("nonsense", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "mps"])
def test_a_device_that_is_no_device_is_a_usage_error(nonsense):
    with pytest.raises(UsageError, match="Use auto, cpu, cuda or cuda:N"):
        choose(nonsense)


def test_a_device_that_is_not_here_says_what_to_do():
    with pytest.raises(ResourceError, match=r"use --device (cpu|auto)"):
        choose("cuda:99")


def test_the_name_says_where_the_work_is_done():
    assert KERNEL.name == "reference (cpu)"


def test_threads_may_share_a_kernel():
    rng = np.random.default_rng(5)
    sources = [weightmakers.fp8(rng, 64, 256, (32, 64), "F32", "gaussian", -n) for n in range(8)]
    scales = [nvfp4.global_scale(KERNEL.amax(stored.window())) for stored in sources]
    alone = [
        KERNEL.encode(stored.window(), g, "search")
        for stored, g in zip(sources, scales, strict=True)
    ]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda stored, g: KERNEL.encode(stored.window(), g, "search"), sources, scales)
        )
    assert [encoded.codes.tobytes() for encoded in together] == [
        encoded.codes.tobytes() for encoded in alone
    ]
    assert [encoded.quality for encoded in together] == [encoded.quality for encoded in alone]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["search", "amax"])
@settings(PROPERTY, max_examples=200)
@given(stored=stored_weights())
def test_cuda_gives_the_bytes_of_the_cpu(rule, stored):
    g = global_scale(KERNEL.amax(stored.window()), rule)
    on_cpu = KERNEL.encode(stored.window(), g, rule)
    on_cuda = choose("cuda").encode(stored.window(), g, rule)
    assert on_cuda.codes.tolist() == on_cpu.codes.tolist()
    assert on_cuda.scales.tolist() == on_cpu.scales.tolist()
    assert on_cuda.quality.error_sq == pytest.approx(on_cpu.quality.error_sq, rel=1e-12, abs=0)
    assert on_cuda.quality.exact_blocks == on_cpu.quality.exact_blocks
