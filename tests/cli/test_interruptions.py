"""The real process killed or stopped at known places: the next run goes on, main is never half."""

import signal
import time
from pathlib import Path

import pytest

from hubconv.errors import StoppedError

V4 = "deepseek_v4_sgl_fp8"
QUICK = ("--device", "cpu", "--scales", "amax", "--workers", "1")
SHARDS = 3


def wait_until(condition, process):
    end = time.monotonic() + 60
    while not condition():
        if process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"the command ended with {process.returncode}: {out}{err}")
        assert time.monotonic() < end, "the place was not reached"
        time.sleep(0.02)


def killed_at(studio, target, rule, source=None, group=1, env=None):
    """Start the real command, kill it where it hangs."""
    armed = studio.hub.faults.hang(**{"seconds": 60, **rule})
    words = (source or studio.source(V4), target, *QUICK)
    with studio.start(*words, group=group, env=env) as process:
        wait_until(lambda: studio.hub.faults.struck(armed), process)
        time.sleep(0.3 if rule.get("after") else 0)
        process.kill()
        process.communicate(timeout=30)
    studio.hub.faults.clear()


def main_holds(studio, target):
    """Shards and manifest on main: all, or none."""
    tree = studio.tree(target) if studio.api.repo_exists(target) else {}
    return sum(path.endswith(".safetensors") for path in tree), "hubconv.json" in tree


