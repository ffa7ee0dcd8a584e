"""What a plan is to loaders is told before there is a shard, and again of what is there."""

import json
from dataclasses import replace

import pytest
from profiles.walks import SERVED, plan_of, result, source_folder

from hubconv.errors import IntegrityError
from hubconv.pipeline import Request, beforehand, convert
from hubconv.steps import verify
from hubconv.steps.promise import promised, seen
from hubconv.steps.readback import read_planned


@pytest.mark.parametrize("name", SERVED)
def test_a_plan_promises_what_its_result_is(name):
    walk = result(name)
    promise = promised(walk.plan)

    assert promise.findings == ()
    headers = read_planned(walk.staging.view(), walk.plan.units)
    assert promise == seen(walk.plan, headers.tensors)


def broken(plan):
    """Its configuration tells loaders that nothing is quantized."""
    config = json.loads(plan.files["config.json"])
    config["quantization_config"]["ignore"] = ["re:.*"]
    return replace(plan, files={**plan.files, "config.json": json.dumps(config).encode()})


def test_a_plan_that_no_loader_would_understand_is_found_without_a_shard():
    found = promised(broken(plan_of("deepseek_v3"))).findings

    assert "match.quantized" in {finding.rule for finding in found}


def converted(folder):
    """Whether a run publishes what it makes."""
    convert(Request(str(source_folder("deepseek_v3")), str(folder / "out"), device="cpu"))
    return (folder / "out" / "config.json").exists()


def refuse(*_):
    raise AssertionError("looked at again")


def test_a_run_looks_while_it_works_and_not_again(tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "BEGIN_S", 0)
    monkeypatch.setattr(verify, "seen", refuse)

    assert converted(tmp_path)


def test_a_run_that_is_over_before_it_looks_looks_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "BEGIN_S", 1000)
    monkeypatch.setattr(beforehand, "promised", refuse)

    assert converted(tmp_path)


def test_a_look_that_fails_is_taken_again_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "BEGIN_S", 0)
    monkeypatch.setattr(beforehand, "promised", refuse)

    assert converted(tmp_path)


def test_nothing_is_published_that_no_loader_would_understand(tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "BEGIN_S", 0)
    monkeypatch.setattr(beforehand, "promised", lambda plan: promised(broken(plan)))

    with pytest.raises(IntegrityError, match=r"match\.kept"):
        converted(tmp_path)

    assert not (tmp_path / "out" / "config.json").exists()
