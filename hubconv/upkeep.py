"""What becomes of plans that are not finished: told, discarded, swept.

Nothing here makes a repository, a branch or a folder, and main is never written to.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hubconv.errors import ConflictError, HubconvError, UsageError
from hubconv.folder import FolderKeeper
from hubconv.journal import Freed, Journal, Keeper
from hubconv.opening import SOURCE_TOKEN, Scratch, parse_target
from hubconv.version import __version__


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An unfinished plan, and what has become of its source.

    Attributes:
        journal: The plan as it is staged.
        source: unchanged, moved, or unknown.
        head: The commit that the source stands at now, where it has moved.
        why: Why nothing is known of the source.
    """

    journal: Journal
    source: str
    head: str = ""
    why: str = ""

    def resume(self) -> str:
        """The command that goes on; pinned, where the source has moved on."""
        command, commit = self.journal.note.command, self.journal.note.commit
        if self.source != "moved" or "--revision" in command:
            return command
        return f"{command} --revision {commit}"


@dataclass(frozen=True, slots=True)
class Status:
    """What stands on a target.

    Attributes:
        target: `org/name`, or a folder's path.
        exists: There is such a target, as far as this account can see.
        manifest: hubconv.json of what is published; None where hubconv published nothing.
        plans: Every unfinished plan.
    """

    target: str
    exists: bool
    manifest: Mapping[str, Any] | None
    plans: Sequence[Unfinished]

    @property
    def published_from(self) -> str:
        """The source of what is published, with its commit; empty where nothing is."""
        source = (self.manifest or {}).get("source") or {}
        commit = str(source.get("commit") or "")
        return f"{source.get('repo')}@{commit[:12]}" if commit else str(source.get("repo") or "")


@dataclass(frozen=True, slots=True)
class Discarded:
    """What was, or would be, discarded.

    Attributes:
        target: `org/name`, or a folder's path.
        journals: The journals.
        freed: What went with them; None where nothing was removed yet.
    """

    target: str
    journals: Sequence[Journal]
    freed: Freed | None


def status(target: str) -> Status:
    """Unfinished plans of a target, and what is published there.

    Args:
        target: TARGET word.
    """
    with _keeper(target) as keeper:
        if not keeper.exists():
            return Status(keeper.ref, exists=False, manifest=None, plans=())
        manifest = keeper.manifest()
        return Status(
            keeper.ref,
            exists=True,
            manifest=manifest,
            plans=[_compared(journal) for journal in keeper.journals()],
        )


def abort(target: str, plan_id: str = "", *, removes: bool) -> Discarded:
    """Discard an unfinished plan.

    Args:
        target: TARGET word.
        plan_id: The plan; empty where there is only one, or none.
        removes: Else only looks.

    Raises:
        UsageError: There is no such plan, or several.
        ConflictError: It is published.
    """
    with _keeper(target) as keeper:
        found = list(keeper.journals()) if keeper.exists() else []
        chosen = [each for each in found if plan_id in {"", each.plan_id}]
        if not chosen and not plan_id:
            return Discarded(keeper.ref, (), None)
        if not chosen:
            raise UsageError(
                f"There is no unfinished plan {plan_id} on {keeper.ref}.",
                f"hubconv status {target} tells what there is.",
            )
        plans = sorted({each.plan_id for each in chosen})
        if len(plans) > 1:
            raise UsageError(
                f"{len(plans)} plans are unfinished on {keeper.ref}: {', '.join(plans)}.",
                "Say which with --plan.",
            )
        if (keeper.manifest() or {}).get("plan_id") == plans[0]:
            raise ConflictError(
                f"Plan {plans[0]} is published on {keeper.ref}; its run had no time to tidy up.",
                f"Do that with the same command again: {chosen[0].note.command or 'hubconv ...'}",
            )
        return Discarded(keeper.ref, chosen, keeper.remove(chosen) if removes else None)


def sweep(target: str, older_than_s: float, *, removes: bool) -> Discarded:
    """Discard every unfinished plan that has received nothing for a while.

    Args:
        target: TARGET word.
        older_than_s: For how many seconds.
        removes: Else only looks.
    """
    before = datetime.now(UTC) - timedelta(seconds=older_than_s)
    with _keeper(target) as keeper:
        found = keeper.journals() if keeper.exists() else ()
        published = (keeper.manifest() or {}).get("plan_id") if found else None
        old = [
            each
            for each in found
            if each.changed is not None and each.changed < before and each.plan_id != published
        ]
        return Discarded(keeper.ref, old, keeper.remove(old) if removes and old else None)


@contextmanager
def _keeper(target: str) -> Iterator[Keeper]:
    ref = parse_target(target)
    if ref.kind == "folder":
        yield FolderKeeper(Path(ref.name))
        return
    from hubconv.hub.client import open_client
    from hubconv.hub.upkeep import HubKeeper

    with Scratch("") as scratch:
        yield HubKeeper(open_client(__version__), ref.name, scratch)


def _compared(journal: Journal) -> Unfinished:
    """A journal, with where its source stands now."""
    note = journal.note
    if not note.commit:
        return Unfinished(journal, "unknown", why="" if note.source else "the journal has no note")
    if re.fullmatch(r"[0-9a-f]{40}", note.revision):
        return Unfinished(journal, "unchanged")  # asked for by its commit
    from hubconv.hub.client import open_client
    from hubconv.hub.commits import Commits
    from hubconv.hub.privacy import Guard

    try:
        client = open_client(__version__, SOURCE_TOKEN)
        head = Commits(client, note.source, Guard(note.source)).head(note.revision or "main")
    except HubconvError as error:
        return Unfinished(journal, "unknown", why=error.what)
    return Unfinished(journal, "unchanged" if head == note.commit else "moved", head=head)
