"""A Hugging Face Hub on loopback, for demos, tests and machines without a network.

The embedded Hub is a real HTTP server with a folder behind it: repositories, branches, pull
requests, LFS and xet uploads, permissions. The unpatched Hub client talks to it through
`HF_ENDPOINT`.
Nothing here knows the rest of hubconv; the server libraries are imported only when a Hub starts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubconv.embedded.accounts import Account as Account
    from hubconv.embedded.faults import Faults as Faults
    from hubconv.embedded.faults import Rule as Rule
    from hubconv.embedded.faults import Served as Served
    from hubconv.embedded.faults import ServedLog as ServedLog
    from hubconv.embedded.hub import EmbeddedHub as EmbeddedHub
    from hubconv.embedded.hub import serve as serve
    from hubconv.embedded.state import Knobs as Knobs

DEMO_USER = "demo"
DEMO_TOKEN = "hf_embedded_demo"  # noqa: S105 - a name for the loopback, not a secret
DEMO_ORG = "demo-org"

_HOMES = {
    "Account": "accounts",
    "EmbeddedHub": "hub",
    "Faults": "faults",
    "Knobs": "state",
    "Rule": "faults",
    "Served": "faults",
    "ServedLog": "faults",
    "serve": "hub",
}

__all__ = ["DEMO_ORG", "DEMO_TOKEN", "DEMO_USER", *_HOMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hubconv.embedded.{_HOMES[name]}"), name)
