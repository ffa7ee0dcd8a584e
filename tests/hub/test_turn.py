"""The line goes from shard to shard, and nobody waits for himself."""

import threading
import time

import pytest

from hubconv.hub.fetching.turn import Turn


class Worker(threading.Thread):
    """Takes the turn, says so, and keeps it until it is told to go on."""

    def __init__(self, turn):
        super().__init__(daemon=True)
        self.turn, self.has_it, self.go_on = turn, threading.Event(), threading.Event()
        self.is_grown = False
        self.start()

    def run(self):
        with self.turn.taken() as self.told:
            self.has_it.set()
            self.go_on.wait(10)


def test_one_at_a_time():
    turn = Turn()
    with turn.taken():
        other = Worker(turn)
        assert not other.has_it.wait(0.2)
    assert other.has_it.wait(5)
    other.go_on.set()


def test_who_came_first_is_first():
    """A condition wakes whom it likes: one of three workers once waited for 38 seconds."""
    turn, order = Turn(), []

    def take(number):
        with turn.taken():
            order.append(number)

    with turn.taken():
        waiting = []
        for number in range(8):
            waiting.append(threading.Thread(target=take, args=(number,), daemon=True))
            waiting[-1].start()
            deadline = time.monotonic() + 5
            while len(turn._waiting) <= number and time.monotonic() < deadline:
                time.sleep(0.001)
    for thread in waiting:
        thread.join(5)
    assert order == list(range(8))


def test_letting_go_early_is_enough_and_the_end_of_the_block_takes_nothing_from_the_next():
    turn = Turn()
    with turn.taken() as told:
        first = Worker(turn)
        told(1_000_000, 900_000_000)
        assert not first.has_it.wait(0.2)
        threading.Thread(target=told, args=(1_000_000, 1_000_000)).start()  # the line's own thread
        assert first.has_it.wait(5)
    second = Worker(turn)
    assert not second.has_it.wait(0.2)
    first.go_on.set()
    assert second.has_it.wait(5)
    second.go_on.set()


def test_a_unit_may_open_several_shards():
    turn = Turn()
    with turn.taken() as told, turn.taken():
        told(1, 0)
        told(1, 0)
        other = Worker(turn)
        assert not other.has_it.wait(0.2)
    assert other.has_it.wait(5)
    other.go_on.set()


def test_who_waits_for_it_ends_where_the_run_must():
    ends = threading.Event()

    def at_once():
        if ends.is_set():
            raise ValueError("signalled")

    def wait():
        try:
            with turn.taken():
                told.append("taken")
        except ValueError as error:
            told.append(str(error))

    turn, told = Turn(at_once), []
    with turn.taken():
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        ends.set()
        waiting.join(5)
        assert told == ["signalled"]


def test_a_failure_gives_it_on():
    turn = Turn()
    with pytest.raises(ValueError, match="lost"), turn.taken():
        raise ValueError("lost")
    other = Worker(turn)
    assert other.has_it.wait(5)
    other.go_on.set()


def having(workers, seconds=0.2):
    """The workers that have it after a while."""
    time.sleep(seconds)
    return [worker for worker in workers if worker.has_it.is_set()]


def grow(worker):
    """A quarter of its bytes have come."""
    worker.told(10**12, 3 * 10**12)
    worker.is_grown = True


def test_a_fast_line_carries_several_each_begun_when_the_one_before_is_on_its_way(monkeypatch):
    monkeypatch.setattr("hubconv.hub.fetching.turn.NEAR_END_S", 0)
    turn = Turn()
    with turn.taken() as told:
        others = [Worker(turn) for _ in range(4)]
        assert not having(others)
        told(1_000_000, 10**12)  # says little
        assert not having(others)
        told(10**12, 10**13)  # a fast line, and less than a quarter there
        assert not having(others)
        told(10**12, 3 * 10**12)
        begun = []
        for number in range(1, 4):
            begun = having(others)
            assert len(begun) == number
            assert begun == having(others)
            grow(next(worker for worker in begun if not worker.is_grown))
        assert begun == having(others)  # no more than four have it
        for other in others:
            other.go_on.set()
    assert all(other.has_it.wait(5) for other in others)


def test_one_that_has_only_begun_does_not_let_go_however_fast_it_is():
    turn = Turn()
    with turn.taken() as told:
        other = Worker(turn)
        told(100_000_000, 600_000_000)
        assert not other.has_it.wait(0.2)
        told(200_000_000, 500_000_000)
        assert other.has_it.wait(5)
        other.go_on.set()


def test_one_that_falls_silent_at_its_beginning_holds_nobody_up(monkeypatch):
    monkeypatch.setattr("hubconv.hub.fetching.turn.YOUNG_S", 0.3)
    turn = Turn()
    with turn.taken() as told:
        other = Worker(turn)
        told(10**12, 10**13)
        assert other.has_it.wait(5)
        other.go_on.set()
