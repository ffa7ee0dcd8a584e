"""What a plan is to loaders is told before there is a shard, and again of what is there."""

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from profiles.walks import SERVED, plan_of, result, source_folder

from hubconv.engines.stop import Stop
from hubconv.errors import IntegrityError
from hubconv.pipeline import Request, beforehand, convert
from hubconv.progress import SilentProgress
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


class Held(SilentProgress):
    """Its first unit waits until something is known."""

    def __init__(self, known):
        self.known, self.started = known, []

    def unit_started(self, shard):
        self.started.append(shard)
        assert self.known.wait(60)


def test_a_run_ends_as_soon_as_it_is_known_that_no_loader_would_understand(tmp_path, monkeypatch):
    known, in_vain = threading.Event(), Stop.in_vain

    def heard(self, why):
        in_vain(self, why)
        known.set()

    monkeypatch.setattr(Stop, "in_vain", heard)
    monkeypatch.setattr(beforehand, "BEGIN_S", 0)
    monkeypatch.setattr(beforehand, "promised", lambda plan: promised(broken(plan)))
    progress, source = Held(known), str(source_folder("deepseek_v3"))
    request = Request(source, str(tmp_path / "out"), device="cpu", workers=1)

    with pytest.raises(IntegrityError, match=r"match\.kept") as told:
        convert(request, progress)

    assert "Nothing was published" in told.value.next_step
    assert len(progress.started) <= 1 < len(plan_of("deepseek_v3").units)


# A run fails while a slow import is under way.
FAILS = """
import sys, threading, time
from hubconv.engines.stop import Stop
from hubconv.pipeline import beforehand

begun = threading.Event()

def load():
    begun.set()
    time.sleep(1)
    print("imported")

beforehand.BEGIN_S = 0
beforehand.card.load = load
beforehand.promised = lambda plan: print("looked")
with beforehand.Beforehand(None, Stop()):
    begun.wait()
    sys.exit(3)
"""


def test_a_run_that_fails_ends_in_the_middle_of_no_import():
    # Compiled modules abort the process where the interpreter goes away under their import.
    ended = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True)

    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "imported\n", "")
