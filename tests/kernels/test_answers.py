"""The CPU's answers on the canary's windows: asked for once, and never believed when damaged."""

import numpy as np
import pytest
from kernels.loading import Loads

from hubconv.errors import IntegrityError
from hubconv.kernels import cache
from hubconv.kernels.cpu import CpuKernel
from hubconv.kernels.cuda import answers, canary

FORMS = ["fp8", "mxfp4", "int4", "BF16", "F16", "F32"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, once the CPU's own code is loaded from where it lies."""
    CpuKernel(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield tmp_path
    cache.cache_folder.cache_clear()


def check(reference, form="fp8", *, mixed=False, device=None):
    device = device or CpuKernel(1)
    canary.check(
        form,
        mixed=mixed,
        reference=reference,
        begin_amax=device.begin_amax,
        begin_encode=device.begin_encode,
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_second_process_does_not_ask_the_cpu(form):
    first, second = Loads(), Loads()
    check(first, form)
    check(second, form)
    assert (first.count, second.count) == (2, 0)  # a window for each size of numbers


def test_each_form_is_a_question_of_its_own(home):
    for form in FORMS:
        check(Loads(), form)
    check(Loads(), "fp8", mixed=True)
    check(Loads(), "int4", mixed=True)
    assert len(list(home.rglob("*.answer"))) == 2 * (len(FORMS) + 2)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "other"])
def test_a_damaged_answer_is_asked_for_again(home, how):
    check(Loads())
    for path in home.rglob("*.answer"):
        good = path.read_bytes()
        middle = len(good) // 2
        path.write_bytes(
            {
                "cut": good[:middle],
                "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
                "empty": b"",
                "other": b'{"largest": 1}\n',
            }[how]
        )
    again, after = Loads(), Loads()
    check(again)
    check(after)
    assert (again.count, after.count) == (2, 0)


def test_a_cache_that_cannot_be_written_costs_only_time(home):
    home.chmod(0o500)
    try:
        reference = Loads()
        check(reference)
        assert reference.count == 2
    finally:
        home.chmod(0o700)


class Wrong(CpuKernel):
    """A device at fault: one bit of one code, or one figure."""

    def __init__(self, fault):
        super().__init__(1)
        self.fault = fault

    def amax(self, window):
        return super().amax(window) * (2 if self.fault == "amax" else 1)

    def encode(self, window, global_scale, scales):
        made = super().encode(window, global_scale, scales)
        if self.fault == scales:
            made.codes[-1, -1] ^= 1
        if self.fault == "scales":
            made.scales[0, 0] ^= 1
        return made


@pytest.mark.parametrize("fault", ["amax", "search", "scales"])
@pytest.mark.parametrize("known", [False, True])
def test_a_device_at_fault_is_refused_by_kept_answers_too(fault, known):
    if known:
        check(Loads())
    with pytest.raises(IntegrityError, match="other bytes than the CPU"):
        check(Loads(), device=Wrong(fault))


def test_an_answer_survives_its_own_spelling():
    window = canary._window("BF16", 0, mixed=False)
    found = answers.answer(window, Loads())
    read = answers.Answer.from_bytes(found.to_bytes(), window.rows, window.weight.cols)
    assert read.largest == found.largest
    for mine, other in zip(read.made, found.made, strict=True):
        assert np.array_equal(mine.codes, other.codes)
        assert np.array_equal(mine.scales, other.scales)
        assert mine.quality == other.quality
    with pytest.raises(ValueError, match="not an answer"):
        answers.Answer.from_bytes(b"{}\n\0", window.rows, window.weight.cols)
