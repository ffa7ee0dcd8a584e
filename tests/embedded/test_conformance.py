"""The real client against the embedded Hub, in both modes; the scenarios are in scenarios.py."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from hubconv.embedded import EmbeddedHub

SCENARIOS = [
    node.name
    for node in ast.parse((Path(__file__).parent / "scenarios.py").read_text()).body
    if isinstance(node, ast.FunctionDef)
    and any(isinstance(mark, ast.Name) and mark.id == "scenario" for mark in node.decorator_list)
]


@pytest.mark.parametrize("mode", ["xet", "lfs"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_client_finds_that(scenario, mode, conformance):
    trace = conformance(mode)[scenario]
    if trace is not None:
        pytest.fail(trace, pytrace=False)


@pytest.mark.parametrize("mode", ["xet", "lfs"])
def test_the_command_line_client_uploads_and_downloads(mode, tmp_path, environment):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.safetensors").write_bytes(bytes(range(256)) * 900)
    (source / "config.json").write_text("{}")
    with EmbeddedHub(tmp_path / "hub", mode=mode) as hub:
        variables = environment(hub.endpoint, mode, tmp_path)
        hf = [str(Path(sys.executable).with_name("hf"))]
        for arguments in (
            ["upload", "demo/cli", str(source), "."],
            ["download", "demo/cli", "--local-dir", str(tmp_path / "target")],
        ):
            done = subprocess.run(
                hf + arguments,
                env=variables,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        kinds = hub.requests.kinds()
    for name in ("a.safetensors", "config.json"):
        assert (tmp_path / "target" / name).read_bytes() == (source / name).read_bytes()
    assert ("xorb" in kinds) == (mode == "xet")
    assert ("blob" in kinds) == (mode == "lfs")
