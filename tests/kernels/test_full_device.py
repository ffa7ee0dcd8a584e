"""A CUDA device without memory, played by the CPU: nothing is lost, and it is told."""

import logging
from typing import ClassVar

import numpy as np
import pytest
from kernels.weightmakers import plain

from hubconv import devices, kernels
from hubconv.errors import ResourceError, of_this_machine
from hubconv.formats.nvfp4 import global_scale
from hubconv.kernels import cuda
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.cuda.driver import FullError


class PlayedDevice:
    """What the kernel asks of a device that it has opened."""

    def __init__(self, number):
        self.number = number


class PlayedEngine:
    """Computes as a device does, in chunks of what it has room for.

    `room` is bytes for a chunk; it is what the tests take away.
    """

    room = 1 << 40
    asked: ClassVar = []

    def __init__(self, device, report, compile_it):
        self._cpu = CpuKernel(1)

    def _fit(self, window, chunk_bytes):
        self.asked.append(chunk_bytes)
        if min(chunk_bytes, window.data.nbytes) > self.room:
            raise FullError

    def begin_amax(self, window, chunk_bytes):
        self._fit(window, chunk_bytes)
        return self._cpu.begin_amax(window)

    def begin_encode(self, window, scale, rule, chunk_bytes):
        self._fit(window, chunk_bytes)
        return self._cpu.begin_encode(window, scale, rule)

    def release(self):
        pass


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(devices, "capabilities", lambda: ((9, 0),))
    monkeypatch.setattr(cuda, "Device", PlayedDevice)
    monkeypatch.setattr(cuda, "Engine", PlayedEngine)
    monkeypatch.setattr(PlayedEngine, "room", 1 << 40)
    monkeypatch.setattr(PlayedEngine, "asked", [])
    return PlayedEngine


@pytest.fixture
def window():
    return plain(np.random.default_rng(0), "BF16", 8192, 256, "gaussian").window()


def test_a_device_that_fills_up_is_asked_for_less_first(engine, window):
    kernel = cuda.TritonKernel("cuda:0")
    kernel.amax(window)
    engine.room = 1 << 20
    engine.asked.clear()
    assert kernel.amax(window) == CpuKernel(1).amax(window)
    assert engine.asked == [1 << power for power in range(25, 19, -1)]
    assert kernel.name == "triton (cuda:0)"


def test_what_a_full_device_has_no_room_for_the_cpu_does_and_it_is_told_once(
    engine, window, caplog
):
    kernel, cpu = cuda.TritonKernel("cuda:0"), CpuKernel(1)
    kernel.amax(window)
    engine.room = 0
    with caplog.at_level(logging.WARNING, "hubconv.kernels"):
        largest = kernel.amax(window)
        made = kernel.encode(window, global_scale(largest), "search")
    expected = cpu.encode(window, global_scale(largest), "search")
    assert np.array_equal(made.codes, expected.codes)
    assert np.array_equal(made.scales, expected.scales)
    assert [record.message.count("has no memory left") for record in caplog.records] == [1]
    # The report names what did the work.
    assert kernel.name == f"triton (cuda:0) and {cpu.name}"


def test_a_named_device_that_is_full_from_the_start_ends_the_run(engine):
    engine.room = 0
    with pytest.raises(ResourceError) as refused:
        kernels.choose("cuda:0")
    assert refused.value.exit_code == 8
    assert "no memory left" in refused.value.what
    assert "--device cpu" in refused.value.next_step
    assert "Finished shards are kept" in refused.value.next_step


def test_a_device_nobody_named_gives_way_to_the_cpu_when_it_is_full(engine, caplog):
    engine.room = 0
    with caplog.at_level(logging.WARNING, "hubconv.kernels"):
        found = kernels.choose("auto")
    assert found.name == CpuKernel(1).name
    assert "The CPU does the work" in caplog.text


def test_memory_that_torch_misses_is_a_fault_of_this_machine():
    torch = pytest.importorskip("torch")
    told = of_this_machine(torch.OutOfMemoryError("CUDA out of memory"))
    assert told is not None
    assert told.exit_code == 8
    assert of_this_machine(RuntimeError("another")) is None


def test_such_a_warning_is_shown_without_asking():
    from hubconv.cli.environment import quiet_libraries

    quiet_libraries(0)
    assert logging.getLogger("hubconv.kernels.cuda").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("hubconv.work").isEnabledFor(logging.WARNING)
