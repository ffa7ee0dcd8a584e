"""What a token may do, as far as the Hub tells before it is tried."""

from collections.abc import Mapping
from typing import Any, Final

WRITE_REPOS: Final = "repo.write"
FINE_GRAINED: Final = "fineGrained"
FREE_PRIVATE_BYTES: Final = 100 * 10**9
"""Private storage of an account without a subscription, as the Hub's pages give it."""


def why_not_create(user: Mapping[str, Any], namespace: str) -> str:
    """Why an account cannot make a repository under a namespace; empty where it can, it seems.

    Args:
        user: The Hub's answer to `whoami`.
        namespace: User or organisation.
    """
    orgs = {str(org.get("name")): str(org.get("roleInOrg")) for org in user.get("orgs") or ()}
    names = {str(user.get("name")), *orgs}
    token = (user.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        return f"its token may only read (namespaces: {', '.join(sorted(names))})"
    if namespace not in names:
        return f"{namespace} is not among its namespaces ({', '.join(sorted(names))})"
    if orgs.get(namespace) == "read":
        return f"it may only read in {namespace}"
    if role == FINE_GRAINED and namespace not in _written(token.get("fineGrained") or {}):
        return f"its token has no write permission for repositories of {namespace}"
    return ""


def _written(scopes: Mapping[str, Any]) -> set[str]:
    """Namespaces whose repositories a fine-grained token may write."""
    return {
        str((scope.get("entity") or {}).get("name"))
        for scope in scopes.get("scoped") or ()
        if WRITE_REPOS in (scope.get("permissions") or ())
    }


def doubt_of_room(user: Mapping[str, Any], repo: str, nbytes: int) -> str:
    """A warning where an account without a subscription is to hold much in private; else empty.

    Args:
        user: The Hub's answer to `whoami`.
        repo: `org/name`; of an organisation's room nothing is known.
        nbytes: What it is to hold.
    """
    own = repo.partition("/")[0] == user.get("name")
    if not own or user.get("isPro") is not False or nbytes <= FREE_PRIVATE_BYTES:
        return ""
    return (
        f"{repo} is private, at least until it is published, and will hold {nbytes / 1e9:.0f} GB; "
        f"the Hub gives an account without a subscription about {FREE_PRIVATE_BYTES / 1e9:.0f} GB "
        "of private storage. If it refuses shards, make room, or for a public result make the "
        "repository public by hand first."
    )
