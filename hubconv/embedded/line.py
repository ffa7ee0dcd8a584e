"""A line of fixed rate in front of the embedded Hub, shared by all its connections.

A proxy in a process of its own: it listens where the world believes the Hub to be, and lets bytes
pass each way no faster than the line. All connections share one bucket per direction, and each
waits its turn piece by piece, as the packets of a real line do. A process, because the shaping
must not wait for the Hub's threads.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

PIECE_BYTES: Final = 256 * 1024
"""What one connection sends before the others have their turn."""

BURST_BYTES: Final = 256 * 1024
"""What may pass at once after a pause; at least `BURST_S` of the line."""

BURST_S: Final = 0.02
"""A busy machine wakes a process late by as much, which must not cost rate."""

_BUFFER_BYTES: Final = 512 * 1024
_START_S: Final = 30.0
_LINGER_NONE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a line carries.

    Attributes:
        bytes_per_s: Bytes a second each way; infinite for a line that only counts.
        latency_s: How long each byte is under way, each way.
    """

    bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0 or not 0 <= self.latency_s < math.inf:
            raise ValueError(f"a line needs a rate above 0 and a finite latency, not {self}")


@dataclass(frozen=True, slots=True)
class Passed:
    """Bytes that have passed a line, HTTP headers and all."""

    down: int
    up: int


def send_unpaced(end: socket.socket) -> None:
    """Let the kernel send what it is given at once.

    Where a machine's rule for congestion is one that paces (BBR), bytes on loopback leave in small
    lots by a timer, and each lot wakes its taker.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


class Bucket:
    """One direction of the line.

    Who takes bytes is told how long to wait until they have passed. Time that was slept too long
    is not lost, as long as it is no more than the burst.

    Args:
        bytes_per_s: Its rate.
        burst_bytes: What may pass at once after a pause; by default as the module says.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        bytes_per_s: float,
        burst_bytes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if burst_bytes is None:
            burst_s = max(BURST_BYTES / bytes_per_s, BURST_S)
        else:
            burst_s = burst_bytes / bytes_per_s
        self._rate, self._burst_s, self._clock = bytes_per_s, burst_s, clock
        self._free_at = clock() - burst_s
        self.passed = 0

    def take(self, size: int) -> float:
        """Take bytes; the answer is how many seconds to wait before they may go on."""
        now = self._clock()
        self.passed += size
        self._free_at = max(self._free_at, now - self._burst_s) + size / self._rate
        return max(self._free_at - now, 0.0)


