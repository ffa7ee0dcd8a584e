"""Child processes that move bytes: how one is started and ended, whichever way the bytes go."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from hubconv.hub.desk import HOST

END_S: Final = 5.0
"""A child that was killed is waited for so long: the system itself may be slow to end it."""

_NO_PROXY: Final = ("NO_PROXY", "no_proxy")


def start(
    module: str, cache: Path, said: IO[bytes], handles: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start `python -m module` with pipes for its input and its output.

    What it is to do goes through its input (`told`): a list of processes shows a command line, and
    an order may hold links and tokens.

    Args:
        module: Of this package.
        cache: Folder for what its libraries want to keep; the caller removes it.
        said: Takes what it says on standard error.
        handles: Open files that it inherits under the same numbers.

    Raises:
        OSError: The system starts no more processes.
    """
    return subprocess.Popen(  # noqa: S603 - our own module
        # -P: a module of the user's working folder must not stand in for one of Python's.
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        bufsize=0,
        pass_fds=handles,
        # Ctrl-C is for the parent, which ends in order: it may want this shard's last bytes.
        start_new_session=True,
        env=_environment(cache),
    )


def told(order: Mapping[str, Any]) -> bytes:
    """An order as a child reads it; see `hubconv.hub.childhood`."""
    return json.dumps({**order, "parent": os.getpid()}).encode() + b"\n"


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a child, whatever it does, and let go of its pipes."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    if process.poll() is None:
        process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    if process.stdout is not None:
        process.stdout.close()


def _environment(cache: Path) -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **_without_proxy(HOST),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_XET_CACHE": str(cache),
    }


def _without_proxy(host: str) -> dict[str, str]:
    """The variables that keep a host from being asked by a proxy: a child may ask us for tokens."""
    given = {name: os.environ.get(name, "") for name in _NO_PROXY}
    either = next(filter(None, given.values()), "")
    # Where one is set alone it speaks for the other too; a star speaks for every host.
    known = {name: value or either for name, value in given.items()}
    return {
        name: value if value == "*" else ",".join(filter(None, (value, host)))
        for name, value in known.items()
    }
