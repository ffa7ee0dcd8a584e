"""How the work spreads: over workers that have a line each, and over the GPUs of one machine.

    python benchmarks/scale.py line --rate 10MB/s --gigabytes 1 --folder /tmp/scale
    python benchmarks/scale.py gpus --gigabytes 40 --cores 4 8 16 --folder /dev/shm/scale

**line**: Hub to Hub. One plan is made in 1, 2 and 4 slices, each by a process of its own as on a
machine of its own. The embedded Hub stands behind a line of RATE for each of them together: two
workers have twice the line of one. (One bucket for all: a worker may take more than its part while
another takes less.) Everything shares the processors of this machine, so the rate must be one at
which they are not the limit: `busy` says how much of them was used, by everybody.

**gpus**: folder to folder, one process or more for each GPU (`--engine processes`). Each GPU of a
run has so many processors (`--cores`; by default its share of all), as machines with a GPU each
would have. The shorter of some rounds counts. On a file system in memory the disk is not what is
measured; what such a file system allows is (`mount -o huge=always` has it give pages of 2 MB).

The ratio is that of seconds: one worker over many. The goal is 1.8 for two.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from checkpoint import write_tiny, write_v4
from hub_process import HF, HUBCONV, Hub, running
from line import machine_cpu_seconds

from hubconv import devices

SOURCE = "demo-org/scale"
GOAL = 1.8
GPU_SHARDS_PER_GB = 4.0


def line(options: argparse.Namespace) -> None:
    """Slices behind a line of their own each."""
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    made = folder / "source"
    shards = write_v4(made, options.gigabytes, options.shards / options.gigabytes)
    total = sum(path.stat().st_size for path in shards)
    with running(folder, options.mode) as hub:
        command = [HF, "upload", SOURCE, str(made), ".", "--quiet"]
        subprocess.run(command, check=True, env=hub.environment("seed"), capture_output=True)
    warm(folder, "cpu")
    rate = float(options.rate)
    print(
        f"{total / 1e9:.2f} GB in {len(shards)} shards, {options.mode}, {rate / 1e6:g} MB/s a "
        f"worker, {os.cpu_count()} cores for Hub, line and workers"
    )
    head("workers")
    first = 0.0
    for count in options.workers:
        word = f"{rate * count:.0f}B/s"
        with running(folder, options.mode, "--rate", word) as hub:
            began, cpu = time.monotonic(), machine_cpu_seconds()
            seconds = slices(hub, count, folder)
            whole = time.monotonic() - began
            busy = (machine_cpu_seconds() - cpu) / whole / (os.cpu_count() or 1)
        first = first or seconds
        row(count, seconds, total, first, f"busy {busy:.0%}, with plan and publish {whole:.1f} s")


def slices(hub: Hub, count: int, folder: Path) -> float:
    """Seconds that the slices of a plan take, all at the same time; the plan is published."""
    target, path = f"demo/scale-{count}", folder / f"plan-{count}.json"
    environment = hub.environment(f"driver-{count}")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    plan = [*HUBCONV, "plan", SOURCE, target, "-o", str(path), "--quiet"]
    subprocess.run(plan, env=environment, **quiet)
    began = time.monotonic()
    workers = [
        subprocess.Popen(
            [*HUBCONV, "work", str(path), "--slice", f"{number}/{count}", "--device", "cpu", "-q"],
            env=hub.environment(f"worker-{count}-{number}"),
        )
        for number in range(1, count + 1)
    ]
    codes = [worker.wait() for worker in workers]
    seconds = time.monotonic() - began
    if any(codes):
        raise SystemExit(f"slices ended with {codes}")
    publish = [*HUBCONV, "publish", str(path), "--json"]
    done = subprocess.run(publish, env=environment, check=True, capture_output=True, text=True)
    if json.loads(done.stdout)["status"] != "published":
        raise SystemExit(done.stdout)
    return seconds


def gpus(options: argparse.Namespace) -> None:
    """Folder to folder on some of a machine's GPUs, with their part of its processors."""
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    there = len(devices.capabilities())
    wanted = [count for count in options.workers if count <= there]
    if not wanted:
        raise SystemExit(f"There are {there} GPUs here.")
    source = folder / "source"
    shards = write_v4(source, options.gigabytes, GPU_SHARDS_PER_GB, "pro")
    total = sum(path.stat().st_size for path in shards)
    warm(folder, "cuda:0")
    cores = sorted(os.sched_getaffinity(0))
    print(f"{total / 1e9:.2f} GB in {len(shards)} shards, {there} GPUs, {len(cores)} cores")
    seen = []
    for share in options.cores or [len(cores) // there]:
        print(f"{share} cores for each GPU")
        head("GPUs")
        first = 0.0
        for count in wanted:
            mine = cores[: share * count]
            seconds, sums = one(source, folder / "target", count, mine, options.rounds)
            seen.append(tuple(sorted(sums.items())))
            first = first or seconds
            row(count, seconds, total, first, f"{len(mine)} cores")
    print("all shards the same bytes" if len(set(seen)) == 1 else "THE SHARDS DIFFER")
    shutil.rmtree(folder)


def one(
    source: Path, target: Path, count: int, cores: Sequence[int], rounds: int
) -> tuple[float, dict[str, str]]:
    """The shortest of some runs, and the hash of every shard."""
    command = [*HUBCONV, str(source), str(target), "--engine", "processes", "--device", "cuda"]
    command += ["--workers", str(len(cores)), "--quiet"]
    visible = ",".join(map(str, range(count)))
    runs = []
    for _ in range(rounds):
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        began = time.monotonic()
        subprocess.run(
            command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )  # fmt: skip
        runs.append(time.monotonic() - began)
    files = json.loads((target / "hubconv.json").read_bytes())["files"]
    sums = {path: each["sha256"] for path, each in files.items() if path.endswith(".safetensors")}
    return min(runs), sums


def warm(folder: Path, device: str) -> None:
    """Have kernels compiled, which later processes load."""
    write_tiny(folder / "tiny")
    convert = [*HUBCONV, str(folder / "tiny"), str(folder / "tiny-NVFP4"), "--device", device]
    subprocess.run([*convert, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    for name in ("tiny", "tiny-NVFP4"):
        shutil.rmtree(folder / name)


def head(what: str) -> None:
    """The head of the table."""
    print(f"{what:>8}{'seconds':>9}{'MB/s':>8}{'ratio':>7}")


def row(count: int, seconds: float, total: int, first: float, more: str) -> None:
    """A line of the table."""
    print(
        f"{count:8}{seconds:9.1f}{total / 1e6 / seconds:8.1f}{first / seconds:7.2f}  {more}",
        flush=True,
    )


def main() -> None:
    """Run one of the two."""
    from hubconv.cli.types import Rate

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["line", "gpus"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--shards", type=int, default=16, help="for line")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--cores", type=int, nargs="+", help="for gpus: of each, one or more tries")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument(
        "--rate",
        default=Rate().convert("10MB/s", None, None),
        type=lambda word: Rate().convert(word, None, None),
    )
    options = parser.parse_args()
    (line if options.what == "line" else gpus)(options)


if __name__ == "__main__":
    sys.exit(main())
