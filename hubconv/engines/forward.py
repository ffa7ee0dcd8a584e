"""What workers log, shown where the run was started: there secrets are taken out of it."""

import logging
from collections.abc import Callable, Mapping

from hubconv.discretion import take_over_logging_of


class Forward(logging.Handler):
    """Has log records shown by another process.

    Args:
        tell: Takes the logger's name, the level and the text.
    """

    def __init__(self, tell: Callable[[str, int, str], None]) -> None:
        super().__init__()
        self._tell = tell

    def listen(self, levels: Mapping[str, int]) -> None:
        """Take what every logger of this process says, at the levels of the other process."""
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        take_over_logging_of("huggingface_hub")
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of one record."""
        try:
            self._tell(record.name, record.levelno, self.format(record))
        except Exception:  # noqa: BLE001 - a log line is no reason to fail
            self.handleError(record)


def levels() -> dict[str, int]:
    """The levels that were set in this process, by logger; the root's under no name."""
    named = logging.getLogger().manager.loggerDict
    found = {
        name: logger.level
        for name, logger in named.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {"": logging.getLogger().level, **found}


def show(name: str, level: int, text: str) -> None:
    """Show what a worker logged, as if this process had."""
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        logger.log(level, "%s", text)
