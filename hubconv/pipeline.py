"""The walk: from two words on the command line to a published checkpoint.

source → plan → (nothing to do?) → units → verify staging → publish → compare main → tidy up
"""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from hubconv.ends import MANIFEST, Published, Source, Staging, Target, UnitRecord
from hubconv.engines import Stop, run_units
from hubconv.errors import ConflictError, IntegrityError, ResourceError, UsageError
from hubconv.folder import FolderTarget
from hubconv.manifest import compare_tree, read_manifest
from hubconv.opening import Scratch, caches_in, open_source, parse_target, refuse_same
from hubconv.progress import Progress, SilentProgress
from hubconv.steps.decide import Recipe
from hubconv.steps.facts import Report
from hubconv.steps.plan import Plan, make_plan
from hubconv.steps.publish import (
    Telling,
    compose,
    foreign_files,
    other_source,
    preview_card,
    source_card,
)
from hubconv.steps.schedule import Limits
from hubconv.steps.shards import Unit
from hubconv.steps.verify import Sample, verify_staged, verify_tree
from hubconv.version import __version__
from hubconv.work import Bench

HUB_WORKERS: Final = 2
HELD_BYTES: Final = 768 * 1024 * 1024
"""Partner sets held between measuring and writing, by all workers together."""


@dataclass(frozen=True, slots=True)
class Request:
    """Everything a user can ask of a conversion.

    Attributes:
        source: SOURCE word.
        target: TARGET word.
        revision: Branch, tag or commit of the source.
        recipe: What becomes of each tensor.
        device: auto, cpu or cuda:N.
        workers: Output shards made at the same time; 0 for what suits the two ends.
        work_dir: Folder for shards on their way; empty for one in the system's cache.
        max_disk: Bytes that shards on their way may take there; 0 for what is free.
        private: Visibility of a new target repository; None follows the source.
        create_pr: Publish to a pull request.
        allow_public: Publish a private or gated source's content in a public repository.
        replace: Put the result in place of what the target holds.
        tag: Tag the publish commit.
        time_limit_s: Stop in order after this time; 0 for no limit.
        command: The command line as typed, for the card.
        template: Card template to use in place of hubconv's own.
    """

    source: str
    target: str
    revision: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"
    workers: int = 0
    work_dir: str = ""
    max_disk: int = 0
    private: bool | None = None
    create_pr: bool = False
    allow_public: bool = False
    replace: bool = False
    tag: bool = True
    time_limit_s: float = 0.0
    command: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended well.

    Attributes:
        status: published, or up-to-date where there was nothing to do.
        plan: What was planned.
        published: Where the result stands.
        report: What came out; None where there was nothing to do.
        units_made: Output shards made by this run.
        units_found: Output shards an earlier run had finished.
        seconds: Wall time.
    """

    status: Literal["published", "up-to-date"]
    plan: Plan
    published: Published
    report: Report | None
    units_made: int
    units_found: int
    seconds: float


def plan(
    source: str, recipe: Recipe | None = None, *, revision: str = "", work_dir: str = ""
) -> Plan:
    """What a conversion would do; reads headers, configuration and index only.

    Args:
        source: SOURCE word.
        recipe: What becomes of each tensor.
        revision: Branch, tag or commit.
        work_dir: Folder for temporary files.
    """
    with Scratch(work_dir) as scratch:
        opened = open_source(source, revision, scratch)
        return make_plan(opened, recipe or Recipe(), __version__)


def convert(request: Request, progress: Progress | None = None) -> Outcome:
    """Convert a checkpoint and publish it.

    Raises:
        HubconvError: With its exit code; what is finished stays in the target's journal.
    """
    from hubconv.kernels import prepare

    told = progress or SilentProgress()
    started = time.monotonic()
    stop = Stop(request.time_limit_s)
    with stop.listening(), Scratch(request.work_dir) as scratch, caches_in(scratch):
        refuse_same(request.source, request.target)
        prepare(request.device)
        told.phase("Reading headers")
        source = open_source(request.source, request.revision, scratch)
        if source.commit:  # a renamed repository answers under its old name
            refuse_same(f"hf://{source.ref}", request.target)
        target = open_target(request, scratch, stop.at_once)
        planned = make_plan(source, request.recipe, __version__)
        for warning in (*planned.warnings, *source_card(source).notes):
            told.warn(warning)
        target.check(source.restricted)
        published = target.published(planned.plan_id)
        if published is not None:
            target.tidy(planned.plan_id)
            return Outcome("up-to-date", planned, published, None, 0, 0, time.monotonic() - started)
        _refuse_foreign(target, planned, replace=request.replace)
        telling = Telling(request.command, request.template, 0.0, versions())
        target.check_card(preview_card(planned, source, target, telling))
        return _Run(request, planned, source, target, scratch, told, stop, started).walk()


@dataclass(frozen=True, slots=True)
class _Run:
    """A conversion that has something to do."""

    request: Request
    plan: Plan
    source: Source
    target: Target
    scratch: Path
    progress: Progress
    stop: Stop
    started: float

    def walk(self) -> Outcome:
        """Units, verification, publish, comparison."""
        from hubconv.kernels import start

        staging = self.target.stage(self.plan.plan_id)
        found = self._found(staging)
        missing = [unit for unit in self.plan.units if unit.shard not in found]
        workers = self._workers(missing)
        kernel = start(self.request.device, workers, sum(unit.nbytes for unit in missing))
        self._check_disk(staging, missing)
        self.progress.plan(
            len(self.plan.units), self.plan.source_bytes, len(found), self._read_for(found)
        )
        self.progress.phase("Converting")
        bench = Bench(
            self.plan, self.source, staging, kernel, __version__, self._converted,
            Limits(held_bytes=min(Limits().held_bytes, HELD_BYTES // workers)),
        )  # fmt: skip
        made = run_units(bench, missing, workers, self.progress, self.stop)
        records = {**found, **{record.shard: record for record in made}}
        ordered = [records[unit.shard] for unit in self.plan.units]
        self.stop.at_once()
        self.progress.phase("Verifying what is staged")
        verification = verify_staged(self.plan, ordered, staging.view(), self.source, Sample())
        verification.raise_on_errors("Nothing was published; every shard is kept.")
        telling = Telling(
            self.request.command,
            self.request.template,
            time.monotonic() - self.started,
            versions(),
            verification,
        )
        release, report = compose(self.plan, ordered, self.source, self.target, telling)
        self.stop.at_once()
        self.progress.phase("Publishing")
        published = staging.publish(release)
        compare_published(self.target, published, release.files)
        staging.discard()
        return Outcome(
            "published", self.plan, published, report, len(made), len(found),
            time.monotonic() - self.started,
        )  # fmt: skip

    def _found(self, staging: Staging) -> dict[str, UnitRecord]:
        """What an earlier run finished."""
        wanted = {unit.shard for unit in self.plan.units}
        return {shard: record for shard, record in staging.records().items() if shard in wanted}

    def _workers(self, missing: Sequence[Unit]) -> int:
        """Shards to make at a time: a line is full with two, cores want one each."""
        local = not self.source.commit and isinstance(self.target, FolderTarget)
        wanted = len(os.sched_getaffinity(0)) if local else HUB_WORKERS
        return self.request.workers or max(1, min(wanted, len(missing)))

    def _read_for(self, found: Mapping[str, UnitRecord]) -> int:
        """Source bytes behind shards that an earlier run finished."""
        return sum(
            tensor.nbytes
            for unit in self.plan.units
            if unit.shard in found
            for job in (*unit.jobs, *unit.tail)
            for tensor in job.reads
        )

    def _converted(self, source_bytes: int) -> None:
        self.progress.converted(source_bytes)
        self.stop.at_once()

    def _check_disk(self, staging: Staging, missing: Sequence[Unit]) -> None:
        """Lend the source the disk that output shards leave, before the first byte.

        A source with little of it streams; without room for the output there is no way.
        """
        room = shutil.disk_usage(self.scratch).free
        if isinstance(self.target, FolderTarget):
            room -= self._check_folder(Path(self.target.ref), missing)
        room = min(room, self.request.max_disk or room)
        need = staging.disk_bytes(max((unit.nbytes for unit in missing), default=0))
        if room < need:
            raise ResourceError(
                f"{self.scratch} has {room / 2**30:.1f} GiB for this run; this run needs "
                f"{need / 2**30:.1f} GiB.",
                "Make room, raise --max-disk, or name another folder with --work-dir.",
            )
        self.source.allow_disk(room - need)

    def _check_folder(self, folder: Path, missing: Sequence[Unit]) -> int:
        """Bytes that the result will take of the work folder's disk."""
        need = sum(unit.nbytes for unit in missing)
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < need:
            raise ResourceError(
                f"{folder} has {free / 2**30:.1f} GiB free; this run needs {need / 2**30:.1f} GiB.",
                "Make room, or name another folder.",
            )
        return need if folder.stat().st_dev == self.scratch.stat().st_dev else 0


