"""What this machine has, as far as a run may take it."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hubconv import allowance

if TYPE_CHECKING:
    from hubconv.steps.machine import Machine


def machine_of(
    cores: int = 0, memory_bytes: int = 0, disk_bytes: int = 0, folder: str = ""
) -> "Machine":
    """A machine of which only some is told: the rest is this one's.

    Args:
        cores: Processors; 0 for those that this process may use.
        memory_bytes: Memory; 0 for all of this machine's, or of the container's.
        disk_bytes: Disk; 0 for what is free.
        folder: Where it is free: the work folder, or the target where that is a folder; empty for
            the system's temporary folder.
    """
    from hubconv.steps.machine import Machine

    return Machine(
        cores or allowance.cores(),
        memory_bytes or allowance.memory_bytes(),
        disk_bytes or _free_bytes(Path(folder or tempfile.gettempdir())),
    )


def _free_bytes(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
