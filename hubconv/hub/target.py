"""A Hub repository as target: rights and privacy first, then the staging branch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import RepositoryNotFoundError

from hubconv.ends import FileEntry, Published, Source, TargetOptions
from hubconv.errors import (
    ConflictError,
    IntegrityError,
    NotAllowedError,
    SourceError,
    UsageError,
)
from hubconv.hub.amending import Amending
from hubconv.hub.client import HubClient
from hubconv.hub.collecting import add_to_collection
from hubconv.hub.commits import branch_gone
from hubconv.hub.compat import validate_card
from hubconv.hub.credentials import SOURCE_IDENTITY, TARGET_IDENTITY, Identity
from hubconv.hub.journals import Journals, Place, branch_of, read_note
from hubconv.hub.privacy import PRIVATE, Guard
from hubconv.hub.publisher import Publisher
from hubconv.hub.rights import doubt_of_room, why_not_create
from hubconv.hub.source import HubSource
from hubconv.hub.staging import HubStaging
from hubconv.journal import NO_NOTE, NO_RUN, Note, RunNote
from hubconv.manifest import compare_tree, read_manifest


class HubTarget:
    """A repository that receives the result.

    Args:
        client: How to reach it.
        repo: `org/name`.
        options: How it is made and published to.
        work_dir: Folder for output shards on their way.
        at_once: Asked while an upload is waited for; raises where the run must end now.
    """

    def __init__(
        self,
        client: HubClient,
        repo: str,
        options: TargetOptions,
        work_dir: Path,
        at_once: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._repo = repo
        self._options = options
        self._work_dir = work_dir
        self._at_once = at_once
        self._journals = Journals(client, repo)
        self._make_private = bool(options.private)
        self._user: Mapping[str, Any] = {}
        # Until `check` is told what the source is, nothing may be shown.
        self._guard = Guard(repo)
        self._there = False
        self._seen: Source | None = None

    @property
    def ref(self) -> str:
        """`org/name`."""
        return self._repo

    def _exists(self) -> bool:
        def ask() -> bool:
            try:
                info = self._client.api.repo_info(self._repo)
            except RepositoryNotFoundError:
                return False
            self._refuse_renamed(str(info.id))
            return True

        self._there = self._there or self._client.call(f"Looking for {self._repo}", ask)
        return self._there

    def _refuse_renamed(self, now: str) -> None:
        """An old name leads somewhere else, perhaps to the source itself."""
        if now.casefold() != self._repo.casefold():
            raise UsageError(
                f"{self._repo} is now called {now}.", f"If that is the target, name it: {now}."
            )

    def view(self, revision: str = "") -> Source:
        """A revision; or main as it was when this run first looked.

        A release is composed from that state of main and replaces no other: what somebody commits
        meanwhile is a conflict, never overwritten.
        """
        return self._at(revision) if revision else self._main()

    def _at(self, revision: str) -> Source:
        slots = self._work_dir / "slots"
        return HubSource(self._client, self._repo, revision, slots, at_once=self._at_once)

    def _main(self) -> Source:
        if self._seen is None:
            self._seen = self._at("")
        return self._seen

    def files(self) -> Mapping[str, FileEntry]:
        """What main holds; nothing where the repository does not exist."""
        return self._main().files() if self._exists() else {}

    def published(self, plan_id: str) -> Published | None:
        """The publish of a plan: on main, or in an open pull request where one was asked for."""
        manifest = self.manifest()
        if manifest is not None and manifest.get("plan_id") == plan_id:
            return self._publisher(make_public=False).found(plan_id) or Published(
                self._repo, self._main().commit, f"{self._client.api.endpoint}/{self._repo}"
            )
        if self._options.create_pr and self._exists():
            return self._publisher(make_public=False).found(plan_id)
        return None

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json on main, or None."""
        if not self._exists():
            return None
        return read_manifest(self._main())

    def check(self, restricted: str) -> None:
        """Refuse before any download what would fail at the end.

        Raises:
            NotAllowedError: No login, no right to write, or private content would become public.
        """
        api = self._client.api
        if self._client.identity is not None:
            self._check_identity(self._client.identity)
        else:
            self._user = self._client.call("Asking the Hub who you are", api.whoami)
        asked = self._options.private
        self._make_private = bool(restricted) if asked is None else asked
        self._guard = Guard(self._repo, "" if self._options.allow_public else restricted)
        now, way = PRIVATE, "Make the target private (--private)"
        if self._exists():
            self._client.call(
                f"Checking the right to write to {self._repo}",
                lambda: api.auth_check(self._repo, write=True),
            )
            now = self._main().restricted
            way = "Make the target private in its settings on the Hub"
        else:
            self._check_namespace(self._user)
        # A repository that a killed run began may be hidden now and bound to be shown at the end.
        if self._guard.forbids(now) or (asked is False and self._guard.restricted):
            raise NotAllowedError(
                f"The source is {restricted}, but {self._repo} is or would be public.",
                f"{way}, or if its licence and owner allow it say --allow-publish-private.",
            )

    def _check_identity(self, identity: Identity) -> None:
        """A job of a trusted publisher may write to one repository, and make none."""
        if identity.resource.casefold() != self._repo.casefold():
            raise NotAllowedError(
                f"{TARGET_IDENTITY} names {identity.resource}, and the target is {self._repo}: a "
                "trusted publisher's token can write to the one repository that it is for.",
                f"Set {TARGET_IDENTITY}={self._repo}; an identity to read a gated source with goes "
                f"into {SOURCE_IDENTITY}.",
            )
        if not self._exists():
            raise NotAllowedError(
                f"There is no {self._repo} that this job's token can see, and a trusted "
                "publisher's token cannot create a repository.",
                "Create it once by hand, then register this job as its trusted publisher at "
                f"{self._client.api.endpoint}/{self._repo}/settings.",
            )

    def _check_namespace(self, user: Mapping[str, Any]) -> None:
        why = why_not_create(user, self._repo.partition("/")[0])
        if why:
            raise NotAllowedError(
                f"{user.get('name')} cannot create {self._repo}: {why}.",
                "Use a write token of an account or organisation that owns the name, or create the "
                "repository once by hand.",
            )

    def doubt(self, nbytes: int) -> str:
        """Whether a private repository of so many bytes may be more than the account has room for.

        A new repository is private until it is published, whatever it is to become.
        """
        hidden = not self._exists() or self._main().restricted == PRIVATE
        return doubt_of_room(self._user, self._repo, nbytes) if hidden else ""

    def check_card(self, card: str) -> None:
        """Have the Hub read the card's front matter before the work depends on it.

        Raises:
            SourceError: The Hub would refuse it.
        """

        def validate() -> None:
            try:
                validate_card(self._client.api, card)
            except json.JSONDecodeError:
                raise  # a gateway's page in place of an answer says nothing about the card
            except ValueError as error:
                raise SourceError(
                    f"The Hub would refuse the card: {error}",
                    "Check the licence fields of the source's card.",
                ) from error

        self._client.call("Validating the card", validate)

    def amend(self, files: Mapping[str, bytes], title: str) -> Published:
        """One commit that puts small files, on main as it was seen or on a pull request."""
        amending = Amending(
            self._client, self._repo, self._at, self._work_dir, create_pr=self._options.create_pr
        )
        return amending.commit(files, title, self._main().commit)

    def collect(self, collection: str) -> str:
        """Add the repository to a collection, made where there is none of that name."""
        hidden = self._exists() and self._at("").restricted == PRIVATE
        return add_to_collection(self._client, self._repo, collection, private=hidden)

    def begun(self, plan_id: str) -> bool:
        """Whether the repository holds a journal of a plan."""
        return self._exists() and self._journals.find(plan_id) is not None

    def stage(self, plan_id: str, note: Note = NO_NOTE, run: RunNote = NO_RUN) -> HubStaging:
        """Create the repository and the staging place where they are missing."""
        api = self._client.api
        new = not self._exists()
        if new:
            # Private until the publish commit: a name without weights helps nobody.
            self._client.call(
                f"Creating {self._repo}",
                lambda: api.create_repo(self._repo, private=True, exist_ok=True),
            )
            self._there = True
            self._refuse_filled()
        make_public = self._begins_public(plan_id, new=new)
        publisher = self._publisher(make_public=make_public, base=self._main().commit)
        staging = HubStaging(
            self._client, self._repo, plan_id, self._work_dir, publisher, self._at_once,
            replace(note, make_public=make_public), run=run,
        )  # fmt: skip
        if new and make_public:
            staging.begin()
        return staging

    def join(self, plan_id: str) -> HubStaging:
        """Open a journal that another process keeps; neither repository nor branch is made."""
        place = self._journals.find(plan_id)
        if place is None:
            raise branch_gone(self._repo, branch_of(plan_id))
        publisher = self._publisher(make_public=False)
        return HubStaging(
            self._client, self._repo, plan_id, self._work_dir, publisher, self._at_once,
            place=place,
        )  # fmt: skip

    def _refuse_filled(self) -> None:
        """A repository that was not there when this run looked, and is not empty, is not ours.

        Raises:
            ConflictError: Another run of the plan, or somebody else, was faster.
        """
        filled = set(self._main().files()) - {".gitattributes"}
        if filled:
            raise ConflictError(
                f"{self._repo} was made and filled while this run read the source: it holds "
                f"{', '.join(sorted(filled)[:5])}.",
                "Run the same command again: it looks at what is published first.",
            )

    def _publisher(self, *, make_public: bool, base: str = "") -> Publisher:
        return Publisher(
            self._client,
            self._repo,
            create_pr=self._options.create_pr,
            tag=self._options.tag,
            public_after=make_public,
            guard=self._guard,
            base=base,
        )

    def _begins_public(self, plan_id: str, *, new: bool) -> bool:
        """Whether the repository is to become public: it is new, or a killed run made it.

        A repository that somebody made by hand keeps the visibility it was given.
        """
        if new or self._make_private or self._guard.restricted:
            return not (self._make_private or self._guard.restricted)
        own = self._journals.find(plan_id)
        places = [own] if own else []
        if self.manifest() is None:  # perhaps begun for an older commit of the source
            places += self._journals.branches()
        return any(self._note(place).make_public for place in places)

    def _note(self, place: Place) -> Note:
        try:
            return read_note(self._at(place.revision), place.plan_id)
        except SourceError:
            return NO_NOTE  # removed a moment ago

    def tidy(self, plan_id: str) -> None:
        """Finish what a run killed after its publish left undone.

        Raises:
            IntegrityError: The publish is not what its manifest says.
        """
        place = self._journals.find(plan_id)
        if place is None:
            if self._options.create_pr:  # one more may have come late
                self._publisher(make_public=False).close_twins(plan_id)
            return
        hidden = self._make_private or bool(self._guard.restricted)
        make_public = not hidden and self._note(place).make_public
        publisher = self._publisher(make_public=make_public)
        done = self.published(plan_id)
        if done is not None:
            self._check_published(done)
            publisher.close(plan_id, done)
            self._journals.remove(place)

    def _check_published(self, done: Published) -> None:
        """What the killed run had no time for: is the publish what its manifest says?"""
        view = self._at(done.commit)
        manifest = read_manifest(view)
        # By the hashes that the tree names: small files were compared before they were sent.
        wrong = ["no manifest"] if manifest is None else compare_tree(view, manifest, {})
        if wrong:
            raise IntegrityError(
                f"{self._repo} at {done.commit} is not what was published: {wrong[0]}.",
                f"Look at {done.url}; the commit before it is the last good one.",
            )
