"""What the tests of the Hub half share: embedded Hubs, sources on them, both ways to convert.

No test reaches a real Hub, a real token or the home folder, whatever the machine is set up for.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_HOME = tempfile.mkdtemp(prefix="hubconv-tests-")
for _name in [name for name in os.environ if name.startswith(("HF_", "HUBCONV_", "HUGGING_FACE_"))]:
    del os.environ[_name]
# Read when huggingface_hub is imported, which no test module has done yet.
os.environ |= {
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": _HOME,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
}
if "PYTEST_XDIST_WORKER" in os.environ:
    # One core each: torch's own threads would only fight over the cores.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402
from installed import INSTALLED  # noqa: E402

MODES = ("xet", "lfs")


def pytest_configure(config):
    # A shell has what it starts in the background ignore Ctrl-C, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The client's own upload of a file object, by the way that its HTTP library calls old.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(autouse=True)
def loudness():
    """The command sets the log levels of its process; the next test has its own."""
    names = ["hubconv", "hubconv.kernels"]
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def pytest_sessionfinish():
    shutil.rmtree(_HOME, ignore_errors=True)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        import json

        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def said(self):
        return self.out + self.err


@dataclass
class Studio:
    """An embedded Hub, an account on it, and both ways to run a conversion against it."""

    hub: object
    mode: str
    folder: Path
    checkpoints: object
    waits: list = field(default_factory=list)
    token: str | None = None
    _sources: dict = field(default_factory=dict)
    _count: int = 0

    @property
    def api(self):
        from hubconv.embedded import DEMO_TOKEN

        return self.api_of(DEMO_TOKEN)

    def api_of(self, token):
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.hub.endpoint, token=token)

    def client(self):
        """A client that notes how long it would have waited; with `token` ("" for none), if set."""
        from hubconv.hub.client import HubClient

        api = self.api if self.token is None else self.api_of(self.token or None)
        return HubClient(api, wait=self.waits.append)

    # ── repositories ─────────────────────────────────────────────────────────────────────────

    def name(self, what="target"):
        """A repository id no other test has."""
        self._count += 1
        return f"demo/{what}-{self._count}"

    def source(self, recipe="llama_bf16"):
        """A source repository of a recipe; shared, so nobody changes it."""
        if recipe not in self._sources:
            self._sources[recipe] = self.put(self.checkpoints(recipe), self.name(recipe))
        return self._sources[recipe]

    def own_source(self, recipe="llama_bf16", **create):
        """A source repository that the test may change."""
        return self.put(self.checkpoints(recipe), self.name("source"), **create)

    def put(self, folder, repo, message="upload", **create):
        """Make a folder's files the content of a repository, in one commit."""
        from hubconv.hub.compat import addition, finished_upload

        self.api.create_repo(repo, exist_ok=True, **create)
        operations = [
            addition(path.relative_to(folder).as_posix(), path, xet=self.mode == "xet")
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        self.api.create_commit(repo, operations, commit_message=message)
        for operation in operations:
            finished_upload(operation)
        return repo

    def write(self, repo, path, content, message="change", **more):
        """One commit that puts one file."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(path, content)]
        return self.api.create_commit(repo, operations, commit_message=message, **more).oid

    def read(self, repo, path, revision="main"):
        """A file's content."""
        from hubconv.hub.source import HubSource

        view = HubSource(self.client(), repo, revision, self.folder / "slots")
        return view.read(path, 0, view.files()[path].size)

    def tree(self, repo, revision="main"):
        """Path to hash: sha256 where it is large, git's where it is not."""
        return {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in self.api.list_repo_tree(repo, recursive=True, revision=revision)
            if hasattr(entry, "size")
        }

    def log(self, repo, revision="main"):
        """Commits, newest first."""
        return self.api.list_repo_commits(repo, revision=revision)

    def publishes(self, repo, revision="main"):
        """Publish commits of a branch, newest first."""
        return [
            commit
            for commit in self.log(repo, revision)
            if "hubconv-plan: " in commit.message and not commit.title.startswith("Stage ")
        ]

    def branches(self, repo):
        return {branch.name for branch in self.api.list_repo_refs(repo).branches}

    def staging(self, repo):
        """The staging branches of a repository."""
        return {name for name in self.branches(repo) if name.startswith("hubconv/")}

    def tags(self, repo):
        return {tag.name for tag in self.api.list_repo_refs(repo).tags}

    def is_private(self, repo):
        return self.api.repo_info(repo).private

    # ── runs ─────────────────────────────────────────────────────────────────────────────────

    def convert(self, source, target, progress=None, **request):
        """A conversion in this process; by default the quick one."""
        from hubconv.pipeline import Request, convert
        from hubconv.steps.decide import Recipe

        request = {
            "device": "cpu",
            "workers": 1,
            "work_dir": str(self.folder / "work"),
            "recipe": Recipe(scales="amax"),  # the bytes are for other tests
            **request,
        }
        return convert(Request(source, target, **request), progress)

    def environment(self, **more):
        from hubconv.embedded import DEMO_TOKEN

        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUBCONV_"))
        }
        kept |= {
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": DEMO_TOKEN,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(INSTALLED),
        } | more
        return {name: value for name, value in kept.items() if value is not None}

    def start(self, *words, env=None, group=None, lines=(), **popen):
        """The real command, running; `group` shards go into one staging commit.

        `lines` of Python come before it.
        """
        program = ["-m", "hubconv"]
        if group is not None:
            lines = ["from hubconv.hub import staging", f"staging.GROUP_UNITS = {group}"]
        if lines:
            program = ["-c", "; ".join([*lines, "from hubconv.cli import main", "main()"])]
        return subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            env=self.environment(**(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **popen,
        )

    def command(self, *words, env=None, seconds=120):
        """The real command, to its end."""
        with self.start(*words, env=env) as process:
            out, err = process.communicate(timeout=seconds)
        return Done(process.returncode, out, err)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Makes the folder of a recipe once; a copy of it where the test wants to change it."""
    from checkpoints.recipes import RECIPES

    base = tmp_path_factory.mktemp("checkpoints")

    def make(recipe, copy_to=None):
        folder = base / recipe
        if not folder.exists():
            RECIPES[recipe](folder)
        if copy_to is None:
            return folder
        shutil.copytree(folder, copy_to)
        return copy_to

    return make


@contextmanager
def _studio(mode, folder, checkpoints):
    from hubconv.embedded import EmbeddedHub

    with EmbeddedHub(folder / "hub", mode=mode) as hub:
        yield Studio(hub, mode, folder, checkpoints)


@pytest.fixture(scope="session")
def studios(tmp_path_factory, checkpoints):
    """One Hub of each kind for the whole session, started when it is first asked for."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        made = {}

        def studio(mode):
            if mode not in made:
                folder = tmp_path_factory.mktemp(f"studio-{mode}")
                made[mode] = stack.enter_context(_studio(mode, folder, checkpoints))
            return made[mode]

        yield studio


def _in_order(studio, monkeypatch):
    """Let `hubconv` in this process speak to a studio's Hub, without waiting."""
    monkeypatch.setattr("hubconv.hub.client.open_client", lambda *_: studio.client())
    studio.hub.faults.clear()
    studio.hub.requests.clear()
    studio.waits.clear()
    studio.token = None


@pytest.fixture(params=MODES)
def studio(request, studios, monkeypatch):
    """A studio of each kind."""
    studio = studios(request.param)
    _in_order(studio, monkeypatch)
    yield studio
    studio.hub.faults.clear()


@pytest.fixture
def xet_studio(studios, monkeypatch):
    """A studio whose Hub stores in xet, as the real one does."""
    studio = studios("xet")
    _in_order(studio, monkeypatch)
    yield studio
    studio.hub.faults.clear()


@pytest.fixture
def lfs_studio(studios, monkeypatch):
    """A studio whose Hub knows no xet."""
    studio = studios("lfs")
    _in_order(studio, monkeypatch)
    yield studio
    studio.hub.faults.clear()
