"""The CPU kernel writes the bytes of the reference, and counts what it counts."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracle
import pytest
import weightmakers
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.formats import nvfp4
from hubconv.formats.recodes import bf16_to_fp8_block
from hubconv.formats.stored import NonFiniteError, StoredWeight, dequantize, window
from hubconv.kernels import cpu
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.reference import ReferenceKernel

KERNEL, REFERENCE = CpuKernel(), ReferenceKernel("cpu")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)
RULES = pytest.mark.parametrize("rule", ["search", "amax"])

EXPONENTS = [0, 0, 0, -7, -50, -66, -75, -110, -149, 20, 64, 100, 120]
BLOCKS = [(128, 128), (128, 128), (2, 32), (3, 48), (1, 24), (4, 7), (1, 128), (1, 32), (64, 16)]

GROUPS = [32, 32, 32, 16, 128, 64, 8, 24, 40]


@some.composite
def rngs(draw):
    return np.random.default_rng(draw(some.integers(0, 2**32 - 1)))


@some.composite
def stored_weights(draw):
    """Weights of every kind; some meet tables, some arithmetic, some both of their borders."""
    rng = draw(rngs())
    rows = draw(some.integers(1, 6) | some.sampled_from([127, 128, 131, 257]))
    cols = 16 * draw(some.integers(1, 9) | some.sampled_from([33, 64, 65]))
    flavour = draw(some.sampled_from(weightmakers.FLAVOURS))
    exponent = draw(some.sampled_from(EXPONENTS))
    kinds = ["BF16", "F16", "F32", "fp8", "fp8", "fp8", "mxfp4", "int4", "int4"]
    kind = draw(some.sampled_from(kinds))
    if kind == "mxfp4":
        return weightmakers.mxfp4(rng, rows, 2 * cols, flavour, exponent)
    if kind == "int4":
        group = draw(some.sampled_from([*GROUPS, cols]))
        scale_dtype = draw(some.sampled_from(["BF16", "BF16", "F16", "F32"]))
        return weightmakers.int4(rng, rows, cols, group, scale_dtype, flavour, exponent)
    if kind == "fp8":
        block = draw(some.sampled_from([*BLOCKS, (1, cols), (rows, cols), (512, 512)]))
        scale_dtype = draw(some.sampled_from(["F32", "BF16", "F16", "F8_E8M0"]))
        return weightmakers.fp8(rng, rows, cols, block, scale_dtype, flavour, exponent)
    return weightmakers.plain(rng, kind, rows, cols, flavour, exponent)


@some.composite
def odd_scales(draw):
    """FP8 and INT4 weights under float32 scales that are negative, zero, or far apart."""
    rng = draw(rngs())
    kind = draw(some.sampled_from(["fp8", "int4"]))
    if kind == "int4":
        group = draw(some.sampled_from([32, 24, 208]))
        stored = weightmakers.int4(rng, 66, 208, group, "F32", "gaussian")
        if draw(some.booleans()):  # the whole weight under one scale: by tables
            weight = replace(stored.weight, block=(66, 208))
            stored = weightmakers.Stored(weight, stored.data, stored.scales[:4])
    else:
        block = draw(some.sampled_from([(64, 64), (8, 16), (3, 24)]))
        stored = weightmakers.fp8(rng, 66, 208, block, "F32", "gaussian")
    scales = np.frombuffer(stored.scales, np.float32) * rng.choice(
        [-1, 0, 1], len(stored.scales) // 4
    )
    scales = np.ldexp(scales, rng.integers(-140, 20, len(scales))).astype(np.float32)
    return weightmakers.Stored(stored.weight, stored.data, scales.tobytes())


def global_scale(amax, rule):
    return nvfp4.global_scale(amax) if rule == "search" else nvfp4.global_scale_amax(amax)


def assert_same(source, g, rule):
    expected, actual = REFERENCE.encode(source, g, rule), KERNEL.encode(source, g, rule)
    assert np.array_equal(actual.scales, expected.scales)
    assert np.array_equal(actual.codes, expected.codes)
    for name in ("elements", "blocks", "exact_blocks", "flushed_blocks", "low_scales"):
        assert getattr(actual.quality, name) == getattr(expected.quality, name)
    for name in ("error_sq", "weight_sq", "worst_block"):
        found, wanted = getattr(actual.quality, name), getattr(expected.quality, name)
        assert found == pytest.approx(wanted, rel=1e-12, abs=0)


@RULES
@PROPERTY
@given(stored=stored_weights())
def test_every_source_gives_the_bytes_and_figures_of_the_reference(rule, stored):
    amax = REFERENCE.amax(stored.window())
    assert KERNEL.amax(stored.window()) == amax
    assert_same(stored.window(), global_scale(amax, rule), rule)


@RULES
@pytest.mark.parametrize("flavour", weightmakers.FLAVOURS)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_int4_of_every_flavour_at_every_size_of_numbers(rule, flavour, dtype):
    rng = np.random.default_rng(7)
    for exponent in (0, -9, -75, -110, -140, 64, 110):
        for group in (32, 16, 128, 24, 40):
            rows, cols = int(rng.integers(1, 40)), 16 * int(rng.integers(1, 20))
            stored = weightmakers.int4(rng, rows, cols, group, dtype, flavour, exponent)
            for source in (stored.window(), stored.window(rows // 3)):
                amax = REFERENCE.amax(source)
                assert KERNEL.amax(source) == amax
                assert_same(source, global_scale(amax, rule), rule)


@RULES
@settings(PROPERTY, max_examples=60)
@given(stored=stored_weights(), binades=some.integers(-9, 12))
def test_partners_may_have_chosen_another_global_scale(rule, stored, binades):
    g = global_scale(REFERENCE.amax(stored.window()), rule) * 2.0**binades
    if 2.0**-126 <= g <= 2.0**120:
        assert_same(stored.window(), g, rule)


@RULES
@settings(PROPERTY, max_examples=60)
@given(stored=odd_scales())
def test_scales_may_be_negative_zero_or_far_apart(rule, stored):
    amax = REFERENCE.amax(stored.window())
    assert KERNEL.amax(stored.window()) == amax
    assert_same(stored.window(), global_scale(amax, rule), rule)


@RULES
@settings(PROPERTY, max_examples=60)
@given(stored=stored_weights(), data=some.data())
def test_a_window_may_begin_and_end_at_any_row(rule, stored, data):
    first = data.draw(some.integers(0, stored.weight.rows - 1))
    last = data.draw(some.integers(first, stored.weight.rows))
    amax = REFERENCE.amax(stored.window())
    assert KERNEL.amax(stored.window(first, last)) == REFERENCE.amax(stored.window(first, last))
    assert_same(stored.window(first, last), global_scale(amax, rule), rule)


@settings(PROPERTY, max_examples=60)
@given(rng=rngs(), tabled=some.booleans())
def test_ties_go_to_the_candidate_that_is_tried_first(rng, tabled):
    block = (128, 128) if tabled else (1, 24)
    stored = weightmakers.fp8(rng, 32, 192, block, "F32", "gaussian")
    few = rng.choice(
        np.array([0, 0, 0, 0x20, 0x28, 0x30, 0x34, 0x38, 0x3C, 0x44], np.uint8), (32, 192)
    )
    few |= rng.integers(0, 2, few.shape).astype(np.uint8) << 7
    stored = weightmakers.Stored(stored.weight, few.tobytes(), stored.scales)
    assert_same(stored.window(), nvfp4.global_scale(REFERENCE.amax(stored.window())), "search")


@RULES
@pytest.mark.parametrize("kind", ["fp8", "int4", "int4 in floats", "plain"])
def test_the_bytes_are_those_of_the_book(rule, kind):
    rng = np.random.default_rng(1)
    if kind == "fp8":
        stored = weightmakers.fp8(rng, 8, 128, (128, 128), "F8_E8M0", "gaussian", -9)
    elif kind != "plain":
        dtype = "BF16" if kind == "int4" else "F32"
        stored = weightmakers.int4(rng, 8, 128, 32, dtype, "gaussian", -9)
    else:
        stored = weightmakers.plain(rng, "BF16", 8, 128, "ties")
    weights = oracle.dequantize(stored.weight, stored.data, stored.scales)
    g = global_scale(float(np.abs(weights).max()), rule)
    codes, scales = oracle.encode(weights, g, rule)
    encoded = KERNEL.encode(stored.window(), g, rule)
    assert encoded.codes.tolist() == codes.tolist()
    assert encoded.scales.tolist() == scales.tolist()


@RULES
def test_the_576_rows_of_a_partial_last_block_are_read_right(rule):
    rng = np.random.default_rng(2)
    stored = weightmakers.fp8(rng, 576, 208, (128, 128), "F32", "gaussian", -8)
    assert_same(stored.window(), global_scale(REFERENCE.amax(stored.window()), rule), rule)
    assert_same(stored.window(100, 500), global_scale(1.0, rule), rule)


@RULES
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "fp8", "mxfp4", "int4"])
def test_bytes_may_lie_at_an_odd_address_and_be_read_only(rule, dtype):
    rng = np.random.default_rng(3)
    if dtype == "fp8":
        stored = weightmakers.fp8(rng, 5, 160, (2, 32), "F32", "gaussian")
    elif dtype == "mxfp4":
        stored = weightmakers.mxfp4(rng, 5, 160, "gaussian")
    elif dtype == "int4":
        stored = weightmakers.int4(rng, 5, 160, 32, "BF16", "gaussian")
    else:
        stored = weightmakers.plain(rng, dtype, 5, 160, "gaussian")
    odd = window(stored.weight, 0, memoryview(b"x" + stored.data)[1:], stored.scales)
    assert odd.data.ctypes.data % 2 == 1
    assert not odd.data.flags.writeable
    assert KERNEL.amax(odd) == REFERENCE.amax(stored.window())
    assert_same(odd, global_scale(REFERENCE.amax(stored.window()), rule), rule)


@RULES
@pytest.mark.parametrize("elements", [1, 500, 5000])
@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_parts_do_not_show(rule, elements, kind, monkeypatch):
    rng = np.random.default_rng(4)
    if kind == "fp8":
        stored = weightmakers.fp8(rng, 37, 96, (8, 32), "BF16", "gaussian", -9)
    else:
        stored = weightmakers.int4(rng, 37, 96, 32, "BF16", "gaussian", -9)
    g = global_scale(REFERENCE.amax(stored.window()), rule)
    monkeypatch.setattr(cpu, "_PART_ELEMENTS", elements)
    for first, last in pairwise([0, 3, 24, 37]):
        part = stored.window(first, last)
        assert KERNEL.amax(part) == REFERENCE.amax(part)
        assert_same(part, g, rule)


def test_threads_may_share_a_kernel_and_their_number_does_not_show(monkeypatch):
    monkeypatch.setattr(cpu, "_PART_ELEMENTS", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    several, alone = CpuKernel(), CpuKernel(workers=4)
    rng = np.random.default_rng(5)
    stored = [weightmakers.fp8(rng, 64, 256, (32, 64), "F32", "gaussian", -n) for n in range(8)]
    stored += [weightmakers.plain(rng, "BF16", 64, 256, "gaussian", -n) for n in range(4)]
    stored += [weightmakers.int4(rng, 64, 256, 32, "BF16", "gaussian", -n) for n in range(4)]

    def encode(kernel, source):
        return kernel.encode(source, nvfp4.global_scale(kernel.amax(source)), "search")

    expected = [encode(alone, source.window()) for source in stored]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda source: encode(several, source.window()), stored))
    assert [found.quality for found in actual] == [found.quality for found in expected]
    for found, wanted in zip(actual, expected, strict=True):
        assert np.array_equal(found.codes, wanted.codes)


@RULES
@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_a_thread_forgets_its_tables_when_the_rule_changes(rule, kind):
    rng = np.random.default_rng(6)
    if kind == "fp8":
        stored = weightmakers.fp8(rng, 64, 128, (128, 128), "F32", "gaussian")
    else:
        stored = weightmakers.int4(rng, 64, 128, 32, "BF16", "gaussian")
    for g in (2.0**-4, 2.0**-9, 2.0**-4):
        assert_same(stored.window(), g, rule)


@RULES
def test_no_rows_are_no_error(rule):
    for weight in (
        StoredWeight("plain", "BF16", 8, 32),
        StoredWeight("fp8", "F8_E4M3", 8, 32, "F32", (128, 128)),
        StoredWeight("int4", "I32", 8, 32, "BF16", (1, 32)),
    ):
        empty = window(weight, 4, b"")
        assert KERNEL.amax(empty) == 0
        assert KERNEL.encode(empty, 1.0, rule).quality == nvfp4.Quality()


@settings(PROPERTY, max_examples=20)
@given(rng=rngs(), spread=some.integers(0, 9))
def test_weights_born_as_fp4_stay_exact_through_an_fp8_repack(rng, spread):
    source = weightmakers.mxfp4(rng, 144, 160, "gaussian")
    exponents = rng.integers(115 - spread, 116, 144 * 5).astype(np.uint8).tobytes()
    source = weightmakers.Stored(source.weight, source.data, exponents).window()
    weights = dequantize(source)
    as_bf16 = (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    plain = window(StoredWeight("plain", "BF16", 144, 160), 0, as_bf16)
    codes, scales = bf16_to_fp8_block(plain, (128, 128))
    weight = StoredWeight("fp8", "F8_E4M3", 144, 160, "F8_E8M0", (128, 128))
    repack = window(weight, 0, codes.tobytes(), scales.tobytes())
    g = nvfp4.global_scale(KERNEL.amax(source))
    for found in (source, repack, plain):
        encoded = KERNEL.encode(found, g, "search")
        assert encoded.quality.exact_blocks == encoded.quality.blocks
        assert np.array_equal(nvfp4.decode(encoded.codes, encoded.scales, g), weights)


def nonfinite():
    """(weight, data, scales) of every way in which a number is not finite."""
    fp8 = StoredWeight("fp8", "F8_E4M3", 4, 32, "F32", (2, 16))
    tabled = StoredWeight("fp8", "F8_E4M3", 130, 64, "F32", (128, 128))
    ones = np.full((4, 32), 0x38, np.uint8)
    unit = np.ones((2, 2), np.float32)
    for weight, codes, scales in (
        (fp8, ones, unit),
        (tabled, np.full((130, 64), 0x38, np.uint8), np.ones((2, 1), np.float32)),
    ):
        for bad in (0x7F, 0xFF):
            spoilt = codes.copy()
            spoilt[1, 5] = spoilt[3, 30] = bad
            yield weight, spoilt.tobytes(), scales.tobytes()
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = scales.copy()
            spoilt[1, -1] = bad
            yield weight, codes.tobytes(), spoilt.tobytes()
            yield weight, np.zeros_like(codes).tobytes(), spoilt.tobytes()
        spoilt = codes.copy()
        spoilt[2, 3] = 0xFE
        yield weight, spoilt.tobytes(), (scales * np.float32(2.0**120)).tobytes()
    mxfp4 = StoredWeight("mxfp4", "I8", 2, 64, "F8_E8M0", (1, 32))
    pairs = np.full((2, 32), 0x22, np.uint8)
    pairs[1, 17] = 0x27
    yield mxfp4, pairs.tobytes(), bytes([127, 127, 255, 127])
    yield mxfp4, pairs.tobytes(), bytes([127, 127, 127, 253])
    for cols, group, dtype in ((64, 32, "BF16"), (64, 32, "F32"), (48, 24, "F16")):
        int4 = StoredWeight("int4", "I32", 3, cols, dtype, (1, group))
        nibbles = np.full((3, cols // 2), 0x98, np.uint8)
        nibbles[2, 15] = 0x0F  # the second one is -8, and overflows where 7 does not
        for bits in {"BF16": (0x7FC0, 0xFF80, 0x7E00), "F16": (0x7E00, 0x7C00, 0xFC01)}.get(
            dtype, (0x7FC00000, 0xFF800000, 0x7E000000)
        ):
            scales = np.ones((3, 2), np.uint32 if dtype == "F32" else np.uint16)
            scales[2, 0] = bits
            yield int4, nibbles.tobytes(), scales.tobytes()
            yield int4, np.full_like(nibbles, 0x80).tobytes(), scales[[2, 0, 1]].tobytes()
    for dtype, bad in (
        ("BF16", 0x7FC0), ("BF16", 0xFF80), ("F16", 0x7E00), ("F16", 0xFC00), ("F16", 0x7C00),
        ("F32", 0x7FC00000), ("F32", 0x7F800000), ("F32", 0xFF800001),
    ):  # fmt: skip
        bits = np.ones((3, 32), np.uint32 if dtype == "F32" else np.uint16)
        bits[1, 17] = bits[2, 31] = bad
        yield StoredWeight("plain", dtype, 3, 32), bits.tobytes(), b""


@pytest.mark.parametrize("part_elements", [1, 1 << 19])
def test_what_is_not_finite_is_refused_as_the_reference_refuses_it(part_elements, monkeypatch):
    monkeypatch.setattr(cpu, "_PART_ELEMENTS", part_elements)
    monkeypatch.setattr(cpu, "_REPORTED_ELEMENTS", 4 * part_elements)
    for weight, data, scales in nonfinite():
        found = window(weight, 0, data, scales)
        with pytest.raises(NonFiniteError) as expected:
            REFERENCE.amax(found)
        for read in (
            KERNEL.amax,
            lambda found: KERNEL.encode(found, 1.0, "search"),
            lambda found: KERNEL.encode(found, 1.0, "amax"),
        ):
            with pytest.raises(NonFiniteError) as caught:
                read(found)
            assert str(caught.value) == str(expected.value)


def test_the_name_says_where_the_work_is_done():
    assert KERNEL.name == "numba (cpu)"


def test_a_kernel_is_compiled_where_no_cache_can_be_written(tmp_path, monkeypatch):
    from numba import types

    from hubconv.kernels.cpu import jit

    (tmp_path / "file").touch()
    monkeypatch.setattr(jit.numba.config, "CACHE_DIR", str(tmp_path / "file"))
    double = jit.compiled(types.int64(types.int64))(lambda number: 2 * number)
    assert double(21) == 42


@pytest.mark.slow
def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    construct = [sys.executable, "-c", "from hubconv.kernels.cpu import CpuKernel; CpuKernel()"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run(construct, env=environment, check=True)
    first = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")}
    subprocess.run(construct, env=environment, check=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nb?")} == first != {}


@pytest.mark.parametrize("rule", ["search", "amax"])
def test_mxfp4_with_other_scales_than_its_own(rule):
    """No reader gives such a weight; a device is checked with one before it is trusted."""
    rng = np.random.default_rng(21)
    weight = StoredWeight("mxfp4", "I8", 9, 128, "F32", (1, 32))
    pairs = rng.integers(0, 256, (9, 64)).astype(np.uint8)
    factors = (rng.random((9, 4)) * 2.0 ** rng.integers(-12, 3, (9, 4))).astype(np.float32)
    stored = window(weight, 0, pairs.tobytes(), factors.tobytes())
    largest = REFERENCE.amax(stored)
    scale = nvfp4.global_scale(largest) if rule == "search" else nvfp4.global_scale_amax(largest)
    assert CpuKernel().amax(stored) == largest
    made, wanted = (each.encode(stored, scale, rule) for each in (CpuKernel(), REFERENCE))
    assert made.codes.tobytes() == wanted.codes.tobytes()
    assert made.scales.tobytes() == wanted.scales.tobytes()