class Line:
    """A running line; `stop` ends it, and so does the end of the process that started it.

    Attributes:
        ports: Where it listens, in the order of the ports it leads to.
    """

    def __init__(self, rate: Rate, host: str, inner: str, leads: Sequence[tuple[int, int]]) -> None:
        """Start the process and wait until it listens.

        Args:
            rate: What the line carries.
            host: Address to listen on.
            inner: Address that it leads to.
            leads: Pairs of the port to listen on (0 takes any) and the port it leads to.

        Raises:
            OSError: It cannot listen on one of the ports.
        """
        command = [sys.executable, "-m", "hubconv.embedded.line", host, inner]
        command += [f"--rate={rate.bytes_per_s}", f"--latency={rate.latency_s}"]
        command += [f"{listen}:{to}" for listen, to in leads]
        self._lock = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        first = self._read()
        if "ports" not in first:
            self.stop()
            raise OSError(first.get("errno", 0), first.get("error", "the line did not start"))
        self.ports: tuple[int, ...] = tuple(first["ports"])

    @property
    def pid(self) -> int:
        """The process that shapes the bytes."""
        return self._process.pid

    def passed(self) -> Passed:
        """What has passed so far; the last known answer is lost with the process."""
        with self._lock:
            if self._process.stdin is not None:
                self._process.stdin.write("\n")
                self._process.stdin.flush()
            found = self._read()
        return Passed(found.get("down", 0), found.get("up", 0))

    def stop(self) -> None:
        """Cut all connections and end the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> dict[str, Any]:
        text = "" if self._process.stdout is None else self._process.stdout.readline()
        found: dict[str, Any] = json.loads(text or "{}")
        return found


# --- In the process of the line -------------------------------------------------------------------


class _Proxy:
    """Accepts connections and pumps their bytes through the two buckets."""

    def __init__(self, rate: Rate, host: str, inner: str) -> None:
        self._latency_s = rate.latency_s
        self._host, self._inner = host, inner
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.down, self.up = Bucket(rate.bytes_per_s), Bucket(rate.bytes_per_s)
        window = 0 if not rate.latency_s else rate.latency_s * rate.bytes_per_s
        self._pieces_under_way = 4 + int(min(window, 1 << 28) / PIECE_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, port: int, to: int) -> int:
        """Listen on a port from now on; the answer is its number."""
        listening = socket.socket(self._family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _prepare(listening)  # accepted connections inherit it
        listening.bind((self._host, port))
        listening.listen(512)
        listening.setblocking(False)
        self._spawn(self._accept(listening, to))
        found: int = listening.getsockname()[1]
        return found

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket, to: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listening)
            self._spawn(self._serve(client, to))

    async def _serve(self, client: socket.socket, to: int) -> None:
        server = socket.socket(self._family, socket.SOCK_STREAM)
        with client, server:
            try:
                for end in (client, server):
                    end.setblocking(False)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _prepare(server)
                await asyncio.get_running_loop().sock_connect(server, (self._inner, to))
                ways = (
                    self._spawn(self._pump(client, server, self.up)),
                    self._spawn(self._pump(server, client, self.down)),
                )
                try:
                    await asyncio.gather(*ways)
                finally:
                    for way in ways:
                        way.cancel()
            except OSError:
                # One end broke off: let the other see a reset, not an orderly end.
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)

    async def _pump(self, source: socket.socket, target: socket.socket, bucket: Bucket) -> None:
        if self._latency_s:
            await self._pump_late(source, target, bucket)
        else:
            loop = asyncio.get_running_loop()
            while data := await loop.sock_recv(source, PIECE_BYTES):
                await asyncio.sleep(bucket.take(len(data)))
                await loop.sock_sendall(target, data)
        # The other direction goes on: HTTP clients may half-close.
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    async def _pump_late(
        self, source: socket.socket, target: socket.socket, bucket: Bucket
    ) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(self._pieces_under_way)

        async def arrive() -> None:
            data = b"-"
            while data:
                due, data = await under_way.get()
                await asyncio.sleep(max(due - loop.time(), 0))
                await loop.sock_sendall(target, data)

        arriving = self._spawn(arrive())
        try:
            data = b"-"
            while data:
                data = await loop.sock_recv(source, PIECE_BYTES)
                await asyncio.sleep(bucket.take(len(data)))
                put = asyncio.ensure_future(under_way.put((loop.time() + self._latency_s, data)))
                await asyncio.wait({put, arriving}, return_when=asyncio.FIRST_COMPLETED)
                if not put.done():
                    put.cancel()
                    break
            await arriving
        finally:
            arriving.cancel()


def _prepare(end: socket.socket) -> None:
    """Small buffers, or megabytes would seem to have passed that have not."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    send_unpaced(end)


async def _run(rate: Rate, host: str, inner: str, leads: list[tuple[int, int]]) -> None:
    """Shape until standard input ends; answer each line of it with what has passed."""
    proxy = _Proxy(rate, host, inner)
    try:
        _say({"ports": [proxy.listen(port, to) for port, to in leads]})
    except OSError as error:
        _say({"errno": error.errno, "error": error.strerror})
        return
    ended = asyncio.Event()

    def asked() -> None:
        if not os.read(0, 4096):
            ended.set()
            return
        _say({"down": proxy.down.passed, "up": proxy.up.passed})

    asyncio.get_running_loop().add_reader(0, asked)
    await ended.wait()


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("inner")
    parser.add_argument("leads", nargs="+")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--latency", type=float, required=True)
    options = parser.parse_args()
    leads = [
        (int(port), int(to)) for port, _, to in (lead.partition(":") for lead in options.leads)
    ]
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        rate = Rate(options.rate, options.latency)
        asyncio.run(_run(rate, options.host, options.inner, leads))


if __name__ == "__main__":
    _main()
