"""Samples memory, disk and processor time of a command's process tree while it runs."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 0.25


@dataclass(frozen=True)
class Run:
    """What a command took.

    Attributes:
        seconds: From its start to its end.
        memory: Peak of the tree's proportional set size: shared pages count once.
        disk: Peak bytes in the folders that were watched, as allocated.
        cpu: Processor seconds of the command and the children it waited for.
        code: Its exit code.
    """

    seconds: float
    memory: int
    disk: int
    cpu: float
    code: int


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process tree; 0 for what has just ended."""
    total = 0
    for one in tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return total * 1024


def disk_bytes(folders: Sequence[Path]) -> int:
    """Allocated bytes of all files below some folders."""
    total = 0
    waiting = [str(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total


def cpu_seconds(pid: int) -> float:
    """Processor time of a running process tree."""
    total = 0.0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def watch(
    command: Sequence[str], folders: Sequence[Path], environment: Mapping[str, str] | None = None
) -> Run:
    """Run a command, sampled ten times a second."""
    memory = disk = 0
    started = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while True:
            # wait4, because only it tells the processor time of children that ended.
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            memory = max(memory, memory_bytes(process.pid))
            disk = max(disk, disk_bytes(folders))
            time.sleep(SAMPLE_S)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, memory, disk, cpu, process.returncode)


def bare_torch_bytes() -> int:
    """Memory of a process that has imported torch and nothing else, measured the same way."""
    code = "import torch, sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is not None:
            process.stdout.readline()
        return memory_bytes(process.pid)
