"""The Triton kernel gives the bytes of the CPU: for every stored form, rule and awkward input.

Run on a machine with a CUDA device: `pytest -m gpu`.
"""

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parent.parent / "kernels"))

import weightmakers  # noqa: E402

from hubconv import devices  # noqa: E402
from hubconv.errors import IntegrityError, ResourceError  # noqa: E402
from hubconv.formats import nvfp4, recodes, stored  # noqa: E402
from hubconv.formats.stored import NonFiniteError, StoredWeight  # noqa: E402
from hubconv.kernels import cuda, one_ahead  # noqa: E402
from hubconv.kernels.reference import ReferenceKernel  # noqa: E402

CPU = ReferenceKernel("cpu")
RULES = ("search", "amax")
FORMS = ("fp8", "mixed", "mxfp4", "BF16", "F16", "F32", "int4", "mixed int4")
EXPONENTS = (0, 0, -7, -50, -66, -75, -110, -149, 20, 64, 100)

gpu = pytest.mark.gpu
on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def kernel():
    return cuda.TritonKernel("cuda:0")


def global_scale(amax, rule):
    return nvfp4.global_scale(amax) if rule == "search" else nvfp4.global_scale_amax(amax)


def assert_same(kernel, window, rule, g=None):
    amax = CPU.amax(window)
    assert kernel.amax(window) == amax
    g = global_scale(amax, rule) if g is None else g
    expected, actual = (each.encode(window, g, rule) for each in (CPU, kernel))
    assert np.array_equal(actual.scales, expected.scales)
    assert np.array_equal(actual.codes, expected.codes)
    for count in ("elements", "blocks", "exact_blocks", "flushed_blocks", "low_scales"):
        assert getattr(actual.quality, count) == getattr(expected.quality, count), count
    for figure in ("error_sq", "weight_sq", "worst_block"):
        close = pytest.approx(getattr(expected.quality, figure), rel=1e-12, abs=0)
        assert getattr(actual.quality, figure) == close, figure
    return actual


