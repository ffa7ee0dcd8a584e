"""compressed-tensors' own packing of four-bit integers, and what hubconv reads of it.

Needs compressed-tensors beside the tests; skipped where it is not installed.
"""

import numpy as np
import pytest

from hubconv.formats.stored import StoredWeight, dequantize, window

torch = pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")

ROWS, COLS = 37, 416
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def made(dtype, group):
    """[rows, cols] integers -8 to 7, and their scales."""
    rng = np.random.default_rng(group)
    integers = torch.from_numpy(rng.integers(-8, 8, (ROWS, COLS)).astype(np.int8))
    integers[0] = -8
    integers[1] = 0
    scales = torch.from_numpy(rng.random((ROWS, COLS // group)) * 0.01 - 0.002)
    return integers, scales.to(DTYPES[dtype])


def ours(packed, scales, dtype, group):
    weight = StoredWeight("int4", "I32", ROWS, COLS, dtype, (1, group))
    raw = scales.contiguous().view(torch.uint8).numpy().tobytes()
    return dequantize(window(weight, 0, packed.numpy().tobytes(), raw))


@pytest.mark.parametrize("group", [16, 32, 104, COLS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compressed_tensors_own_unpacking_gives_the_integers_that_ours_has_scaled(dtype, group):
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32,
        unpack_from_int32,
    )

    integers, scales = made(dtype, group)
    packed = pack_to_int32(integers, 4)
    assert packed.dtype == torch.int32
    assert list(packed.shape) == [ROWS, COLS // 8]
    unpacked = unpack_from_int32(packed, 4, integers.shape)
    assert torch.equal(unpacked, integers)
    exact = unpacked.double() * scales.double().repeat_interleave(group, 1)
    values = ours(packed, scales, dtype, group)
    assert np.array_equal(values, exact.float().numpy())
    assert dtype == "F32" or np.array_equal(values, exact.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_compressed_tensors_own_decompressor_rounds_our_weights_to_the_type_of_the_scales(dtype):
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    integers, scales = made(dtype, 32)
    packed = pack_to_int32(integers, 4)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32),
    )
    state = {"weight_packed": packed, "weight_scale": scales}
    state["weight_shape"] = torch.tensor(integers.shape)
    theirs = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    values = torch.from_numpy(ours(packed, scales, dtype, 32))
    assert theirs.dtype == DTYPES[dtype]
    assert torch.equal(theirs, values.to(theirs.dtype))
