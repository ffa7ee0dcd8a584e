"""Work that a device has begun: right however late it is done, and whatever is done meanwhile."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernels.played_driver import (
    PlayedDriver,
    played_code,
    played_compile,
    played_spelling,
    played_top,
)

from hubconv.errors import HubconvError
from hubconv.formats.stored import NonFiniteError, StoredWeight, window
from hubconv.kernels import Prompt, cache, done, one_ahead
from hubconv.kernels.cuda import driver
from hubconv.kernels.cuda.driver import FullError
from hubconv.kernels.cuda.engine import Engine

COLS = 256
CHUNK = 64 * COLS


@pytest.fixture(autouse=True)
def _machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.cache_folder.cache_clear()
    monkeypatch.setattr(driver, "capabilities", lambda: ((9, 0),))
    yield
    cache.cache_folder.cache_clear()


class Report(Prompt):
    """Says where a window is not finite."""

    def amax(self, window):
        raise NonFiniteError(1, 0, 0)

    def encode(self, window, global_scale, scales):
        raise NonFiniteError(1, 0, 0)


@pytest.fixture(params=["late", "early", "chance"])
def play(request, monkeypatch):
    """Opens an engine on a device that works when it likes."""

    def opened(**more):
        played = PlayedDriver(request.param, **more)
        monkeypatch.setattr(driver, "driver", lambda: played)
        device = driver.Device(0)
        return Engine(device, Report(), played_compile), device, played

    return opened


def staged(device, rng, rows, top=250):
    """A window in pinned memory, and its bytes."""
    data = rng.integers(0, top, rows * COLS).astype(np.uint8)
    room = device.pinned.take(data.size)
    room[:] = data
    scales = rng.random(rows, np.float32)
    weight = StoredWeight("fp8", "F8_E4M3", rows, COLS, "F32", (1, COLS))
    return window(weight, 0, room, scales.view(np.uint8)), data, scales.view(np.uint8)


def right(encoded, data, scales, rows):
    """Whether a window was encoded as the played device does, chunk by chunk."""
    step = CHUNK // COLS
    parts = [
        played_code(data[first * COLS : (first + step) * COLS], scales[4 * first])
        for first in range(0, rows, step)
    ]
    figures = np.concatenate([part[2] for part in parts])
    return (
        np.array_equal(encoded.codes.reshape(-1), np.concatenate([part[0] for part in parts]))
        and np.array_equal(encoded.scales.reshape(-1), np.concatenate([part[1] for part in parts]))
        and encoded.quality.error_sq == figures[:, 0].sum()
        and encoded.quality.weight_sq == figures[:, 1].sum()
    )


def largest(data):
    return float(played_top(data).view(np.float32).max())


def all_right(engine, device, seed, count):
    """Whether some windows come out right, each let go of as soon as it is begun."""
    rng = np.random.default_rng(seed)
    known = []

    def begun():
        for _ in range(count):
            rows = int(rng.integers(1, 300))
            made, data, scales = staged(device, rng, rows)
            known.append((data, scales, rows))
            yield engine.begin_encode(made, 1.0, "search", CHUNK)
            del made

    return all(right(each, *known[number]) for number, each in enumerate(one_ahead(begun())))


def test_many_windows_one_ahead_and_their_memory_used_again_at_once(play):
    """A window is let go of when it is begun: its memory must stay until the device has read it."""
    engine, device, _ = play()
    assert all_right(engine, device, 0, 40)


def test_largest_magnitudes_and_codes_in_turn(play):
    engine, device, _ = play()
    rng = np.random.default_rng(1)
    windows = [staged(device, rng, int(rng.integers(1, 200)), top) for top in range(20, 250, 23)]
    tops = [engine.begin_amax(made, CHUNK) for made, _, _ in windows]
    codes = [engine.begin_encode(made, 1.0, "search", CHUNK) for made, _, _ in windows]
    # In any order: each knows its own.
    for number in rng.permutation(len(windows)):
        made, data, scales = windows[number]
        assert codes[number]().codes.size == made.rows * COLS // 2
        assert right(codes[number](), data, scales, made.rows)
        assert tops[number]() == largest(data)


def test_what_nobody_waits_for_writes_into_nobody_elses_memory(play):
    engine, device, _ = play()
    rng = np.random.default_rng(2)
    mine = []
    for _ in range(20):
        made, _, _ = staged(device, rng, 32)
        engine.begin_encode(made, 1.0, "search", CHUNK)  # dropped
        del made
        gc.collect()
        for _ in range(6):
            mine.append(device.pinned.take(9 * 32 * COLS // 16))
            mine[-1][:] = 7
        other, data, scales = staged(device, rng, 32)
        assert right(engine.begin_encode(other, 1.0, "search", CHUNK)(), data, scales, 32)
    engine.release()  # all of it is done now
    assert all((each == 7).all() for each in mine)


def test_a_full_device_spoils_nothing_that_was_begun_before(play):
    engine, device, played = play(room=1 << 20)
    rng = np.random.default_rng(3)
    before, data, scales = staged(device, rng, 100)
    begun = engine.begin_encode(before, 1.0, "search", CHUNK)
    large, *_ = staged(device, rng, 40_000)
    with pytest.raises(FullError):
        engine.begin_encode(large, 1.0, "search", large.data.nbytes)
    engine.release()
    assert right(begun(), data, scales, 100)
    gc.collect()
    assert played._used == 0
    after, data, scales = staged(device, rng, 100)
    assert right(engine.begin_encode(after, 1.0, "search", CHUNK)(), data, scales, 100)


def test_what_is_not_finite_is_told_by_the_window_that_holds_it(play):
    engine, device, _ = play()
    rng = np.random.default_rng(4)
    good, data, _ = staged(device, rng, 10)
    bad, *_ = staged(device, rng, 10)
    bad.data.reshape(-1)[5] = 255
    worse, fine = engine.begin_amax(bad, CHUNK), engine.begin_amax(good, CHUNK)
    with pytest.raises(NonFiniteError):
        worse()
    assert fine() == largest(data)


def test_what_is_spelled_anew_comes_chunk_by_chunk_or_not_at_all(play):
    engine, device, _ = play()
    rng = np.random.default_rng(5)
    for rows in (1, 63, 64, 65, 300):
        made, data, scales = staged(device, rng, rows)
        step = CHUNK // COLS
        parts = [
            played_spelling(data[first * COLS : (first + step) * COLS], scales[4 * first])
            for first in range(0, rows, step)
        ]
        pairs, exponents = engine.respell(made, CHUNK)
        assert pairs.shape == (rows, COLS // 2)
        assert exponents.shape == (rows, COLS // 32)
        assert np.array_equal(pairs.reshape(-1), np.concatenate([part[0] for part in parts]))
        assert np.array_equal(exponents.reshape(-1), np.concatenate([part[1] for part in parts]))
        made.data[rng.integers(rows), rng.integers(COLS)] = 255
        assert engine.respell(made, CHUNK) is None


def test_threads_do_not_meet(play):
    engine, device, _ = play()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda seed: all_right(engine, device, seed, 15), range(8)))


# ── one ahead ────────────────────────────────────────────────────────────────────────────────────


class Steps:
    """Writes down what is begun and what is waited for."""

    def __init__(self, fails=None):
        self.seen, self.fails = [], fails

    def begun(self, count):
        for number in range(count):
            if number == self.fails:
                raise HubconvError("begin")
            self.seen.append(f"begin {number}")
            yield lambda number=number: self.seen.append(f"wait {number}") or number


def test_the_next_begins_before_the_last_is_waited_for():
    steps = Steps()
    assert list(one_ahead(steps.begun(3))) == [0, 1, 2]
    assert steps.seen == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]
    assert list(one_ahead(())) == []
    assert list(one_ahead([done(5)])) == [5]


def test_where_one_cannot_begin_the_one_before_is_waited_for():
    steps = Steps(fails=2)
    found = one_ahead(steps.begun(3))
    with pytest.raises(HubconvError, match="begin"):
        list(found)
    assert steps.seen == ["begin 0", "begin 1", "wait 0", "wait 1"]


def test_where_nobody_wants_more_what_was_begun_is_waited_for():
    steps = Steps()
    found = one_ahead(steps.begun(5))
    assert next(found) == 0
    found.close()
    assert steps.seen == ["begin 0", "begin 1", "wait 0", "wait 1"]


def test_a_second_failure_hides_no_first_one():
    def begun():
        yield failing
        raise ValueError("first")

    def failing():
        raise HubconvError("second")

    with pytest.raises(ValueError, match="first"):
        list(one_ahead(begun()))
