"""Peak memory and peak disk of a conversion from Hub to Hub, sampled while it runs.

Starts the embedded Hub as a process of its own, uploads a generated DeepSeek-V4 FP8 checkpoint,
converts it with the real command, and samples the resident memory of that command's process tree
and the size of its work folder.

    python benchmarks/footprint.py --gigabytes 2 --folder /tmp/footprint
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hubconv.demo import deepseek_v4
from hubconv.demo.miniature_v4_parts import Size

SOURCE, TARGET = "demo-org/footprint", "demo/footprint-NVFP4"


def sizes(gigabytes: float) -> Size:
    """A checkpoint of about so many gigabytes in shards of about a quarter of one."""
    experts = max(4, int(gigabytes * 1e9 / (4 * 3 * 2048 * 1024)))
    return Size(
        hidden=2048, width=1024, experts=experts, layers=3, vocabulary=2048,
        shards=max(3, round(gigabytes * 4)),
    )  # fmt: skip


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children, shared pages counted once per process."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            if int(status.parent.name) == pid or int(fields[1]) == pid:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def bare_torch_bytes() -> int:
    """Resident memory of a process that has imported torch and nothing else."""
    code = "import torch,resource;print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def watch(process: subprocess.Popen[bytes], folders: list[Path]) -> tuple[int, int, float]:
    """(peak resident bytes, peak bytes in the folders, seconds) of a running process."""
    memory = disk = 0
    started = time.monotonic()
    while process.poll() is None:
        memory = max(memory, resident_bytes(process.pid))
        disk = max(disk, sum(folder_bytes(folder) for folder in folders))
        time.sleep(0.05)
    return memory, disk, time.monotonic() - started


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    made, home, work = (options.folder / name for name in ("source", "home", "work"))
    deepseek_v4.fp8_repack(made, size=sizes(options.gigabytes), fast=True)
    shards = sorted(made.glob("*.safetensors"))
    command = [sys.executable, "-m", "hubconv"]
    hub = subprocess.Popen(
        [*command, "hub", "--root", str(options.folder / "hub"), "--port", "0",
         "--mode", options.mode],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        endpoint = hub.stdout.readline().split("HF_ENDPOINT=")[1].split()[0]
        environment = os.environ | {
            "HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_embedded_demo", "HF_HOME": str(home),
            "HF_XET_TELEMETRY_ENABLED": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        hf = str(Path(sys.executable).with_name("hf"))
        upload = {"HF_HUB_DISABLE_XET": "1"} if options.mode == "lfs" else {}
        subprocess.run(
            [hf, "upload", SOURCE, str(made), ".", "--quiet"], check=True,
            env=environment | upload, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        total = sum(shard.stat().st_size for shard in shards)
        largest = max(shard.stat().st_size for shard in shards)
        shutil.rmtree(made)
        shutil.rmtree(home, ignore_errors=True)
        process = subprocess.Popen(
            [*command, SOURCE, TARGET, "--device", "cpu", "--work-dir", str(work),
             "--workers", str(options.workers)],
            env=environment,
        )  # fmt: skip
        memory, disk, seconds = watch(process, [work, home])
    finally:
        hub.terminate()
        hub.wait()
    torch = bare_torch_bytes()
    print(f"exit code             {process.returncode}")
    print(
        f"source                {total / 1e9:8.2f} GB in {len(shards)} shards, "
        f"largest {largest / 1e6:.0f} MB"
    )
    print(f"workers, transfer     {options.workers}, {options.mode}")
    print(
        f"peak memory           {memory / 1e9:8.2f} GB  (bare torch {torch / 1e9:.2f} GB, "
        f"beyond it {(memory - torch) / 1e9:.2f} GB)"
    )
    print(f"peak disk             {disk / 1e6:8.0f} MB  (work folder and client caches)")
    print(f"wall time             {seconds:8.1f} s")


if __name__ == "__main__":
    main()
