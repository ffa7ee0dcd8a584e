"""Starts hubconv processes in a moment: everything is imported and compiled once, then forked.

An order is a line of JSON: `words` of the command line, `kill_at` (count of a landmark at which the
process kills itself; null for none), `notes` (a file that receives what it does) and `out` (a file
for what it says). The answers are lines too: the process id, then how it ended.

Landmarks are the calls after which something lasts: a rename, an fsync, a commit. An odd count
stands for the moment before one, an even count for the moment after.
"""

import json
import os
import signal
import sys
import threading


class Notes:
    """What a process does, in a file that outlives it.

    Args:
        path: The file.
        kill_at: The landmark at which the process ends.
    """

    def __init__(self, path, kill_at):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kill_at = kill_at
        self._count = 0
        self._counting = threading.Lock()

    def write(self, *words):
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def landmark(self, what):
        with self._counting:  # threads pass landmarks too, and none may be missed
            self._count += 1
            self.write("landmark", self._count, what)
            if self._count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner, name):
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            self.landmark(f"before {name}")
            answer = function(*args, **kwargs)
            self.landmark(f"after {name}")
            return answer

        setattr(owner, name, watched)


def prepare():
    """Import what a run imports, and compile what it computes with."""
    import huggingface_hub.hf_api  # noqa: F401

    import hubconv.pipeline  # noqa: F401
    from hubconv.kernels.cpu import CpuKernel

    CpuKernel()


def become_hubconv(order):
    """Be the command, in a forked process."""
    out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    from hubconv.cli import main
    from hubconv.engines import threads
    from hubconv.hub import commits, staging

    notes = Notes(order["notes"], order["kill_at"])
    make = threads.work

    def work(bench, unit):
        notes.write("make", unit.shard)
        return make(bench, unit)

    threads.work = work
    staging.GROUP_UNITS = 1
    for name in ("rename", "replace", "fsync"):
        notes.watch(os, name)
    notes.watch(commits.Commits, "commit")
    sys.argv = ["hubconv", *order["words"]]
    main()


def serve():
    """Take orders until there are none."""
    prepare()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            code = 70
            try:
                become_hubconv(order)
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        answer(child)
        _, status = os.waitpid(child, 0)
        answer(os.waitstatus_to_exitcode(status))


def answer(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
