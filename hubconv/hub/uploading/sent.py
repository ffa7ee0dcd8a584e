"""What is said of an upload that went well."""

import logging
import time
from typing import Final

from hubconv.ends import StagedFile

_LOG: Final = logging.getLogger(__name__)


def log_sent(engine: str, staged: StagedFile, started: float) -> None:
    """One line for -v: what was sent, how, and for how long.

    Args:
        engine: What sent it.
        staged: The shard.
        started: When, by the monotonic clock.
    """
    seconds = time.monotonic() - started
    _LOG.info("%s: %d bytes by %s in %.1f s", staged.path, staged.size, engine, seconds)
