"""From a call to the repository it speaks of, past the doors it must pass."""

from hubconv.embedded.accounts import (
    Account,
    demand_login,
    demand_write,
    may_read_files,
    may_see,
)
from hubconv.embedded.refusals import Refusal, gated, repo_not_found
from hubconv.embedded.repository import Repository
from hubconv.embedded.wire import Call


def type_of(call: Call) -> str:
    """The type of repository that the path speaks of."""
    return (call.params.get("type") or call.params.get("prefix") or "models").removesuffix("s")


def visible_repo(call: Call) -> Repository:
    """The repository of the path, if the caller may know of it.

    Raises:
        Refusal: There is none, as far as the caller is concerned.
    """
    repo_id = f"{call.params['ns']}/{call.params['name'].removesuffix('.git')}"
    repo = call.state.catalog.find(type_of(call), repo_id)
    if not may_see(call.account, repo.card):
        raise repo_not_found()
    return repo


def readable_repo(call: Call) -> Repository:
    """The repository of the path, if the caller may read its files.

    Raises:
        Refusal: It is not there for him, or he stands before the gate.
    """
    repo = visible_repo(call)
    if not may_read_files(call.account, repo.card):
        raise gated(repo.id)
    return repo


def writable_repo(call: Call) -> tuple[Repository, Account]:
    """The repository of the path and the caller, who may write to it.

    Raises:
        Refusal: It is not there for him, or he may not.
    """
    repo = visible_repo(call)
    return repo, demand_write(call.account, repo.id.split("/", 1)[0], repo.id)


def branched_repo(call: Call) -> Repository:
    """The repository of the path, whose branches and tags the caller may make and delete.

    Raises:
        Refusal: It is not there for him, or he may not.
    """
    repo, account = writable_repo(call)
    if not account.makes_refs:
        raise Refusal(403, "This token may commit, but not make or delete branches and tags.")
    return repo


def contributed_repo(call: Call) -> tuple[Repository, Account]:
    """The repository of the path and the caller, who may propose changes to it.

    Raises:
        Refusal: It is not there for him, or his token can only read.
    """
    repo = visible_repo(call)
    account = demand_login(call.account)
    if account.role == "read":
        raise Refusal(403, "You need a token with the write role for this; yours can only read.")
    if account.only not in {"", repo.id}:
        raise Refusal(403, f"This token is for {account.only} alone.")
    return repo, account
