"""A Hub in memory, behind the methods of HfApi that the publisher uses, where any call can fail.

It keeps what the real one keeps (branches, commits with `parent_commit`, large objects, copies by
commit, pull requests, tags) and nothing of HTTP: thousands of runs against it take seconds.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

MAIN = "main"


class Killed(BaseException):
    """The process is gone: nothing of it may act any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one call.

    Attributes:
        applied: Calls until the Hub does what was asked: 0 at once, None never. A server goes on
            with a request whose client has given up on it, or is dead.
        killed: The process ends here; else the client sees an error that may pass.
        silent: The client sees a timeout instead of an answer of a gateway.
    """

    applied: int | None = None
    killed: bool = False
    silent: bool = False


ERROR = Fault()
LOST = Fault(applied=0)
SILENCE = Fault(applied=5, silent=True)
KILL_BEFORE = Fault(killed=True)
KILL_AFTER = Fault(applied=0, killed=True)
KILL_ON_ITS_WAY = Fault(applied=7, killed=True)

AT_WRITES = (ERROR, LOST, SILENCE, KILL_BEFORE, KILL_AFTER, KILL_ON_ITS_WAY)
AT_READS = (ERROR, KILL_BEFORE)
"""A read changes nothing: whether it was made before it failed makes no difference."""


@cache
def _response(status):
    return httpx2.Response(status, request=httpx2.Request("POST", "memory://hub"))


def refusal(kind, status, text):
    return kind(text, response=_response(status))


def _passing(number, *, silent):
    """An error that may pass, each time another one."""
    if silent:
        return httpx2.ReadTimeout("the Hub says nothing")
    return (
        refusal(HfHubHTTPError, 504, "gateway timeout"),
        httpx2.ReadError("connection reset by peer"),
        json.JSONDecodeError("a gateway's page", "<html>", 0),
    )[number % 3]


# ── the server ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Entry:
    """A file of a tree; a large one is known by its sha256, a small one by its content."""

    size: int
    sha256: str = ""
    content: bytes = b""

    def listed(self, path):
        return _listed(path, self)


@cache
def _listed(path, entry):
    oid = hashlib.sha1(b"blob %d\0" % len(entry.content) + entry.content).hexdigest()
    lfs = {"oid": entry.sha256, "size": entry.size, "pointerSize": 1} if entry.sha256 else None
    return RepoFile(path=path, size=entry.size, oid=oid, lfs=lfs)


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str
    tree: dict
    title: str
    message: str


@dataclass
class Repo:
    private: bool = True
    refs: dict = field(default_factory=dict)
    pulls: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)
    commits: dict = field(default_factory=dict)
    large: dict = field(default_factory=dict)

    def resolve(self, revision):
        found = self.refs.get(revision) or self.tags.get(revision)
        if found or revision in self.commits:
            return self.commits[found or revision]
        raise refusal(RevisionNotFoundError, 404, f"no revision {revision}")

    def log(self, revision):
        found, at = [], self.resolve(revision)
        while at is not None:
            found.append(at)
            at = self.commits.get(at.parent)
        return found


class MemoryHub:
    """The server: what is true.

    Attributes:
        moved: Called with repository, branch, old and new commit whenever a branch moves.
        calls: Calls so far, of all clients.
    """

    def __init__(self):
        self.repos = {}
        self.calls = 0
        self.moved = lambda repo, ref, old, new: None
        self.shown = lambda repo: None
        self._late = []
        self._made = 0

    def repo(self, name):
        if name not in self.repos:
            raise refusal(RepositoryNotFoundError, 404, f"no repository {name}")
        return self.repos[name]

    def tick(self):
        """Another call: what was on its way may arrive first."""
        self.calls += 1
        due = [work for at, work in self._late if at <= self.calls]
        self._late = [(at, work) for at, work in self._late if at > self.calls]
        for work in due:
            with suppress(HfHubHTTPError):  # nobody is there to be told
                work()

    def later(self, calls, work):
        self._late.append((self.calls + calls, work))

    def settle(self):
        """Let everything that is on its way arrive."""
        while self._late:
            self.tick()

    def create_repo(self, name, *, private):
        repo = self.repos.setdefault(name, Repo())
        if not repo.refs:
            repo.private = private
            attributes = b"*.safetensors filter=lfs\n"
            tree = {".gitattributes": Entry(len(attributes), content=attributes)}
            self._move(repo, MAIN, self._save(repo, "", tree, "initial commit", ""))

    def create_branch(self, name, branch):
        repo = self.repo(name)
        if branch not in repo.refs:
            self._move(repo, branch, repo.resolve(MAIN))

    def delete_branch(self, name, branch):
        repo = self.repo(name)
        if repo.refs.pop(branch, None) is None:
            raise refusal(RevisionNotFoundError, 404, f"no branch {branch}")

    def commit(self, name, branch, parent, title, message, lines, *, create_pr=False):
        repo = self.repo(name)
        head = repo.resolve(branch)
        if parent is not None and parent != head.id:
            raise refusal(HfHubHTTPError, 412, "a commit has happened since")
        tree = dict(head.tree)
        for path, value in lines:
            if value is None:
                if path not in tree:
                    raise refusal(RemoteEntryNotFoundError, 404, f"no file {path}")
                del tree[path]
            elif isinstance(value, tuple):
                tree[path] = repo.resolve(value[1]).tree[value[0]]
            elif value.sha256 and value.sha256 not in repo.large:
                raise refusal(BadRequestError, 400, "LFS pointer to a file that does not exist")
            else:
                tree[path] = value
        made = self._save(repo, head.id, tree, title, message)
        number = 0
        if create_pr:
            number = len(repo.pulls) + 1
            repo.pulls[number] = "open"
            branch = f"refs/pr/{number}"
        self._move(repo, branch, made)
        return made, number

    def _save(self, repo, parent, tree, title, message):
        self._made += 1
        made = Commit(f"{self._made:040x}", parent, tree, title, message)
        repo.commits[made.id] = made
        return made

    def _move(self, repo, ref, new):
        old = repo.refs.get(ref)
        repo.refs[ref] = new.id
        self.moved(repo, ref, repo.commits.get(old), new)


# ── the client ───────────────────────────────────────────────────────────────────────────────


class MemoryApi:
    """HfApi as one process sees it.

    Args:
        hub: The server.
        gate: Asked before each call, with its name and whether it changes anything; answers with
            the fault that befalls it, or None.
    """

    endpoint = "memory://hub"

    def __init__(self, hub, gate):
        self._hub = hub
        self._gate = gate
        self._is_dead = False

    def _call(self, name, work, *, writes=False):
        fault = None if self._is_dead else self._gate(name, writes)
        if self._is_dead:
            raise Killed
        hub = self._hub
        hub.tick()
        answer = None
        if fault is not None and fault.applied:
            hub.later(fault.applied, work)
        elif fault is None or fault.applied == 0:
            answer = work()
        if fault is None:
            return answer
        if fault.killed:
            self._is_dead = True
            raise Killed
        raise _passing(hub.calls, silent=fault.silent)

    def whoami(self):
        auth = {"accessToken": {"role": "write"}}
        return self._call("whoami", lambda: {"name": "demo", "orgs": [], "auth": auth})

    def auth_check(self, repo, *, write):
        return self._call("auth_check", lambda: self._hub.repo(repo) and None)

    def repo_info(self, repo, *, revision=None):
        def work():
            there = self._hub.repo(repo)
            sha = there.resolve(revision or MAIN).id
            return SimpleNamespace(
                id=repo, sha=sha, private=there.private, gated=False, created_at=None
            )

        return self._call("repo_info", work)

    model_info = repo_info

    def get_paths_info(self, repo, paths, *, revision):
        def work():
            tree = self._hub.repo(repo).resolve(revision).tree
            return [tree[path].listed(path) for path in paths if path in tree]

        return self._call("get_paths_info", work)

    def list_repo_tree(self, repo, *, recursive, revision, repo_type):
        def work():
            tree = self._hub.repo(repo).resolve(revision).tree
            return [entry.listed(path) for path, entry in tree.items()]

        return self._call("list_repo_tree", work)

    def list_repo_commits(self, repo, *, revision):
        def work():
            return [
                SimpleNamespace(commit_id=each.id, title=each.title, message=each.message)
                for each in self._hub.repo(repo).log(revision)
            ]

        return self._call("list_repo_commits", work)

    def list_repo_refs(self, repo):
        def work():
            there = self._hub.repo(repo)
            names = [ref for ref in there.refs if not ref.startswith("refs/")]
            return SimpleNamespace(branches=[SimpleNamespace(name=name) for name in names])

        return self._call("list_repo_refs", work)

    def get_repo_discussions(self, repo, *, discussion_type, discussion_status):
        def work():
            return [
                SimpleNamespace(
                    num=num,
                    url=f"{self.endpoint}/{repo}/discussions/{num}",
                    title="NVFP4",
                    author="demo",
                )
                for num, status in sorted(self._hub.repo(repo).pulls.items(), reverse=True)
                if status == discussion_status
            ]

        return self._call("get_repo_discussions", work)

    def read(self, repo, revision, path):
        return self._call("read", lambda: self._hub.repo(repo).resolve(revision).tree[path].content)

    def speaks_xet(self, repo, revision):
        return self._call("speaks_xet", lambda: self._hub.repo(repo).resolve(revision) is not None)

    def create_repo(self, repo, *, private, exist_ok):
        work = lambda: self._hub.create_repo(repo, private=private)  # noqa: E731
        return self._call("create_repo", work, writes=True)

    def create_branch(self, repo, *, branch, exist_ok):
        work = lambda: self._hub.create_branch(repo, branch)  # noqa: E731
        return self._call("create_branch", work, writes=True)

    def delete_branch(self, repo, *, branch):
        work = lambda: self._hub.delete_branch(repo, branch)  # noqa: E731
        return self._call("delete_branch", work, writes=True)

    def upload(self, repo, sha256, size):
        work = lambda: self._hub.repo(repo).large.update({sha256: size})  # noqa: E731
        return self._call("upload", work, writes=True)

    def update_repo_settings(self, repo, *, private):
        def work():
            there = self._hub.repo(repo)
            there.private = private
            self._hub.shown(there)

        return self._call("update_repo_settings", work, writes=True)

    def change_discussion_status(self, repo, number, status):
        work = lambda: self._hub.repo(repo).pulls.update({number: status})  # noqa: E731
        return self._call("change_discussion_status", work, writes=True)

    def create_tag(self, repo, *, tag, revision, exist_ok):
        def work():
            there = self._hub.repo(repo)
            there.tags.setdefault(tag, there.resolve(revision).id)

        return self._call("create_tag", work, writes=True)

    def create_commit(
        self, repo, operations, *, commit_message, commit_description, revision, parent_commit,
        create_pr,
    ):  # fmt: skip
        lines = [_line(operation) for operation in operations]

        def work():
            made, number = self._hub.commit(
                repo, revision, parent_commit, commit_message, commit_description, lines,
                create_pr=create_pr,
            )  # fmt: skip
            url = f"{self.endpoint}/{repo}/discussions/{number}"
            return SimpleNamespace(oid=made.id, pr_num=number or None, pr_url=url)

        name = "stage" if revision != MAIN else "publish"
        return self._call(name, work, writes=True)


def _line(operation):
    """An operation as (path, entry to put | (path, commit) to copy | None to delete)."""
    if isinstance(operation, CommitOperationDelete):
        return operation.path_in_repo, None
    if isinstance(operation, CommitOperationCopy):
        return operation.path_in_repo, (operation.src_path_in_repo, operation.src_revision)
    if not isinstance(operation, CommitOperationAdd):
        raise TypeError(f"no operation: {operation}")
    info = operation.upload_info
    if operation._upload_mode == "lfs":
        return operation.path_in_repo, Entry(info.size, sha256=info.sha256.hex())
    content = operation.path_or_fileobj
    return operation.path_in_repo, Entry(len(content), content=content)
