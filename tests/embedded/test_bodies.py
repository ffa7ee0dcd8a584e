"""Answers with the bytes of a file: what they read from is let go with them."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from hubconv.embedded.bodies import BlockSource, body_answer

BLOCK = bytes(1000)
BLOCKS = 3
SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


class Blocks(BlockSource):
    """Blocks that take their time, and notes of how they begin and end."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.began, self.ended = threading.Event(), threading.Event()
        self.opened = None

    def open(self, first, end):
        # Kept here, as garbage in a circle is: it ends when it is closed, and not before.
        self.opened = self._blocks()
        return self.opened

    def _blocks(self):
        try:
            for _ in range(BLOCKS):
                self.began.set()
                time.sleep(self.seconds)
                yield BLOCK
        finally:
            self.ended.set()


class Client:
    """An ASGI client that hangs up.

    Args:
        blocks: What it is sent.
        takes: Blocks that it takes in; the next one is on its way when it hangs up.
    """

    def __init__(self, blocks, takes):
        self.blocks, self.takes, self.got = blocks, takes, 0
        self.is_full = asyncio.Event()

    async def receive(self):
        if self.takes == 0:
            await asyncio.to_thread(self.blocks.began.wait, 10)
        elif self.takes < BLOCKS:
            await self.is_full.wait()
        else:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(self, message):
        if not message.get("body"):
            return
        if self.got == self.takes:
            self.is_full.set()
            await asyncio.sleep(3600)
        self.got += 1


@pytest.mark.parametrize(
    ("seconds", "takes"),
    [(0.3, 0), (0.0, 0), (0.0, 1), (0.0, BLOCKS)],
    ids=["while it is read", "at once", "while it is sent", "never"],
)
def test_blocks_end_with_the_answer_wherever_the_client_hangs_up(seconds, takes):
    blocks = Blocks(seconds)
    with ThreadPoolExecutor(2) as pool:
        call = SimpleNamespace(
            headers={}, method="GET", state=SimpleNamespace(unpackers=pool, readers=pool)
        )

        async def serve():
            client = Client(blocks, takes)
            answer = body_answer(call, BLOCKS * len(BLOCK), blocks, {})
            await asyncio.wait_for(answer(SCOPE, client.receive, client.send), 10)
            return client.got

        got = asyncio.run(serve())
    assert got == takes
    assert blocks.ended.wait(5)
    assert blocks.opened.gi_frame is None
