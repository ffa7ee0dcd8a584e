"""Engines: how the units of a plan are run. Correctness does not depend on which."""

from hubconv.engines.stop import Stop
from hubconv.engines.threads import run_units

__all__ = ["Stop", "run_units"]