def made(rng, form, rows, cols, flavour, exponent):
    """A stored weight of a form, with a scale type and a block shape by chance."""
    if form == "mxfp4":
        return weightmakers.mxfp4(rng, rows, 2 * cols, flavour, exponent)
    if "int4" in form:
        groups = [8, 24, 40] if form == "mixed int4" else [32, 32, 16, 64, 128, cols]
        scale_dtype = str(rng.choice(["BF16", "F16", "F32"]))
        group = groups[rng.integers(len(groups))]
        return weightmakers.int4(rng, rows, cols, group, scale_dtype, flavour, exponent)
    if form not in {"fp8", "mixed"}:
        return weightmakers.plain(rng, form, rows, cols, flavour, exponent)
    blocks = [(3, 24), (1, 24), (4, 7), (5, 40), (rows, 9)]
    if form == "fp8":
        blocks = [(2, 32), (3, 48), (16, 64), (128, 128), (1, cols), (rows, cols), (5, 16)]
    scale_dtype = rng.choice(["F32", "BF16", "F16", "F8_E8M0"])
    block = blocks[rng.integers(len(blocks))]
    return weightmakers.fp8(rng, rows, cols, block, str(scale_dtype), flavour, exponent)


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_flavour_at_every_size_of_numbers(kernel, form, rule):
    rng = np.random.default_rng(FORMS.index(form))
    for flavour in weightmakers.FLAVOURS:
        for exponent in EXPONENTS * 3:
            rows, cols = int(rng.integers(1, 200)), 16 * int(rng.integers(1, 20))
            weight = made(rng, form, rows, cols, flavour, exponent)
            assert_same(kernel, weight.window(), rule)
            assert_same(kernel, weight.window(rows // 2), rule)


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
def test_global_scales_far_from_the_weights(kernel, rule):
    rng = np.random.default_rng(8)
    weights = rng.standard_normal((64, 256), np.float32)
    weights *= np.exp2(rng.integers(-148, -100, (64, 1))).astype(np.float32)
    weights[0, :2] = 3e38, -(2.0**-149)
    window = stored.window(StoredWeight("plain", "F32", 64, 256), 0, weights.tobytes())
    scales = [2.0**exponent for exponent in (-108, -60, -1, 0, 60, 120)]
    if rule == "amax":
        scales += [1.1754945e-38, 7.7e-30, 0.1, 3.3, 1.3e36]
    for g in scales:  # far above the weights; far below them nothing is defined
        low = window.part(1, 64) if g < 2.0**70 else window
        assert_same(kernel, low, rule, float(np.float32(g)))


@gpu
@on_a_card
@pytest.mark.parametrize("divisor", [1.0, 1.5, 448.0, 0.3, 1e-35, 3e37])
def test_under_amax_quotients_beside_every_boundary(kernel, divisor):
    boundaries = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    rng = np.random.default_rng(9)
    rows = []
    for _ in range(4096):
        top = np.float32(divisor * (1 + rng.random()))
        near = (boundaries * (top / np.float32(6))).view(np.int32)
        near = np.concatenate([near, near]) + rng.integers(-3, 4, 14, dtype=np.int32)
        rows.append(np.concatenate([near.view(np.float32), [top, -top]]))
    weights = np.array(rows, np.float32)
    window = stored.window(StoredWeight("plain", "F32", *weights.shape), 0, weights.tobytes())
    for factor in (1, 0.31, 0.777):
        assert_same(
            kernel, window, "amax", max(float(np.float32(divisor / 448 * factor)), 2.0**-126)
        )
    assert_same(kernel, window, "search")


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
def test_the_576_rows_of_a_partial_last_block_and_odd_windows_of_them(kernel, rule):
    rng = np.random.default_rng(1)
    weight = weightmakers.fp8(rng, 576, 7168, (128, 128), "F32", "gaussian", -8)
    assert_same(kernel, weight.window(), rule)
    assert_same(kernel, weight.window(77, 76 + 333), rule)
    assert_same(kernel, weight.window(575), rule)


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_chunks_do_not_show(form, rule):
    rng = np.random.default_rng(2)
    small = cuda.TritonKernel("cuda:0", chunk_bytes=1 << 18)
    assert_same(small, made(rng, form, 1003, 1008, "gaussian", -9).window(), rule)


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
def test_a_large_weight(kernel, rule):
    rng = np.random.default_rng(3)
    weight = weightmakers.fp8(rng, 2048, 7168, (128, 128), "F8_E8M0", "gaussian", -9)
    assert_same(kernel, weight.window(), rule)


@gpu
@on_a_card
def test_weights_born_as_fp4_stay_exact(kernel):
    weight = weightmakers.mxfp4(np.random.default_rng(4), 512, 4096, "gaussian", -9)
    window = weight.window()
    encoded = assert_same(kernel, window, "search")
    assert encoded.quality.exact_blocks == encoded.quality.blocks
    g = nvfp4.global_scale(CPU.amax(window))
    decoded = nvfp4.decode(encoded.codes, encoded.scales, g)
    assert np.array_equal(decoded, stored.dequantize(window))


@gpu
@on_a_card
def test_no_rows_are_no_error(kernel):
    empty = stored.window(StoredWeight("plain", "BF16", 8, 32), 4, b"")
    assert kernel.amax(empty) == 0
    assert kernel.encode(empty, 1.0, "search").codes.shape == (0, 16)


@gpu
@on_a_card
def test_threads_may_share_a_kernel_and_results_stay_theirs(kernel):
    rng = np.random.default_rng(5)
    windows = [made(rng, "fp8", 300, 1024, "gaussian", -n).window() for n in range(24)]
    scales = [nvfp4.global_scale(CPU.amax(window)) for window in windows]

    def run(window, g):
        return kernel.amax(window), kernel.encode(window, g, "search")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, windows * 4, scales * 4))
    expected = [CPU.encode(*work, "search") for work in zip(windows, scales, strict=True)] * 4
    for (_, actual), wanted in zip(found, expected, strict=True):
        assert np.array_equal(actual.codes, wanted.codes)
        assert np.array_equal(actual.scales, wanted.scales)


