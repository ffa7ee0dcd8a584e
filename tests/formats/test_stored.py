import numpy as np
import pytest

from hubconv.errors import ScaleError
from hubconv.formats.stored import StoredWeight, dequantize, scale_values, window


def test_scales_of_each_type_mean_their_numbers():
    assert scale_values(b"\x00\x00\x80\x3f\x00\x00\x00\xc0", "F32", (1, 2)).tolist() == [[1, -2]]
    assert scale_values(b"\x80\x3f\x00\xc0", "BF16", (2, 1)).tolist() == [[1], [-2]]
    assert scale_values(b"\x00\x3c\x01\x00", "F16", (2,)).tolist() == [1, 2**-24]
    e8m0 = scale_values(bytes([0, 1, 127, 254, 255]), "F8_E8M0", (1, 5))
    assert e8m0.dtype == np.float32
    assert e8m0[0, :4].tolist() == [2.0**-127, 2.0**-126, 1, 2.0**127]
    assert np.isnan(e8m0[0, 4])


def test_every_e8m0_byte_is_a_power_of_two():
    values = scale_values(bytes(range(255)), "F8_E8M0", (255,))
    assert values.tolist() == [2.0 ** (byte - 127) for byte in range(255)]


def test_a_scale_of_another_type_is_refused():
    with pytest.raises(ScaleError, match="I32 is not an element type"):
        scale_values(bytes(4), "I32", (1, 1))


def test_a_window_takes_bytes_of_every_kind_without_a_copy():
    weight = StoredWeight("plain", "BF16", 2, 16)
    raw = bytearray(64)
    for data in (bytes(raw), raw, memoryview(raw)):
        assert window(weight, 0, data).data.shape == (2, 32)
    raw[1] = 0x40
    assert dequantize(window(weight, 0, memoryview(raw)))[0, 0] == 2


@pytest.mark.parametrize(
    ("block", "first_row", "rows", "expected"),
    [
        ((128, 128), 0, 576, range(5)),
        ((128, 128), 512, 64, range(4, 5)),
        ((128, 128), 100, 100, range(2)),
        ((128, 128), 128, 0, range(0)),
        ((1, 256), 7, 3, range(7, 10)),
        ((576, 256), 300, 10, range(1)),
    ],
)
def test_a_window_names_the_scale_rows_it_needs(block, first_row, rows, expected):
    weight = StoredWeight("fp8", "F8_E4M3", 576, 256, "F32", block)
    assert weight.scale_rows(first_row, rows) == expected


def test_plain_weights_need_no_scales():
    assert StoredWeight("plain", "BF16", 8, 16).scale_rows(0, 8) == range(0)


def test_partial_blocks_take_the_last_scale():
    weight = StoredWeight("fp8", "F8_E4M3", 3, 48, "F32", (2, 32))
    assert weight.scale_shape == (2, 2)
    scales = np.array([[1, 2], [3, 4]], np.float32)
    values = dequantize(window(weight, 0, b"\x38" * 144, scales.tobytes()))
    assert values[0].tolist() == values[1].tolist() == [1.0] * 32 + [2.0] * 16
    assert values[2].tolist() == [3.0] * 32 + [4.0] * 16


def test_the_product_with_a_scale_is_rounded_once_to_float32():
    weight = StoredWeight("fp8", "F8_E4M3", 1, 16, "F32", (1, 16))
    scale = np.float32(0.1)
    values = dequantize(window(weight, 0, b"\x3b" * 16, scale.tobytes()))
    assert values[0, 0] == np.float32(1.375 * float(scale))


def test_mxfp4_has_the_even_column_in_the_low_nibble():
    weight = StoredWeight("mxfp4", "I8", 1, 32, "F8_E8M0", (1, 32))
    assert weight.row_bytes == 16
    values = dequantize(window(weight, 0, b"\xf1" + bytes(15), bytes([128])))
    assert values[0, :3].tolist() == [1, -12, 0]


def test_int4_has_its_columns_in_words_from_the_lowest_bits_on():
    weight = StoredWeight("int4", "I32", 2, 16, "BF16", (1, 8))
    assert (weight.row_bytes, weight.scale_shape, weight.scale_row_bytes) == (8, (2, 2), 4)
    words = np.array([[0x76543210, 0xFEDCBA98 - 2**32], [0x8F8F8F8F - 2**32, 0x00000008]])
    scales = np.array([[1, 2], [-0.5, 1]], np.float32).view(np.uint32) >> 16
    read = window(weight, 0, words.astype("<i4").tobytes(), scales.astype(np.uint16).tobytes())
    values = dequantize(read)
    assert values[0].tolist() == [*range(-8, 0), *range(0, 16, 2)]
    assert values[1].tolist() == [-3.5, 0] * 4 + [0] + [-8] * 7
    assert not np.signbit(values[0, 8:]).any()
    assert (dequantize(read.part(1, 2)) == values[1:]).all()


def test_an_int4_weight_is_exact_under_bf16_and_rounded_once_under_float32():
    scale = np.float32(0.1)
    half = np.array([scale]).view(np.uint32) >> 16
    for dtype, raw in (("F32", scale.tobytes()), ("BF16", half.astype(np.uint16).tobytes())):
        weight = StoredWeight("int4", "I32", 1, 16, dtype, (1, 16))
        values = dequantize(window(weight, 0, b"\x1f" * 8, raw))
        stored = float(scale_values(raw, dtype, (1,))[0])
        assert values[0, :2].tolist() == [
            float(np.float32(7 * stored)),
            float(np.float32(-7 * stored)),
        ]
        assert dtype == "F32" or values[0, 0] == 7 * stored


def test_a_part_of_a_window_reads_the_same_weights():
    rng = np.random.default_rng(0)
    weight = StoredWeight("fp8", "F8_E4M3", 20, 32, "F32", (4, 16))
    data = rng.integers(0, 120, 20 * 32).astype(np.uint8).tobytes()
    scales = rng.random((5, 2)).astype(np.float32).tobytes()
    whole = window(weight, 0, data, scales)
    later = whole.part(6, 20)
    assert later.part(3, 9).first_row == 9
    assert (dequantize(later.part(3, 9)) == dequantize(whole)[9:15]).all()
    assert (dequantize(whole.part(19, 99)) == dequantize(whole)[19:]).all()
    assert whole.part(5, 5).rows == 0
