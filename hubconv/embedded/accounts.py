"""Who may speak to the embedded Hub, and in whose name."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hubconv.embedded.records import RepoCard
from hubconv.embedded.refusals import Refusal

FINE_GRAINED = "fineGrained"
WRITING = ["repo.content.read", "repo.write"]


@dataclass(frozen=True, slots=True)
class Account:
    """A user, as one of his tokens sees him.

    Attributes:
        name: User name, and the namespace that is his own.
        token: What stands after `Bearer`.
        orgs: Organizations he belongs to.
        role: `write`, `read` or `fineGrained`; a `read` token changes nothing.
        scopes: Namespaces that a `fineGrained` token may write to.
        makes_refs: May make and delete branches and tags, and not commit alone.
        only: The one repository that the token is for; empty for all that are the user's.
        sees_private: May know of private repositories.
        ends_at: Unix second from which on the token is no longer taken; 0 for never.
    """

    name: str
    token: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    scopes: tuple[str, ...] = ()
    makes_refs: bool = True
    only: str = ""
    sees_private: bool = True
    ends_at: float = 0.0

    def belongs_to(self, namespace: str) -> bool:
        """Whether the namespace is this user's or one of his organizations'."""
        return namespace == self.name or namespace in self.orgs

    def whoami(self) -> dict[str, Any]:
        """The answer to `whoami-v2`."""
        token: dict[str, Any] = {"displayName": f"{self.name}-{self.role}", "role": self.role}
        if self.role == FINE_GRAINED:
            scoped = [{"entity": {"name": name}, "permissions": WRITING} for name in self.scopes]
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
        return {
            "type": "user",
            "id": self.name,
            "name": self.name,
            "fullname": self.name,
            "email": f"{self.name}@localhost",
            "isPro": False,
            "orgs": [{"type": "org", "name": org, "roleInOrg": "admin"} for org in self.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }


class Accounts:
    """The tokens in force."""

    def __init__(self) -> None:
        self._by_token: dict[str, Account] = {}
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        token: str,
        orgs: Iterable[str] = (),
        role: str = "write",
        scopes: Iterable[str] = (),
        *,
        makes_refs: bool = True,
    ) -> Account:
        """Put a token in force."""
        account = Account(name, token, tuple(orgs), role, tuple(scopes), makes_refs)
        self.put(account)
        return account

    def put(self, account: Account) -> None:
        """Put an account's token in force."""
        with self._lock:
            self._by_token[account.token] = account

    def revoke(self, token: str) -> None:
        """Put a token out of force; later calls with it get 401."""
        with self._lock:
            self._by_token.pop(token, None)

    def whose(self, authorization: str | None) -> Account | None:
        """The account behind an `Authorization` header; None without one.

        Raises:
            Refusal: The token is not known.
        """
        if not authorization:
            return None
        token = authorization.removeprefix("Bearer ").strip()
        account = self._by_token.get(token)
        if account is None or 0 < account.ends_at < time.time():
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account


def may_see(account: Account | None, card: RepoCard) -> bool:
    """Whether the repository exists at all for this caller."""
    return not card.private or (
        account is not None
        and account.sees_private
        and account.only in {"", card.id}
        and account.belongs_to(card.id.split("/", 1)[0])
    )


def may_read_files(account: Account | None, card: RepoCard) -> bool:
    """Whether the caller is past the gate, if there is one."""
    if not card.gated:
        return True
    if account is None:
        return False
    if account.only not in {"", card.id}:
        return False
    return account.belongs_to(card.id.split("/", 1)[0]) or account.name in card.granted


def demand_login(account: Account | None) -> Account:
    """The caller, who must have said who he is.

    Raises:
        Refusal: There was no token.
    """
    if account is None:
        raise Refusal(401, "Invalid username or password.")
    return account


def demand_write(account: Account | None, namespace: str, repo_id: str = "") -> Account:
    """The caller, who must be allowed to change things under a namespace, or in one repository.

    Raises:
        Refusal: There was no token, or it is too weak.
    """
    caller = demand_login(account)
    if caller.role == "read":
        raise Refusal(403, "You need a token with the write role for this; yours can only read.")
    if not caller.belongs_to(namespace):
        message = f'You don\'t have the rights to write under the namespace "{namespace}".'
        raise Refusal(403, message)
    if caller.only not in {"", repo_id}:
        raise Refusal(403, f"This token is for {caller.only} alone.")
    if caller.role == FINE_GRAINED and namespace not in caller.scopes:
        raise Refusal(403, f"Your token has no write permission under {namespace}.")
    return caller
