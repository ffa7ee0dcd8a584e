"""Memory that a child fills and its parent empties: every byte, in order, however they are cut."""

import os
import random
import subprocess
import sys
import time

import pytest

from hubconv.hub import ring
from hubconv.hub.ring import RING_BYTES, Emptying

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


def taken(memory, process, sizes):
    """All that comes, taken in pieces of these sizes, over and over."""
    came, turn = bytearray(), 0
    while True:
        if not memory.ready and not os.read(process.stdout.fileno(), 65536) and not memory.ready:
            return bytes(came)
        room = memoryview(bytearray(sizes[turn % len(sizes)]))
        turn += 1
        if memory.ready:
            came += room[: memory.take(room, process.stdin.fileno())]


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
        deadline = time.monotonic() + 30
        while memory.ready < RING_BYTES and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert (memory.ready, process.poll()) == (RING_BYTES, None)
        process.stdin.close()  # nobody will make room any more
        assert process.wait(30) != 0
    memory.close()


def test_what_was_put_before_an_end_is_still_there():
    memory = Emptying()
    with child_of(memory, 1, 100_000) as process:
        assert process.wait(30) == 0
        assert taken(memory, process, [4096]) == random.Random(7).randbytes(100_000)
        process.stdin.close()
    memory.close()


def test_wakes_that_nobody_reads_hold_nothing_up():
    """The child reads them only where it is out of room; a pipe holds so many."""
    memory = Emptying()
    filling = ring.Filling(memory.handle, os.open(os.devnull, os.O_WRONLY), 0)
    reading, wakes = os.pipe()
    os.set_blocking(wakes, False)
    one = memoryview(bytearray(1))
    for number in range(100_000):
        filling.put(bytes([number % 251]))
        assert memory.take(one, wakes) == 1
        assert one[0] == number % 251
    os.close(reading)
    filling.put(b"x")
    assert memory.take(one, wakes) == 1
    os.close(wakes)
    memory.close()
