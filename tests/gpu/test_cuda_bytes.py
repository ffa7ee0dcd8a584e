"""The CUDA device gives the bytes of the CPU: for every stored format, mode and awkward input.

Run on a machine with a CUDA device: `pytest -m gpu`.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hubconv.demo import deepseek_v4, miniature_numbers  # noqa: E402
from hubconv.demo.miniature_v4_parts import Size  # noqa: E402
from hubconv.formats import stored  # noqa: E402
from hubconv.formats.nvfp4 import global_scale, global_scale_amax  # noqa: E402
from hubconv.formats.stored import StoredWeight  # noqa: E402
from hubconv.kernels import choose  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def _plain(values, dtype):
    rows, cols = values.shape
    weight = StoredWeight("plain", dtype, rows, cols)
    if dtype == "F32":
        data = values.astype("<f4").tobytes()
    elif dtype == "F16":
        data = values.astype("<f2").tobytes()
    else:
        data = miniature_numbers.to_bf16(values.astype(np.float32)).tobytes()
    return stored.window(weight, 0, data)


def _fp8(values, kind, block):
    rows, cols = values.shape
    codes, scales = miniature_numbers.fp8_blocks(values.astype(np.float32), kind, block)
    weight = StoredWeight("fp8", "F8_E4M3", rows, cols, kind, block)
    return stored.window(weight, 0, codes.tobytes(), miniature_numbers.scale_bytes(scales, kind))


def _mxfp4(values):
    rows, cols = values.shape
    codes, exponents = miniature_numbers.mxfp4(values.astype(np.float32))
    weight = StoredWeight("mxfp4", "I8", rows, cols, "F8_E8M0", (1, 32))
    packed = miniature_numbers.pack_nibbles(codes) if codes.shape[1] == cols else codes
    return stored.window(weight, 0, packed.tobytes(), miniature_numbers.e8m0(exponents).tobytes())


def _int4(values, kind):
    rows, cols = values.shape
    groups = values.reshape(rows, -1, 32).astype(np.float32)
    scales = np.abs(groups).max(2) / np.float32(7.5)
    if kind == "BF16":
        scales = (scales.view(np.uint32) & 0xFFFF0000).view(np.float32)
    integers = np.rint(groups / scales[..., None]).clip(-8, 7).astype(np.int8) + 8
    pairs = integers.reshape(rows, cols // 2, 2).astype(np.uint8)
    weight = StoredWeight("int4", "I32", rows, cols, kind, (1, 32))
    raw = (scales.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else scales
    return stored.window(weight, 0, (pairs[..., 0] | pairs[..., 1] << 4).tobytes(), raw.tobytes())


def _inputs(rows=579, cols=1024):
    random = np.random.default_rng(20261122)
    gaussian = random.normal(0, 0.02, (rows, cols)).astype(np.float32)
    awkward = gaussian.copy()
    awkward[0] = 0.0
    awkward[1] = -0.0
    awkward[2, 0] = 1e4
    awkward[3] = np.float32(2.0) ** random.integers(-120, -60, cols)
    awkward[4] = random.choice([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], cols)
    yield "bf16", _plain(gaussian, "BF16")
    yield "f16", _plain(gaussian, "F16")
    yield "f32", _plain(gaussian, "F32")
    yield "f32 awkward", _plain(awkward, "F32")
    yield "f32 huge", _plain(gaussian * np.float32(2.0) ** 120, "F32")
    yield "f32 tiny", _plain(gaussian * np.float32(2.0) ** -110, "F32")
    for kind in ("F32", "BF16", "F8_E8M0"):
        yield f"fp8 {kind}", _fp8(gaussian, kind, (128, 128))
    yield "mxfp4", _mxfp4(gaussian)
    for kind in ("BF16", "F32"):
        yield f"int4 {kind}", _int4(gaussian, kind)


@pytest.mark.parametrize("mode", ["search", "amax"])
def test_cuda_and_cpu_give_the_same_bytes(mode):
    cpu, cuda = choose("cpu"), choose("cuda:0")
    seen = 0
    for name, window in _inputs():
        amax = cpu.amax(window)
        assert amax == cuda.amax(window), name
        scale = global_scale(amax) if mode == "search" else global_scale_amax(amax)
        ours, theirs = (kernel.encode(window, scale, mode) for kernel in (cpu, cuda))
        assert np.array_equal(ours.codes, theirs.codes), name
        assert np.array_equal(ours.scales, theirs.scales), name
        assert ours.quality.exact_blocks == theirs.quality.exact_blocks, name
        assert theirs.quality.error_sq == pytest.approx(ours.quality.error_sq, rel=1e-9), name
        seen += 1
    assert seen == 12


@pytest.mark.parametrize("spelling", ["official", "fp8_repack"])
def test_a_checkpoint_converted_on_cuda_equals_the_one_converted_on_the_cpu(tmp_path, spelling):
    from hubconv.pipeline import Request, convert

    source = tmp_path / "source"
    getattr(deepseek_v4, spelling)(source, size=Size(hidden=512, width=256, experts=8))
    digests = {}
    for device in ("cpu", "cuda:0"):
        target = tmp_path / device.replace(":", "")
        done = convert(Request(str(source), str(target), device=device))
        assert done.status == "published"
        digests[device] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in Path(target).glob("*.safetensors")
        }
    assert digests["cpu"] == digests["cuda:0"]
    assert len(digests["cpu"]) == 3
