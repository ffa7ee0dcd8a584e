"""Exact re-spellings, compiled: the bytes and the errors of `formats.recodes`."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.errors import IntegrityError
from hubconv.formats import recodes
from hubconv.formats.stored import StoredWeight, dequantize, window
from hubconv.kernels import cpu as cpu_module
from hubconv.kernels.cpu import CpuKernel

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
BLOCK = (4, 64)


@pytest.fixture(scope="module")
def kernel():
    return CpuKernel()


@pytest.fixture
def compiled_alone(monkeypatch):
    """Take the slow definition away, so that nothing but the compiled loops can have answered."""

    def gone(*_):
        raise AssertionError("the slow definition was asked")

    monkeypatch.setattr(
        cpu_module, "recodes", SimpleNamespace(fp8_to_mxfp4=gone, bf16_to_fp8_block=gone)
    )


def fp8(codes, exponents, block=BLOCK, first_row=0):
    weight = StoredWeight(
        "fp8", "F8_E4M3", first_row + len(codes), codes.shape[1], "F8_E8M0", block
    )
    return window(weight, first_row, codes.tobytes(), exponents.astype(np.uint8).tobytes())


def bf16(bits, first_row=0):
    weight = StoredWeight("plain", "BF16", first_row + len(bits), bits.shape[1])
    return window(weight, first_row, bits.astype(np.uint16).tobytes())


def repacked(rng, rows, groups, spread, middle=127):
    """An FP8 window whose groups of 32 are E2M1 values under a power of two each."""
    cols = 32 * groups
    sizes = rng.choice([0, 0.5, 1, 1.5, 2, 3, 4, 6], (rows, cols))
    signs = rng.choice([-1, 1], (rows, cols))
    powers = rng.integers(0, spread + 1, (rows, groups)).repeat(32, 1)
    bits = (np.ldexp(sizes * signs, powers).astype(np.float32).view(np.uint32) >> 16).astype("u2")
    codes, scales = recodes.bf16_to_fp8_block(bf16(bits), BLOCK)
    return fp8(codes, scales.astype(int) + middle - 127)


def told(recode, *arguments):
    """What a re-spelling gives, or what it says."""
    try:
        return tuple(made.tobytes() for made in recode(*arguments))
    except IntegrityError as error:
        return str(error)


@pytest.mark.parametrize("middle", [20, 127, 230])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (300, 9), (129, 64)])
def test_a_repack_comes_back_by_the_compiled_loops(kernel, compiled_alone, shape, middle):
    del compiled_alone
    pairs, exponents = kernel.fp8_to_mxfp4(
        made := repacked(np.random.default_rng(1), *shape, 6, middle)
    )
    weight = StoredWeight("mxfp4", "I8", made.rows, made.weight.cols, "F8_E8M0", (1, 32))
    again = dequantize(window(weight, 0, pairs.tobytes(), exponents.tobytes()))
    assert again.tobytes() == dequantize(made).tobytes()  # signs of zeros too


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    rows=some.integers(1, 20),
    groups=some.integers(1, 5),
    spread=some.integers(0, 12),
    spoiled=some.integers(0, 3),
)
def test_mxfp4_is_that_of_the_definition(kernel, seed, rows, groups, spread, spoiled):
    rng = np.random.default_rng(seed)
    made = repacked(rng, rows, groups, min(spread, 9))
    codes = made.data.copy()
    for _ in range(spoiled):  # a value that may be none of the group's
        codes[rng.integers(rows), rng.integers(32 * groups)] = rng.integers(0, 256)
    spoilt = fp8(codes, rng.integers(100, 140, made.scales.shape))
    assert told(kernel.fp8_to_mxfp4, spoilt) == told(recodes.fp8_to_mxfp4, spoilt)


@pytest.mark.parametrize("exponent", [0, 1, 2, 5, 9, 127, 245, 250, 252, 253, 254, 255])
def test_the_ends_of_e8m0(kernel, exponent):
    rng = np.random.default_rng(3)
    made = repacked(rng, 8, 2, 3)
    at_end = fp8(made.data, np.full(made.scales.shape, exponent))
    assert told(kernel.fp8_to_mxfp4, at_end) == told(recodes.fp8_to_mxfp4, at_end)


@PROPERTY
@given(
    seed=some.integers(0, 2**32 - 1),
    rows=some.integers(1, 20),
    cols=some.integers(1, 200),
    exponent=some.integers(-120, 120),
    spoiled=some.integers(0, 3),
)
def test_fp8_is_that_of_the_definition(kernel, seed, rows, cols, exponent, spoiled):
    rng = np.random.default_rng(seed)
    mantissa = rng.integers(0, 8, (rows, cols)) << 4
    power = np.clip(127 + exponent + rng.integers(-14, 1, (rows, cols)), 0, 254) << 7
    bits = mantissa | power | (rng.integers(0, 2, (rows, cols)) << 15)
    bits[rng.random((rows, cols)) < 0.1] &= 0x8000
    for _ in range(spoiled):
        bits[rng.integers(rows), rng.integers(cols)] = rng.integers(0, 1 << 16)
    made = bf16(bits, first_row=8)
    assert told(kernel.bf16_to_fp8_block, made, BLOCK) == told(
        recodes.bf16_to_fp8_block, made, BLOCK
    )


def test_exact_blocks_are_spelled_by_the_compiled_loops(kernel, compiled_alone):
    del compiled_alone
    codes, scales = kernel.bf16_to_fp8_block(bf16(np.full((300, 200), 0x3F80)), (128, 128))
    assert scales.shape == (3, 2)
    assert set(scales.ravel()) == {127 - 8}
    assert set(codes.ravel()) == {0x78}


def test_scales_that_are_no_powers_of_two_are_left_to_the_definition(kernel):
    weight = StoredWeight("fp8", "F8_E4M3", 1, 32, "F32", (1, 32))
    factor = np.array([3 * 2.0**-5], np.float32)
    made = window(weight, 0, np.full(32, 0x38, np.uint8).tobytes(), factor.tobytes())
    assert told(kernel.fp8_to_mxfp4, made) == told(recodes.fp8_to_mxfp4, made)
    assert len(told(kernel.fp8_to_mxfp4, made)) == 2  # 1.5 times a power of two is exact