# Requests of a run with one shard a commit: the note, then each shard, then main.
PLACES = {
    "opening the branch": ({"method": "POST", "path": "/branch/"}, 0, False),
    "sending the second shard": ({"method": "PUT", "path": "", "skip": 1}, 1, True),
    "before the second shard is committed": (
        {"method": "POST", "path": "/commit/hubconv%2F", "skip": 2},
        1,
        True,
    ),
    "after the second shard is committed": (
        {"method": "POST", "path": "/commit/hubconv%2F", "skip": 2, "after": True},
        2,
        True,
    ),
    "before the publish": ({"method": "POST", "path": "/commit/main"}, SHARDS, True),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_where_it_ended(lfs_studio, place):
    rule, found, becomes_public = PLACES[place]
    studio, target = lfs_studio, lfs_studio.name()
    killed_at(studio, target, {**rule, "path": target + rule["path"] if rule["path"] else ""})
    assert main_holds(studio, target) == (0, False)
    assert studio.is_private(target)
    done = studio.convert(studio.source(V4), target)
    assert (done.units_found, done.units_made) == (found, SHARDS - found)
    assert len(studio.publishes(target)) == 1
    assert main_holds(studio, target) == (SHARDS, True)
    assert studio.staging(target) == set()
    # A repository that was made but not yet noted cannot be told from one made by hand.
    assert studio.is_private(target) == (not becomes_public)


@pytest.mark.parametrize(
    "rule",
    [
        {"method": "POST", "path": "/commit/main", "after": True},
        {"method": "PUT", "path": "/settings"},
        {"method": "POST", "path": "/tag/"},
        {"method": "DELETE", "path": "/branch/"},
    ],
    ids=["after the publish", "making public", "tagging", "tidying up"],
)
def test_a_run_killed_after_its_publish_is_only_tidied_up(lfs_studio, rule):
    studio, target = lfs_studio, lfs_studio.name()
    killed_at(studio, target, rule, group=20)
    assert main_holds(studio, target) == (SHARDS, True)
    done = studio.convert(studio.source(V4), target)
    assert done.status == "up-to-date"
    assert len(studio.publishes(target)) == len(studio.tags(target)) == 1
    assert studio.staging(target) == set()
    assert not studio.is_private(target)


def test_a_run_killed_while_xet_uploads_goes_on(xet_studio, tmp_path):
    studio, target = xet_studio, xet_studio.name()
    # A cache of its own: with that of other runs there might be nothing left to send.
    env = {"HF_HOME": str(tmp_path)}
    killed_at(studio, target, {"method": "POST", "path": "/v1/xorbs/", "skip": 1}, env=env)
    assert main_holds(studio, target) == (0, False)
    done = studio.convert(studio.source(V4), target)
    assert done.units_found + done.units_made == SHARDS
    assert len(studio.publishes(target)) == 1


def test_a_killed_update_leaves_the_earlier_publish(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.own_source(V4), lfs_studio.name()
    studio.convert(source, target)
    before = studio.tree(target)
    studio.write(source, "generation_config.json", b'{"top_k": 1}')
    killed_at(studio, target, {"method": "POST", "path": "/commit/main"}, source)
    assert studio.tree(target) == before
    done = studio.convert(source, target)
    assert done.units_found == SHARDS
    assert len(studio.publishes(target)) == 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_stops_in_order(lfs_studio, number, code):
    studio, source, target = lfs_studio, lfs_studio.source(V4), lfs_studio.name()
    rule = studio.hub.faults.delay("PUT", "", 1.5, skip=1)
    with studio.start(source, target, *QUICK, "--json") as process:
        wait_until(lambda: studio.hub.faults.struck(rule), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert f'"exit_code": {code}' in out
    assert "run the same command again" in err
    assert main_holds(studio, target) == (0, False)
    done = studio.convert(studio.source(V4), target)
    assert done.units_found >= 1
    assert len(studio.publishes(target)) == 1


def test_the_time_limit_ends_a_run_in_order(lfs_studio):
    studio, target = lfs_studio, lfs_studio.name()
    studio.hub.faults.delay("GET", "/tree/", 1.3)
    done = studio.command(studio.source(V4), target, *QUICK, "--time-limit", "1", "--json")
    assert done.code == 10, done.said
    assert done.json["error"] == "StoppedError"
    assert "run the same command again" in done.json["next"]
    assert main_holds(studio, target) == (0, False)


def test_what_was_finished_before_the_time_limit_is_staged(lfs_studio, monkeypatch):
    from hubconv.engines.stop import Stop
    from hubconv.hub.staging import HubStaging

    studio, target, stops = lfs_studio, lfs_studio.name(), []
    add = HubStaging.add

    class Told(Stop):
        def __init__(self, time_limit_s=0.0):
            super().__init__(time_limit_s)
            stops.append(self)

    def late(self, record):
        add(self, record)
        stops[0]._deadline = time.monotonic() - 1

    with monkeypatch.context() as patch:
        patch.setattr("hubconv.pipeline.run.Stop", Told)
        patch.setattr(HubStaging, "add", late)
        with pytest.raises(StoppedError) as stopped:
            studio.convert(studio.source(V4), target, time_limit_s=600)
    assert stopped.value.exit_code == 10
    assert f"1 of 3 shards are staged on {target}" in stopped.value.what
    assert "run the same command again" in stopped.value.next_step
    with monkeypatch.context() as patch:
        patch.setattr("hubconv.pipeline.run.Stop", Told)
        patch.setattr(HubStaging, "add", late)
        stops.clear()
        with pytest.raises(StoppedError, match="2 of 3 shards are staged"):
            studio.convert(studio.source(V4), target, time_limit_s=600)
    assert studio.convert(studio.source(V4), target).units_found == 2


# --- Uploads on their way -------------------------------------------------------------------------


def children(studio, what=b"hubconv.hub.uploading"):
    """Processes of uploads, or of other transfers, that belong to runs of this studio."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
            mine = str(studio.folder).encode() in (place / "environ").read_bytes()
        except OSError:
            continue
        if what in words and mine:
            found.append(int(place.name))
    return found


STALLED = {"xet": {"method": "POST", "path": "/v1/xorbs/"}, "lfs": {"method": "PUT", "path": ""}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_does_not_wait_for_a_stalled_upload(studio, number):
    source, target = studio.source(V4), studio.name()
    rule = studio.hub.faults.hang(**STALLED[studio.mode], seconds=60, times=None)
    with studio.start(source, target, *QUICK) as process:
        wait_until(lambda: studio.hub.faults.struck(rule), process)
        started = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 128 + number, out + err
    assert children(studio) == []
    studio.hub.faults.clear()
    assert studio.convert(studio.source(V4), target).status == "published"


IN_STREAMS = ("from hubconv.hub import source", "source.SMALL_BYTES = 0")
DOWNLOADS = {
    "requests": ("xet", ()),
    "streams through xet": ("xet", IN_STREAMS),
    "streams of ranges": ("lfs", (*IN_STREAMS, "source.SLOT_FROM_BYTES = 10**9")),
    "slots": ("lfs", (*IN_STREAMS, "source.SLOT_FROM_BYTES = 0")),
}


@pytest.mark.parametrize("way", DOWNLOADS)
def test_a_signal_does_not_wait_for_a_silent_download(studios, way):
    mode, lines = DOWNLOADS[way]
    studio = studios(mode)
    studio.hub.faults.clear()
    source, target = studio.source(V4), studio.name()
    # Headers are read before the branch is opened; what comes after it is weights.
    opening = studio.hub.faults.delay("POST", f"{target}/branch/", 1.5)
    words = (source, target, "--device", "cpu", "--scales", "amax", "--workers", "2")
    with studio.start(*words, lines=lines) as process:
        wait_until(lambda: studio.hub.faults.struck(opening), process)
        silent = studio.hub.faults.hang("GET", "/(blob|xorb)/", seconds=60, times=None)
        wait_until(lambda: studio.hub.faults.struck(silent), process)
        time.sleep(0.5)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 143, out + err
    assert "run the same command again" in err
    assert "0 of 3 shards are staged" in err
    assert children(studio, b"hubconv.hub.fetching.child") == []
    studio.hub.faults.clear()


def test_a_signal_does_not_wait_for_a_silent_header(lfs_studio):
    studio, source, target = lfs_studio, lfs_studio.source(V4), lfs_studio.name()
    silent = studio.hub.faults.hang("GET", "/blob/", seconds=60, times=None)
    with studio.start(source, target, *QUICK) as process:
        wait_until(lambda: studio.hub.faults.struck(silent), process)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 130, out + err


def test_children_die_with_a_killed_run(xet_studio):
    studio, source, target = xet_studio, xet_studio.source(V4), xet_studio.name()
    rule = studio.hub.faults.hang(**STALLED["xet"], seconds=60, times=None)
    with studio.start(source, target, *QUICK) as process:
        wait_until(lambda: studio.hub.faults.struck(rule), process)
        assert children(studio) != []
        process.kill()
        process.communicate(timeout=30)
    end = time.monotonic() + 5
    while children(studio) and time.monotonic() < end:
        time.sleep(0.05)
    assert children(studio) == []


def test_a_run_killed_between_upload_and_commit_makes_the_shard_again(studio):
    target = studio.name()
    rule = {"method": "POST", "path": f"{target}/commit/hubconv%2F", "skip": 1}
    killed_at(studio, target, rule, group=1)
    assert main_holds(studio, target) == (0, False)
    done = studio.convert(studio.source(V4), target)
    assert (done.units_found, done.units_made) == (0, SHARDS)
    assert main_holds(studio, target) == (SHARDS, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/whoami"),
        ("POST", "/api/repos/create"),
        ("POST", "/commit/hubconv"),
        ("POST", "/commit/main"),
    ],
    ids=["whoami", "create", "staging commit", "publish"],
)
def test_a_signal_does_not_wait_for_a_silent_target(lfs_studio, method, path):
    studio, target = lfs_studio, lfs_studio.name()
    rule = studio.hub.faults.hang(method, path, 100)
    with studio.start(studio.source(V4), target, *QUICK) as process:
        wait_until(lambda: studio.hub.faults.struck(rule), process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    studio.hub.faults.clear()
    assert process.returncode == 143, out + err
    if path.startswith("/commit/"):  # before that there is no repository yet
        assert len(studio.publishes(target)) == 0
    studio.convert(studio.source(V4), target)
    assert len(studio.publishes(target)) == 1
