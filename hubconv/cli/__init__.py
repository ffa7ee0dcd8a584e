"""The front door: click commands, nothing else.

A first word that names a repository or a folder (it holds a `/`) starts `convert`.
"""

import atexit
import sys
from collections.abc import Sequence
from gc import freeze
from typing import Final

import click

from hubconv.cli.actions import tell_end
from hubconv.cli.card import card
from hubconv.cli.compare import compare
from hubconv.cli.convert import convert
from hubconv.cli.demo import demo
from hubconv.cli.failure import report_failure, report_unforeseen, report_usage
from hubconv.cli.hub import hub
from hubconv.cli.jobs import jobs
from hubconv.cli.plan import plan
from hubconv.cli.slices import publish, work
from hubconv.cli.upkeep import abort, gc, status
from hubconv.cli.verify import verify
from hubconv.cli.watch import watch
from hubconv.errors import HubconvError
from hubconv.version import __version__


class ConvertByDefault(click.Group):
    """A group whose first word, when it names a repository or folder, starts `convert`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Choose the command; a typo that is no path keeps click's own hint."""
        if args and args[0] not in self.commands and "/" in args[0]:
            args = ["convert", *args]
        return super().resolve_command(ctx, args)


EPILOG = """Exit codes: 0 done or nothing to do · 2 usage · 3 source invalid · 4 not allowed ·
5 temporary, run again · 6 conflict · 7 integrity · 8 local resource · 10 stopped at the time
limit, run again · 130/143 stopped by a signal, run again."""


@click.group(
    cls=ConvertByDefault,
    epilog=EPILOG,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(__version__, prog_name="hubconv")
def group() -> None:
    """Turn a checkpoint on the Hugging Face Hub into an NVFP4 checkpoint on the Hub.

    \b
    hubconv deepseek-ai/X my-org/X-NVFP4     convert and publish
    hubconv ./X ./X-NVFP4                    the same from folder to folder
    hubconv plan deepseek-ai/X               what would be done
    hubconv status my-org/X-NVFP4            what is staged, and how to go on
    hubconv watch watch.toml                 which targets are out of date
    """  # noqa: D301 - click wants the character, so that lines stay as they are


for command in (
    convert, plan, work, publish, status, abort, gc, verify, compare, card, watch, jobs, demo, hub,
):  # fmt: skip
    group.add_command(command)


TELL_THEMSELVES: Final = frozenset({"convert", "work", "publish", "watch"})
"""Commands that tell a CI job's page how they ended, and what of."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    words = list(arguments if arguments is not None else sys.argv[1:])
    if not words:
        click.echo(group.get_help(click.Context(group, info_name="hubconv")), err=True)
        sys.exit(2)
    as_json = "--json" in words
    # At the end Python would look through millions of objects for what can go; all of it can.
    atexit.register(freeze)
    try:
        code = group.main(words, prog_name="hubconv", standalone_mode=False)
    except HubconvError as error:
        if words[0] in group.commands and words[0] not in TELL_THEMSELVES:
            tell_end(error, words[0])
        sys.exit(report_failure(error, as_json=as_json))
    except click.ClickException as error:
        sys.exit(report_usage(error, as_json=as_json))
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Finished shards are kept; run the same command again.", err=True)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last one to tell, without secrets in the text
        sys.exit(report_unforeseen(error, as_json=as_json))
    sys.exit(code if isinstance(code, int) else 0)
