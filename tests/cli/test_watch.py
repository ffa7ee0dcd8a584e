"""`hubconv watch` as a process of its own, as cron or a workflow runs it."""

import json
import subprocess
import sys

import pytest

BF16 = "llama_bf16"
V4 = "deepseek_v4_sgl_fp8"
QUICK = ("--device", "cpu", "--workers", "1")


def write_list(folder, *pairs, more='scales = "amax"'):
    tables = [
        f'[[entry]]\nsource = "{source}"\ntarget = "{target}"\n{more}\n' for source, target in pairs
    ]
    (folder / "watch.toml").write_text("\n".join(tables))
    return folder / "watch.toml"


def test_looking_imports_neither_torch_nor_numba(xet_studio, tmp_path):
    studio = xet_studio
    file = write_list(tmp_path, (studio.source(BF16), studio.name()))
    script = (
        "import sys; from hubconv.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'numba'} & set(sys.modules)))"
    )
    for words in (["--format", "json"], ["--check"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "watch", file, *words],
            env=studio.environment(), capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_matrix_the_report_and_the_table_tell_the_same(xet_studio, tmp_path):
    studio = xet_studio
    done, due = studio.name(), studio.name()
    source, gone = studio.source(BF16), studio.name("gone")
    studio.convert(source, done)
    file = write_list(tmp_path, (source, done), (source, due), (gone, "demo/never"))
    shown = studio.command("watch", file, "--format", "json")
    assert (shown.code, [job["target"] for job in shown.json["include"]]) == (0, [due])
    assert "Warning: demo/never: refused: " in shown.err
    report = studio.command("watch", file, "--json").json["targets"]
    assert {each["target"]: each["state"] for each in report} == {
        done: "up to date", due: "new", "demo/never": "refused"
    }  # fmt: skip
    assert report[1]["command"] == f"hubconv {source} {due} --scales amax"
    table = studio.command("watch", file)
    assert f"{due}: new: nothing of hubconv is published there" in table.out
    assert "1 up to date, 1 new, 1 refused." in table.out


def test_the_runner_is_told_the_matrix_and_a_summary(xet_studio, tmp_path):
    studio = xet_studio
    file = write_list(tmp_path, (studio.source(BF16), "demo/told"))
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    studio.command("watch", file, "--format", "json", env=files)
    lines = (tmp_path / "GITHUB_OUTPUT").read_text().splitlines()
    name, _, end = lines[0].partition("<<")
    assert (name, lines[2], json.loads(lines[1])["include"][0]["target"]) == (
        "matrix", end, "demo/told"
    )  # fmt: skip
    assert (lines[3].startswith("due<<"), lines[4]) == (True, "1")
    assert "| `demo/told` |" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text()


def test_a_run_converts_what_is_due_and_a_failure_is_no_failure_of_the_next(xet_studio, tmp_path):
    studio = xet_studio
    source = studio.source(BF16)
    foreign, first, last = studio.name(), studio.name(), studio.name()
    studio.api.create_repo(foreign)
    studio.write(foreign, "somebodys.bin", b"words")
    file = write_list(
        tmp_path, (source, first), (source, foreign), (studio.name("gone"), "demo/never"),
        (studio.source(V4), last),
    )  # fmt: skip
    summary = tmp_path / "summary.md"
    done = studio.command(
        "watch", file, "--run", *QUICK, "--json", env={"GITHUB_STEP_SUMMARY": str(summary)}
    )
    assert done.code == 6, done.said  # the worst: a conflict stands above a missing source
    became = {each["target"]: each.get("run") for each in done.json["targets"]}
    assert {
        target: run and (run["status"], run["exit_code"]) for target, run in became.items()
    } == {
        first: ("published", 0),
        foreign: ("failed", 6),
        "demo/never": None,
        last: ("published", 0),
    }
    assert "holds files that hubconv did not put there" in became[foreign]["what"]
    assert len(studio.publishes(first)) == len(studio.publishes(last)) == 1
    told = summary.read_text()
    assert told.count(" as NVFP4\n") == 2
    assert f"{foreign}: not published" in told
    again = studio.command("watch", file, "--run", *QUICK, "--only", first)
    assert (again.code, "1 up to date" in again.out) == (0, True)
    card = studio.read(first, "README.md").decode()
    assert f"hubconv {source} {first} --scales amax" in card


def test_what_a_pattern_finds_and_hubconv_refuses_fails_no_run(xet_studio, checkpoints, tmp_path):
    studio = xet_studio
    studio.hub.add_user("watched", "token-watched")
    api = studio.api_of("token-watched")
    api.create_repo("watched/odd")
    api.upload_folder(repo_id="watched/odd", folder_path=checkpoints(BF16))
    file = tmp_path / "watch.toml"
    # A family that has no experts: only its plan refuses that.
    file.write_text(
        '[[entry]]\nsource = "watched/o*"\ntarget = "watched/{name}-NVFP4"\nkeep = ["."]\n'
    )
    done = studio.command(
        "watch", file, "--run", *QUICK, "--json", env={"HF_TOKEN": "token-watched"}
    )
    (only,) = done.json["targets"]
    assert (done.code, only["run"]["status"], only["run"]["exit_code"]) == (0, "refused", 0)
    assert "No tensor of this dense decoder would become NVFP4" in only["run"]["what"]


def test_a_time_limit_holds_for_all_targets_together(lfs_studio, tmp_path):
    studio = lfs_studio
    first, second = studio.name(), studio.name()
    source = studio.source(V4)
    file = write_list(tmp_path, (source, first), (studio.source(BF16), second))
    # Headers at once, then shard by shard: one or two of three before the limit.
    studio.hub.faults.delay("GET", "/blob/", 2.5, times=None)
    done = studio.command("watch", file, "--run", *QUICK, "--time-limit", "6", "--json")
    studio.hub.faults.clear()
    assert done.code == 10, done.said
    one, two = (each["run"] for each in done.json["targets"])
    assert (one["status"], one["exit_code"], one["shards_total"]) == ("stopped", 10, 3)
    assert 0 < one["shards_staged"] < 3
    assert one["seconds_left"] > 0
    assert (two["status"], two["exit_code"]) == ("not begun", 10)
    assert not studio.api.repo_exists(second)
    begun = studio.command("watch", file, "--format", "json").json["include"]
    assert [job["state"] for job in begun] == ["in progress", "new"]
    rest = studio.command("watch", file, "--run", *QUICK, "--json")
    assert rest.code == 0, rest.said
    found = rest.json["targets"][0]["run"]["outcome"]
    assert (found["shards_found"], found["shards_made"]) == (
        one["shards_staged"], 3 - one["shards_staged"]
    )  # fmt: skip


def test_a_signal_ends_a_run_and_nothing_new_is_begun(lfs_studio, tmp_path):
    import signal
    import time

    studio = lfs_studio
    first, second = studio.name(), studio.name()
    file = write_list(tmp_path, (studio.source(V4), first), (studio.source(BF16), second))
    rule = studio.hub.faults.delay("PUT", "", 1.5, skip=1)
    with studio.start("watch", file, "--run", *QUICK, "--json") as process:
        end = time.monotonic() + 60
        while not studio.hub.faults.struck(rule):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    one, two = (each["run"] for each in json.loads(out.splitlines()[-1])["targets"])
    assert (one["status"], two["status"]) == ("stopped", "not begun")
    assert not studio.api.repo_exists(second)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["watch"], 2, "Missing argument 'FILE'"),
        (["watch", "none.toml"], 2, "none.toml cannot be read"),
        (["watch", "none.toml", "--run", "--format", "json"], 2, "--run converts here"),
        (["watch", "none.toml", "--json", "--format", "json"], 2, "--json tells of every target"),
    ],
)
def test_what_cannot_be_asked_is_told(xet_studio, words, code, said):
    done = xet_studio.command(*words)
    assert done.code == code
    assert said in done.err


def test_a_webhooks_payload_comes_from_standard_input(xet_studio, tmp_path):
    studio = xet_studio
    source = studio.source(BF16)
    file = write_list(tmp_path, (source, "demo/called"), (studio.source(V4), "demo/aside"))
    told = {"repo": {"type": "model", "name": source}, "updatedRefs": [{"ref": "refs/heads/main"}]}
    with studio.start(
        "watch", file, "--event", "-", "--format", "json", stdin=subprocess.PIPE
    ) as process:
        out, err = process.communicate(json.dumps(told), timeout=60)
    assert process.returncode == 0, err
    assert [job["target"] for job in json.loads(out)["include"]] == ["demo/called"]
