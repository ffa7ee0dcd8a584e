"""What docs/many-machines.md shows is run as it stands there, with processes for machines."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
V4 = "deepseek_v4_sgl_fp8"
SHARDS = 3

pytestmark = pytest.mark.slow


def shown():
    """Code blocks by the name in the comment before them."""
    tokens = MarkdownIt().parse((ROOT / "docs" / "many-machines.md").read_text())
    found, name = {}, ""
    for token in tokens:
        mark = re.fullmatch(r"<!-- run: (\S+) -->\s*", token.content)
        if token.type == "html_block" and mark:
            name = mark[1]
        elif token.type == "fence" and name:
            found[name], name = token.content, ""
    return found


class Bench:
    """A folder with the examples in it, and commands that stand in for those of a cluster."""

    def __init__(self, studio, folder):
        self.studio, self.folder = studio, folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in shown().items():
            (folder / name).write_text(text)
        self.command("pip", "exit 0")
        self.command("hubconv", f'exec "{sys.executable}" -m hubconv "$@"')

    def command(self, name, text):
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def environment(self, **more):
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return self.studio.environment(PATH=path, **more)

    def start(self, *words, **more):
        return subprocess.Popen(
            [str(word) for word in words], cwd=self.folder, env=self.environment(**more),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *words, **more):
        return self.ended([self.start(*words, **more)])[0]

    def ended(self, processes):
        told = [process.communicate(timeout=200)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), told
        return told


@pytest.fixture
def bench(lfs_studio, tmp_path):
    return Bench(lfs_studio, tmp_path)


def is_published(bench, target):
    studio = bench.studio
    assert sum(path.endswith(".safetensors") for path in studio.tree(target)) == SHARDS
    assert len(studio.publishes(target)) == 1
    assert studio.staging(target) == set()


def test_a_slurm_array(bench):
    source, target = bench.studio.source(V4), bench.studio.name()
    # sbatch notes what it is given; the array is run afterwards, as the scheduler would.
    bench.command("sbatch", 'printf "%s\\n" "$*" >> submitted; echo 42')
    bench.run("bash", "submit.sh", SOURCE=source, TARGET=target)
    array, publish = (bench.folder / "submitted").read_text().splitlines()
    assert array == "--parsable slices.sh"
    assert publish.startswith("--dependency=afterok:42 --wrap ")
    first, count = re.search(r"--array=(\d+)-(\d+)", shown()["slices.sh"]).groups()
    assert (first, count) == ("1", "3")
    tasks = [
        bench.start(
            "bash", "slices.sh", SLURM_ARRAY_TASK_ID=str(number), SLURM_ARRAY_TASK_COUNT=count,
            SLURM_JOB_ID="7",
        )
        for number in range(1, int(count) + 1)
    ]  # fmt: skip
    bench.ended(tasks)
    bench.run("bash", "-c", publish.partition("--wrap ")[2])
    is_published(bench, target)


def test_a_slurm_task_at_its_time_limit_is_queued_again(bench):
    bench.command("hubconv", "exit 10")
    bench.command("scontrol", 'echo "$*" > scontrol')
    task = bench.start("bash", "slices.sh", SLURM_JOB_ID="7")
    task.communicate(timeout=60)
    assert task.returncode == 10
    assert (bench.folder / "scontrol").read_text() == "requeue 7\n"


class Workflow:
    """As much of a runner as the example needs: jobs in order, steps, matrices, outputs."""

    def __init__(self, bench, inputs):
        self.bench = bench
        self.known = {f"inputs.{name}": value for name, value in inputs.items()}

    def filled(self, text, more):
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda m: {**self.known, **more}[m[1]], str(text))

    def begin(self, job, more):
        """The steps of a job as one script, begun; and where its outputs will be."""
        lines, outputs = ["set -e"], self.bench.folder / f"outputs-{len(self.known)}"
        for step in job["steps"]:
            wanted = {name: self.filled(v, more) for name, v in step.get("env", {}).items()}
            folder = self.bench.folder / f"step-{more.get('matrix.slice', 0)}"
            folder.mkdir(exist_ok=True)
            lines += [f"cd '{folder}'", f"export GITHUB_OUTPUT='{outputs}'"]
            lines += [f"export {name}={quoted(value)}" for name, value in wanted.items()]
            lines.append(step["run"])
        return self.bench.start("bash", "-c", "\n".join(lines)), outputs


def quoted(text):
    import shlex

    return shlex.quote(text)


def test_a_ci_matrix(bench):
    source, target = bench.studio.source(V4), bench.studio.name()
    flow = yaml.safe_load(shown()["matrix.yml"])
    jobs = flow["jobs"]
    assert flow["permissions"] == {}
    workflow = Workflow(bench, {"source": source, "target": target})
    process, outputs = workflow.begin(jobs["plan"], {})
    bench.ended([process])
    name, _, rest = outputs.read_text().partition("<<END\n")
    assert jobs["plan"]["outputs"] == {name: f"${{{{ steps.plan.outputs.{name} }}}}"}
    workflow.known[f"needs.plan.outputs.{name}"] = rest.removesuffix("END\n").rstrip("\n")
    slices = jobs["work"]["strategy"]["matrix"]["slice"]
    more = {"strategy.job-total": str(len(slices))}
    begun = [workflow.begin(jobs["work"], {"matrix.slice": str(n), **more}) for n in slices]
    bench.ended([process for process, _ in begun])
    assert set(jobs["publish"]["needs"]) == {"plan", "work"}
    bench.ended([workflow.begin(jobs["publish"], {})[0]])
    is_published(bench, target)


HUB = """
import json, subprocess, sys
import huggingface_hub

class Job:
    url = "https://example.invalid/job"

def run_job(*, image, command, env, secrets, flavor, timeout):
    with open("jobs", "a") as jobs:
        jobs.write(json.dumps([command, env, sorted(secrets), flavor, timeout]) + "\\n")
    return Job()

huggingface_hub.run_job = run_job
exec(compile(open("jobs.py").read(), "jobs.py", "exec"))
"""


def test_hf_jobs(bench):
    import json

    from hubconv.embedded import DEMO_TOKEN

    source, target = bench.studio.source(V4), bench.studio.name()
    bench.run(sys.executable, "-c", HUB, source, target)
    text = (bench.folder / "jobs").read_text()
    assert DEMO_TOKEN not in text
    ordered = [json.loads(line) for line in text.splitlines()]
    assert len(ordered) == SHARDS
    begun = []
    for number, (command, env, secrets, _, timeout) in enumerate(ordered):
        assert secrets == ["HF_TOKEN"]
        assert timeout != "30m"
        folder = bench.folder / f"job-{number}"
        folder.mkdir()
        script = f"cd '{folder}' && {command[2]}"
        begun.append(bench.start(*command[:2], script, **env))
    bench.ended(begun)
    bench.run("hubconv", "publish", "plan.json")
    is_published(bench, target)


def test_every_example_is_run():
    assert set(shown()) == {"slices.sh", "submit.sh", "matrix.yml", "jobs.py"}
