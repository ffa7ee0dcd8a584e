"""What a user asks of a run, and what a run answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hubconv.ends import Published, TargetOptions
from hubconv.errors import UsageError
from hubconv.pipeline.planfile import PlanFile
from hubconv.steps.decide import Recipe
from hubconv.steps.facts import Report
from hubconv.steps.plan import Plan
from hubconv.words import parse_end

Engine = Literal["auto", "threads", "processes", "ray"]


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
        new_owner: Take a source that was made anew under its name since the last publish.
        replace: Put the result in place of what the target holds.
        tag: Tag the publish commit.
        time_limit_s: Stop in order after this time; 0 for no limit.
        command: The command line that does all of it, for the card and for whoever goes on.
        template: Card template to use in place of hubconv's own.
        expected: The plan that it must come to; None for whatever it comes to.
        engine: What runs the units; auto for what suits the two ends and this machine.
        address: Of a Ray cluster that runs (auto or HOST:PORT); empty to begin one here.
        collection: Collection of the Hub that the target joins once it is published.
        digests: The outcome names the hash of every published file.
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
    new_owner: bool = False
    replace: bool = False
    tag: bool = True
    time_limit_s: float = 0.0
    command: str = ""
    template: str = ""
    expected: PlanFile | None = None
    engine: Engine = "auto"
    address: str = ""
    collection: str = ""
    digests: bool = False

    @property
    def options(self) -> TargetOptions:
        """How the target is made and published to."""
        return TargetOptions(self.private, self.create_pr, self.allow_public, self.tag)

    @property
    def is_local(self) -> bool:
        """Whether both ends are folders."""
        return all(parse_end(word).kind == "folder" for word in (self.source, self.target))


@dataclass(frozen=True, slots=True)
class Slice:
    """Slice `number` of `count`, counted from 1.

    Raises:
        UsageError: There is no such slice.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UsageError(
                f"There is no slice {self.number}/{self.count}.",
                f"Slices are counted from 1: 1/{max(self.count, 1)} is the first.",
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


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
        digests: sha256 of every file that hubconv published, by path; empty unless asked for.
        collection: Address of the collection that the target stands in; empty where it was not to
            join one, or could not.
    """

    status: Literal["published", "up-to-date"]
    plan: Plan
    published: Published
    report: Report | None
    units_made: int
    units_found: int
    seconds: float
    digests: Mapping[str, str] = field(default_factory=dict)
    collection: str = ""


@dataclass(frozen=True, slots=True)
class Worked:
    """How a slice ended well.

    Attributes:
        plan: What was planned.
        part: The slice.
        target: Where its shards are staged.
        units: Output shards of the slice.
        made: Of them, made by this run.
        found: Of them, finished by an earlier run.
        staged: Output shards of the whole plan that are staged, as far as this run has seen.
        seconds: Wall time.
        is_published: The plan was published before this run began: there was nothing to do.
    """

    plan: Plan
    part: Slice
    target: str
    units: int
    made: int
    found: int
    staged: int
    seconds: float
    is_published: bool = True
