"""What a plan would take: held against a simulation, and against what a run really asks."""

import importlib.util
import sys
from pathlib import Path

import pytest
from profiles.walks import plan_of

from hubconv.pipeline import Recipe, plan
from hubconv.steps.budget import GROUP_UNITS, Parts, commits_of, hub_budget
from hubconv.steps.estimate import Load, estimate, spread, told

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GBIT = 125_000_000


@pytest.fixture(scope="module")
def nodes():
    spec = importlib.util.spec_from_file_location("benchmark_nodes", BENCHMARKS / "nodes.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def even(shards, down, up):
    return Load([(down, up)] * shards, Parts(shards, shards, 0, 0, 0))


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("machines", [1, 4, 16])
@pytest.mark.parametrize(("down", "up"), [(5e9, 2.9e9), (5e9, 5.3e9)])
def test_the_formula_says_what_the_simulation_plays(nodes, streams, machines, down, up):
    load = even(160, int(down), int(up))
    made = estimate(load, 5 * GBIT, machines, streams=streams)
    seconds, commits, requests = nodes.simulate(load, 5 * GBIT, machines, 3, streams=streams)
    assert seconds == pytest.approx(made.seconds, rel=0.12)
    assert commits == pytest.approx(made.commits, abs=2)
    assert requests == pytest.approx(sum(made.requests), rel=0.05)


def test_shards_of_many_sizes_too(nodes):
    load = Load(
        [(n % 7 * 10**9 + 10**9, n % 5 * 10**9 + 10**8) for n in range(100)],
        Parts(100, 100, 0, 0, 0),
    )
    made = estimate(load, 10 * GBIT, 3)
    seconds, _, _ = nodes.simulate(load, 10 * GBIT, 3, 3, streams=True)
    assert seconds == pytest.approx(made.seconds, rel=0.15)


def test_where_commits_hold_it_up(nodes):
    load = even(6000, 10**8, 10**8)
    made = estimate(load, 160 * GBIT)
    assert made.bottleneck == "commits"
    seconds, _, _ = nodes.simulate(load, 160 * GBIT, 1, 3, streams=True)
    assert seconds == pytest.approx(made.seconds, rel=0.1)


def test_where_every_slice_looks_at_every_header(nodes):
    load = even(6000, 10**8, 10**8)
    made = estimate(load, 10 * GBIT, 32)
    assert made.bottleneck == "file requests"
    seconds, _, _ = nodes.simulate(load, 10 * GBIT, 32, 3, streams=True)
    assert seconds == pytest.approx(made.seconds, rel=0.15)


def test_more_machines_are_faster_until_something_else_is_full():
    load = even(160, 5 * 10**9, 3 * 10**9)
    one, two = (estimate(load, GBIT, count) for count in (1, 2))
    assert one.bottleneck == two.bottleneck == "line down"
    assert one.parts["line down"] == 2 * two.parts["line down"] == 6400
    many = estimate(load, 100 * GBIT, 4)
    assert many.bottleneck == "start and end"


def test_machines_get_about_equal_loads():
    loads = spread([(n, 1) for n in range(1, 41)], 4)
    assert sum(down for down, _ in loads) == 820
    assert max(loads)[0] - min(loads)[0] <= 2
    assert spread([(5, 1)], 3) == [(5, 1), (0, 0), (0, 0)]


def test_commits_are_by_number_or_by_time():
    assert commits_of(1, 1) == 3
    assert commits_of(10 * GROUP_UNITS, 60) == 12
    assert commits_of(10, 36_000) == 12  # one a shard at most
    assert commits_of(1000, 36_000) == 62


def test_nothing_to_do_takes_its_start_and_end():
    assert estimate(Load([], Parts(0, 0, 0, 0, 0)), GBIT).bottleneck == "start and end"


def test_the_load_of_a_plan_is_what_it_reads_and_writes():
    made = plan_of("deepseek_v4_sgl_fp8")
    load = Load.of(made)
    assert sum(up for _, up in load.shards) == made.target_bytes
    read = sum(down for down, _ in load.shards)
    assert made.source_bytes * 0.9 < read - made.twice_bytes <= made.source_bytes


def test_what_a_person_reads():
    text = "\n".join(told(estimate(even(40, 10**10, 10**10), 10**9, 4)))
    assert "At 1.00 GB/s each way on 4 machines: about 2 min" in text
    assert "6 commits" in text
    assert "128 an hour" in text
    assert "Held up by: line down" in text


def test_what_stands_above_is_not_said_twice():
    one, two = (estimate(even(40, 10**10, 10**10), 10**9, nodes) for nodes in (1, 2))
    assert "128 an hour" in "\n".join(told(one))
    assert "128 an hour" not in "\n".join(told(one, above=True))
    assert "128 an hour" in "\n".join(told(two, above=True))  # they ask for more than one does


def test_the_command_estimates_on_request(lfs_studio):
    source = lfs_studio.source("deepseek_v4_sgl_fp8")
    done = lfs_studio.command("plan", source, "--rate", "50MB/s", "--nodes", "2", "--json")
    assert done.code == 0, done.said
    guess = done.json["estimate"]
    assert (guess["nodes"], guess["rate"]) == (2, 50_000_000)
    shown = lfs_studio.command("plan", source, "--rate", "50MB/s")
    assert "At 50.0 MB/s each way on 1 machine" in shown.out
    assert "estimate" not in lfs_studio.command("plan", source, "--json").json


def test_one_machine_is_told_the_requests_that_the_plan_announces():
    made = plan_of("deepseek_v4_sgl_fp8")
    guess, planned = estimate(Load.of(made), GBIT), hub_budget(made)
    assert guess.requests == (planned.api_requests, planned.resolver_requests)
    assert guess.commits == planned.commits
    plain = estimate(Load.of(made), GBIT, streams=False)
    assert plain.requests[0] == planned.api_requests + planned.lfs_requests


@pytest.mark.parametrize("slices", [2, 3])
def test_slices_ask_for_no_more_than_the_estimate_says(xet_studio, slices):
    studio = xet_studio
    source, target = studio.own_source("deepseek_v4_sgl_fp8"), studio.name()
    more = ("--scales", "amax", "--max-shard-size", "200KB")
    written = studio.folder / "plan.json"
    load = Load.of(plan(source, Recipe(scales="amax", max_shard_bytes=200_000)))
    guess = estimate(load, 100 * GBIT, slices)
    studio.hub.requests.clear()
    assert studio.command("plan", source, target, "-o", str(written), *more).code == 0
    for number in range(slices):
        part = f"{number + 1}/{slices}"
        assert studio.command("work", str(written), "--slice", part, "--device", "cpu").code == 0
    # Slices that run at the same time need not read what the others noted.
    aside = studio.hub.requests.count(path="/units/")
    assert studio.command("publish", str(written)).code == 0
    asked = [request for request in studio.hub.requests.all() if request.origin == "hub"]
    files = sum(request.kind == "resolve" for request in asked)
    assert sum(request.kind == "commit" for request in asked) == guess.commits
    assert len(asked) - files <= guess.requests[0] <= 1.3 * (len(asked) - files)
    assert files - aside <= guess.requests[1] <= 1.3 * (files - aside)
