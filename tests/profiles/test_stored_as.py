"""Readers of weights: what the companions prove, and what they do not."""

import numpy as np
import pytest

from hubconv.errors import ScaleError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.stored import StoredWeight
from hubconv.profiles.stored_as import (
    READERS,
    int4_group_of,
    require_shape,
    scale_name,
    shape_name,
    stored_weight,
)

INT4 = READERS["int4_weight_packed"]
NAME = "model.layers.1.mlp.experts.0.gate_proj.weight_packed"


def tensor(name, dtype, *shape):
    return StoredTensor(name, dtype, shape, "model-00001.safetensors", 0, 0)


def read(scale_shape, scale_dtype="BF16", group=32, packed=(64, 32)):
    scale = tensor(scale_name(INT4, NAME), scale_dtype, *scale_shape)
    return stored_weight(INT4, tensor(NAME, "I32", *packed), scale, None, group)


def groups(**weights):
    table = {"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", **weights}}}}
    return {"quantization_config": table}


def test_the_companions_of_packed_weights_are_named_beside_them():
    module = NAME.removesuffix(".weight_packed")
    assert scale_name(INT4, NAME) == f"{module}.weight_scale"
    assert shape_name(INT4, NAME) == f"{module}.weight_shape"


@pytest.mark.parametrize(
    ("scale_shape", "group", "block"),
    [
        ((64, 8), 32, (1, 32)),
        ((64, 2), 128, (1, 128)),
        ((64, 3), 96, (1, 96)),
        ((64, 1), 32, (1, 256)),
        ((64, 1), None, (1, 256)),
        ((1,), None, (64, 256)),
    ],
)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_the_scales_prove_the_groups_of_packed_weights(scale_shape, group, block, dtype):
    assert read(scale_shape, dtype, group) == StoredWeight("int4", "I32", 64, 256, dtype, block)


def test_scales_that_prove_other_groups_are_refused():
    with pytest.raises(ScaleError, match=r"must be \[64, 8\] or \[64, 1\].*damaged"):
        read((64, 16))
    with pytest.raises(ScaleError, match=r"group_size in config\.json"):
        read((64, 8), group=None)
    with pytest.raises(ScaleError, match=r"must be \[64, 1\]"):
        read((64, 22), group=12)
    with pytest.raises(ScaleError, match="must be one of BF16, F16, F32"):
        read((64, 8), "F8_E8M0")


def test_a_stated_shape_must_be_the_weights():
    weight = read((64, 8))
    for dtype, kind in (("I32", "<i4"), ("I64", "<i8")):
        stated = tensor(shape_name(INT4, NAME), dtype, 2)
        require_shape(weight, stated, np.array([64, 256], kind).tobytes())
        for wrong in ([64, 255], [256, 64], [64, -256]):
            with pytest.raises(ScaleError, match=r"the packed weight holds \[64, 256\]"):
                require_shape(weight, stated, np.array(wrong, kind).tobytes())
    for dtype, shape in (("F32", (2,)), ("I64", (3,)), ("I64", ())):
        with pytest.raises(ScaleError, match="two integers"):
            require_shape(weight, tensor(NAME, dtype, *shape), bytes(24))


def test_the_group_size_is_that_of_symmetric_weights_of_four_bits():
    assert int4_group_of(groups(group_size=32)) == 32
    assert int4_group_of({"text_config": groups(group_size=128, symmetric=True)}) == 128
    assert int4_group_of(groups(group_size=-1, strategy="channel")) is None
    assert int4_group_of(groups(group_size=None)) is None
    assert int4_group_of(groups(group_size=16, type="float")) is None
    assert int4_group_of(groups(group_size=64, num_bits=8)) is None
    for nothing in ({}, {"quantization_config": None}, {"quantization_config": {}}):
        assert int4_group_of(nothing) is None
    with pytest.raises(ScaleError, match="asymmetric"):
        int4_group_of(groups(group_size=32, symmetric=False))
    both = groups(group_size=32)
    both["text_config"] = groups(group_size=64)
    with pytest.raises(ScaleError, match=r"groups of \[32, 64\]"):
        int4_group_of(both)
