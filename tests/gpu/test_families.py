"""Whole conversions on a CUDA device give the shards of the CPU: every family, every stored form.

Run on a machine with a CUDA device: `pytest -m gpu`.
"""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from checkpoints.recipes import RECIPES  # noqa: E402
from profiles.walks import bench_of, make, result, source_folder  # noqa: E402

from hubconv.kernels import cuda  # noqa: E402
from hubconv.steps.schedule import Limits  # noqa: E402

REFUSED = {"gpt_oss", "mimo_qkv_edge"}
"""No engine loads these as NVFP4; nothing is converted."""

SMALL = Limits(window_bytes=16 * 1024, held_bytes=0)
"""Weights in several windows, measured and read again."""


@pytest.fixture(scope="module")
def kernel():
    return cuda.TritonKernel("cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["search", "amax"])
@pytest.mark.parametrize("name", sorted(RECIPES.keys() - REFUSED))
def test_a_family_comes_out_as_on_the_cpu(tmp_path, kernel, name, rule):
    wanted = result(name, scales=rule)
    for place, limits in (("held", Limits()), ("not held", SMALL)):
        bench = bench_of(source_folder(name), tmp_path / place, scales=rule)
        bench = replace(bench, kernel=kernel, limits=limits)
        for unit, expected in zip(bench.plan.units, wanted.records, strict=True):
            made = make(bench, unit)
            assert (made.shard, made.size, made.sha256) == (
                expected.shard, expected.size, expected.sha256,
            )  # fmt: skip
            for mine, theirs in zip(made.tensors, expected.tensors, strict=True):
                assert (mine.module, mine.global_scale) == (theirs.module, theirs.global_scale)
                assert mine.quality.exact_blocks == theirs.quality.exact_blocks
                close = pytest.approx(theirs.quality.error_sq, rel=1e-12, abs=0)
                assert mine.quality.error_sq == close
