"""Words on the command line, and the folder a run works in."""

import os
import subprocess
import sys

import pytest

from hubconv.errors import ResourceError, SourceError, UsageError
from hubconv.opening import Scratch, open_source, parse_target, refuse_same


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_run_has_a_folder_of_its_own_that_goes_with_it(here):
    with Scratch("work") as first, Scratch("work") as second:
        assert first != second
        (first / "slot").write_text("x")
        assert first.parent == second.parent == here / "work" or first.parent.name == "work"
    assert list((here / "work").iterdir()) == []


def test_the_folder_goes_when_the_run_fails(here):
    with pytest.raises(ValueError, match="in the middle"), Scratch("work"):
        raise ValueError("in the middle")
    assert list((here / "work").iterdir()) == []


def test_what_dead_runs_of_this_machine_left_is_swept_and_nothing_else(here):
    with Scratch("work") as mine:
        prefix = mine.name.partition(str(os.getpid()))[0]
    dead = here / "work" / f"{prefix}{dead_process()}.abc"
    living = here / "work" / f"{prefix}{os.getppid()}.abc"
    elsewhere = here / "work" / f"run-another-machine-{dead_process()}.abc"
    users = here / "work" / "my-data"
    for folder in (dead, living, elsewhere, users):
        folder.mkdir()
    with Scratch("work"):
        assert not dead.exists()
    assert living.exists()
    assert elsewhere.exists()
    assert users.exists()


def test_libraries_cache_in_the_folder_of_the_run(here):
    program = (
        "import os; from pathlib import Path; from hubconv.opening import caches_in\n"
        "with caches_in(Path('run')):\n"
        "    from huggingface_hub import constants\n"
        "print(constants.HF_HUB_CACHE, constants.HF_XET_CACHE, 'HF_XET_CACHE' in os.environ)"
    )
    named = {**os.environ, "HF_HUB_CACHE": "/mine"}
    named.pop("HF_XET_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=named, capture_output=True, text=True
    )
    assert done.stdout.split() == ["/mine", "run/xet-cache", "False"], done.stderr


def test_users_of_one_machine_do_not_share_the_default_folder():
    with Scratch("") as mine:
        assert str(os.getuid()) in mine.parent.name


def test_a_work_folder_that_cannot_be_made_is_a_fault_of_this_machine(here):
    (here / "file").write_text("")
    with pytest.raises(ResourceError, match="--work-dir"), Scratch("file/work"):
        pass


def test_a_folder_source_has_no_revision(here):
    (here / "x").mkdir()
    with pytest.raises(UsageError, match="no revisions"):
        open_source("./x", "main", here)


def test_a_missing_folder_is_a_fault_of_the_source(here):
    with pytest.raises(SourceError, match="is not a folder"):
        open_source("./x", "", here)


def test_a_source_names_one_revision_at_most(here):
    with pytest.raises(UsageError, match="Use one of them"):
        open_source("demo/x@v1", "v2", here)


def test_a_target_names_no_revision():
    assert parse_target("demo/x").name == "demo/x"
    with pytest.raises(UsageError, match="--create-pr"):
        parse_target("demo/x@main")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("demo/x", "DEMO/X"),
        ("demo/x@v1", "demo/x"),
        ("./x", "x/../x/."),
        ("./x", "/proc/self/cwd/x"),
    ],
)
def test_one_thing_by_two_names_is_still_one(here, source, target):
    (here / "x").mkdir()
    with pytest.raises(UsageError, match="never written to"):
        refuse_same(source, target)


def test_different_ends_are_fine(here):
    (here / "x").mkdir()
    refuse_same("demo/x", "demo/y")
    refuse_same("demo/x", "./x")
    refuse_same("./x", "./y")
