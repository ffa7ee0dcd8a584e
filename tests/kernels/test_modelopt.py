"""`--scales amax` is ModelOpt's rule, byte for byte: against a restatement, and against itself."""

import numpy as np
import pytest
import torch
import weightmakers
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.formats.nvfp4 import global_scale_amax
from hubconv.formats.stored import dequantize
from hubconv.kernels import choose

KERNEL = choose("cpu")
PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)


@some.composite
def sources(draw):
    """Weights of every kind that are not all zeros (ModelOpt makes NaN scales of those)."""
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    rows, cols = draw(some.integers(1, 40)), 32 * draw(some.integers(1, 8))
    flavour = draw(some.sampled_from(["gaussian", "sparse", "ties", "outlier", "wide"]))
    exponent = draw(some.integers(-60, 40))
    kind = draw(some.sampled_from(["BF16", "F32", "fp8", "mxfp4"]))
    if kind == "fp8":
        stored = weightmakers.fp8(rng, rows, cols, (16, 32), "F32", flavour, exponent)
    elif kind == "mxfp4":
        stored = weightmakers.mxfp4(rng, rows, cols, flavour, exponent)
    else:
        stored = weightmakers.plain(rng, kind, rows, cols, flavour, exponent)
    return stored


def restated(weights):
    """ModelOpt's rule in our own words: (codes, block scales, global scale)."""
    blocks = weights.view(-1, 16)
    g = blocks.abs().max() / 2688
    scales = blocks.abs().max(1).values / (6 * g)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    scales = scales.clamp(2**-9, 448).to(torch.float8_e4m3fn)
    scaled = blocks / (scales.float() * g)[:, None]
    sizes = scaled.abs()
    below = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    codes = torch.searchsorted(below, sizes)
    codes += torch.isin(sizes, torch.tensor([0.75, 1.75, 3.5]))
    codes += 8 * (scaled < 0)
    pairs = (codes[:, 0::2] + 16 * codes[:, 1::2]).to(torch.uint8)
    return pairs.numpy(), scales.view(torch.uint8).numpy(), float(g)


def assert_parity(stored, quantize):
    weights = torch.from_numpy(dequantize(stored.window()))
    if not weights.any():
        return
    codes, scales, g = quantize(weights)
    assert global_scale_amax(KERNEL.amax(stored.window())) == g
    encoded = KERNEL.encode(stored.window(), g, "amax")
    assert encoded.scales.ravel().tolist() == scales.ravel().tolist()
    assert encoded.codes.ravel().tolist() == codes.ravel().tolist()


@PROPERTY
@given(stored=sources())
def test_amax_gives_the_bytes_of_the_restated_rule(stored):
    assert_parity(stored, restated)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_amax_gives_the_bytes_of_modelopt():
    tensors = pytest.importorskip(
        "modelopt.torch.quantization.qtensor.nvfp4_tensor", exc_type=ImportError
    )

    def quantize(weights):
        packed, scales, g = tensors.NVFP4QTensor.quantize(weights.clone(), 16)
        return packed._quantized_data.numpy(), scales.view(torch.uint8).numpy(), float(g)

    @PROPERTY
    @given(stored=sources())
    def holds(stored):
        assert_parity(stored, quantize)

    holds()


@pytest.mark.filterwarnings("ignore")
def test_the_decoder_reads_what_modelopt_reads():
    tensors = pytest.importorskip(
        "modelopt.torch.quantization.qtensor.nvfp4_tensor", exc_type=ImportError
    )
    from hubconv.formats.nvfp4 import decode, global_scale

    stored = weightmakers.plain(np.random.default_rng(8), "F32", 16, 128, "gaussian", -5)
    g = global_scale(KERNEL.amax(stored.window()))
    encoded = KERNEL.encode(stored.window(), g, "search")
    theirs = tensors.NVFP4QTensor(
        torch.Size([16, 128]), torch.float32, torch.from_numpy(encoded.codes)
    ).dequantize(
        scale=torch.from_numpy(encoded.scales).view(torch.float8_e4m3fn),
        double_scale=torch.tensor(g),
        block_sizes={-1: 16},
    )
    assert np.array_equal(theirs.numpy(), decode(encoded.codes, encoded.scales, g))


def test_the_decoder_reads_what_compressed_tensors_reads():
    helpers = pytest.importorskip("compressed_tensors.compressors.nvfp4.helpers")
    from hubconv.formats.nvfp4 import E4M3_VALUES, decode, global_scale

    stored = weightmakers.plain(np.random.default_rng(9), "F32", 16, 128, "gaussian", -5)
    g = global_scale(KERNEL.amax(stored.window()))
    encoded = KERNEL.encode(stored.window(), g, "search")
    unpacked = helpers.unpack_fp4_from_uint8(torch.from_numpy(encoded.codes), 16, 128)
    scales = E4M3_VALUES[encoded.scales].repeat(16, 1) / np.float32(1 / g)
    theirs = unpacked.float().numpy() * scales
    assert np.array_equal(theirs, decode(encoded.codes, encoded.scales, g))
