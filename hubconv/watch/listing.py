"""watch.toml: read once, with the path of every fault, and turned into wishes."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from hubconv.errors import UsageError
from hubconv.formats.layouts import LAYOUTS
from hubconv.formats.layouts.base import Activations
from hubconv.formats.nvfp4 import Scales
from hubconv.quantities import parse_size, parse_time
from hubconv.steps.copies import Code
from hubconv.steps.decide import Mtp, Recipe
from hubconv.words import parse_end

Visibility = Literal["as-source", "public", "private"]
Value = TypeVar("Value")

DEFAULT_RUNNER: Final = "ubuntu-latest"
DEFAULT_LIMIT: Final = "5h30m"
"""A hosted runner ends a job after six hours."""

_POLICIES: Final = ("experts", "mlp", "linears", "all")
_PATTERN: Final = re.compile(r"([A-Za-z0-9][\w.\-]{0,95})/(\S*[*?\[]\S*)", re.ASCII)
_PLACES: Final = re.compile(r"\{([^{}]*)\}")


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What `[defaults]` and every `[[entry]]` may say."""

    target: str | UnsetType = UNSET
    layout: str | UnsetType = UNSET
    policy: str | UnsetType = UNSET
    activations: Activations | UnsetType = UNSET
    scales: Scales | UnsetType = UNSET
    mtp: Mtp | UnsetType = UNSET
    keep: tuple[str, ...] | UnsetType = UNSET
    quantize: tuple[str, ...] | UnsetType = UNSET
    input_scales_from: str | UnsetType = UNSET
    code: Code | UnsetType = UNSET
    max_shard_size: str | UnsetType = UNSET
    visibility: Visibility | UnsetType = UNSET
    runner: str | tuple[str, ...] | UnsetType = UNSET
    time_limit: str | UnsetType = UNSET
    max_disk: str | UnsetType = UNSET


