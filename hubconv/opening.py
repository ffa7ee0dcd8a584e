"""From words on the command line to opened ends, and the folder a run works in."""

import glob
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final

from hubconv.ends import Source, Target, TargetOptions
from hubconv.errors import NotAllowedError, ResourceError, UsageError
from hubconv.folder import FolderSource, FolderTarget
from hubconv.hub.waiting import AtOnce, never
from hubconv.version import __version__
from hubconv.words import EndRef, parse_end

SOURCE_TOKEN: Final = "HUBCONV_SOURCE_TOKEN"  # noqa: S105 - the name of a variable, not a token


def _nobody(_: int) -> None:
    """Nobody wants to be told."""


def open_source(
    word: str,
    revision: str,
    scratch: Path,
    at_once: AtOnce = never,
    fetched: Callable[[int], None] = _nobody,
) -> Source:
    """The source a word names, pinned.

    Args:
        word: SOURCE as written.
        revision: Branch, tag or commit; empty for the default.
        scratch: Folder for shards on their way.
        at_once: Asked in long waits; raises where the run must end now.
        fetched: Told the bytes of shards that came by a line since it was told before.

    Raises:
        UsageError: A folder with a revision, or two revisions.
        SourceError: It does not exist.
    """
    ref = parse_end(word)
    if ref.kind == "folder":
        if revision:
            raise UsageError("A folder has no revisions.", "Leave --revision out.")
        return FolderSource(Path(ref.name))
    if revision and ref.revision:
        raise UsageError(f"{word} names a revision, and so does --revision.", "Use one of them.")
    from hubconv.hub.client import open_client
    from hubconv.hub.likeness import with_likeness
    from hubconv.hub.source import HubSource

    client = replace(open_client(__version__, SOURCE_TOKEN, at_once), passed=fetched)
    slots, wanted = scratch / "slots", revision or ref.revision
    with with_likeness(client, ref.name, wanted):
        return HubSource(client, ref.name, wanted, slots, at_once=at_once)


def open_target(
    word: str,
    options: TargetOptions,
    scratch: Path,
    at_once: AtOnce = never,
    soon: AtOnce = never,
    sent: Callable[[int], None] = _nobody,
) -> Target:
    """The target a word names.

    Args:
        word: TARGET as written.
        options: How a repository is made and published to.
        scratch: Folder for what is on its way.
        at_once: Asked in long waits; raises where the run must end now.
        soon: The same in waits that save finished work, which may go on for a moment.
        sent: Told the bytes of shards that went by a line since it was told before.
    """
    ref = parse_target(word)
    if ref.kind == "folder":
        if options.create_pr:
            raise UsageError("A folder has no pull requests.", "Leave --create-pr out.")
        return FolderTarget(Path(ref.name))
    from hubconv.hub.client import open_client
    from hubconv.hub.target import HubTarget

    client = replace(open_client(__version__, "", soon), passed=sent)
    return HubTarget(client, ref.name, options, scratch, at_once)


def open_lender(word: str, scratch: Path, at_once: AtOnce = never) -> Source | None:
    """The checkpoint that activation scales are taken from, pinned; None where no word names one.

    Args:
        word: `--input-scales-from` as written.
        scratch: Folder for shards on their way.
        at_once: Asked in long waits; raises where the run must end now.
    """
    return open_source(word, "", scratch / "lender", at_once) if word else None


def parse_target(word: str) -> EndRef:
    """A TARGET word.

    Raises:
        UsageError: It names a revision: hubconv publishes to main or to a pull request.
    """
    ref = parse_end(word)
    if ref.revision:
        raise UsageError(
            f"{word} names a revision; a target is published to main.",
            "For a pull request instead say --create-pr.",
        )
    return ref


def refuse_same(source: str, target: str) -> None:
    """Source and target must not be one.

    Raises:
        UsageError: They are.
    """
    read, written = parse_end(source), parse_target(target)
    if read.kind != written.kind:
        return
    if read.kind == "hub":
        same = read.name.casefold() == written.name.casefold()
    else:
        same = _is_one(Path(read.name), Path(written.name))
    if same:
        raise UsageError(
            f"Source and target are both {read.name}.",
            "The source is never written to: name another target.",
        )


def _is_one(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, by links, mounts or another case of the letters."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def refuse_renamed(word: str, source: Source) -> None:
    """A source must answer under the name it was asked for by.

    A name that leads on to another may lead to another owner: whoever schedules a conversion
    trusts the name that he wrote down.

    Raises:
        NotAllowedError: The Hub answers under another name.
    """
    asked = parse_end(word)
    if asked.kind == "hub" and source.ref.casefold() != asked.name.casefold():
        raise NotAllowedError(
            f"{asked.name} is now called {source.ref}.",
            f"If that is the source you mean, name it: {source.ref}.",
        )


def refuse_hidden(source: Source, before: str) -> None:
    """A source whose owner has closed it since the run began is not published in the open.

    Args:
        source: As it is now.
        before: Its restriction when the target was checked for it.

    Raises:
        NotAllowedError: It has become private or gated.
    """
    now = source.restricted
    if now and now != before:
        raise NotAllowedError(
            f"{source.ref} has become {now} while this run worked.",
            "Nothing was published and every shard is kept. Run the same command again: what it "
            "publishes then is as closed as the source.",
        )


class Scratch:
    """A folder of this process for shards on their way; those of dead runs are swept.

    Args:
        work_dir: Where it is made; empty for the system's temporary folder.
    """

    def __init__(self, work_dir: str) -> None:
        # Named after the user: on a shared machine everybody has a folder to write to.
        default = Path(tempfile.gettempdir()) / f"hubconv-work-{os.getuid()}"
        self._base = Path(work_dir) if work_dir else default
        # A work folder may be shared by machines, and a process may run more than one conversion.
        self._host = f"run-{platform.node()}-"
        self._mine = self._base / "unmade"

    def __enter__(self) -> Path:
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            self._sweep()
            mine = tempfile.mkdtemp(prefix=f"{self._host}{os.getpid()}.", dir=self._base)
            self._mine = Path(mine)
        except OSError as error:
            raise ResourceError(
                f"The work folder {self._base} cannot be used: {error.strerror}.",
                "Name another with --work-dir.",
            ) from error
        return self._mine

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._mine, ignore_errors=True)
        self._sweep()  # a worker process that was killed has left its own

    def _sweep(self) -> None:
        """Remove what dead processes of this machine left."""
        for left in self._base.glob(f"{glob.escape(self._host)}*"):
            pid = left.name.removeprefix(self._host).partition(".")[0]
            if not (pid.isdigit() and is_alive(int(pid))):
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def caches_in(scratch: Path) -> Iterator[None]:
    """Have the Hub's libraries keep what they cache in the run's own folder, to go with it.

    They read these names when they are imported: where that has happened, it stays as it is. A
    place that the user names is left to the user.
    """
    places = {"HF_HUB_CACHE": scratch / "hub-cache", "HF_XET_CACHE": scratch / "xet-cache"}
    ours = [] if "huggingface_hub" in sys.modules else [n for n in places if n not in os.environ]
    os.environ.update({name: str(places[name]) for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def is_alive(pid: int) -> bool:
    """Whether a process runs; in a container the dead may stay listed, for nobody buries them."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}
