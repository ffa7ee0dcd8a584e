import numpy as np
import pytest

from hubconv.formats.stored import NonFiniteError, StoredWeight, dequantize, window
from hubconv.kernels import choose

KERNEL = choose("cpu")


def fp8(codes, scales, block=(2, 16), scale_dtype="F32"):
    codes = np.array(codes, np.uint8)
    weight = StoredWeight("fp8", "F8_E4M3", *codes.shape, scale_dtype, block)
    return weight, codes.tobytes(), scales


def ones(rows=4, cols=32):
    return np.full((rows, cols), 0x38, np.uint8)


def assert_refused(weight, data, scales, count, row, col, first_row=0):
    """Every reader refuses the weight, and says how many and where."""
    found = window(weight, first_row, data, scales)
    for read in (
        dequantize,
        KERNEL.amax,
        lambda window: KERNEL.encode(window, 1.0, "search"),
        lambda window: KERNEL.encode(window, 1.0, "amax"),
    ):
        with pytest.raises(NonFiniteError, match=rf"first at \[{row}, {col}\]") as caught:
            read(found)
        assert (caught.value.count, caught.value.row, caught.value.col) == (count, row, col)
        assert caught.value.exit_code == 7


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_the_nan_codes_of_e4m3(code):
    codes = ones()
    codes[1, 5] = codes[3, 30] = code
    weight, data, scales = fp8(codes, np.ones((2, 2), np.float32).tobytes())
    assert_refused(weight, data, scales, 2, 1, 5)


def test_a_row_is_counted_within_the_whole_weight():
    codes = ones()
    codes[1, 5] = 0x7F
    _, data, scales = fp8(codes, np.ones((2, 2), np.float32).tobytes())
    weight = StoredWeight("fp8", "F8_E4M3", 100, 32, "F32", (2, 16))
    assert_refused(weight, data, scales, 1, 41, 5, first_row=40)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number(value):
    scales = np.ones((2, 2), np.float32)
    scales[1, 1] = value
    assert_refused(*fp8(ones(), scales.tobytes()), 32, 2, 16)


def test_an_infinite_scale_over_zeros():
    scales = np.full((2, 2), np.inf, np.float32)
    assert_refused(*fp8(np.zeros((4, 32), np.uint8), scales.tobytes()), 128, 0, 0)


def test_a_product_that_overflows():
    codes = ones()
    codes[2, 3] = 0xFE
    scales = np.full((2, 2), 2.0**120, np.float32)
    assert_refused(*fp8(codes, scales.tobytes()), 1, 2, 3)


def test_the_nan_of_e8m0():
    weight, data, scales = fp8(ones(), bytes([127, 255, 127, 127]), scale_dtype="F8_E8M0")
    assert_refused(weight, data, scales, 32, 0, 16)


def test_mxfp4_with_a_nan_exponent_and_with_one_that_overflows():
    weight = StoredWeight("mxfp4", "I8", 2, 64, "F8_E8M0", (1, 32))
    data = np.full((2, 32), 0x22, np.uint8)
    data[1, 17] = 0x27
    assert_refused(weight, data.tobytes(), bytes([127, 127, 255, 127]), 32, 1, 0)
    assert_refused(weight, data.tobytes(), bytes([127, 127, 127, 253]), 1, 1, 34)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("byte", [0x88, 0x9A])
def test_int4_under_a_scale_that_is_no_number(dtype, value, byte):
    weight = StoredWeight("int4", "I32", 30, 64, dtype, (1, 32))
    scales = np.ones((3, 2), np.float32)
    scales[2, 1] = value
    raw = {
        "BF16": (scales.view(np.uint32) >> 16).astype(np.uint16),
        "F16": scales.astype(np.float16),
        "F32": scales,
    }[dtype].tobytes()
    assert_refused(weight, bytes([byte]) * 96, raw, 32, 13, 32, first_row=11)


def test_int4_overflows_at_minus_8_alone():
    weight = StoredWeight("int4", "I32", 2, 64, "F32", (1, 32))
    data = np.full((2, 32), 0xF1, np.uint8)
    data[1, 20] = 0x0F
    scales = np.full((2, 2), 2.0**125, np.float32)
    assert_refused(weight, data.tobytes(), scales.tobytes(), 1, 1, 41)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("BF16", 0x7FC0), ("BF16", 0x7F80), ("BF16", 0xFF80), ("BF16", 0xFFFF),
        ("F16", 0x7E00), ("F16", 0x7C00), ("F16", 0xFC00),
        ("F32", 0x7FC00000), ("F32", 0x7F800000), ("F32", 0xFF800001),
    ],
)  # fmt: skip
def test_plain_nan_and_infinity(dtype, bits):
    numbers = np.zeros((3, 32), np.uint32 if dtype == "F32" else np.uint16)
    numbers[2, 1] = numbers[2, 31] = bits
    assert_refused(StoredWeight("plain", dtype, 3, 32), numbers.tobytes(), b"", 2, 2, 1)
