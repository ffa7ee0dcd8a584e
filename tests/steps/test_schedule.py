"""The order of units: whatever takes longest begins first, and the rest stays in order."""

from hubconv.demo import deepseek_v4
from hubconv.demo.miniature_v4_parts import Size
from hubconv.pipeline import plan
from hubconv.steps.schedule import longest_first


def units(folder, **size):
    deepseek_v4.fp8_repack(folder, size=Size(**size), fast=True)
    return plan(str(folder)).units


def respelled(unit):
    return sum(
        output.nbytes
        for job in (*unit.jobs, *unit.tail)
        for output in job.writes
        if output.content == "recoded_data"
    )  # fmt: skip


def test_shards_that_no_device_makes_come_first(tmp_path):
    made = units(tmp_path / "source", experts=16, layers=3, shards=12)
    ordered = longest_first(made)
    assert sorted(unit.shard for unit in ordered) == sorted(unit.shard for unit in made)
    most = max(made, key=respelled)  # of the layer for multi-token prediction, which is last
    assert made.index(most) >= len(made) - 4
    assert ordered.index(most) <= 4


def test_equal_shards_stay_in_their_order(tmp_path):
    made = units(tmp_path / "source", experts=16, layers=3, shards=12)
    alike = [unit for unit in made if not respelled(unit)][1:4]
    assert len(alike) == 3
    assert longest_first(alike) == alike
    assert longest_first(()) == []
