"""A Ray cluster of fake nodes on this machine, in a process of its own.

    python ray_cluster.py CPUS[:GPUS] CPUS[:GPUS] ...

Prints its address, then takes orders, a line each: `kill N` ends a node without warning, `add CPUS`
begins one more. It ends with its standard input.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

FOLDER = tempfile.mkdtemp(prefix="ray-")
Path(FOLDER, "ray").mkdir()
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": FOLDER}

from ray.cluster_utils import Cluster  # noqa: E402


def main():
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 * 1024 * 1024,
        },
    )  # fmt: skip
    nodes = [add(cluster, each) for each in sys.argv[1:]]
    say(cluster.address, FOLDER)
    for line in sys.stdin:
        order, _, what = line.strip().partition(" ")
        if order == "kill":
            cluster.remove_node(nodes[int(what)], allow_graceful=False)
        elif order == "add":
            nodes.append(add(cluster, what))
        say("done")
    cluster.shutdown()


def say(*words):
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def add(cluster, what):
    cpus, _, gpus = what.partition(":")
    return cluster.add_node(
        num_cpus=int(cpus), num_gpus=int(gpus or 0), object_store_memory=100 * 1024 * 1024
    )


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
