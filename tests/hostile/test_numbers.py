"""Scales that are odd but mean something are taken at their word; what means nothing is refused."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from checkpoints.broken import _rewrite, read, shards
from profiles.walks import convert, copy_of

from hubconv.errors import IntegrityError

LIKE = "layers.1.mlp.experts.0.down_proj.weight_scale_inv"


def with_scale(folder, value):
    """Put a value at the beginning of the F32 scales of one FP8 expert."""
    for path in shards(folder):
        tensors = read(path)
        for tensor in tensors:
            if tensor.name.endswith(LIKE):
                data = struct.pack("<f", value) + tensor.data[4:]
                changed = replace(tensor, data=data)
                _rewrite(path, [changed if t.name == tensor.name else t for t in tensors])
                return tensor.name.removesuffix(".weight_scale_inv")
    raise LookupError(LIKE)


@pytest.mark.parametrize("value", [-0.01, 0.0, -0.0], ids=lambda value: f"{value:g}")
def test_a_finite_scale_gives_finite_numbers_that_the_source_means(tmp_path, value):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    module = with_scale(folder, value)
    walk = convert(folder, tmp_path / "target")
    told = [t for record in walk.records for t in record.tensors if t.module == module]
    assert len(told) == 1
    assert np.isfinite(told[0].quality.relative_error)
    assert np.isfinite(told[0].global_scale)
    assert told[0].global_scale > 0
    assert walk.verified().findings == ()


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e30], ids=lambda value: f"{value:g}")
def test_a_scale_that_leaves_nothing_of_a_weight_is_refused_by_name(tmp_path, value):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    module = with_scale(folder, value)
    with pytest.raises(IntegrityError, match="--allow-flushed") as refused:
        convert(folder, tmp_path / "target")
    assert refused.value.exit_code == 7
    assert module in refused.value.what


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_scale_that_makes_no_numbers_is_refused_by_name(tmp_path, value):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    module = with_scale(folder, value)
    with pytest.raises(IntegrityError) as refused:
        convert(folder, tmp_path / "target")
    assert refused.value.exit_code == 7
    assert module in refused.value.what
