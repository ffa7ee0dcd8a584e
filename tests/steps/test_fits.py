"""A plan says whether it fits a machine, and why: its rules are those of the run itself."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from profiles.walks import plan_of, source_folder

from hubconv import allowance
from hubconv.cli import group
from hubconv.cli.machine import machine_of
from hubconv.hub.room import SHARDS_ON_DISK, XET_CACHE_BYTES, out_bytes
from hubconv.steps.machine import MEMORY_BYTES, TENSOR_BYTES, TORCH_BYTES, Machine, Needs, told
from hubconv.steps.tables import plan_json, plan_table

PLENTY = Machine(8, 10**12, 10**12)


@pytest.fixture(scope="module")
def plan():
    return plan_of("deepseek_v3")


def largest(plan):
    return max(unit.nbytes for unit in plan.units)


def test_shards_take_no_disk_through_xet_and_one_or_two_of_them_by_lfs():
    assert out_bytes(10**12, 0, streams=True) == XET_CACHE_BYTES < 100_000_000
    assert out_bytes(7, 14, streams=False) == 7 * SHARDS_ON_DISK
    assert out_bytes(7, 13, streams=False) == 7
    assert out_bytes(7, 0, streams=False) == 7


def test_what_a_plan_needs_is_what_there_must_be(plan):
    needs = Needs.of(plan)
    tensors = sum(len(job.reads) for job in plan.jobs)
    assert needs.memory_bytes == MEMORY_BYTES + TORCH_BYTES + TENSOR_BYTES * tensors
    assert needs.lfs_disk_bytes == largest(plan)
    assert needs.folder_bytes == plan.target_bytes
    just = Machine(1, needs.memory_bytes, needs.folder_bytes)
    assert needs.fits(just) == {
        "xet": needs.disk_bytes <= needs.folder_bytes, "lfs": True, "folder": True,
    }  # fmt: skip
    assert not any(needs.fits(replace(just, memory_bytes=needs.memory_bytes - 1)).values())
    for way in ("disk_bytes", "lfs_disk_bytes", "folder_bytes"):
        less = replace(PLENTY, disk_bytes=getattr(needs, way) - 1)
        key = {"disk_bytes": "xet", "lfs_disk_bytes": "lfs", "folder_bytes": "folder"}[way]
        assert not needs.fits(less)[key]
    assert all(needs.fits(PLENTY).values())


def test_a_person_is_told_why(plan):
    assert told(plan, PLENTY)[0].startswith("Fits 8 cores, 1.00 TB of memory and 1.00 TB of disk:")
    assert "4 at a time" in told(plan, PLENTY)[1]
    assert "two output shards" in told(plan, PLENTY)[-1]
    one = replace(PLENTY, disk_bytes=2 * largest(plan) - 1)
    assert "one output shard; the source streams" in told(plan, one)[-1]
    none = replace(PLENTY, disk_bytes=largest(plan) - 1)
    assert "too much without --max-shard-size" in told(plan, none)[-1]
    poor = replace(PLENTY, memory_bytes=10**9)
    assert told(plan, poor)[0].startswith("Does not fit 8 cores, 1.00 GB of memory")


def test_a_folder_holds_the_whole_result(plan):
    assert told(plan, PLENTY, is_folder=True)[0].startswith("Fits")
    assert "8 at a time" in told(plan, PLENTY, is_folder=True)[1]
    assert "4 at a time" in told(replace(plan, commit="c" * 40), PLENTY, is_folder=True)[1]
    small = replace(PLENTY, disk_bytes=plan.target_bytes - 1000)
    shown = plan_table(plan, 100, small, is_folder=True)
    assert "Does not fit 8 cores" in shown
    assert "the result, 1.00 kB more than there is" in shown


def test_programs_are_told_too(plan):
    table = plan_json(plan, replace(PLENTY, memory_bytes=1))
    assert table["machine"] == {"cores": 8, "memory_bytes": 1, "disk_bytes": 10**12}
    assert table["fits"] == {"xet": False, "lfs": False, "folder": False}


def run(*words):
    done = CliRunner().invoke(group, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_asks_about_another_machine():
    words = ("plan", str(source_folder("deepseek_v3")), "me/out")
    other = ("--cores", "4", "--memory", "16GB", "--max-disk", "14GB")
    assert "Fits 4 cores, 16.0 GB of memory and 14.0 GB of disk:" in run(*words, *other)
    table = json.loads(run(*words, *other, "--json"))
    assert table["machine"] == {"cores": 4, "memory_bytes": 16 * 10**9, "disk_bytes": 14 * 10**9}
    assert table["fits"]["xet"]
    assert f"its {allowance.cores()} cores" in run(*words).replace("Fits ", "its ")


def test_a_dry_run_asks_about_this_machine_and_the_folder_of_the_target(tmp_path):
    shown = run(str(source_folder("deepseek_v3")), str(tmp_path / "out"), "--dry-run")
    assert ", the result" in shown
    assert f"Fits {allowance.cores()} cores" in shown


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_the_one_above(tmp_path):
    there = machine_of(folder=str(tmp_path / "not" / "there"))
    assert there.disk_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.01)
    assert (there.cores, there.memory_bytes) == (allowance.cores(), allowance.memory_bytes())
