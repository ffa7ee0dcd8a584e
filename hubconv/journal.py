"""What a journal tells of an unfinished plan, wherever the plan is staged."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, Self

NOTE_NAME: Final = "journal.json"
"""The note's file, in the journal's folder of the plan."""

GROUP_UNITS: Final = 20
"""The Hub allows few commits an hour: shards are committed to it in groups of so many."""


@dataclass(frozen=True, slots=True)
class Note:
    """How the run began that opened a journal: written once, read by whoever finds it.

    Attributes:
        source: `org/name`, or a folder's path.
        commit: The pinned commit; empty for a folder.
        revision: Branch, tag or commit that was asked for; empty for the default branch.
        command: The command that goes on.
        shards: Output shards of the whole plan.
        nbytes: Their bytes.
        version: hubconv's version.
        make_public: The repository was made for this plan and becomes public with its publish.
    """

    source: str = ""
    commit: str = ""
    revision: str = ""
    command: str = ""
    shards: int = 0
    nbytes: int = 0
    version: str = ""
    make_public: bool = False

    def to_json(self) -> bytes:
        """As the journal keeps it."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The note that a file holds; what it does not hold, or holds wrong, is as in no note."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(told, dict):
            return cls()
        blank = dataclasses.asdict(cls())
        sound = {name: told[name] for name in blank if type(told.get(name)) is type(blank[name])}
        return cls(**sound)


NO_NOTE: Final = Note()


@dataclass(frozen=True, slots=True)
class Journal:
    """An unfinished plan as it is found on a target.

    Attributes:
        plan_id: The plan.
        place: `hubconv/<id>`, `refs/pr/N`, or a folder.
        note: How it began.
        shards: Output shards that are staged and proven.
        nbytes: Their bytes.
        changed: When it received something last; None where that is not known.
        author: Who opened it, where that is told: a pull request's.
        seconds: What the staged shards took, added up over all workers.
    """

    plan_id: str
    place: str
    note: Note
    shards: int
    nbytes: int
    changed: datetime | None
    author: str = ""
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float:
        """What the rest takes one worker at the rate so far; 0 where that cannot be told."""
        if not (self.nbytes and self.note.nbytes and self.seconds):
            return 0.0
        return max(self.note.nbytes - self.nbytes, 0) * self.seconds / self.nbytes

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "plan_id": self.plan_id,
            "place": self.place,
            "author": self.author or None,
            "source": self.note.source or None,
            "source_commit": self.note.commit or None,
            "shards_staged": self.shards,
            "shards_total": self.note.shards or None,
            "bytes_staged": self.nbytes,
            "bytes_total": self.note.nbytes or None,
            "worker_seconds_left": round(self.seconds_left, 1) or None,
            "last_commit": self.changed.isoformat() if self.changed else None,
            "version": self.note.version or None,
            "resume": self.note.command or None,
        }


@dataclass(frozen=True, slots=True)
class Freed:
    """What went with discarded journals.

    Attributes:
        objects: Large files that nothing referred to any more.
        nbytes: Their bytes.
        why_not: Why large files were left where they are; empty where none was.
    """

    objects: int = 0
    nbytes: int = 0
    why_not: str = ""


class Keeper(Protocol):
    """Looks after the journals of a target without making one."""

    @property
    def ref(self) -> str:
        """`org/name`, or the folder's path."""
        ...

    def exists(self) -> bool:
        """Whether there is such a target."""
        ...

    def manifest(self) -> Mapping[str, Any] | None:
        """hubconv.json of what is published now."""
        ...

    def journals(self) -> Sequence[Journal]:
        """Every journal, by plan."""
        ...

    def remove(self, journals: Sequence[Journal]) -> Freed:
        """Discard journals and all that is staged in them alone."""
        ...
