"""`hubconv demo`: the whole job on this machine, by the real commands."""

import json
import os
import subprocess
import sys

import pytest
from installed import INSTALLED


def hubconv(*words, cwd):
    # Whatever account and endpoint the user has, the demonstration uses neither.
    mine = {"HF_TOKEN": "hf_mine_and_not_for_demos", "HF_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "hubconv", *words],
        env={**os.environ, **mine, "PYTHONPATH": str(INSTALLED)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
def test_the_demonstration_publishes_verifies_and_shows_a_card(tmp_path):
    done = hubconv("demo", "--folder", "shown", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = tmp_path / "shown/result"
    card = (result / "README.md").read_text()
    assert card.startswith("---\n")
    assert "base_model: demo-org/DeepSeek-V4-Miniature-FP8" in card
    files = json.loads((result / "hubconv.json").read_text())["files"]
    assert all((result / path).stat().st_size == file["size"] for path, file in files.items())
    assert "is up to date" in done.stdout
    assert "Its card: shown/result/README.md" in done.stdout
    # Every command it shows stands above its output, in the order of the job.
    shown = [line[2:].split()[:2] for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert [words[0] for words in shown] == ["hf", *["hubconv"] * 4, "hf"]
    assert "hf_mine_and_not_for_demos" not in done.stdout + done.stderr


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    done = hubconv("demo", "--folder", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
