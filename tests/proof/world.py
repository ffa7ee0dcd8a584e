"""A target in memory, the promises that are watched on it, and the processes that work on it.

A process walks as `pipeline.convert` does, by the real target, staging and publisher; only the
bytes of its shards are toys. It can be killed at any call: then another one begins, and knows
nothing but the Hub.
"""

import hashlib
import json
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hubconv.ends import Release, StagedFile, TargetOptions, UnitRecord
from hubconv.errors import HubconvError, IntegrityError
from hubconv.hub import journals, source, staging
from hubconv.hub.client import HubClient
from hubconv.hub.commits import TRAILER
from hubconv.hub.target import HubTarget
from hubconv.pipeline.releasing import compare_published
from proof.memory_hub import AT_READS, AT_WRITES, MAIN, Entry, Killed, MemoryApi, MemoryHub

REPO = "demo/target"
PLAN = "0123456789abcdef"
EARLIER = "fedcba9876543210"
BRANCH = f"hubconv/{PLAN}"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
GONE = "model-00003-of-00003.safetensors"
WORK = Path("/nonexistent/hubconv-proof")
PROCESSES = 6

KINDS = ("new", "update", "pull request")


def content_of(shard, plan=PLAN):
    return f"{plan} {shard}".encode()


def sha256_of(content):
    return hashlib.sha256(content).hexdigest()


def small_files(plan, number=0):
    """What is published beside the shards; card and figures differ from machine to machine."""
    files = {"config.json": json.dumps({"plan": plan}).encode()}
    shards = [*SHARDS, *([GONE] if plan == EARLIER else [])]
    files["hubconv-tensors.jsonl.gz"] = f"figures of machine {number}".encode()
    told = {shard: content_of(shard, plan) for shard in shards} | files
    names = {path: {"size": len(data), "sha256": sha256_of(data)} for path, data in told.items()}
    files["README.md"] = f"made by process {number}".encode()
    files["hubconv.json"] = json.dumps({
        "plan_id": plan,
        "files": names,
        "command": f"process {number}",
    }).encode()
    return files


