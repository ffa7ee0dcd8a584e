"""What a journal tells of an unfinished plan, wherever the plan is staged."""

import dataclasses
import json
import os
import platform
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, Self

from hubconv.discretion import without_secrets
from hubconv.errors import ConflictError, HubconvError, TemporaryError

NOTE_NAME: Final = "journal.json"
"""The note's file, in the journal's folder of the plan."""

GROUP_UNITS: Final = 20
"""The Hub allows few commits an hour: shards are committed to it in groups of so many."""

GROUP_SECONDS: Final = 600.0
"""A group that is older is committed before it is full."""

RUNS: Final = "runs"
"""Folder of what runs tell of themselves, in the journal's folder of the plan."""

_TOLD_CHARS: Final = 400


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
        return cls(**_sound(text, dataclasses.asdict(cls())))


NO_NOTE: Final = Note()


def _sound(text: str | bytes, blank: Mapping[str, Any]) -> dict[str, Any]:
    """Of a JSON object what has the names and types of a blank one."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {name: told[name] for name in blank if type(told.get(name)) is type(blank[name])}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        code: Its exit code.
        what: What went wrong, where something did.
        is_journals: The journal itself may be out of reach, or another's: it is told without
            patience.
    """

    code: int = 0
    what: str = ""
    is_journals: bool = False


DONE: Final = Ending()


def ending_of(error: BaseException) -> Ending:
    """How a run ends that this error ends."""
    if isinstance(error, HubconvError):
        gone = isinstance(error, TemporaryError | ConflictError)
        what = without_secrets(error.what)[:_TOLD_CHARS]
        return Ending(error.exit_code, what, is_journals=gone)
    if isinstance(error, KeyboardInterrupt):
        return Ending(130, "Interrupted.")
    # What nobody foresaw is told on the terminal; its text was written for no journal.
    return Ending(1, type(error).__name__)


@dataclass(frozen=True, slots=True)
class RunNote:
    """One run of a plan, in its own words.

    Attributes:
        run_id: Sorts by when the run began.
        where: The CI job or batch job, or the machine.
        device: cpu or cuda:N.
        version: hubconv's version.
        part: Slice of the plan, where it had one.
        began: When, by its own clock, in UTC.
        ended: When; empty for one that was killed, or is under way.
        code: Its exit code, once it has ended.
        what: What went wrong.
    """

    run_id: str = ""
    where: str = ""
    device: str = ""
    version: str = ""
    part: str = ""
    began: str = ""
    ended: str = ""
    code: int = 0
    what: str = ""

    @classmethod
    def begin(cls, device: str, version: str, part: str = "") -> Self:
        """A run that begins now, here."""
        now = datetime.now(UTC)
        run_id = f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        return cls(run_id, _here(), device, version, part, now.isoformat(timespec="seconds"))

    def end(self, ending: Ending) -> Self:
        """The same run, ended."""
        return dataclasses.replace(self, ended=_now(), code=ending.code, what=ending.what)

    def to_json(self) -> bytes:
        """As the journal keeps it."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The run that a file tells of; what it does not tell, or tells wrong, is left blank."""
        return cls(**_sound(text, dataclasses.asdict(cls())))


NO_RUN: Final = RunNote()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _here() -> str:
    """Where this process runs, as whoever looks after it would find it again."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repo, number = (os.environ.get(name, "") for name in names)
    if server and repo and number:
        return f"{server}/{repo}/actions/runs/{number}"
    for name, kind in (("JOB_ID", "job"), ("SLURM_JOB_ID", "SLURM job")):
        if os.environ.get(name):
            return f"{kind} {os.environ[name]}"
    return platform.node() or "an unnamed machine"


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
        last_run: The run that began last; None where none has told.
    """

    plan_id: str
    place: str
    note: Note
    shards: int
    nbytes: int
    changed: datetime | None
    author: str = ""
    seconds: float = 0.0
    last_run: RunNote | None = None

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
            "last_run": None if self.last_run is None else run_json(self.last_run),
            "resume": self.note.command or None,
        }


def run_json(run: RunNote) -> dict[str, Any]:
    """A run, for programs."""
    return {
        "where": run.where or None,
        "device": run.device or None,
        "version": run.version or None,
        "slice": run.part or None,
        "began": run.began or None,
        "ended": run.ended or None,
        "exit_code": run.code if run.ended else None,
        "what": run.what or None,
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
