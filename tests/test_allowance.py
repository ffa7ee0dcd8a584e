"""A container's limits count, in either version of control groups and at any depth."""

import os

import pytest

from hubconv import allowance

LARGE = 1 << 60


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 processors; gives the folder of its groups, and sets the own one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(allowance, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(allowance, "_OWN", tmp_path / "own")

    def write(own="0::/\n", **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            place = tmp_path / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    return write


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 16),
        ("400000 100000\n", 4),
        ("250000 100000\n", 3),
        ("10000 100000\n", 1),
        ("6400000 100000\n", 16),
        ("0 100000\n", 1),
        ("400000 0\n", 16),
        ("", 16),
        ("none of these", 16),
    ],
)
def test_time_of_processors_counts_as_processors(machine, text, cores):
    machine(cpu_DOT_max=text)
    assert allowance.cores() == cores


def test_every_group_above_the_own_one_counts(machine):
    machine(
        own="1:cpu:/other\n0::/job/step\n",
        job__step__cpu_DOT_max="800000 100000",
        job__cpu_DOT_max="300000 100000",
        job__memory_DOT_max="5000000\n",
        job__step__memory_DOT_max="max\n",
    )
    assert (allowance.cores(), allowance.memory_bytes()) == (3, 5_000_000)


@pytest.mark.parametrize(
    ("quota", "limit", "cores", "memory"),
    [(150_000, 7_000_000, 2, 7_000_000), (-1, LARGE, 16, None)],
    ids=["limited", "without a limit"],
)
def test_groups_of_version_1(machine, quota, limit, cores, memory):
    whole = allowance.memory_bytes()
    machine(
        own="4:memory:/docker/1\n",
        cpu__cpu_DOT_cfs_quota_us=f"{quota}\n",
        cpu__cpu_DOT_cfs_period_us="100000\n",
        memory__memory_DOT_limit_in_bytes=f"{limit}\n",
    )
    assert (allowance.cores(), allowance.memory_bytes()) == (cores, memory or whole)


def test_no_groups_at_all(machine):
    assert allowance.cores() == 16
    assert 0 < allowance.memory_bytes() < LARGE
