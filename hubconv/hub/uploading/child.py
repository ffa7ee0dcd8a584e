"""What every child process of an upload begins with: it ends with its parent, and takes an order.

A child is started as `python -m hubconv.hub.uploading.NAME`. The first line it reads is its order
as JSON, so that no header can be seen in a list of processes; a blank line it writes is a sign of
life, and the first other line is its answer.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from hubconv.hub.childhood import order_of_parent, words_of

Report = Callable[[], None]


def run(task: Callable[[Mapping[str, Any], BinaryIO, Report], Mapping[str, Any] | None]) -> None:
    """Take the order from standard input, do the task, write its answer.

    Args:
        task: Given the order, what follows it on standard input, and a function that gives a sign
            of life. Its answer is None where the parent has given the task up.
    """
    stdin = sys.stdin.buffer
    order = order_of_parent(stdin)
    if order is None:
        return
    try:
        answer = task(order, stdin, lambda: _say(b"\n"))
    except Exception as error:  # noqa: BLE001 - the parent decides what it means
        answer = {"error": words_of(error)}
    if answer is not None:
        _say(json.dumps(answer).encode() + b"\n")


def _say(text: bytes) -> None:
    # Past Python's buffers: signs of life come from threads of the library.
    os.write(sys.stdout.fileno(), text)
