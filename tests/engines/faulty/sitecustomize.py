"""Has whatever makes units die, hang or fail in the middle of one, as files in a folder say.

Python loads this by itself where the folder it lies in is on PYTHONPATH. The folder of orders is
named by HUBCONV_FAULTS; see `engines.faults`.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

FOLDER = os.environ.get("HUBCONV_FAULTS", "")


def taken(kind, shard):
    """Whether an order of a kind is for this unit; each is carried out once."""
    for order in sorted(Path(FOLDER).glob(f"{kind}.*")):
        if order.read_text() in {"", shard}:
            try:
                order.rename(order.with_name(f"done-{order.name}"))
            except FileNotFoundError:
                continue  # another process was faster
            return True
    return False


def strike(shard):
    folder = Path(FOLDER)
    with (folder / "seen").open("a") as seen:
        seen.write(f"{os.getpid()} {shard}\n")
    poison = folder / "poison"
    if (poison.exists() and poison.read_text() == shard) or taken("kill", shard):
        with (folder / "struck").open("a") as struck:
            struck.write(f"{os.getpid()} {shard}\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if taken("hang", shard):
        with (folder / "struck").open("a") as struck:
            struck.write(f"{os.getpid()} {shard}\n")
        while not (folder / "go").exists():
            time.sleep(0.02)
    if taken("bug", shard):
        raise ZeroDivisionError("a fault in the program")


def faulty(work):
    def broken(bench, unit):
        struck = []

        def converted(source_bytes):
            if not struck:
                struck.append(True)
                strike(unit.shard)
            bench.converted(source_bytes)

        return work(replace(bench, converted=converted), unit)

    return broken


def on_fake_gpus(count):
    """Let this machine seem to have GPUs; what they are asked to compute the CPU does."""

    def found(module):
        module.capabilities = lambda: ((9, 0),) * count

    def started(module):
        choose = module.choose

        def noted(device, workers=1):
            if device != "cpu":
                with (Path(FOLDER) / "devices").open("a") as devices:
                    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
                    devices.write(f"{os.getpid()} {device} {shown}\n")
            return choose("cpu", workers)

        module.choose = noted

    return {"hubconv.devices": found, "hubconv.kernels.starting": started}


def at_work(module):
    module.work = faulty(module.work)


class Finder(importlib.abc.MetaPathFinder):
    """Changes modules when they have been loaded."""

    def __init__(self, changes):
        self.changes = changes

    def find_spec(self, name, path, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


if FOLDER:
    GPUS = int(os.environ.get("HUBCONV_FAKE_GPUS", "0"))
    changes = on_fake_gpus(GPUS) if GPUS else {}
    sys.meta_path.insert(0, Finder({"hubconv.work.unit": at_work, **changes}))
