"""Where plans are staged on a repository: a branch each, or a pull request.

An account that may commit but not make branches (a token of a trusted publisher may be one) has
the journal on a draft pull request. It is known by its title and its author: anybody may open a
pull request on a public repository and put shards there.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from huggingface_hub.errors import HfHubHTTPError

from hubconv.ends import JOURNAL, Source
from hubconv.hub.client import REFUSED, HubClient
from hubconv.hub.commits import STAGED
from hubconv.hub.compat import NOT_FOUND, status_of
from hubconv.journal import NO_NOTE, NOTE_NAME, RUNS, Note, RunNote
from hubconv.records import UnitRecord

BRANCHES: Final = "hubconv/"
TITLE: Final = f"{STAGED}of hubconv plan "
_TITLED: Final = re.compile(re.escape(TITLE) + r"(\S+)")
_ABOUT: Final = """Finished shards of plan {plan_id} wait here until all of them are there; then
they are published in one commit and this pull request is closed. Do not merge it.

`hubconv status {repo}` tells how far it is; `hubconv abort {repo}` discards it.
"""
PUBLISHER_NAMES: Final = ("[OIDC]",)
_THREADS: Final = 8
_RUN_BYTES: Final = 16 * 1024


def note_path(plan_id: str) -> str:
    """Where a run notes how it began."""
    return f"{JOURNAL}/{plan_id}/{NOTE_NAME}"


def unit_path(plan_id: str, shard: str) -> str:
    """Where the record of a finished shard is."""
    return f"{JOURNAL}/{plan_id}/units/{shard}.json"


def run_path(plan_id: str, run_id: str) -> str:
    """Where a run tells of itself."""
    return f"{JOURNAL}/{plan_id}/{RUNS}/{run_id}.json"


def branch_of(plan_id: str) -> str:
    """The staging branch of a plan."""
    return f"{BRANCHES}{plan_id}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one plan is staged.

    Attributes:
        plan_id: The plan.
        revision: Branch or `refs/pr/N`.
        pull_request: Its number; 0 for a branch.
        author: Of the pull request.
    """

    plan_id: str
    revision: str
    pull_request: int = 0
    author: str = ""


class Journals:
    """The staging places of one repository.

    Args:
        client: How to reach it.
        repo: `org/name`.
    """

    def __init__(self, client: HubClient, repo: str) -> None:
        self._client = client
        self._repo = repo
        self._opened: set[str] = set()

    def branches(self) -> list[Place]:
        """Staging branches, by plan."""
        refs = self._client.call(
            f"Listing branches of {self._repo}",
            lambda: self._client.api.list_repo_refs(self._repo),
        )
        names = sorted(each.name for each in refs.branches if each.name.startswith(BRANCHES))
        return [Place(name.removeprefix(BRANCHES), name) for name in names]

    def pulls(self) -> list[Place]:
        """Open pull requests that are journals, whoever opened them; the oldest first."""
        found = self._client.call(
            f"Listing pull requests of {self._repo}",
            lambda: list(
                self._client.api.get_repo_discussions(
                    self._repo, discussion_type="pull_request", discussion_status="open"
                )
            ),
        )
        titled = ((_TITLED.fullmatch(each.title), each) for each in found)
        places = [
            Place(match[1], f"refs/pr/{each.num}", each.num, each.author)
            for match, each in titled
            if match
        ]
        return sorted(places, key=lambda place: place.pull_request)

    def find(self, plan_id: str) -> Place | None:
        """Where a plan is staged, if it is."""
        branch = [place for place in self.branches() if place.plan_id == plan_id]
        return next(iter(branch or self._own_pulls(plan_id)), None)

    def open(self, plan_id: str) -> Place:
        """The staging place of a plan; made where there is none.

        Raises:
            NotAllowedError: Neither a branch nor a pull request can be made.
        """
        found = self.find(plan_id)
        if found is not None:
            return found
        branch = Place(plan_id, branch_of(plan_id))

        def create() -> bool:
            try:
                self._client.api.create_branch(self._repo, branch=branch.revision, exist_ok=True)
            except HfHubHTTPError as error:
                if status_of(error) not in REFUSED:
                    raise
                return False
            return True

        if self._client.call(f"Opening the staging branch of {self._repo}", create):
            return branch
        return self._open_pull(plan_id)

    def _own_pulls(self, plan_id: str) -> list[Place]:
        places = [place for place in self.pulls() if place.plan_id == plan_id]
        if not places:
            return []
        names = self._own_names()
        return [place for place in places if place.author in names]

    def _own_names(self) -> set[str]:
        """The names that pull requests of this account bear.

        What a trusted publisher's job does is put down to one account of the Hub's own, whose name
        no user can have; such a job need not be told its own name.
        """
        if self._client.identity is not None:
            return {*PUBLISHER_NAMES, *self._opened}
        me = self._client.call("Asking the Hub who you are", self._client.api.whoami)
        return {str(me["name"])}

    def _open_pull(self, plan_id: str) -> Place:
        opened = self._client.call(
            f"Opening a pull request for staging on {self._repo}",
            lambda: self._client.api.create_pull_request(
                self._repo,
                title=f"{TITLE}{plan_id}",
                description=_ABOUT.format(plan_id=plan_id, repo=self._repo),
            ),
        )
        self._opened.add(opened.author)
        # Two runs may have opened one each, or one run two after a lost answer: the first counts.
        first, *others = self._own_pulls(plan_id)
        for other in others:
            self.remove(other)
        return first

    def is_open(self, place: Place) -> bool:
        """Whether a place is still there."""
        here = self.pulls() if place.pull_request else self.branches()
        return any(each.revision == place.revision for each in here)

    def remove(self, place: Place) -> None:
        """Delete the branch, or close the pull request. Harmless when done again."""
        api = self._client.api

        def delete() -> None:
            try:
                api.delete_branch(self._repo, branch=place.revision)
            except HfHubHTTPError as error:
                if status_of(error) != NOT_FOUND:
                    raise

        def close() -> None:
            if self.is_open(place):
                api.change_discussion_status(self._repo, place.pull_request, "closed")

        what = f"Removing {place.revision} of {self._repo}"
        self._client.call(what, close if place.pull_request else delete)


def read_note(view: Source, plan_id: str) -> Note:
    """How the run began that opened a journal; blank where it did not tell."""
    path = note_path(plan_id)
    entry = view.files().get(path)
    return NO_NOTE if entry is None else Note.from_json(view.read(path, 0, entry.size))


def read_last_run(view: Source, plan_id: str) -> RunNote | None:
    """The run that began last of those that have told of themselves."""
    folder = run_path(plan_id, "").removesuffix(".json")
    told = sorted(path for path in view.files() if path.startswith(folder))
    if not told:
        return None
    return RunNote.from_json(view.read(told[-1], 0, min(view.files()[told[-1]].size, _RUN_BYTES)))


def read_records(view: Source, plan_id: str) -> Mapping[str, UnitRecord]:
    """Finished units by shard: their record names the hash that the staging tree shows."""
    folder = f"{JOURNAL}/{plan_id}/units/"
    paths = [path for path in view.files() if path.startswith(folder)]
    with ThreadPoolExecutor(_THREADS) as pool:
        texts = list(pool.map(lambda path: view.read(path, 0, view.files()[path].size), paths))
    found = {}
    for text in texts:
        try:
            record = UnitRecord.from_json(text)
        except ValueError:
            continue
        entry = view.files().get(record.shard)
        if record.plan_id == plan_id and entry and entry.sha256 == record.sha256:
            found[record.shard] = record
    return found
