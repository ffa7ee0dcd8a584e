"""Memory that a child fills and its parent empties: every byte, in order, however they are cut."""

import os
import random
import select
import subprocess
import sys
import time

import pytest

from hubconv.hub.ring import RING_BYTES, WORDS_BYTES, Emptying, Filling

CHILD = """
import os, random, sys
from hubconv.hub.ring import Filling
handle, seed, total = map(int, sys.argv[1:])
rng, filling = random.Random(seed), Filling(handle, 1, 0)
data = random.Random(7).randbytes(total)
while data:
    size = rng.choice([1, 7, 4096, 70_001, 1 << 20, 9 << 20])
    filling.put(memoryview(data)[:size])
    data = data[size:]
os._exit(0)
"""


def child_of(memory, *words, program=CHILD):
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(memory.handle), *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[memory.handle], bufsize=0,
    )  # fmt: skip
    os.set_blocking(process.stdin.fileno(), False)
    return process


def heard(memory, process):
    """Whether the child says anything more."""
    words = os.read(process.stdout.fileno(), WORDS_BYTES)
    memory.hear(words)
    return bool(words)


def taken(memory, process, sizes):
    """All that comes, taken in pieces of these sizes, over and over."""
    came, turn = bytearray(), 0
    while memory.ready or heard(memory, process):
        room = memoryview(bytearray(sizes[turn % len(sizes)]))
        turn += 1
        came += room[: memory.take(room)]
        memory.tell(process.stdin.fileno())
    return bytes(came)


@pytest.mark.parametrize("sizes", [[1 << 20], [65_537], [3, 1 << 22, 4095]], ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_byte_comes_in_order(sizes, seed):
    total = 3 * RING_BYTES + 12_345
    memory = Emptying()
    with child_of(memory, seed, total) as process:
        assert taken(memory, process, sizes) == random.Random(7).randbytes(total)
        assert process.wait(30) == 0
        process.stdin.close()
    memory.close()


def test_one_who_is_not_emptied_waits_and_ends_with_the_other():
    memory = Emptying()
    with child_of(memory, 1, 3 * RING_BYTES) as process:
        while memory.ready < RING_BYTES:
            assert heard(memory, process)
        time.sleep(0.2)
        assert process.poll() is None
        assert select.select([process.stdout], [], [], 0)[0] == []  # it says no more
        process.stdin.close()  # nobody will make room any more
        assert process.wait(30) != 0
        assert not heard(memory, process)
    assert memory.ready == RING_BYTES
    memory.close()


def test_what_was_put_before_an_end_is_still_there():
    memory = Emptying()
    with child_of(memory, 1, 100_000) as process:
        assert process.wait(30) == 0
        assert taken(memory, process, [4096]) == random.Random(7).randbytes(100_000)
        process.stdin.close()
    memory.close()


def test_what_a_full_pipe_does_not_take_is_told_later():
    memory = Emptying()
    out, told = os.pipe()
    room, taken_words = os.pipe()
    os.set_blocking(taken_words, False)
    filling = Filling(memory.handle, told, room)
    one, count = memoryview(bytearray(1)), 0
    # The child reads how many were taken only where it has no room: the pipe fills up before.
    while count < RING_BYTES + 50_000:
        filling.put(bytes([count % 251]) * 64)
        memory.hear(os.read(out, WORDS_BYTES))
        for _ in range(64):
            assert memory.take(one) == 1
            assert one[0] == count // 64 * 64 % 251
            count += 1
            if count < 2 * 1024 * 1024:
                memory.tell(taken_words)
        memory.tell(taken_words)
    for handle in (out, told, room, taken_words):
        os.close(handle)
    memory.close()


def test_nobody_to_tell_is_no_failure():
    memory = Emptying()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    memory.hear((3).to_bytes(4, "little"))
    assert memory.take(memoryview(bytearray(9))) == 3
    os.close(reading)
    memory.tell(writing)
    os.close(writing)
    memory.close()
