import numpy as np
import oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from hubconv.kernels.rounding import Rounded, nearest, pack
from hubconv.kernels.weights import e4m3_values

E2M1 = np.array(oracle.E2M1, np.float32)


def codes_of(magnitudes):
    """Codes of E2M1 magnitudes, through the packer."""
    flat = magnitudes.reshape(16, -1)
    zeros = torch.zeros(flat.shape, dtype=torch.bool)
    packed = pack(Rounded(flat, zeros, torch.zeros(flat.shape[1], dtype=torch.uint8))).numpy()
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(-1, 16)
    return codes.T.reshape(-1)


def test_e4m3_bits_mean_what_the_book_says():
    codes = [code for code in range(256) if code & 0x7F != 0x7F]
    actual = e4m3_values(torch.tensor(codes, dtype=torch.uint8))
    assert actual.tolist() == [oracle.e4m3(code) for code in codes]
    assert torch.signbit(actual).tolist() == [code > 127 for code in codes]


def test_a_division_decides_every_boundary_of_every_scale_as_a_comparison_does():
    # The boundaries of each searched scale, and the float32 numbers next to them on either side.
    sizes, units = [], []
    for code in range(8, 127):
        scale = np.float32(oracle.E4M3[code])
        for boundary in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0):
            at = np.float32(boundary) * scale
            below, above = np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(1e9))
            around = [np.nextafter(below, np.float32(0)), below, at, above]
            around.append(np.nextafter(above, np.float32(1e9)))
            sizes += around
            units += [scale] * len(around)
    count = len(sizes) // 16 * 16
    sizes += [np.float32(0)] * (16 + count - len(sizes))
    units += [np.float32(1)] * (len(sizes) - len(units))
    quotients = torch.tensor(np.array(sizes)) / torch.tensor(np.array(units))
    rounded = nearest(quotients, torch.empty_like(quotients))
    expected = [
        oracle.e2m1_code(float(size), float(unit)) for size, unit in zip(sizes, units, strict=True)
    ]
    assert codes_of(rounded).tolist() == expected
    assert rounded.numpy().tolist() == E2M1[expected].tolist()


@settings(derandomize=True, deadline=None)
@given(
    size=some.floats(0, 2**100, width=32, allow_subnormal=True),
    code=some.integers(8, 126),
)
def test_a_division_decides_any_number_as_a_comparison_does(size, code):
    scale = oracle.E4M3[code]
    quotient = torch.full((16,), size) / scale
    expected = oracle.e2m1_code(size, scale)
    assert codes_of(nearest(quotient, torch.empty(16))).tolist() == [expected] * 16
