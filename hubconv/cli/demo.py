"""`hubconv demo`."""

import sys
from pathlib import Path

import click

from hubconv.errors import UsageError


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("hubconv-demo"),
    show_default=True,
    help="Receives the Hub's data, the source and the result.",
)
def demo(folder: Path) -> None:
    """Show the whole job on this machine: no account, no network, no GPU.

    A miniature DeepSeek-V4 repository is put on an embedded Hub, converted and published by the
    real command, verified, and downloaded again.
    """
    try:
        from hubconv.demo.run import run_demo
        from hubconv.embedded import EmbeddedHub  # noqa: F401 - needs the extra
    except ImportError as error:
        raise UsageError(
            f"The demonstration needs the extra packages of the embedded Hub ({error.name}).",
            'Install them: pip install "hubconv[demo]".',
        ) from error
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty.", "Remove it, or name another with --folder.")

    def say(line: str) -> None:
        click.echo(line)
        sys.stdout.flush()

    shown = run_demo(folder, say)
    click.echo(f"\n{shown.target} is published on the embedded Hub and lies in {shown.folder}.")
    click.echo(f"Its card: {shown.card}")
