"""Where the hubconv that is tested lies: the wheel in CI, the checkout while one works on it."""

from pathlib import Path

import hubconv

INSTALLED = Path(hubconv.__file__).resolve().parents[1]
"""For the PYTHONPATH of processes that a test starts."""
