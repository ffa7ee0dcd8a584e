"""Waits that end when the run must."""

import os
import signal
import threading
import time

import pytest

from hubconv.hub.waiting import heard, watched


def test_what_is_heard_comes_in_order_and_then_what_went_wrong():
    def items():
        yield 1
        yield None
        raise ValueError("the line broke")

    came = []
    with pytest.raises(ValueError, match="the line broke"):
        came.extend(heard_into(came, items))
    assert came == [1, None]


def heard_into(came, items):
    for item in heard(items):
        came.append(item)
    return []


def test_an_ended_one_is_over():
    assert list(heard(lambda: iter(range(1000)))) == list(range(1000))
    assert list(heard(list)) == []


def test_an_interrupt_is_seen_to_while_nothing_comes():
    """As if it had come between Python's look for it and the read: another thread receives it."""
    silent = threading.Event()

    def items():
        silent.wait(60)
        yield 1

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:

        def interrupt():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(heard(items))
        assert time.monotonic() - started < 30
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        silent.set()


def test_a_request_is_given_up_where_the_run_must_end():
    class EndedError(Exception):
        pass

    def ended():
        raise EndedError

    with pytest.raises(EndedError):
        watched(lambda: time.sleep(2), ended)
    assert watched(lambda: 7, ended) == 7