def compare_published(target: Target, published: Published, files: Mapping[str, bytes]) -> None:
    """Hold what a publish shows against its manifest.

    Args:
        target: Where it was published.
        published: The publish: ours, or that of another run of the same plan that was first.
        files: The small files that this run wanted to show.

    Raises:
        IntegrityError: Something is missing or another.
    """
    view = target.view(
        f"refs/pr/{published.pull_request}" if published.pull_request else published.commit
    )
    shown = read_manifest(view)
    mine = json.loads(files[MANIFEST])
    if shown is not None and shown != mine and shown.get("plan_id") == mine["plan_id"]:
        # Made on another machine: its figures and versions are its own.
        wrong = compare_tree(view, shown)
    else:
        wrong = verify_tree(view, files)
    if wrong:
        raise IntegrityError(
            f"{published.ref} does not show what was published: {'; '.join(wrong[:3])}.",
            f"Look at {published.url}; the commit before it is the last good one.",
        )


def open_target(
    request: Request, scratch: Path, at_once: Callable[[], None] = lambda: None
) -> Target:
    """The target a request names.

    Args:
        request: What the user asks for.
        scratch: Folder for what is on its way.
        at_once: Asked in long waits; raises where the run must end now.
    """
    ref = parse_target(request.target)
    if ref.kind == "folder":
        if request.create_pr:
            raise UsageError("A folder has no pull requests.", "Leave --create-pr out.")
        return FolderTarget(Path(ref.name))
    from hubconv.hub.client import open_client
    from hubconv.hub.target import HubTarget, TargetOptions

    options = TargetOptions(request.private, request.create_pr, request.allow_public, request.tag)
    return HubTarget(open_client(__version__), ref.name, options, scratch, at_once)


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
