"""What this process may have of its machine: a container has fewer processors than one sees.

Kubernetes and `docker run --cpus` limit the time of processors, not which of them may be used. More
threads than that allows are stopped in the middle of their work for the rest of each period.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")


def cores() -> int:
    """Processors that this process may keep busy: those it may run on, or as much of their time."""
    seen = len(os.sched_getaffinity(0))
    return max(1, min([seen, *map(math.ceil, _quotas())]))


def memory_bytes() -> int:
    """Memory of this machine, or of the container."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_read("memory.max"), *_read_first("memory/memory.limit_in_bytes")]
    return min([whole, *(int(limit) for limit in limits if limit.isdecimal())])


def _quotas() -> Iterator[float]:
    """How many processors each limit comes to: https://docs.kernel.org/admin-guide/cgroup-v2.html."""
    pairs = [text.split() for text in _read("cpu.max")]
    old = [_read_first(f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    pairs.append([number for numbers in old for number in numbers])
    for words in pairs:
        # "max", and -1 of version 1, stand for no limit.
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


def _read(name: str) -> Iterator[str]:
    """A file of the process's own group and of all above it, where they have it."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    place = _GROUPS / own.strip("/")
    for group in dict.fromkeys((place, *place.parents, _GROUPS)):
        if group.is_relative_to(_GROUPS):
            yield from _read_first(str((group / name).relative_to(_GROUPS)))


def _read_first(name: str) -> list[str]:
    """What a file below the groups says; nothing where there is none."""
    try:
        return [(_GROUPS / name).read_text().strip()]
    except OSError:
        return []
