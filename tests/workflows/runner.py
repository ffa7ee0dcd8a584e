"""A stand-in for the GitHub runner: it executes `run:` blocks with the variables a runner sets.

Expressions of `env:` and `with:` are worked out here; those that a block itself would hold are
refused, as nothing may stand in a script that somebody else wrote. `uv` is a small program of the
test: it checks what it is asked to install and puts the code of this checkout in its place.
"""

import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from installed import INSTALLED

ROOT = Path(__file__).parent.parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
ACTIONS = sorted(GITHUB.glob("actions/*/action.yml"))

_UV = """#!{python}
import os, sys
from pathlib import Path

words = sys.argv[1:]
here = Path(__file__).parent

def option(name):
    if name not in words:
        return None
    at = words.index(name)
    value = words[at + 1]
    del words[at : at + 2]
    return value

if words[:2] == ["tool", "install"]:
    words = [word for word in words[2:] if word != "--quiet"]
    excludes, backend = option("--excludes"), option("--torch-backend")
    assert backend in {{None, "auto", "cpu"}}, backend
    assert excludes is None or Path(excludes).read_text().split() == ["numba", "torch"]
    (place,) = words
    # What converts draws pictures, what only looks does not.
    assert place.endswith("[plots]") == (excludes is None), place
    project = (Path(place.removesuffix("[plots]")) / "pyproject.toml").read_text()
    assert 'name = "hubconv"' in project, place
    hubconv = here / "hubconv"
    hubconv.write_text(f"#!/bin/sh\\nPYTHONPATH={root} exec {python} -m hubconv \\"$@\\"\\n")
    hubconv.chmod(0o755)
elif words[:2] == ["build", "--out-dir"]:
    folder = Path(words[2])
    assert (Path.cwd() / "pyproject.toml").exists()
    folder.mkdir()
    (folder / "hubconv.whl").touch()
else:
    sys.exit(f"uv does not know {{words}}")
"""


def load(path):
    """A YAML file of .github; the key `on`, which YAML takes for a truth, under its own name."""
    told = yaml.safe_load(path.read_text())
    if True in told:
        told["on"] = told.pop(True)
    return told


def run_blocks():
    """Every `run:` block of the repository: (file, name of the step) to the step."""
    found = {}
    for path in (*WORKFLOWS, *ACTIONS):
        told = load(path)
        groups = [told["runs"]] if "runs" in told else told["jobs"].values()
        for group in groups:
            for step in group.get("steps", ()):
                if "run" in step:
                    name = path.parent.name if path.name == "action.yml" else path.stem
                    found[name, step["name"]] = step
    return found


def worked_out(text, context):
    """A string in which every `${{ }}` is put in its place; the only forms are those we use."""
    if not isinstance(text, str):
        return str(text)
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(_value(found[1], context)), text)


def _value(expression, context):
    expression = expression.strip()
    for operator in ("||", "&&", "=="):
        left, found, right = expression.partition(operator)
        if found:
            first = _value(left, context)
            if operator == "==":
                return first == _value(right, context)
            return (first or _value(right, context)) if operator == "||" else (
                first and _value(right, context)
            )  # fmt: skip
    if expression.startswith("'"):
        return expression.strip("'")
    value = context
    for name in expression.split("."):
        value = value.get(name, "") if isinstance(value, dict) else ""
    return value


@dataclass
class Runner:
    """A machine of GitHub's, as far as a step sees it.

    Attributes:
        folder: Its work folder.
        environment: What it was started with.
        event: Name of the event, and the file of its payload.
    """

    folder: Path
    environment: dict
    event: str = "workflow_dispatch"
    payload: str = "{}"
    ref: str = "main"
    workspace: Path | None = None
    outputs: dict = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    code: int = 0

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        uv = tools / "uv"
        uv.write_text(_UV.format(python=sys.executable, root=INSTALLED))
        uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
        (self.folder / "event.json").write_text(self.payload)
        self.workspace = self.workspace or self.folder

    def step(self, step, context, action=None):
        """Execute one `run:` block, as GitHub does; the first failure ends what follows."""
        assert "${{" not in step["run"], "an expression stands in a script"
        script = self.folder / "step.sh"
        script.write_text(step["run"])
        told = {
            name: self.folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for file in told.values():
            file.write_text("")
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
        if "shell" not in step:
            shell = ["bash", "-e"]
        done = subprocess.run(
            [*shell, script],
            cwd=self.workspace,
            env={
                **self.environment,
                "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_EVENT_NAME": self.event,
                "GITHUB_EVENT_PATH": str(self.folder / "event.json"),
                "GITHUB_REF_NAME": self.ref,
                "GITHUB_WORKSPACE": str(self.workspace),
                "RUNNER_TEMP": str(self.folder),
                **({"GITHUB_ACTION_PATH": str(action)} if action else {}),
                **{name: str(file) for name, file in told.items()},
                **{name: worked_out(value, context) for name, value in step.get("env", {}).items()},
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        self.log += done.stdout + done.stderr
        self.summary += told["GITHUB_STEP_SUMMARY"].read_text()
        self.outputs[step.get("id", "")] = _outputs(told["GITHUB_OUTPUT"].read_text())
        self.code = done.returncode
        return done

    def action(self, name, inputs):
        """Execute a composite action; its outputs, as its caller sees them."""
        folder = GITHUB / "actions" / name
        told = load(folder / "action.yml")
        unknown = set(inputs) - set(told["inputs"])
        assert not unknown, f"the action {name} has no input {unknown}"
        given = {key: value.get("default", "") for key, value in told["inputs"].items()}
        given |= {key: str(value) for key, value in inputs.items()}
        for key, value in told["inputs"].items():
            assert given[key] or not value.get("required"), f"{name} needs {key}"
        for step in told["runs"]["steps"]:
            if "run" in step and self.step(step, {"inputs": given}, folder).returncode:
                break
        context = {"steps": {key: {"outputs": each} for key, each in self.outputs.items()}}
        return {key: worked_out(each["value"], context) for key, each in told["outputs"].items()}


def _outputs(text):
    """What a step wrote to $GITHUB_OUTPUT, in its form for values of many lines."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, _, end = line.partition("<<")
        assert end, f"not in the form NAME<<END: {line}"
        value = []
        for inner in lines:
            if inner == end:
                break
            value.append(inner)
        found[name] = "\n".join(value)
    return found