class _Entry(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One `[[entry]]`."""

    source: str
    revision: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    defaults: _Table = _Table()
    entry: tuple[_Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """One entry: which sources are to be had as NVFP4, where and how.

    Attributes:
        where: Its path in the file, for messages: `entry[2]`.
        source: `org/name`, or `org/` and a pattern of names.
        include: Patterns of names that are meant; empty for all that the source says.
        exclude: Patterns of names that are not.
        target: `org/name`, in which {org} and {name} stand for the source's.
        revision: Branch, tag or commit of the source; empty for the default.
        recipe: What becomes of each tensor.
        private: Visibility of a new target; None follows the source.
        runner: Label or labels of the machine for the job.
        time_limit_s: A job of its own stops in order after this time.
        max_disk: Bytes that shards on their way may take; 0 for what is free.
    """

    where: str
    source: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    target: str
    revision: str
    recipe: Recipe
    private: bool | None
    runner: str | tuple[str, ...]
    time_limit_s: float
    max_disk: int

    @property
    def is_pattern(self) -> bool:
        """Whether it means more than one source."""
        return _PATTERN.fullmatch(self.source) is not None

    def target_of(self, source: str) -> str:
        """The target for one of its sources."""
        org, _, name = source.partition("/")
        return self.target.replace("{org}", org).replace("{name}", name)


@dataclass(frozen=True, slots=True)
class WatchList:
    """A watch list.

    Attributes:
        file: Its name, for messages.
        wishes: Its entries, in order.
    """

    file: str
    wishes: tuple[Wish, ...]


def read_list(file: Path) -> WatchList:
    """The watch list of a file.

    Raises:
        UsageError: It cannot be read, or says something that nobody understands; names the place.
    """
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", "Check its name.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}.") from error
    try:
        read = msgspec.convert(told, _File)
    except msgspec.ValidationError as error:
        raise _fault(file, *_placed(str(error))) from error
    if not read.entry:
        raise _fault(file, "entry", "there is none; write [[entry]] with source and target")
    _check(file, "defaults", read.defaults)
    wishes = tuple(
        _wish(file, number, entry, read.defaults) for number, entry in enumerate(read.entry)
    )
    _refuse_twice(file, wishes)
    return WatchList(str(file), wishes)


def _placed(text: str) -> tuple[str, str]:
    """A sentence of msgspec as (path, what is wrong)."""
    what, _, place = text.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown is not None:
        return f"{path}.{unknown[1]}".lstrip("."), f"is unknown; {_known(path)}"
    lacking = re.fullmatch(r"Object missing required field `(.*)`", what)
    if lacking is not None:
        return f"{path}.{lacking[1]}".lstrip("."), "is missing"
    return path or "the file", what[:1].lower() + what[1:]


def _known(path: str) -> str:
    table = _Entry if path.startswith("entry") else _Table if path else _File
    return f"known here: {', '.join(field.encode_name for field in msgspec.structs.fields(table))}"


def _fault(file: Path, path: str, what: str) -> UsageError:
    return UsageError(f"{file}: {path}: {what}.", "README, As a bot, shows what a watch list says.")


def _wish(file: Path, number: int, entry: _Entry, defaults: _Table) -> Wish:
    where = f"entry[{number}]"
    _check(file, where, entry)

    def said(name: str, otherwise: Value) -> Value:
        own, usual = getattr(entry, name), getattr(defaults, name)
        chosen = usual if own is UNSET else own
        return otherwise if chosen is UNSET else chosen

    visibility: Visibility = said("visibility", "as-source")
    wish = Wish(
        where=where,
        source=entry.source,
        include=entry.include,
        exclude=entry.exclude,
        target=said("target", ""),
        revision=entry.revision,
        recipe=Recipe(
            layout=said("layout", ""),
            policy=said("policy", ""),
            activations=said("activations", ""),
            scales=said("scales", "search"),
            mtp=said("mtp", "keep"),
            keep=said("keep", ()),
            quantize=said("quantize", ()),
            input_scales_from=_on_the_hub(said("input_scales_from", "")),
            code=said("code", "copy"),
            max_shard_bytes=parse_size(said("max_shard_size", "0")) or 0,
        ),
        private={"as-source": None, "public": False, "private": True}[visibility],
        runner=said("runner", DEFAULT_RUNNER),
        time_limit_s=parse_time(said("time_limit", DEFAULT_LIMIT)) or 0.0,
        max_disk=parse_size(said("max_disk", "0")) or 0,
    )
    _check_ends(file, wish)
    return wish


def _check(file: Path, where: str, table: _Table) -> None:
    """What types alone do not tell."""
    if table.layout is not UNSET and table.layout not in LAYOUTS:
        raise _fault(file, f"{where}.layout", f"{table.layout!r} is none of {', '.join(LAYOUTS)}")
    if table.policy is not UNSET and table.policy not in _POLICIES:
        raise _fault(file, f"{where}.policy", f"{table.policy!r} is none of {', '.join(_POLICIES)}")
    for name in ("max_shard_size", "max_disk"):
        size = getattr(table, name)
        if size is not UNSET and parse_size(size) is None:
            raise _fault(
                file, f"{where}.{name.replace('_', '-')}", f"{size!r} is no size; write 5GB"
            )
    if table.time_limit is not UNSET and not parse_time(table.time_limit):
        raise _fault(file, f"{where}.time-limit", f"{table.time_limit!r} is no time; write 5h30m")
    lender = table.input_scales_from
    if lender is not UNSET:
        place = f"{where}.input-scales-from"
        _check_repo(file, place, lender.removeprefix("hf://").partition("@")[0], "org/name")
    _check_patterns(file, f"{where}.keep", table.keep)
    _check_patterns(file, f"{where}.quantize", table.quantize)
    if table.runner is not UNSET and not (table.runner and all(table.runner)):
        raise _fault(file, f"{where}.runner", "is empty")


def _on_the_hub(word: str) -> str:
    """A repository's name that is never taken for a folder of this machine."""
    return f"hf://{word.removeprefix('hf://')}" if word else ""


def _check_patterns(file: Path, place: str, patterns: tuple[str, ...] | UnsetType) -> None:
    for number, pattern in enumerate(() if patterns is UNSET else patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            raise _fault(
                file, f"{place}[{number}]", f"{pattern!r} is no regular expression: {error}"
            ) from error


def _check_ends(file: Path, wish: Wish) -> None:
    """Source and target name repositories, and the two are not one."""
    if not wish.is_pattern:
        _check_repo(file, f"{wish.where}.source", wish.source, "org/name, or org/* for many")
        for name in ("include", "exclude"):
            if getattr(wish, name):
                raise _fault(
                    file, f"{wish.where}.{name}", "goes with a pattern such as org/* as source"
                )
    place = f"{wish.where}.target"
    if not wish.target:
        raise _fault(file, place, "is missing, here and in defaults")
    for name in _PLACES.findall(wish.target):
        if name not in {"org", "name"}:
            raise _fault(file, place, f"{{{name}}} stands for nothing; {{org}} and {{name}} do")
    if wish.is_pattern and "{name}" not in wish.target:
        raise _fault(file, place, "a pattern has many sources: {name} must stand in the target")
    example = "some-org/some-name" if wish.is_pattern else wish.source
    made = wish.target_of(example)
    _check_repo(file, place, made, "org/name, such as my-org/{name}-NVFP4")
    if made.casefold() == example.casefold():
        raise _fault(file, place, "is the source itself")


def _check_repo(file: Path, place: str, word: str, form: str) -> None:
    try:
        end = parse_end(f"hf://{word}")
    except UsageError as error:
        raise _fault(file, place, f"{word!r} is no repository; write {form}") from error
    if end.revision:
        raise _fault(file, place, f"{word!r} names a revision; write revision = {end.revision!r}")


def _refuse_twice(file: Path, wishes: tuple[Wish, ...]) -> None:
    """Two entries must not write to one target: they would undo each other for ever."""
    seen: dict[str, str] = {}
    for wish in wishes:
        if wish.is_pattern:
            continue
        target = wish.target_of(wish.source).casefold()
        if target in seen:
            raise _fault(file, f"{wish.where}.target", f"is the target of {seen[target]} already")
        seen[target] = wish.where


def recipe_asked(manifest: Mapping[str, Any], recipe: Recipe) -> str:
    """Which option of a recipe a published manifest was not made with; empty where none differs.

    Only what an entry says is held against it: a default may become another with a version.
    """
    usual, made = Recipe(), manifest.get("recipe")
    made = made if isinstance(made, dict) else {}
    for name, told in (("layout", manifest.get("layout")), ("policy", manifest.get("policy"))):
        if getattr(recipe, name) and getattr(recipe, name) != told:
            return name
    for name in ("activations", "scales", "mtp", "keep", "quantize", "max_shard_bytes"):
        wanted = getattr(recipe, name)
        if wanted != getattr(usual, name) and _plain(made.get(name)) != _plain(wanted):
            return name.replace("_bytes", "_size").replace("_", "-")
    # By its name: which commit of it was read is no matter of what is asked for.
    lender = recipe.input_scales_from.removeprefix("hf://").partition("@")[0]
    told = str(made.get("input_scales_from") or "").partition("@")[0]
    return "input-scales-from" if lender and lender.casefold() != told.casefold() else ""


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
