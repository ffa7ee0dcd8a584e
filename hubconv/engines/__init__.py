"""Engines: how the units of a plan are run. Correctness does not depend on which."""
