"""Hub to Hub through a line of fixed rate, beside what any tool must spend on it.

    python benchmarks/line.py --rate 100MB/s --gigabytes 1 --folder /tmp/line

The embedded Hub runs as a process of its own behind `hubconv hub --rate`: one bucket each way for
all connections, in a process of its own. The checkpoint is put into the Hub's storage before the
line stands. Then, each as a child process that finds no cache:

    download    hf download of the source
    convert     hubconv, folder to folder
    upload      hf upload of the result
    sequence    these three one after the other
    hubconv     hubconv, Hub to Hub

`x line` is seconds over max(download, upload): the goal of hubconv is 1.1. Memory is the peak of
the process tree (PSS), disk the peak of work folders, homes, caches and scratch folders. `others`
is what the rest of the machine took of its processors meanwhile: where it is much, the figures say
little.
"""

import argparse
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint import write_tiny, write_v4
from hub_process import HF, HUBCONV, Hub, running
from sampling import Run, bare_torch_bytes, cpu_seconds, watch

SOURCE, UPLOADED, TARGET = "demo-org/line", "demo/line-uploaded", "demo/line-NVFP4"
TICK_S = 1.0
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: What ran.
        run: What it took.
        down: Bytes that came down the line.
        up: Bytes that went up.
        hub_cpu: Processor seconds of Hub and line.
        others_cpu: Processor seconds of everybody else on the machine.
        trace: Bytes (down, up) of each tick.
    """

    name: str
    run: Run
    down: int = 0
    up: int = 0
    hub_cpu: float = 0.0
    others_cpu: float = 0.0
    trace: tuple[tuple[int, int], ...] = ()


class Trace:
    """Notes what passes the line, tick by tick, while something runs."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._ended = threading.Event()
        self._seen = [hub.passed()]
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            due += TICK_S
            self._ended.wait(max(due - time.monotonic(), 0))
            self._seen.append(self._hub.passed())

    def stop(self) -> tuple[tuple[int, int], ...]:
        """End; the answer is the bytes of each tick."""
        self._ended.set()
        self._thread.join()
        pairs = zip(self._seen, self._seen[1:], strict=False)
        return tuple((after[0] - before[0], after[1] - before[1]) for before, after in pairs)


def machine_cpu_seconds() -> float:
    """Processor time that the whole machine has spent."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def measure(hub: Hub, name: str, client: str, command: list[str], folders: list[Path]) -> Row:
    """Run a command as a new client of the Hub, its home and scratch folders watched too."""
    environment = hub.environment(client)
    trace = Trace(hub)
    machine, hub_cpu, own = machine_cpu_seconds(), cpu_seconds(hub.pid), time.process_time()
    run = watch(command, [*folders, hub.folder / client], environment)
    hub_cpu = cpu_seconds(hub.pid) - hub_cpu
    own = time.process_time() - own
    others = max(machine_cpu_seconds() - machine - hub_cpu - run.cpu - own, 0)
    ticks = trace.stop()
    down, up = sum(tick[0] for tick in ticks), sum(tick[1] for tick in ticks)
    if run.code:
        raise SystemExit(f"{name} failed with exit code {run.code}")
    return Row(name, run, down, up, hub_cpu, others, ticks)


def in_sequence(rows: list[Row]) -> Row:
    """What several runs take one after the other; the disk holds what the earlier ones left."""
    runs = [row.run for row in rows]
    whole = Run(
        sum(run.seconds for run in runs), max(run.memory for run in runs),
        max(run.disk for run in runs), sum(run.cpu for run in runs), 0,
    )  # fmt: skip
    return Row(
        "sequence", whole, sum(row.down for row in rows), sum(row.up for row in rows),
        sum(row.hub_cpu for row in rows), sum(row.others_cpu for row in rows),
    )  # fmt: skip


def prepare(folder: Path, gigabytes: float, shards_per_gb: float, mode: str) -> int:
    """Put the checkpoint into the Hub's storage and warm the kernels; bytes of its shards."""
    made, tiny = folder / "source", folder / "tiny"
    shards = write_v4(made, gigabytes, shards_per_gb)
    with running(folder, mode) as hub:
        environment = hub.environment("seed")
        command = [HF, "upload", SOURCE, str(made), ".", "--quiet"]
        subprocess.run(command, check=True, env=environment, capture_output=True)
    write_tiny(tiny)
    convert = [*HUBCONV, str(tiny), str(folder / "tiny-NVFP4"), "--device", "cpu", "--quiet"]
    subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    total = sum(shard.stat().st_size for shard in shards)
    for done in (made, tiny, folder / "tiny-NVFP4", folder / "seed"):
        shutil.rmtree(done, ignore_errors=True)
    return total


