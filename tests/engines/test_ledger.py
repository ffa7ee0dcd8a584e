"""Which unit is where, whatever becomes of the workers."""

from dataclasses import dataclass

import pytest

from hubconv.engines.ledger import LOSSES, Ledger
from hubconv.errors import IntegrityError


@dataclass(frozen=True)
class Named:
    shard: str


A, B, C = UNITS = [Named("a"), Named("b"), Named("c")]


@pytest.fixture
def ledger():
    return Ledger(UNITS)


def test_units_are_given_in_order_and_told_in_order(ledger):
    assert [ledger.give(worker) for worker in (1, 2, 1, 2)] == [A, B, C, None]
    assert (ledger.load(1), ledger.load(2), ledger.load(3)) == (2, 1, 0)
    for worker, unit in ((1, C), (2, B), (1, A)):
        assert not ledger.is_done
        assert ledger.made(worker, unit)
    assert ledger.is_done
    assert ledger.running == 0
    assert ledger.records() == UNITS


def test_the_second_result_of_a_unit_does_not_count(ledger):
    ledger.give(1)
    assert ledger.made(1, A)
    assert not ledger.made(1, A)
    assert not ledger.converted("a", 5)
    assert ledger.records() == [A]


def test_a_result_of_a_unit_that_nobody_asked_for_does_not_count(ledger):
    assert not ledger.made(1, Named("z"))
    assert ledger.records() == []


def test_what_a_lost_worker_had_is_given_first_and_in_order(ledger):
    ledger.give(1)
    ledger.give(1)
    assert ledger.converted("a", 7)
    assert ledger.converted("b", 4)
    assert ledger.lost(1, "died") == 11
    assert ledger.lost(1, "died") == 0
    assert [ledger.give(2) for _ in UNITS] == UNITS


def test_a_late_result_of_a_lost_worker_counts_and_the_unit_is_not_given_again(ledger):
    ledger.give(1)
    ledger.lost(1, "did not answer")
    assert ledger.made(1, A)
    assert ledger.next == B
    assert ledger.give(2) == B


def test_a_late_result_while_another_worker_is_at_the_unit(ledger):
    ledger.give(1)
    ledger.lost(1, "did not answer")
    assert ledger.give(2) == A
    assert ledger.made(1, A)
    assert ledger.running == 1  # the other is not interrupted
    assert ledger.lost(2, "died") == 0  # and where it dies, nothing begins again
    assert ledger.next == B


def test_a_unit_that_costs_too_many_workers_ends_the_run(ledger):
    for worker in range(LOSSES - 1):
        assert ledger.give(worker) == A
        ledger.lost(worker, "died")
    ledger.give(9)
    with pytest.raises(IntegrityError, match="a was in the hands of 3 workers") as poison:
        ledger.lost(9, "ended by signal 9")
    assert poison.value.exit_code == 7
    assert "ended by signal 9" in poison.value.what
    assert "dmesg" in poison.value.next_step
    assert ledger.next == A  # it is not forgotten


def test_what_was_not_begun_goes_back_without_a_loss(ledger):
    for _ in range(2 * LOSSES):
        assert ledger.give(1) == A
        ledger.back(1)
    assert ledger.running == 0
    assert ledger.give(2) == A


def test_a_unit_that_failed_is_not_tried_by_another(ledger):
    ledger.give(1)
    ledger.failed(1, "a")
    assert ledger.running == 0
    assert ledger.give(2) == B
    ledger.failed(2, "")  # the whole worker, which ends and is lost then
    assert ledger.running == 1
