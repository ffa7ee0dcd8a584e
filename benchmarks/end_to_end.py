"""Folder to folder as whole processes in turn: copying, the eager rule's script shape, hubconv.

    python benchmarks/end_to_end.py --gigabytes 5 --folder /tmp/end-to-end --device cuda:0

The eager script opens each shard, dequantises and quantises its expert weights one after the other,
gathers the shard in memory and saves it. It writes no index, configuration or card, shares no
scale, hashes nothing and keeps no order for a kill: what hubconv does besides is in its time.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hubconv.demo import deepseek_v4
from hubconv.demo.miniature_v4_parts import Size

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


def seconds(command: list[str], repeat: int, target: Path) -> float:
    """The shortest of some runs of a process; its target is removed before each."""
    best = float("inf")
    for _ in range(repeat):
        shutil.rmtree(target, ignore_errors=True)
        started = time.monotonic()
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
        best = min(best, time.monotonic() - started)
    return best


def main() -> None:
    """Run all three and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    source, target = folder / "source", folder / "target"
    experts = max(8, int(options.gigabytes * 1e9 / (5 * 3 * 4096 * 2048)))
    size = Size(
        hidden=4096, width=2048, experts=experts, layers=4, vocabulary=4096,
        shards=max(4, int(options.gigabytes * 3)),
    )  # fmt: skip
    deepseek_v4.fp8_repack(source, size=size, fast=True)
    total = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    hubconv = [sys.executable, "-m", "hubconv", str(source), str(target), "--quiet"]
    hubconv += ["--device", options.device, "--workers", str(options.workers)]
    runs = {
        "cp": ["cp", "-r", str(source), str(target)],
        "eager": [sys.executable, "-c", EAGER, str(source), str(target), options.device],
        "hubconv, search": hubconv,
        "hubconv, amax": [*hubconv, "--scales", "amax"],
    }
    taken = {name: seconds(command, options.rounds, target) for name, command in runs.items()}
    print(f"{total / 1e9:.2f} GB FP8 repack, {options.device}, {options.workers} workers")
    print(f"{'':18} {'seconds':>8} {'GB/s':>6} {'x eager':>8} {'share of cp':>12}")
    for name, value in taken.items():
        share = taken["cp"] / value
        print(
            f"{name:18} {value:8.2f} {total / 1e9 / value:6.2f} {taken['eager'] / value:8.2f} "
            f"{share:11.0%}"
        )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
