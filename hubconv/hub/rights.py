"""What a token may do, as far as the Hub tells before it is tried."""

from collections.abc import Mapping
from typing import Any, Final

WRITE_REPOS: Final = "repo.write"
FINE_GRAINED: Final = "fineGrained"


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