@gpu
@on_a_card
def test_what_is_read_into_staged_memory_is_taken_from_there(kernel):
    rng = np.random.default_rng(6)
    weight = weightmakers.fp8(rng, 256, 1024, (128, 128), "F32", "gaussian", -8)
    staged = kernel.stage(len(weight.data))
    assert kernel._memory.pinned.holds(staged)
    assert not kernel._memory.pinned.holds(staged.copy())
    staged[:] = np.frombuffer(weight.data, np.uint8)
    window = stored.window(weight.weight, 0, memoryview(staged), weight.scales)
    assert np.shares_memory(window.data, staged)
    assert_same(kernel, window, "search")
    assert_same(kernel, window.part(31, 200), "amax")


@gpu
@on_a_card
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_reported_as_the_cpu_reports_it(kernel, form):
    rng = np.random.default_rng(7)
    weight = made(rng, form, 300, 512, "gaussian", 0)
    data = bytearray(weight.data)
    if form in {"fp8", "mixed"}:
        data[70000], data[80001] = 0x7F, 0xFF
        damaged = [(data, weight.scales)]
    elif form == "mxfp4":
        scales = bytearray(weight.scales)
        scales[1234] = 255
        damaged = [(data, scales)]
    elif "int4" in form:
        width = {"BF16": 2, "F16": 2, "F32": 4}[weight.weight.scale_dtype]
        at = width * (len(weight.scales) // width // 2)
        damaged = [
            (data, weight.scales[:at] + bytes(width - 2) + top + weight.scales[at + width :])
            for top in (b"\xc1\x7f", b"\x80\xff" if width == 4 else b"\xc0\xff")
        ]
    else:
        size = {"BF16": 2, "F16": 2, "F32": 4}[form]
        at = size * 70001
        bad = {"BF16": (b"\x80\xff", b"\xc0\x7f"), "F16": (b"\0\xfc", b"\0\x7e")}
        bad["F32"] = (b"\0\0\x80\xff", b"\1\0\x80\x7f")
        damaged = [(data[:at] + value + data[at + size :], b"") for value in bad[form]]
    for data, scales in damaged:
        window = stored.window(weight.weight, 0, bytes(data), bytes(scales))
        with pytest.raises(NonFiniteError) as wanted:
            CPU.amax(window)
        for read in (kernel.amax, *(lambda w, r=rule: kernel.encode(w, 1.0, r) for rule in RULES)):
            with pytest.raises(NonFiniteError) as caught:
                read(window)
            assert str(caught.value) == str(wanted.value)


@gpu
@on_a_card
@pytest.mark.parametrize(("scale", "code"), [(np.inf, 0), (np.nan, 0x38), (2.0**120, 0xFE)])
@pytest.mark.parametrize("block", [(4, 16), (4, 24)])
def test_scales_that_are_not_finite_or_overflow(kernel, scale, code, block):
    weight = StoredWeight("fp8", "F8_E4M3", 8, 48, "F32", block)
    scales = np.ones(weight.scale_shape, np.float32)
    scales[1, 1] = scale
    data = np.full((8, 48), code, np.uint8)
    window = stored.window(weight, 0, data.tobytes(), scales.tobytes())
    with pytest.raises(NonFiniteError) as wanted:
        CPU.amax(window)
    for read in (kernel.amax, lambda window: kernel.encode(window, 1.0, "search")):
        with pytest.raises(NonFiniteError) as caught:
            read(window)
        assert str(caught.value) == str(wanted.value)


@gpu
@on_a_card
@pytest.mark.parametrize("rule", RULES)
def test_windows_that_are_begun_one_ahead_in_memory_that_is_used_again(kernel, rule):
    rng = np.random.default_rng(31)
    known = []

    def begun():
        for number in range(60):
            rows, cols = int(rng.integers(1, 3000)), 16 * int(rng.integers(1, 80))
            source = made(rng, FORMS[number % len(FORMS)], rows, cols, "wide", -8)
            window = source.window()
            room = kernel.stage(window.data.nbytes)
            room[:] = window.data.reshape(-1).view(np.uint8)
            staged = stored.window(window.weight, 0, room, source.scales)
            g = global_scale(CPU.amax(window), rule)
            known.append((window, g, kernel.begin_amax(staged)))
            yield kernel.begin_encode(staged, g, rule)

    for number, encoded in enumerate(one_ahead(begun())):
        window, g, largest = known[number]
        expected = CPU.encode(window, g, rule)
        assert np.array_equal(encoded.codes, expected.codes)
        assert np.array_equal(encoded.scales, expected.scales)
        assert encoded.quality.exact_blocks == expected.quality.exact_blocks
        assert largest() == CPU.amax(window)


# ── MXFP4 again ──────────────────────────────────────────────────────────────────────────────


def spelled(respell, window):
    """What becomes of a window, or what is said against it."""
    try:
        return [part.tobytes() for part in respell(window)]
    except IntegrityError as error:
        return str(error)


@gpu
@on_a_card
@pytest.mark.parametrize("exponent", [0, -9, -90, 90])
def test_fp8_that_was_born_as_mxfp4_becomes_it_again_on_the_device_alone(
    kernel, exponent, monkeypatch
):
    monkeypatch.setattr(kernel, "_cpu", None)
    small = cuda.TritonKernel("cuda:0", chunk_bytes=1 << 18)
    monkeypatch.setattr(small, "_cpu", None)
    rng = np.random.default_rng(40)
    for block in [(128, 128), (1, 32), (3, 64), (16, 1024), (200, 4096)] * 4:
        rows, cols = int(rng.integers(1, 200)), 32 * int(rng.integers(1, 40))
        weight = weightmakers.born_as_mxfp4(rng, rows, cols, block, exponent)
        for window in (weight.window(), weight.window(rows // 2)):
            wanted = spelled(recodes.fp8_to_mxfp4, window)
            assert spelled(kernel.fp8_to_mxfp4, window) == wanted
    weight = weightmakers.born_as_mxfp4(rng, 1003, 2048, (128, 128), exponent)
    wanted = spelled(recodes.fp8_to_mxfp4, weight.window())
    assert spelled(small.fp8_to_mxfp4, weight.window()) == wanted


@gpu
@on_a_card
def test_what_is_no_mxfp4_is_refused_as_the_definition_refuses_it(kernel):
    rng = np.random.default_rng(41)
    refused = 0
    for number in range(200):
        rows, cols = int(rng.integers(1, 60)), 32 * int(rng.integers(1, 20))
        weight = weightmakers.born_as_mxfp4(rng, rows, cols, [(128, 128), (5, 32)][number % 2])
        data = bytearray(weight.data)
        if number % 4 < 2:
            data[rng.integers(len(data))] = rng.integers(256)
        scales = np.frombuffer(weight.scales, np.float32).copy()
        if number % 3 == 0:
            odd = [2.0**-149, 2.0**-127, 1.5, -2.0, np.inf, np.nan, 0.0, 2.0**127, 2.0**-126]
            scales[rng.integers(scales.size)] = rng.choice(odd)
        window = stored.window(weight.weight, 0, bytes(data), scales.tobytes())
        with np.errstate(all="ignore"):
            wanted = spelled(recodes.fp8_to_mxfp4, window)
            assert spelled(kernel.fp8_to_mxfp4, window) == wanted
        refused += isinstance(wanted, str)
    assert 20 < refused < 180


@gpu
@on_a_card
def test_groups_under_several_scales_are_left_to_the_cpu(kernel):
    rng = np.random.default_rng(42)
    weight = weightmakers.fp8(rng, 40, 96, (4, 16), "F8_E8M0", "zeros", 0)
    window = weight.window()
    assert spelled(kernel.fp8_to_mxfp4, window) == spelled(recodes.fp8_to_mxfp4, window)


@gpu
@on_a_card
def test_a_device_that_spells_otherwise_is_refused(monkeypatch):
    from hubconv.kernels.cuda.engine import Engine

    respell = Engine.respell

    def faulty(engine, *request):
        made = respell(engine, *request)
        if made is not None:
            made[0][3, 5] ^= 1
        return made

    monkeypatch.setattr(Engine, "respell", faulty)
    weight = weightmakers.born_as_mxfp4(np.random.default_rng(43), 8, 64, (8, 64))
    with pytest.raises(IntegrityError, match=r"other bytes than the CPU.*--device cpu"):
        cuda.TritonKernel("cuda:0").fp8_to_mxfp4(weight.window())


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────


@gpu
@on_a_card
@pytest.mark.parametrize(("limit", "said"), [(1 << 20, "is full in chunks"), (100, "has no room")])
def test_a_full_device_gets_smaller_chunks_and_then_the_cpu_works(monkeypatch, caplog, limit, said):
    from hubconv.kernels.cuda.driver import FullError
    from hubconv.kernels.cuda.slots import Slot

    kernel = cuda.TritonKernel("cuda:0")
    allocate = Slot._allocate

    def crowded(slot, nbytes):
        if nbytes > limit:
            raise FullError
        return allocate(slot, nbytes)

    monkeypatch.setattr(Slot, "_allocate", crowded)
    kernel._engine._of_thread = threading.local()  # new slots
    weight = weightmakers.fp8(np.random.default_rng(10), 1024, 4096, (128, 128), "F32", "wide", -8)
    with caplog.at_level(logging.INFO, "hubconv.kernels"):
        assert_same(kernel, weight.window(), "search")
    assert said in caplog.text


@gpu
@on_a_card
def test_a_device_that_gives_other_bytes_is_refused(monkeypatch):
    from hubconv.kernels.cuda.engine import Engine

    begin_encode = Engine.begin_encode

    def faulty(engine, *request):
        begun = begin_encode(engine, *request)

        def ended():
            encoded = begun()
            encoded.codes[3, 5] ^= 1
            return encoded

        return ended

    monkeypatch.setattr(Engine, "begin_encode", faulty)
    with pytest.raises(IntegrityError, match=r"other bytes than the CPU.*--device cpu"):
        cuda.TritonKernel("cuda:0")


def broken(*_):
    raise ResourceError("no compiler")


@gpu
@on_a_card
def test_kernels_that_do_not_compile_leave_the_work_to_torch(monkeypatch, caplog, tmp_path):
    from hubconv.kernels import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cache_folder.cache_clear()
    monkeypatch.setattr(cuda, "compile_with_triton", broken)
    with pytest.raises(ResourceError, match="no compiler"):
        cuda.TritonKernel("cuda:0")
    with caplog.at_level(logging.WARNING):
        found = cuda.open_kernel("cuda:0")
    cache.cache_folder.cache_clear()
    assert found.name == "reference (cuda:0)"
    assert "Plain torch does the work" in caplog.text


@gpu
@on_a_card
def test_a_form_that_does_not_compile_later_on_is_left_to_the_cpu(caplog):
    kernel = cuda.TritonKernel("cuda:0")
    weight = weightmakers.plain(np.random.default_rng(11), "F16", 64, 256, "gaussian")
    compiled = kernel._engine._function
    kernel._engine._function = lambda variant: (
        broken() if variant.form == "F16" else compiled(variant)
    )
    with caplog.at_level(logging.WARNING):
        assert_same(kernel, weight.window(), "search")
    assert "The CPU works on F16 weights" in caplog.text


@gpu
@on_a_card
def test_kernels_are_compiled_once_and_loaded_without_triton_and_torch(tmp_path):
    script = """
import sys
from hubconv.kernels import choose
if sys.argv[1] == "again":
    sys.modules["triton"] = sys.modules["torch"] = None  # neither would import
print(choose("cuda:0").name)
"""
    for word in ("once", "again"):
        done = subprocess.run(
            [sys.executable, "-c", script, word],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "triton (cuda:0)"
    damaged = next(tmp_path.rglob("encode-fp8-search-*.kernel"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    subprocess.run(
        [sys.executable, "-c", script, "once"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, check=True,
    )  # fmt: skip


@gpu
@on_a_card
def test_a_card_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "capabilities", lambda: ((7, 0),))
    with pytest.raises(ResourceError, match=r"capability 7\.0.*needs 7\.5"):
        cuda.TritonKernel("cuda:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_the_cuda_kernel_says_what_to_do():
    with pytest.raises(ResourceError, match="use --device cpu"):
        cuda.TritonKernel("cuda")
    with pytest.raises(ResourceError, match="use --device cpu"):
        cuda.TritonKernel("auto")
