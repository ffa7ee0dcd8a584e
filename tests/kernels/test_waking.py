"""A device that wakes: the CPU begins, the device goes on, and what goes wrong is not swallowed."""

import threading

import numpy as np
import pytest

from hubconv import devices
from hubconv.errors import IntegrityError, ResourceError, UsageError
from hubconv.formats.stored import StoredWeight, window
from hubconv.kernels import choose, starting
from hubconv.kernels.reference import ReferenceKernel
from hubconv.kernels.starting import WORTH_WAKING_BYTES, Starting, opening
from hubconv.kernels.waking import WakingKernel

WEIGHT = StoredWeight("plain", "F32", 2, 16)
WINDOW = window(WEIGHT, 0, np.ones(32, np.float32).tobytes())


class Named(ReferenceKernel):
    def __init__(self, name):
        super().__init__("cpu")
        self._name = name

    @property
    def name(self):
        return self._name


class Door:
    """Opens a kernel when it is told to."""

    def __init__(self, result):
        self.opened = threading.Event()
        self.result = result

    def __call__(self):
        assert self.opened.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def waking(first, device):
    return WakingKernel(first, opening(device, "waking"))


def settle(kernel):
    for future in (kernel._first, kernel._next):
        if future is not None:
            future.exception(10)


def test_the_first_works_until_the_other_is_ready():
    device = Door(Named("device"))
    kernel = waking(lambda: Named("cpu"), device)
    assert kernel.name == "cpu"
    assert kernel.amax(WINDOW) == 1
    device.opened.set()
    settle(kernel)
    encoded = kernel.encode(WINDOW, 2.0**-10, "search")
    assert kernel.name == "cpu and device"
    assert (
        encoded.codes.tobytes() == choose("cpu").encode(WINDOW, 2.0**-10, "search").codes.tobytes()
    )


def test_whichever_is_ready_first_works_first():
    slow = Door(Named("cpu"))
    kernel = waking(slow, lambda: Named("device"))
    assert kernel.amax(WINDOW) == 1
    assert kernel.name == "device"
    slow.opened.set()


@pytest.mark.parametrize("error", [IntegrityError("other bytes"), ResourceError("no driver")])
def test_what_goes_wrong_in_waking_stops_the_next_call(error):
    device = Door(error)
    kernel = waking(lambda: Named("cpu"), device)
    kernel.amax(WINDOW)
    device.opened.set()
    settle(kernel)
    with pytest.raises(type(error)):
        kernel.amax(WINDOW)


@pytest.fixture
def two_cards(monkeypatch):
    """A machine whose driver tells of two cards."""
    monkeypatch.setattr(devices, "capabilities", lambda: ((9, 0), (7, 5)))


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("name", "meant"),
    [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_names_of_devices(name, meant):
    assert devices.named(name) == meant


@pytest.mark.usefixtures("two_cards")
def test_a_card_beyond_the_last_is_refused():
    with pytest.raises(ResourceError, match="the last device is cuda:1") as raised:
        devices.named("cuda:2")
    assert raised.value.exit_code == 8


def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "capabilities", tuple)
    assert devices.named("auto") == "cpu"
    with pytest.raises(ResourceError, match="no CUDA device for --device cuda"):
        devices.named("cuda")
    with pytest.raises(UsageError):
        devices.named("tpu")


@pytest.mark.usefixtures("two_cards")
def test_auto_wakes_no_device_for_little_work():
    assert Starting("auto").kernel(1, WORTH_WAKING_BYTES - 1).name == "numba (cpu)"


@pytest.mark.usefixtures("two_cards")
def test_a_device_that_was_asked_for_is_opened_before_the_job_is_known(monkeypatch):
    opened = []

    def choose_named(device, workers=1):
        opened.append((device, workers))
        return Named(device)

    monkeypatch.setattr(starting, "choose", choose_named)
    begun = Starting("cuda:1")
    begun._waking.exception(10)
    kernel = begun.kernel(3, 1)
    kernel.amax(WINDOW)
    assert kernel.name == "cuda:1"
    # Nothing was left for the CPU, whose kernel takes as long to load as a device to open.
    assert opened == [("cuda:1", 1)]


@pytest.mark.usefixtures("two_cards")
def test_the_cpu_begins_where_a_device_takes_long(monkeypatch):
    device, opened = Door(Named("device")), []

    def choose_named(name, workers=1):
        opened.append((name, workers))
        return device() if name == "cuda:0" else Named(name)

    monkeypatch.setattr(starting, "choose", choose_named)
    monkeypatch.setattr(starting, "PATIENCE_S", 0.1)
    kernel = Starting("cuda:0").kernel(3, 1)
    assert kernel.amax(WINDOW) == 1
    assert kernel.name == "cpu"
    assert opened == [("cuda:0", 1), ("cpu", 3)]
    device.opened.set()
    settle(kernel)
    kernel.amax(WINDOW)
    assert kernel.name == "cpu and device"


def test_a_device_that_is_not_here_is_told_at_once(monkeypatch):
    monkeypatch.setattr(devices, "capabilities", tuple)
    with pytest.raises(ResourceError):
        Starting("cuda")
