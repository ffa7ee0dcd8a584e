"""Folder to folder as whole processes in turn: copying, the eager rule's script shape, hubconv.

    python benchmarks/end_to_end.py --gigabytes 40 --folder /dev/shm/end-to-end --device cuda:0

Besides the seconds of the process it prints those until everything is on the disk: hubconv waits
for that by itself, the others do not. On a file system in memory the two are the same, and the
disk is not what is measured.

The eager script opens each shard, dequantises and quantises its expert weights one after the other,
gathers the shard in memory and saves it. It writes no index, configuration or card, shares no
scale, hashes nothing and keeps no order for a kill: what hubconv does besides is in its time.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from checkpoint import EXPERTS, write_v4

SHARDS_PER_GB = 3.0

EAGER = """
import sys
from pathlib import Path
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from eager import dequantize, quantize
source, target, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
target.mkdir()
for path in sorted(source.glob("*.safetensors")):
    made = {}
    with safe_open(path, "pt") as shard:
        names = list(shard.keys())
        for name in names:
            tensor = shard.get_tensor(name)
            scale = name.removesuffix(".weight") + ".scale"
            if ".experts." in name and name.endswith(".weight") and scale in names:
                weights = dequantize(tensor.to(device), shard.get_tensor(scale).to(device))
                got = quantize(weights)
                for part, value in zip(("weight", "weight_scale", "weight_scale_2"), got):
                    made[name.removesuffix("weight") + part] = value.cpu().clone()
            elif not (".experts." in name and name.endswith(".scale")):
                made[name] = tensor
    save_file(made, target / path.name)
"""


class Seconds(NamedTuple):
    """How long a process took, and how long until its result was on the disk."""

    process: float
    on_disk: float


def measure(command: list[str], repeat: int, target: Path) -> Seconds:
    """The shortest of some runs of a process; its target is removed before each."""
    runs = []
    for _ in range(repeat):
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        started = time.monotonic()
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
        ended = time.monotonic()
        os.sync()
        runs.append(Seconds(ended - started, time.monotonic() - started))
    return Seconds(min(run.process for run in runs), min(run.on_disk for run in runs))


def main() -> None:
    """Run all three and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--workers", type=int, help="of hubconv; as many as it takes by itself")
    parser.add_argument("--model", choices=list(EXPERTS), default="pro", help="whose experts")
    parser.add_argument("--only", default="", help="rows whose name holds this, besides the eager")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    source, target = folder / "source", folder / "target"
    shards = write_v4(source, options.gigabytes, SHARDS_PER_GB, options.model)
    total = sum(path.stat().st_size for path in shards)
    hubconv = [sys.executable, "-m", "hubconv", str(source), str(target), "--quiet"]
    hubconv += ["--workers", str(options.workers)] if options.workers else []
    eager = [sys.executable, "-c", EAGER, str(source), str(target)]
    runs = {
        "cp": ["cp", "-r", str(source), str(target)],
        f"eager, {options.device}": [*eager, options.device],
        f"hubconv, search, {options.device}": [*hubconv, "--device", options.device],
        f"hubconv, amax, {options.device}": [
            *hubconv, "--device", options.device, "--scales", "amax",
        ],
        f"hubconv, threads, {options.device}": [
            *hubconv, "--device", options.device, "--engine", "threads",
        ],
        "hubconv, search, cpu": [*hubconv, "--device", "cpu"],
    }  # fmt: skip
    runs = {
        name: command for name, command in runs.items()
        if name.startswith("eager") or options.only in name
    }  # fmt: skip
    taken = {name: measure(command, options.rounds, target) for name, command in runs.items()}
    show(taken, total, len(os.sched_getaffinity(0)))
    shutil.rmtree(folder)


def show(taken: dict[str, Seconds], total: int, cores: int) -> None:
    """Print the table; `cp` and the eager script are the measures of the others."""
    copied = taken.get("cp")
    eager = next(seconds for name, seconds in taken.items() if name.startswith("eager"))
    print(f"{total / 1e9:.2f} GB FP8 repack, {cores} cores")
    print(f"{'':26}{'seconds':>8}{'on disk':>8}{'GB/s':>7}{'x eager':>9}{'on disk':>8}{'of cp':>7}")
    for name, seconds in taken.items():
        print(
            f"{name:26}{seconds.process:8.2f}{seconds.on_disk:8.2f}"
            f"{total / 1e9 / seconds.process:7.2f}{eager.process / seconds.process:9.2f}"
            f"{eager.on_disk / seconds.on_disk:8.2f}"
            + (f"{copied.process / seconds.process:7.0%}" if copied else "")
        )


if __name__ == "__main__":
    main()
