"""Does the line in front of the embedded Hub hold its rate? Plain sockets through it, both ways.

    python benchmarks/line_holds.py --rate 50

Each round moves bytes up and down at once over some connections for some seconds and prints the
rate of each direction beside the line's, how unevenly the connections shared it, and the processor
time that the line took. The last round has no rate: what the line could carry.
"""

import argparse
import math
import os
import socket
import threading
import time
from pathlib import Path

from hubconv.embedded.line import Line, Rate

BLOCK = b"\0" * (1 << 18)


class Ends:
    """A peer that sends and swallows at once, and counts what it swallowed per connection."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.counts: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            serve(connection, self.counts)


def serve(connection: socket.socket, counts: list[int]) -> None:
    """Send without end and count what comes, on two threads."""
    at = len(counts)
    counts.append(0)
    room = bytearray(1 << 18)

    def swallow() -> None:
        try:
            while size := connection.recv_into(room):
                counts[at] += size
        except OSError:
            return

    def send() -> None:
        try:
            while True:
                connection.sendall(BLOCK)
        except OSError:
            return

    for work in (swallow, send):
        threading.Thread(target=work, daemon=True).start()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(bytes_per_s: float, latency_s: float, connections: int, seconds: float) -> str:
    """One round; a row of the table."""
    far = Ends()
    port = far.listening.getsockname()[1]
    with Line(Rate(bytes_per_s, latency_s), "127.0.0.1", "127.0.0.1", [(0, port)]) as line:
        near: list[int] = []
        ends = [socket.create_connection(("127.0.0.1", line.ports[0])) for _ in range(connections)]
        for end in ends:
            serve(end, near)
        time.sleep(0.5)
        before, started, cpu = (sum(near), sum(far.counts)), time.monotonic(), cpu_seconds(line.pid)
        time.sleep(seconds)
        taken = time.monotonic() - started
        down, up = (sum(near) - before[0]) / taken, (sum(far.counts) - before[1]) / taken
        spread = max(near) / max(min(near), 1)
        busy = (cpu_seconds(line.pid) - cpu) / taken
        for end in ends:
            end.close()
    far.listening.close()
    wanted = f"{bytes_per_s / 1e6:6.0f}" if bytes_per_s < math.inf else "  none"
    return (
        f"{wanted} {latency_s * 1000:8.0f} {connections:12d} {down / 1e6:8.1f} {up / 1e6:8.1f} "
        f"{spread:9.2f} {busy:8.0%}"
    )


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, nargs="*", default=[50.0, 100.0], help="MB/s")
    parser.add_argument("--latency", type=float, default=20.0, help="ms, in a round of its own")
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    print("  MB/s  latency  connections     down       up  max/min  line's CPU")
    for rate in options.rate:
        for latency, connections in ((0.0, 1), (0.0, 8), (options.latency / 1000, 8)):
            print(measure(rate * 1e6, latency, connections, options.seconds), flush=True)
    print(measure(math.inf, 0.0, 8, options.seconds))


if __name__ == "__main__":
    main()
