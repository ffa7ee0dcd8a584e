"""`hubconv hub`: the embedded Hub on loopback."""

from pathlib import Path

import click

from hubconv.cli.types import Latency, Rate
from hubconv.errors import ResourceError, UsageError


@click.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder that keeps the repositories.",
)
@click.option("--port", default=8765, show_default=True, help="Port on loopback; 0 takes any.")
@click.option(
    "--mode",
    type=click.Choice(["xet", "lfs"]),
    default="xet",
    show_default=True,
    help="How large files are stored and transferred.",
)
@click.option(
    "--rate",
    type=Rate(),
    metavar="SIZE/s",
    help="Serve behind a line of this rate each way, shared by all connections: 50MB/s.",
)
@click.option(
    "--latency",
    type=Latency(),
    metavar="TIME",
    help="Time that every byte is under way, each way: 20ms.",
)
def hub(root: Path, port: int, mode: str, rate: int | None, latency: float | None) -> None:
    """Run a Hub of your own on this machine, without account or network.

    Any Hub client can use it: set HF_ENDPOINT and HF_TOKEN as printed.
    """
    try:
        from hubconv.embedded import serve
        from hubconv.embedded.line import Rate as LineRate
    except ImportError as error:
        raise UsageError(
            f"The embedded Hub needs extra packages ({error.name}).",
            'Install them: pip install "hubconv[demo]".',
        ) from error

    line = None
    if rate is not None or latency is not None:
        line = LineRate(float(rate or "inf"), latency or 0.0)

    def ready(endpoint: str) -> None:
        click.echo(f"export HF_ENDPOINT={endpoint} HF_TOKEN=hf_embedded_demo")

    try:
        serve(root, port, "lfs" if mode == "lfs" else "xet", rate=line, on_ready=ready)
    except OSError as error:
        raise ResourceError(
            f"The embedded Hub cannot run on port {port} with {root}: {error.strerror or error}.",
            "Name another --port (0 takes any) or another --root.",
        ) from error