class World:
    """A target, and what was done to it.

    Attributes:
        violations: Every promise that was broken, in words.
        made: How often each shard was converted.
        is_alone: One process works at a time.
        foreign: Commits of somebody else.
        trace: Each call so far: name, and whether it changes anything.
    """

    def __init__(self, kind="new"):
        self.kind = kind
        self.hub = MemoryHub()
        self.violations = []
        self.made = Counter()
        self.trace = []
        self.processes = 0
        self.is_alone = True
        self.options = TargetOptions(create_pr=kind == "pull request")
        self._read_back = set()
        self._becomes_public = False
        self.old = None
        self.foreign = 0
        if kind != "new":
            self._publish_earlier()
        self.hub.moved, self.hub.shown = self._moved, self._shown

    def _publish_earlier(self):
        self.hub.create_repo(REPO, private=False)
        repo, lines = self.hub.repo(REPO), []
        for shard in (*SHARDS, GONE):
            data = content_of(shard, EARLIER)
            repo.large[sha256_of(data)] = len(data)
            lines.append((shard, Entry(len(data), sha256=sha256_of(data))))
        lines += [
            (path, Entry(len(data), content=data)) for path, data in small_files(EARLIER).items()
        ]
        self.hub.commit(REPO, MAIN, None, "NVFP4", f"{TRAILER}{EARLIER}", lines)
        self.old = repo.resolve(MAIN).tree

    # ── what is watched ──────────────────────────────────────────────────────────────────────

    def _moved(self, repo, ref, old, new):
        if ref.startswith("hubconv/"):
            self._watch_staging(repo, old, new)
        elif old is None and ref == MAIN:
            self.old = new.tree
        else:
            self._watch_shown(repo, ref, new)

    def _watch_staging(self, repo, old, new):
        lost = set(old.tree if old else ()) - set(new.tree)
        if lost:
            self.violations.append(f"staging lost {sorted(lost)}")
        unknown = [
            path for path, entry in new.tree.items()
            if entry.sha256 and entry.sha256 not in repo.large
        ]  # fmt: skip
        if unknown:
            self.violations.append(f"staging names bytes that the Hub has not: {unknown}")
        note = new.tree.get(journals.note_path(PLAN))
        self._becomes_public |= bool(note and json.loads(note.content)["make_public"])

    def _watch_shown(self, repo, ref, new):
        if new.tree != self.old and not self.is_complete(new.tree):
            self.violations.append(f"{ref} shows neither the old nor the new: {sorted(new.tree)}")
        fresh = {entry.sha256 for entry in new.tree.values() if entry.sha256}
        fresh -= {entry.sha256 for entry in self.old.values()}
        if not fresh <= self._read_back:
            self.violations.append(f"{ref} shows bytes that nobody has read back")
        # A second pull request cannot be kept from being opened; it is closed in the end.
        if ref == MAIN and len(self.publishes(repo)) > 1:
            self.violations.append(f"{len(self.publishes(repo))} publish commits")

    def _shown(self, repo):
        if not repo.private and not self.is_complete(repo.resolve(MAIN).tree):
            self.violations.append("the repository is public and empty")

    def publishes(self, repo):
        """Publish commits of the plan: on main, and at the heads of pull requests."""
        logs = [repo.log(MAIN)]
        logs += [
            [repo.resolve(f"refs/pr/{num}")] for num, state in repo.pulls.items() if state == "open"
        ]
        return {
            commit.id
            for log in logs
            for commit in log
            if f"{TRAILER}{PLAN}" in commit.message and not commit.title.startswith("Stage ")
        }

    def is_complete(self, tree):
        wanted = {".gitattributes", *small_files(PLAN), *SHARDS}
        ours = {path for path in tree if not path.startswith("notes-")}
        return ours == wanted and all(
            tree[shard].sha256 == sha256_of(content_of(shard)) for shard in SHARDS
        )

    def staged(self):
        """Shards that are finished and committed, as the staging branch itself tells."""
        repo = self.hub.repos.get(REPO)
        if repo is None or BRANCH not in repo.refs:
            return set()
        tree = repo.resolve(BRANCH).tree
        return {
            shard
            for shard in SHARDS
            if f".hubconv/{PLAN}/units/{shard}.json" in tree
            and tree[shard].sha256 == sha256_of(content_of(shard))
        }

    def interfere(self):
        """Somebody else commits to main."""
        repo = self.hub.repo(REPO)
        self.foreign += 1
        note = {f"notes-{self.foreign}.txt": Entry(4, content=b"mine")}
        self.old = {**repo.resolve(MAIN).tree, **note}
        self.hub.commit(REPO, MAIN, None, "Notes", "", list(note.items()))

    def finish(self, *, visible=True):
        """What must hold when a run has ended well and nothing is on its way any more.

        Args:
            visible: The repository is as private as it was noted to be. Where two began at once, or
                a note came when its process was dead, one may take it for made by hand, which
                leaves it as it is.
        """
        self.hub.settle()
        repo = self.hub.repos[REPO]
        found = len(self.publishes(repo))
        if found != 1:
            self.violations.append(f"{found} publish commits in the end")
        shown = "refs/pr/1" if self.kind == "pull request" else MAIN
        if not self.is_complete(repo.resolve(shown).tree):
            self.violations.append(f"{shown} is not complete in the end")
        if any(ref.startswith("hubconv/") for ref in repo.refs):
            self.violations.append("a staging branch is left")
        if self.kind != "pull request" and set(repo.tags) != {f"hubconv-{PLAN}"}:
            self.violations.append(f"tags {sorted(repo.tags)}")
        if visible and self.kind == "new" and repo.private == self._becomes_public:
            self.violations.append("the repository is not as private as it should be")

    # ── a process ────────────────────────────────────────────────────────────────────────────

    def process(self, gate):
        """A new process, which has nothing of the earlier ones, to its end.

        Args:
            gate: Asked before each of its calls; see `MemoryApi`.
        """
        self.processes += 1

        def noting(name, writes):
            self.trace.append((name, writes))
            return gate(name, writes)

        client = HubClient(MemoryApi(self.hub, noting), wait=lambda _: None)
        _Process(self, client, self.processes).walk()


@dataclass
class _Process:
    world: World
    client: HubClient
    number: int
    records: dict = field(default_factory=dict)

    def walk(self):
        world = self.world
        staged = world.staged()
        target = HubTarget(self.client, REPO, world.options, WORK)
        target.check("")
        if target.published(PLAN) is not None:
            target.tidy(PLAN)
            return
        journal = target.stage(PLAN)
        self.records = dict(journal.records())
        try:
            for shard in SHARDS:
                if shard not in self.records:
                    self._make(journal, shard, staged)
        except HubconvError:
            with suppress(HubconvError):
                journal.flush()
            raise
        journal.flush()
        self._read_back(journal.view())
        release = self._release(target)
        published = journal.publish(release)
        compare_published(target, published, release.files)
        journal.discard()

    def _make(self, journal, shard, staged):
        # Beside another process a branch may be gone that was there when this one began.
        if shard in staged and self.world.is_alone:
            self.world.violations.append(f"{shard} was finished and is made again")
        self.world.made[shard] += 1
        content = content_of(shard)
        with journal.create(shard) as sink:
            sink.write(content)
            done = sink.finish()
        record = UnitRecord(PLAN, shard, done.size, done.sha256, (), "cpu", "0", 0.0)
        journal.add(record)
        self.records[shard] = record

    def _read_back(self, view):
        for shard in SHARDS:
            entry = view.files().get(shard)
            if entry is None or entry.sha256 != self.records[shard].sha256:
                raise IntegrityError(f"{shard} is not staged as it was made")
            self.world._read_back.add(entry.sha256)

    def _release(self, target):
        files = small_files(PLAN, self.number)
        manifest = target.manifest() or {"files": {}}
        stale = sorted(set(manifest["files"]) & set(target.files()) - {*files, *SHARDS})
        records = [self.records[shard] for shard in SHARDS]
        return Release(PLAN, "NVFP4 of demo/source", records, files, stale)


