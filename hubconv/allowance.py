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
    limits = [*_limits("memory.max"), _told(_GROUPS / "memory/memory.limit_in_bytes")]
    return min([whole, *(int(limit) for limit in limits if limit.isdecimal())])


def _quotas() -> Iterator[float]:
    """How many processors each limit comes to: https://docs.kernel.org/admin-guide/cgroup-v2.html."""
    old = [_told(_GROUPS / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    for words in (*(limit.split() for limit in _limits("cpu.max")), old):
        # "max", and -1 of version 1, stand for no limit.
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


def _limits(name: str) -> list[str]:
    """What a file says in the process's own group and in all above it."""
    lines = _told(_OWN).splitlines()
    own = _GROUPS / next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(_GROUPS)]
    return [_told(group / name) for group in groups]


def _told(file: Path) -> str:
    """What a file says; nothing where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
