"""The benchmarks start: what they measure needs a quiet machine, or a GPU, and hours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed import INSTALLED

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(
    path.name for path in FOLDER.glob("*.py") if "ArgumentParser" in path.read_text("utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_says_how_it_is_run(script):
    if script == "gpu_probe.py":
        pytest.importorskip("triton", reason="triton comes with torch's builds for CUDA")
    environment = {**os.environ, "PYTHONPATH": str(INSTALLED), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_readme_knows_every_benchmark():
    told = (FOLDER / "README.md").read_text("utf-8")
    for script in SCRIPTS:
        assert f"`{script}`" in told, script
