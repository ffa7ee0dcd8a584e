"""A plan as a file: what is needed to make it again on another machine, and to prove it the same.

It holds no plan in full, which may be millions of lines, and no token: every machine reads the
headers itself, at the pinned commit, and compares.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self, get_args

from hubconv.errors import ConflictError, UsageError
from hubconv.files import FileSink
from hubconv.formats.layouts.base import Activations
from hubconv.formats.nvfp4 import Scales
from hubconv.steps.copies import Code
from hubconv.steps.decide import Mtp, Recipe
from hubconv.steps.plan import Plan
from hubconv.version import __version__

FORMAT: Final = 1
MAX_BYTES: Final = 1024 * 1024

_CHOICES: Final = {
    "activations": ("", *get_args(Activations)),
    "scales": get_args(Scales),
    "mtp": get_args(Mtp),
    "code": get_args(Code),
}


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file says.

    Attributes:
        plan_id: The plan.
        source: `hf://org/name`, or the folder's absolute path.
        commit: The pinned commit; empty for a folder.
        revision: Branch, tag or commit that was asked for; empty for the default branch.
        target: `hf://org/name`, the folder's absolute path, or empty where none was named.
        recipe: What becomes of each tensor.
        command: The command line that does the same in one process.
        shards: Output shards.
        nbytes: Their bytes.
        version: Of the hubconv that made it.
    """

    plan_id: str
    source: str
    commit: str
    revision: str
    target: str
    recipe: Recipe
    command: str
    shards: int
    nbytes: int
    version: str = __version__

    @classmethod
    def of(cls, plan: Plan, target: str, command: str, revision: str = "") -> Self:
        """The file of a plan.

        Args:
            plan: The plan.
            target: Where its result goes, in the file's words; empty for nowhere yet.
            command: The command line that does the same in one process.
            revision: Branch, tag or commit that was asked for.
        """
        return cls(
            plan.plan_id,
            f"hf://{plan.source}" if plan.commit else plan.source,
            plan.commit,
            revision,
            target,
            plan.recipe,
            command,
            len(plan.units),
            plan.target_bytes,
        )

    def to_json(self) -> bytes:
        """As it lies on the disk."""
        return json.dumps({"hubconv_plan": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"

    def write(self, path: Path) -> None:
        """Put it on the disk, whole or not at all.

        Raises:
            ResourceError: It cannot be written there.
        """
        with FileSink(path, path.name) as sink:
            sink.write(self.to_json())
            sink.finish()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The plan file at a path.

        Raises:
            UsageError: There is none, or it is not one.
        """
        try:
            with path.open("rb") as file:
                table = json.loads(file.read(MAX_BYTES))
            return cls._from(table)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path} is not a plan file of this version of hubconv ({error}).",
                "Make one with hubconv plan SOURCE TARGET -o FILE.",
            ) from error

    @classmethod
    def _from(cls, table: Any) -> Self:  # noqa: ANN401 - whatever a file holds
        if not isinstance(table, dict) or table.pop("hubconv_plan", None) != FORMAT:
            raise ValueError("it does not say that it is one")
        table["recipe"] = _recipe(table["recipe"])
        for name, value in table.items():
            wanted = cls.__annotations__.get(name)
            if wanted is None or type(value) is not wanted:
                raise ValueError(f"{name} is not as it must be")
        return cls(**table)

    def for_target(self, word: str) -> str:
        """The TARGET word to work with.

        Args:
            word: As named on the command line; empty for the file's.

        Raises:
            UsageError: None is named, or two.
        """
        if not (self.target or word):
            raise UsageError(
                "The plan file names no target.", "Name it: hubconv work plan.json TARGET."
            )
        if self.target and word and word not in {self.target, self.target.removeprefix("hf://")}:
            raise UsageError(
                f"The plan file is for {self.target.removeprefix('hf://')}, not for {word}.",
                "Leave TARGET out, or make a plan file for it.",
            )
        return self.target or word

    def hold_against(self, plan: Plan) -> None:
        """Make sure that a plan made again is the plan of the file.

        Raises:
            ConflictError: It is another one.
        """
        here = (plan.plan_id, len(plan.units), plan.target_bytes)
        if here == (self.plan_id, self.shards, self.nbytes):
            return
        if self.version != __version__:
            why = f"the file was made by hubconv {self.version}, this is {__version__}"
        elif not self.commit:
            why = f"{self.source} is not as it was, or the file was changed"
        else:
            why = "the file was changed after it was made"
        at = f" at {self.commit[:12]}" if self.commit else ""
        raise ConflictError(
            f"The plan file says plan {self.plan_id}, {self.shards} shards, {self.nbytes} bytes; "
            f"{plan.source}{at} gives plan {plan.plan_id}, {len(plan.units)} shards, "
            f"{plan.target_bytes} bytes: {why}.",
            "Make the file anew with hubconv plan SOURCE TARGET -o FILE; what is staged is kept.",
        )


def _recipe(table: dict[str, Any]) -> Recipe:
    """A recipe from outside.

    Raises:
        ValueError: It is none.
    """
    blank = asdict(Recipe())
    told = {**table, "input_scale": float(table["input_scale"])}
    for name in ("keep", "quantize"):
        patterns = table.get(name, [])
        if not isinstance(patterns, list) or not all(isinstance(each, str) for each in patterns):
            raise ValueError(f"{name} is not a list of patterns")
        told[name] = tuple(patterns)
    for name, value in told.items():
        if name not in blank or type(value) is not type(blank[name]):
            raise ValueError(f"{name} is not as it must be")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"{name} cannot be {value!r}")
    return Recipe(**told)
