"""Peak memory and peak disk of a conversion from Hub to Hub, sampled while it runs.

Starts the embedded Hub as a process of its own, uploads a generated DeepSeek-V4 FP8 checkpoint,
converts it with the real command, and samples the memory of that command's process tree (PSS) and
the size of its work folder and caches.

    python benchmarks/footprint.py --gigabytes 2 --folder /tmp/footprint
"""

import argparse
import shutil
import subprocess
from pathlib import Path

from checkpoint import write_v4
from hub_process import HF, HUBCONV, running
from sampling import bare_torch_bytes, watch

SOURCE, TARGET = "demo-org/footprint", "demo/footprint-NVFP4"


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made, work = folder / "source", folder / "work"
    sizes = [shard.stat().st_size for shard in write_v4(made, options.gigabytes)]
    with running(folder, options.mode) as hub:
        command = [HF, "upload", SOURCE, str(made), ".", "--quiet"]
        subprocess.run(command, check=True, env=hub.environment("seed"), capture_output=True)
        shutil.rmtree(made)
        command = [*HUBCONV, SOURCE, TARGET, "--device", "cpu", "--work-dir", str(work)]
        command += ["--workers", str(options.workers)]
        run = watch(command, [work, folder / "hubconv"], hub.environment("hubconv"))
    torch = bare_torch_bytes()
    print(f"exit code             {run.code}")
    print(
        f"source                {sum(sizes) / 1e9:8.2f} GB in {len(sizes)} shards, "
        f"largest {max(sizes) / 1e6:.0f} MB"
    )
    print(f"workers, transfer     {options.workers}, {options.mode}")
    print(
        f"peak memory           {run.memory / 1e9:8.2f} GB  (bare torch {torch / 1e9:.2f} GB, "
        f"beyond it {(run.memory - torch) / 1e9:.2f} GB)"
    )
    print(f"peak disk             {run.disk / 1e6:8.0f} MB  (work folder and client caches)")
    print(f"wall time             {run.seconds:8.1f} s")


if __name__ == "__main__":
    main()
