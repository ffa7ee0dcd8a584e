"""Units on threads: what is finished is never lost, whatever ends the run."""

import os
import signal
import threading
from dataclasses import dataclass, replace

import pytest
from profiles.walks import bench_of, source_folder

from hubconv.engines import threads
from hubconv.engines.stop import Stop
from hubconv.engines.threads import run_units
from hubconv.errors import IntegrityError, StoppedError
from hubconv.progress import SilentProgress


@dataclass
class Journal:
    """Notes records, and what of them was flushed."""

    noted: list
    flushed: list
    ending: object = None

    def add(self, record):
        self.noted.append(record)

    def flush(self, ending=None):
        self.flushed = list(self.noted)
        self.ending = ending


@dataclass(frozen=True)
class Made:
    shard: str
    size: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Unit:
    shard: str


UNITS = [Unit(f"shard-{number}") for number in range(8)]


@pytest.fixture
def journal():
    return Journal([], [])


@pytest.fixture
def bench(tmp_path, journal):
    return replace(bench_of(source_folder("llama_bf16_tied"), tmp_path), staging=journal)


def working(monkeypatch, work):
    monkeypatch.setattr(threads, "work", work)


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_unit_is_made_once_and_told_in_order(monkeypatch, bench, journal, workers):
    working(monkeypatch, lambda _, unit: Made(unit.shard))

    made = run_units(bench, UNITS, workers, SilentProgress(), Stop())

    assert [record.shard for record in made] == [unit.shard for unit in UNITS]
    assert {record.shard for record in journal.flushed} == {unit.shard for unit in UNITS}


def test_one_worker_runs_in_the_calling_thread(monkeypatch, bench):
    seen = set()
    working(monkeypatch, lambda _, unit: seen.add(threading.current_thread()) or Made(unit.shard))

    run_units(bench, UNITS, 1, SilentProgress(), Stop())

    assert seen == {threading.current_thread()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_unit_ends_the_run_and_finished_ones_are_kept(
    monkeypatch, bench, journal, workers
):
    begun = []
    other_may_go = threading.Event()

    def work(_, unit):
        begun.append(unit.shard)
        if unit is UNITS[2]:
            other_may_go.set()
            raise IntegrityError("damaged")
        if unit is UNITS[3]:
            other_may_go.wait(20)
        return Made(unit.shard)

    working(monkeypatch, work)

    with pytest.raises(IntegrityError, match="damaged"):
        run_units(bench, UNITS, workers, SilentProgress(), Stop())

    kept = {record.shard for record in journal.flushed}
    assert kept == set(begun) - {UNITS[2].shard}
    assert len(begun) < len(UNITS)


def test_at_the_time_limit_nothing_new_is_begun(monkeypatch, bench, journal):
    stop = Stop(time_limit_s=3600)

    def work(_, unit):
        if unit is UNITS[1]:
            stop._deadline = 1e-9
        return Made(unit.shard)

    working(monkeypatch, work)

    with pytest.raises(StoppedError, match="time limit") as stopped:
        run_units(bench, UNITS, 1, SilentProgress(), stop)

    assert stopped.value.exit_code == 10
    assert [record.shard for record in journal.flushed] == ["shard-0", "shard-1"]


def test_a_limit_reached_with_the_last_unit_is_no_stop(monkeypatch, bench):
    stop = Stop(time_limit_s=3600)

    def work(_, unit):
        if unit is UNITS[-1]:
            stop._deadline = 1e-9
        return Made(unit.shard)

    working(monkeypatch, work)

    assert len(run_units(bench, UNITS, 1, SilentProgress(), stop)) == len(UNITS)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_in_order(monkeypatch, bench, journal, workers, number, code):
    stop = Stop()
    before = signal.getsignal(number)
    heard = threading.Event()

    def work(_, unit):
        if unit is UNITS[1]:
            os.kill(os.getpid(), number)
            while workers > 1 and not stop.begun_enough:
                heard.wait(0.01)
        return Made(unit.shard)

    working(monkeypatch, work)

    with stop.listening(), pytest.raises(StoppedError) as stopped:
        run_units(bench, UNITS, workers, SilentProgress(), stop)

    assert stopped.value.exit_code == code
    assert signal.Signals(number).name in stopped.value.what
    assert {"shard-0", "shard-1"} <= {record.shard for record in journal.flushed}
    assert len(journal.flushed) < len(UNITS)
    assert signal.getsignal(number) is before


def test_a_signal_gives_up_the_unit_in_its_middle():
    stop = Stop()
    with stop.listening():
        stop.at_once()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError) as stopped:
            stop.at_once()

    assert stopped.value.exit_code == 143


def test_a_signal_in_mid_unit_keeps_the_units_before_it(tmp_path):
    bench = bench_of(source_folder("deepseek_v3"), tmp_path)
    stop = Stop()
    second = bench.plan.units[1].jobs[0].reads[0].nbytes
    counted = []

    def converted(source_bytes):
        counted.append(source_bytes)
        if len(counted) > len(bench.plan.units[0].jobs) + len(bench.plan.units[0].tail):
            os.kill(os.getpid(), signal.SIGTERM)
        stop.at_once()

    assert second
    with stop.listening(), pytest.raises(StoppedError):
        run_units(replace(bench, converted=converted), bench.plan.units, 1, SilentProgress(), stop)

    assert list(bench.staging.records()) == [bench.plan.units[0].shard]
    assert list(tmp_path.rglob("*.partial")) == []
