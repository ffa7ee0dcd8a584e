"""What other libraries read from the environment, set before they are imported."""

import logging
import os
import warnings

from hubconv.discretion import take_over_logging_of, without_secrets


class _Discreet(logging.Formatter):
    """Writes what libraries log without what could be used to log in, such as signed links."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return without_secrets(super().format(record))


def quiet_libraries(verbose: int = 0) -> None:
    """Keep the terminal for hubconv's own words, and telemetry off.

    Args:
        verbose: 1 shows hubconv's log, 2 that of the libraries too.
    """
    for name in (
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_UPDATE_CHECK",
        "HF_HUB_DISABLE_TELEMETRY",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_XET_TELEMETRY_ENABLED", "0")
    # It sets its own logger's level when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error" if verbose < 2 else "debug")
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Discreet("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("hubconv").setLevel(level)
    # That a device does not do its work is told to everybody: it costs hours.
    logging.getLogger("hubconv.kernels").setLevel(min(level, logging.WARNING))
    for library in ("huggingface_hub", "httpx2", "hf_xet", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR if verbose < 2 else level)
    take_over_logging_of("huggingface_hub")
    if verbose < 2:
        warnings.filterwarnings("ignore", module=r"huggingface_hub\.")