def run_all(hub: Hub, options: argparse.Namespace) -> list[Row]:
    """All measurements, one after the other."""
    folder, work = options.folder, options.folder / "work"
    got, made = folder / "got", folder / "made"
    how = ["--device", options.device, "--quiet"]
    how += ["--workers", str(options.workers)] if options.workers else []
    how += ["--scales", options.scales]
    more = ["--max-disk", options.max_disk] if options.max_disk else []
    command = [*HUBCONV, SOURCE, TARGET, *how, "--work-dir", str(work), *more]
    # First, while this machine's memory still holds what the Hub sends: a source and three copies
    # of it fill 23 GB, and then it is the disk that is measured. The line holds the others back.
    ours = measure(hub, "hubconv", "hubconv", command, [work])
    rows = [
        measure(hub, "download", "a",
                [HF, "download", SOURCE, "--local-dir", str(got), "--quiet"], [got]),
        measure(hub, "convert", "b", [*HUBCONV, str(got), str(made), *how], [got, made]),
        measure(hub, "upload", "c",
                [HF, "upload", UPLOADED, str(made), ".", "--quiet"], [got, made]),
    ]  # fmt: skip
    upload = rows[2]
    rows.append(in_sequence(rows))
    # Upload alone needs no source on the disk.
    rows[2] = replace(upload, run=replace(upload.run, disk=upload.run.disk - on_disk(got)))
    for done in (got, made):
        shutil.rmtree(done)
    return [*rows, ours]


def on_disk(folder: Path) -> int:
    """Allocated bytes of a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def show(rows: list[Row], rate: float, torch: int) -> None:
    """Print the table, and how full the line was at each moment."""
    line = max(row.run.seconds for row in rows if row.name in {"download", "upload"})
    print(
        f"{'':10} {'seconds':>8} {'x line':>7} {'down MB':>8} {'up MB':>7} {'memory MB':>10} "
        f"{'disk MB':>8} {'CPU s':>6} {'Hub CPU s':>10} {'others CPU s':>13}"
    )
    for row in rows:
        run = row.run
        print(
            f"{row.name:10} {run.seconds:8.1f} {run.seconds / line:7.2f} {row.down / 1e6:8.0f} "
            f"{row.up / 1e6:7.0f} {run.memory / 1e6:10.0f} {run.disk / 1e6:8.0f} {run.cpu:6.1f} "
            f"{row.hub_cpu:10.1f} {row.others_cpu:13.1f}"
        )
    last = rows[-1]
    beyond = (last.run.memory - torch) / 1e6
    print(
        f"hubconv's memory beyond the bare import of torch ({torch / 1e6:.0f} MB): {beyond:.0f} MB"
    )
    for way, at in (("down", 0), ("up", 1)):
        bars = [min(round(tick[at] / TICK_S / rate * 8), 8) for tick in last.trace]
        print(f"hubconv, line {way:4} by the second |{''.join(BARS[bar] for bar in bars)}|")


def bytes_per_s(text: str) -> float:
    """`50MB/s` or `50e6`."""
    return float(text.upper().removesuffix("/S").replace("GB", "e9").replace("MB", "e6"))


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rate", default="100MB/s", help="bytes a second each way")
    parser.add_argument("--latency", default="0ms")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="of hubconv; by default what it chooses")
    parser.add_argument("--scales", choices=["search", "amax"], default="search")
    parser.add_argument("--shard-mb", type=float, default=200.0, help="size of source shards")
    parser.add_argument("--max-disk", default="", help="passed on to hubconv")
    options = parser.parse_args()
    rate = bytes_per_s(options.rate)
    options.folder = options.folder.resolve()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    total = prepare(options.folder, options.gigabytes, 1000 / options.shard_mb, options.mode)
    words = ["--rate", f"{rate / 1e6}MB/s", "--latency", options.latency]
    with running(options.folder, options.mode, *words) as hub:
        rows = run_all(hub, options)
    print(
        f"{total / 1e9:.2f} GB FP8 repack, {options.mode}, line of {rate / 1e6:.0f} MB/s each way, "
        f"latency {options.latency}, shards of {options.shard_mb:.0f} MB, "
        f"{options.workers or 'its own number of'} workers, --scales {options.scales}, "
        f"{os.cpu_count()} cores"
    )
    show(rows, rate, bare_torch_bytes())
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
