"""Rounding stays within the bound, nothing else does, and what else it was is told."""

import numpy as np
import pytest
from checkpoints.foreign import encode

from hubconv.formats import nvfp4
from hubconv.formats.fidelity import Fidelity, scale_faults

SHAPE = (64, 256)


def rng(seed=0):
    return np.random.default_rng(seed)


def compared(weights, change=lambda values: values, factor=None):
    amax = float(np.abs(weights).max()) or 1.0
    codes, scales, g = encode(weights, np.float32(factor or amax / 2688))
    fidelity = Fidelity(weights.shape[1])
    fidelity.add(change(nvfp4.decode(codes, scales, float(g))), weights, scales, float(g))
    return fidelity


DISTRIBUTIONS = {
    "gaussian": lambda r: r.standard_normal(SHAPE),
    "laplace": lambda r: r.laplace(size=SHAPE),
    "heavy": lambda r: r.standard_t(2, SHAPE),
    "cauchy": lambda r: r.standard_cauchy(SHAPE),
    "sparse": lambda r: r.standard_normal(SHAPE) * (r.random(SHAPE) < 0.05),
    "uniform": lambda r: r.random(SHAPE) - 0.5,
    "all magnitudes": lambda r: np.exp(r.uniform(-30, 3, SHAPE)) * r.choice([-1, 1], SHAPE),
    "an outlier": lambda r: np.where(np.arange(SHAPE[1]) == 5, 1e6, r.standard_normal(SHAPE)),
    "zeros": lambda _: np.zeros(SHAPE),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rounding_alone_never_passes_the_bound(name):
    for seed in range(5):
        fidelity = compared(DISTRIBUTIONS[name](rng(seed)))

        assert fidelity.far_blocks == 0
        assert fidelity.cause() == ""
        assert fidelity.nonfinite == 0


@pytest.mark.parametrize("rest", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 4.999, 5.0, 5.001])
def test_the_worst_blocks_there_are_stay_within_the_bound(rest):
    # One weight decides the scale, the others lie midway between two codes.
    for shrink in np.linspace(0.9, 1.1, 41):
        weights = np.full((1, 64), rest)
        weights[0, ::16] = 6 * shrink
        fidelity = compared(weights, factor=1.0 / 256)
        assert fidelity.far_blocks == 0, shrink
        assert fidelity.quality.worst_block < 0.25


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda v: 2 * v, "scale"),
        (lambda v: v / 2, "scale"),
        (lambda v: v * 16**3, "scale"),
        (lambda v: v * np.exp(rng(1).uniform(-2, 2, SHAPE[1])), "columns"),
        (lambda v: v * np.exp(rng(1).uniform(-2, 2, SHAPE[0]))[:, None], "rows"),
        (lambda v: v[::-1], "far"),
        (lambda v: -v, "far"),
        (lambda v: 0 * v, "far"),
        (lambda v: rng(9).standard_normal(v.shape), "far"),
        (lambda v: np.where(np.arange(v.shape[1]) % 2, v, 0), "columns"),
    ],
    ids=["x2", "x0.5", "x4096", "columns", "rows", "upside down", "negative", "zero", "other",
         "half of the columns"],
)  # fmt: skip
def test_what_is_wrong_is_told_apart(change, cause):
    assert compared(rng().standard_normal(SHAPE), change).cause() == cause


def test_the_factor_of_a_wrong_scale_is_told():
    fidelity = compared(rng().standard_normal(SHAPE), lambda values: 8 * values)

    assert fidelity.factor == pytest.approx(8, rel=0.01)


def test_few_rows_are_not_explained_by_a_factor_for_each_column():
    weights = rng().standard_normal((4, 256))
    columns = np.exp(rng(1).uniform(-2, 2, 256))

    assert compared(weights, lambda values: values * columns).cause() == "far"


@pytest.mark.parametrize("count", [1, 3])
def test_a_block_that_is_off_shows_although_the_weight_does_not(count):
    def spoiled(values):
        values[0, : 16 * count] *= -1
        return values

    fidelity = compared(rng().standard_normal(SHAPE), spoiled)

    assert fidelity.cause() == ""
    assert fidelity.far_blocks == count


def test_values_that_are_no_numbers_are_counted_and_do_not_spread():
    def spoiled(values):
        values[3, :16] = np.nan
        values[4, 0] = np.inf
        return values

    fidelity = compared(rng().standard_normal(SHAPE), spoiled)

    assert fidelity.nonfinite == 17
    assert np.isfinite(fidelity.quality.error_sq)


def test_windows_add_up_to_the_whole():
    weights = rng().standard_normal(SHAPE)
    codes, scales, g = encode(weights, np.float32(np.abs(weights).max() / 2688))
    decoded = nvfp4.decode(codes, scales, float(g))
    parts = Fidelity(SHAPE[1])
    for first in range(0, SHAPE[0], 7):
        rows = slice(first, first + 7)
        parts.add(decoded[rows], weights[rows], scales[rows], float(g))
    plain = nvfp4.measure(weights, codes, scales, float(g))

    assert parts.rows == SHAPE[0]
    assert parts.quality.error_sq == pytest.approx(plain.error_sq, rel=1e-12)
    assert parts.quality.weight_sq == pytest.approx(plain.weight_sq, rel=1e-12)
    for name in ("elements", "blocks", "exact_blocks", "flushed_blocks", "low_scales"):
        assert getattr(parts.quality, name) == getattr(plain, name)
    assert parts.quality.worst_block == pytest.approx(plain.worst_block, rel=1e-12)


def test_faults_of_scales_are_told_by_their_bits():
    faults = scale_faults(np.arange(256, dtype=np.uint8))

    assert (faults.blocks, faults.nan) == (256, 2)
    assert faults.negative == 126  # all with the sign but -0 and NaN
    values = np.abs(nvfp4.E4M3_VALUES[np.arange(256)])
    assert faults.low == ((values > 0) & (values < 2.0**-6)).sum()
    assert scale_faults(np.full(4, 0x38, np.uint8)) == type(faults)(4)