# ── the seam ─────────────────────────────────────────────────────────────────────────────────


class _Uploads:
    """Takes shards to the Hub in one call each."""

    def __init__(self, client, repo, branch, work_dir, *, xet, sent, at_once):
        self._client, self._repo, self._sent = client, repo, sent

    @contextmanager
    def create(self, path):
        yield _Sink(self, path)

    def send(self, staged):
        api = self._client.api
        self._client.call(
            f"Uploading {staged.path}",
            lambda: api.upload(self._repo, staged.sha256, staged.size),
        )
        self._sent(staged)

    def settle(self):
        pass

    def raise_failure(self):
        pass


class _Sink:
    def __init__(self, uploads, path):
        self._uploads, self._path, self._content = uploads, path, b""

    def write(self, data):
        self._content += data

    def interfere(self):
        """Somebody else commits to main."""
        repo = self.hub.repo(REPO)
        self.foreign += 1
        note = {f"notes-{self.foreign}.txt": Entry(4, content=b"mine")}
        self.old = {**repo.resolve(MAIN).tree, **note}
        self.hub.commit(REPO, MAIN, None, "Notes", "", list(note.items()))

    def finish(self):
        staged = StagedFile(self._path, len(self._content), sha256_of(self._content))
        self._uploads.send(staged)
        return staged


class _InTurn:
    """A pool of no threads: calls come in an order that can be told again."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items):
        return [function(item) for item in items]


def patch(monkeypatch):
    """Lead what does not go through HfApi to the memory."""

    def read(self, path, begin, end):
        api = self._client.api
        what = f"Reading {path}"
        return self._client.call(what, lambda: api.read(self._repo, self._commit, path))[begin:end]

    monkeypatch.setattr(source.HubSource, "_fetched", read)
    monkeypatch.setattr(staging, "speaks_xet", lambda api, repo, at: api.speaks_xet(repo, at))
    monkeypatch.setattr(staging, "Uploads", _Uploads)
    monkeypatch.setattr(journals, "ThreadPoolExecutor", _InTurn)
    monkeypatch.setattr(staging, "GROUP_UNITS", 1)


# ── schedules ────────────────────────────────────────────────────────────────────────────────


def drive(kind, schedule, *, again=False):
    """Work until something is published, whatever befalls the calls of a schedule.

    Args:
        kind: Of the target.
        schedule: Number of a call, counted from 0 over all processes, to its fault.
        again: When all has ended and arrived, one more process comes and tidies up.

    Returns:
        The world in the end.
    """
    world = World(kind)

    def gate(_name, _writes):
        return schedule.get(len(world.trace) - 1)

    for _ in range(PROCESSES):
        try:
            world.process(gate)
        except Killed:
            continue
        except HubconvError as error:
            world.violations.append(f"a run ended with {type(error).__name__}: {error}")
        break
    else:
        world.violations.append("never published")
    if again:
        world.hub.settle()
        world.process(gate)
    if not world.violations:
        on_its_way = any(fault.killed and fault.applied for fault in schedule.values())
        world.finish(visible=not on_its_way)
    return world


def faults_at(call):
    """What can befall a call."""
    return AT_WRITES if call[1] else AT_READS


def schedules_of_one(kind):
    """Every fault at every call of a whole run, with the world it leads to."""
    for at, call in enumerate(drive(kind, {}).trace):
        for fault in faults_at(call):
            schedule = {at: fault}
            yield schedule, drive(kind, schedule)


def schedules_of_two(kind, every=1):
    """Every fault at every call, and every fault at every call after it; or one in `every`."""
    count = 0
    for schedule, world in schedules_of_one(kind):
        (first,) = schedule
        for at in range(first + 1, len(world.trace)):
            for fault in faults_at(world.trace[at]):
                count += 1
                if count % every == 0:
                    both = {**schedule, at: fault}
                    yield both, drive(kind, both)
