"""A run with both ends opened and its plan made: what converting, working and publishing share."""

import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from hubconv.ends import Published, Source, Staging, Target
from hubconv.engines.stop import Stop
from hubconv.errors import ConflictError, HubconvError, UsageError
from hubconv.journal import Note, RunNote, ending_of
from hubconv.opening import (
    Scratch,
    caches_in,
    open_lender,
    open_source,
    open_target,
    refuse_renamed,
    refuse_same,
)
from hubconv.pipeline.hands import Hands, begun
from hubconv.pipeline.request import Request
from hubconv.progress import Progress, SilentProgress
from hubconv.steps.plan import Plan, make_plan
from hubconv.steps.publish import (
    Telling,
    foreign_files,
    other_source,
    preview_card,
    refuse_reborn,
    source_card,
)
from hubconv.version import __version__
from hubconv.words import parse_end


@dataclass(frozen=True, slots=True)
class Run:
    """A plan between two opened ends.

    Attributes:
        request: What the user asks for.
        plan: What will happen.
        source: Where to read.
        target: Where the result goes.
        scratch: Folder for what is on its way.
        progress: Told how it goes.
        stop: Asked whether to go on.
        started: Monotonic second at which the run began.
        restricted: What stood against publishing the source openly when the run began.
        published: The publish of this plan, where there was one before this run.
        hands: What will make units, being begun; None where nothing will.
    """

    request: Request
    plan: Plan
    source: Source
    target: Target
    scratch: Path
    progress: Progress
    stop: Stop
    started: float
    restricted: str
    published: Published | None
    hands: Hands | None

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self.started

    @contextmanager
    def staged(self, part: str = "") -> Iterator[Staging]:
        """The journal of the plan, which is told how this run began and how it ended.

        Args:
            part: The slice that is made, where it is one.
        """
        staging = self._stage(part)
        try:
            yield staging
        except BaseException as error:
            # Told already where units were under way; and a second failure hides no first one.
            with suppress(HubconvError):
                staging.flush(ending_of(error))
            raise

    def _stage(self, part: str) -> Staging:
        """The journal; made, with a note of how this run began, where it is missing."""
        expected = self.request.expected
        asked = self.request.revision or parse_end(self.request.source).revision
        note = Note(
            source=self.plan.source,
            commit=self.plan.commit,
            revision=expected.revision if expected else asked,
            command=self.request.command,
            shards=len(self.plan.units),
            nbytes=self.plan.target_bytes,
            version=__version__,
        )
        device = self.hands.device if self.hands is not None else "none"
        return self.target.stage(self.plan.plan_id, note, RunNote.begin(device, __version__, part))


@contextmanager
def opened(request: Request, progress: Progress | None, *, computes: bool) -> Iterator[Run]:
    """Open both ends, plan, and refuse early what could only fail late.

    Args:
        request: What the user asks for.
        progress: Told how it goes.
        computes: Weights will be converted: the kernel loads while headers are read.

    Raises:
        HubconvError: With its exit code; nothing was written.
    """
    told = progress or SilentProgress()
    started = time.monotonic()
    stop = Stop(request.time_limit_s)
    with (
        stop.listening(), Scratch(request.work_dir) as scratch, caches_in(scratch),
        ExitStack() as stack,
    ):  # fmt: skip
        refuse_same(request.source, request.target)
        hands = stack.enter_context(begun(request)) if computes else None
        told.phase("Reading headers")
        source = open_source(
            request.source, request.revision, scratch, stop.at_once, partial(told.passed, "fetch")
        )
        if source.commit:  # a renamed repository answers under its old name
            refuse_same(f"hf://{source.ref}", request.target)
            refuse_renamed(request.source, source)
        if request.collection and parse_end(request.target).kind == "folder":
            raise UsageError("A folder stands in no collection.", "Leave --collection out.")
        target = open_target(
            request.target, request.options, scratch, stop.at_once,
            # Its pauses between tries save finished work: they end a little after a signal.
            stop.soon, partial(told.passed, "upload"),
        )  # fmt: skip
        lender = open_lender(request.recipe.input_scales_from, scratch, stop.at_once)
        # Numbers of a closed checkpoint are not published openly either.
        restricted = source.restricted or (lender.restricted if lender else "")
        target.check(restricted)
        planned = make_plan(source, request.recipe, __version__, lender)
        if request.expected is not None:
            request.expected.hold_against(planned)
        doubt = target.doubt(planned.target_bytes)
        for warning in (*planned.warnings, *source_card(source).notes, *filter(None, [doubt])):
            told.warn(warning)
        published = target.published(planned.plan_id)
        if published is None:
            _refuse_foreign(target, planned, replace=request.replace)
            refuse_reborn(target.manifest(), source, accepted=request.new_owner)
            telling = Telling(request.command, request.template, 0.0, versions())
            target.check_card(preview_card(planned, source, target, telling))
        yield Run(
            request, planned, source, target, scratch, told, stop, started, restricted, published,
            hands,
        )  # fmt: skip


def versions() -> dict[str, str]:
    """What took part in the work, for card and manifest; asks no library to be imported."""
    names = ("torch", "numpy", "huggingface_hub", "hf_xet", "safetensors")
    found = {"hubconv": __version__, "python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _refuse_foreign(target: Target, planned: Plan, *, replace: bool) -> None:
    manifest = target.manifest()
    other = other_source(manifest, planned)
    foreign = foreign_files(target.files(), manifest)
    if replace or not (other or foreign):
        return
    what = (
        f"{target.ref} was made from {other}"
        if other
        else f"{target.ref} holds files that hubconv did not put there: {', '.join(foreign[:5])}"
    )
    raise ConflictError(
        f"{what}.", "Choose another target, or put the result in their place with --replace."
    )
