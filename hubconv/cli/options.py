"""Options that several commands share, in hf's words."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from hubconv.cli.types import Duration, Size

if TYPE_CHECKING:
    from hubconv.steps.decide import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

_RECIPE_OPTIONS: Final = (
    click.option(
        "--layout",
        type=click.Choice(["compressed-tensors", "modelopt", "modelopt-v4"]),
        help="How NVFP4 weights are spelled.  [default: what suits the family]",
    ),
    click.option("--policy", help="Which roles become NVFP4: experts, mlp, linears, all."),
    click.option(
        "--activations",
        type=click.Choice(["w4a16", "w4a4"]),
        help="Weight-only, or FP4 activations too.  [default: w4a16 where the layout has it]",
    ),
    click.option(
        "--input-scale", type=float, default=1.0, help="Activation scale that is written."
    ),
    click.option(
        "--input-scales-from",
        default="",
        metavar="REPO",
        help="Write the calibrated activation scales of this NVFP4 checkpoint instead.",
    ),
    click.option(
        "--scales",
        type=click.Choice(["search", "amax"]),
        default="search",
        show_default=True,
        help="Search the best block scale, or ModelOpt's plain rule.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="RE",
        help="Leave tensors as they are: a regular expression found in their names. Repeatable.",
    ),
    click.option(
        "--quantize",
        multiple=True,
        metavar="RE",
        help="Make tensors NVFP4 that the policy leaves alone, where engines can load them so: a "
        "regular expression found in their names. --keep wins. Repeatable.",
    ),
    click.option(
        "--mtp",
        type=click.Choice(["keep", "nvfp4", "drop"]),
        default="keep",
        show_default=True,
        help="What becomes of multi-token-prediction layers.",
    ),
    click.option(
        "--max-shard-size",
        type=Size(),
        default=0,
        metavar="SIZE",
        help="Regroup output shards to this size.  [default: the source's shards]",
    ),
    click.option(
        "--code",
        type=click.Choice(["copy", "skip", "refuse"]),
        default="copy",
        show_default=True,
        help="Python files of the source: copy what its configuration names, skip or refuse all.",
    ),
    click.option(
        "--allow-flushed", is_flag=True, help="Accept tensors whose outliers flush blocks to zero."
    ),
)


def recipe_options(command: Command) -> Command:
    """Options that decide the bytes of the result."""
    for option in reversed(_RECIPE_OPTIONS):
        command = option(command)
    return command


def recipe_from(values: dict[str, Any]) -> "Recipe":
    """Take the recipe's options out of a command's values."""
    from hubconv.steps.decide import Recipe  # here, with all that knows of tensors

    return Recipe(
        layout=values.pop("layout") or "",
        policy=values.pop("policy") or "",
        activations=values.pop("activations") or "",
        scales=values.pop("scales"),
        mtp=values.pop("mtp"),
        keep=tuple(values.pop("keep")),
        input_scale=values.pop("input_scale"),
        max_shard_bytes=values.pop("max_shard_size"),
        allow_flushed=values.pop("allow_flushed"),
        code=values.pop("code"),
        quantize=tuple(values.pop("quantize")),
        input_scales_from=values.pop("input_scales_from"),
    )


def recipe_words(recipe: "Recipe") -> list[str]:
    """The options that ask for a recipe: what `recipe_from` takes out of them."""
    from hubconv.steps.decide import Recipe

    blank = Recipe()
    named = {
        "--layout": (recipe.layout, blank.layout),
        "--policy": (recipe.policy, blank.policy),
        "--activations": (recipe.activations, blank.activations),
        "--input-scale": (recipe.input_scale, blank.input_scale),
        "--input-scales-from": (recipe.input_scales_from, blank.input_scales_from),
        "--scales": (recipe.scales, blank.scales),
        "--mtp": (recipe.mtp, blank.mtp),
        "--max-shard-size": (recipe.max_shard_bytes, blank.max_shard_bytes),
        "--code": (recipe.code, blank.code),
    }
    words = [
        word for name, (value, usual) in named.items() if value != usual
        for word in (name, str(value))
    ]  # fmt: skip
    words += [word for pattern in recipe.keep for word in ("--keep", pattern)]
    words += [word for pattern in recipe.quantize for word in ("--quantize", pattern)]
    return [*words, "--allow-flushed"] if recipe.allow_flushed else words


_MAKING_OPTIONS: Final = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Where to compute: auto, cpu, cuda or cuda:N.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        default=None,
        help="Output shards made at the same time.  [default: 3 to 5, by cores and line; "
        "between folders one a core]",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "threads", "processes", "ray"]),
        default="auto",
        show_default=True,
        help="What makes them: threads of this process, processes (one or more for each GPU), or "
        "a Ray cluster.",
    ),
    click.option(
        "--address",
        default="",
        metavar="ADDRESS",
        help="Ray cluster for --engine ray: auto or HOST:PORT.  [default: this machine alone]",
    ),
    click.option(
        "--max-disk",
        type=Size(),
        default=0,
        metavar="SIZE",
        help="Disk that shards on their way may take together.  [default: what is free]",
    ),
    click.option(
        "--time-limit",
        "time_limit_s",
        type=Duration(),
        default=0,
        metavar="TIME",
        help="Stop in order after this time (5h30m) with exit code 10.",
    ),
)

_TARGET_OPTIONS: Final = (
    click.option(
        "--private/--no-private",
        default=None,
        help="Visibility of a new target.  [default: as the source]",
    ),
    click.option(
        "--replace", is_flag=True, help="Put the result in place of the target's content."
    ),
    click.option(
        "--allow-publish-private",
        "allow_public",
        is_flag=True,
        help="Publish content of a private or gated source in a public target.",
    ),
    click.option(
        "--accept-new-owner",
        "new_owner",
        is_flag=True,
        help="Take a source whose repository was made anew since the last publish.",
    ),
)

template_option: Final = click.option(
    "--card-template",
    "template",
    type=click.Path(exists=True, dir_okay=False),
    callback=lambda _ctx, _param, value: value or "",
    help="Template to use in place of hubconv's card.",
)

_PUBLISH_OPTIONS: Final = (
    click.option("--create-pr", is_flag=True, help="Publish to a pull request instead of main."),
    click.option("--tag/--no-tag", default=True, help="Tag the publish commit."),
    template_option,
    click.option(
        "--collection",
        default="",
        metavar="NAME",
        help="Add the target to a collection: its address after collections/, or a title.",
    ),
    click.option(
        "--report-dir",
        default="",
        metavar="DIR",
        help="Write report.json, SHA256SUMS and a provenance statement there.",
    ),
)


def making_options(command: Command) -> Command:
    """Options about making shards."""
    for option in reversed(_MAKING_OPTIONS):
        command = option(command)
    return command


def target_options(command: Command) -> Command:
    """Options about what the target may be."""
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command


def publish_options(command: Command) -> Command:
    """Options about the publish commit."""
    for option in reversed(_PUBLISH_OPTIONS):
        command = option(command)
    return command


def yes_option(command: Command) -> Command:
    """The option that answers the question of a command that removes something."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def source_options(command: Command) -> Command:
    """Options about reading the source."""
    revision = click.option("--revision", default="", help="Branch, tag or commit of the source.")
    return revision(work_dir_option(command))


def work_dir_option(command: Command) -> Command:
    """The option about the folder that a run works in."""
    option = click.option(
        "--work-dir", default="", metavar="DIR", help="Folder for shards on their way."
    )
    return option(command)


def output_options(command: Command) -> Command:
    """Options about what is printed."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
    quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")
    verbose = click.option("-v", "--verbose", count=True, help="Say more; -vv for everything.")
    return as_json(quiet(verbose(command)))
