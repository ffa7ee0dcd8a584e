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


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "hubconv.work.unit":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.work = faulty(module.work)

        spec.loader.exec_module = exec_module
        return spec


if FOLDER:
    sys.meta_path.insert(0, Finder())
