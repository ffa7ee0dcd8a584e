"""A kernel that is loaded where it is needed: once, and for no small thing."""

import threading

import numpy as np
import pytest
from kernels.loading import Loads

from hubconv.formats import recodes
from hubconv.formats.stored import StoredWeight, window
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.later import LaterKernel


def born_as_fp4(rows=64):
    weight = StoredWeight("fp8", "F8_E4M3", rows, 128, "F32", (64, 128))
    codes = np.random.default_rng(0).choice(
        np.array([0, 0x30, 0x38, 0xB8, 0x40], np.uint8), rows * 128
    )
    return window(weight, 0, codes.tobytes(), np.ones(-(-rows // 64), np.float32).tobytes())


def dequantised(rows=128):
    weight = StoredWeight("plain", "BF16", rows, 128)
    numbers = np.random.default_rng(0).choice(
        np.array([0x3F80, 0x4000, 0xBF80], np.uint16), rows * 128
    )
    return window(weight, 0, numbers.tobytes())


def test_nothing_is_loaded_until_there_is_work():
    loads = Loads()
    kernel = LaterKernel(loads)
    assert loads.count == 0
    assert kernel.amax(born_as_fp4()) == 2
    assert kernel.encode(born_as_fp4(), 2.0**-8, "search").quality.blocks == 64 * 8
    assert kernel.stage(5).nbytes == 5
    assert kernel.name == CpuKernel(1).name
    assert loads.count == 1


def test_several_threads_load_it_once():
    loads = Loads()
    kernel = LaterKernel(loads)
    threads = [threading.Thread(target=kernel.amax, args=(born_as_fp4(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads.count == 1


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_what_is_re_spelled_is_the_same_with_and_without_it(limit):
    loads = Loads()
    kernel = LaterKernel(loads, limit)
    same = [
        (kernel.fp8_to_mxfp4(born_as_fp4()), recodes.fp8_to_mxfp4(born_as_fp4())),
        (
            kernel.bf16_to_fp8_block(dequantised(), (128, 128)),
            recodes.bf16_to_fp8_block(dequantised(), (128, 128)),
        ),
    ]
    for found, wanted in same:
        assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    assert loads.count == (0 if limit else 1)


def test_much_of_it_is_worth_loading_for():
    loads = Loads()
    kernel = LaterKernel(loads, 3 * born_as_fp4().data.nbytes)
    counts = []
    for _ in range(4):
        kernel.fp8_to_mxfp4(born_as_fp4())
        counts.append(loads.count)
    assert counts == [0, 0, 1, 1]
