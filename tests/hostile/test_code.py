"""Code of a source is passed on by rule, listed, and never run; pickles are not even fetched."""

import ast
import hashlib
import json
import shutil
from pathlib import Path

import pytest

import hubconv
from hubconv.errors import SourceError
from hubconv.folder import FolderSource
from hubconv.steps import copies
from hubconv.steps.copies import choose_copies, travels
from hubconv.steps.decide import Recipe

BF16 = "llama_bf16"
CANARY = "import pathlib; pathlib.Path({path!r}).write_text('it ran')\n"
PICKLES = (
    "pytorch_model.bin", "consolidated.00.pth", "model.ckpt", "weights.pt", "tokenizer.pkl",
    "vectors.npy", "arrays.npz", "old.h5", "trees.joblib", "flax_model.msgpack", "model.onnx",
    "inference/cache.pkl", "assets/x.BIN",
)  # fmt: skip


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return FolderSource(folder)


@pytest.fixture
def booby_trapped(lfs_studio, checkpoints, tmp_path):
    """A source full of code and pickles that leave a mark when they run; and where the mark is."""
    folder, mark = checkpoints(BF16, tmp_path / "source"), tmp_path / "mark"
    code = CANARY.format(path=str(mark))
    for name in ("modeling_evil.py", "helper.py", "setup.py", "sitecustomize.py"):
        (folder / name).write_text(f"{code}# {name}\n")
    (folder / "modeling_evil.py").write_text(code + "from .helper import x\n")
    (folder / "inference").mkdir()
    (folder / "inference/model.py").write_text(code)
    (folder / "inference/run.sh").write_text(f"touch {mark}\n")
    (folder / "inference/fast.so").write_bytes(b"\x7fELF")
    for name in PICKLES:
        (folder / name).parent.mkdir(exist_ok=True)
        pickled = f"cposix\nsystem\n(S'touch {mark} # {name}'\ntR."
        (folder / name).write_bytes(pickled.encode())
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config))
    template = "{{ ''.__class__.__mro__ }}\r\n{% for x in range(10**9) %}{% endfor %}\ufeff \t\n"
    (folder / "chat_template.jinja").write_bytes(template.encode())
    return folder, lfs_studio.put(folder, lfs_studio.name("trap")), mark


def code_of(studio, repo):
    return {path for path in studio.tree(repo) if path.endswith((".py", ".sh", ".so"))}


# ── the whole walk ───────────────────────────────────────────────────────────────────────────


def test_code_travels_where_a_configuration_names_it_and_never_runs(booby_trapped, lfs_studio):
    folder, source, mark = booby_trapped
    studio, target = lfs_studio, lfs_studio.name()
    done = studio.convert(source, target)
    assert code_of(studio, target) == {"modeling_evil.py", "helper.py", "inference/model.py"}
    card = studio.read(target, "README.md").decode()
    files = json.loads(studio.read(target, "hubconv.json"))["files"]
    for path in code_of(studio, target):
        content = (folder / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert studio.read(target, path) == content
        assert files[path]["sha256"] == digest
        assert digest in card
    assert "hubconv has not run or reviewed it" in card
    assert any("setup.py, sitecustomize.py" in warning for warning in done.plan.warnings)
    assert not mark.exists()


def test_a_chat_template_is_the_same_bytes_and_listed(booby_trapped, lfs_studio):
    folder, source, mark = booby_trapped
    target = lfs_studio.name()
    lfs_studio.convert(source, target)
    content = (folder / "chat_template.jinja").read_bytes()
    assert lfs_studio.read(target, "chat_template.jinja") == content
    digest = hashlib.sha256(content).hexdigest()
    assert digest in lfs_studio.read(target, "README.md").decode()
    listed = json.loads(lfs_studio.read(target, "hubconv.json"))["files"]["chat_template.jinja"]
    assert listed == {"size": len(content), "sha256": digest}
    assert not mark.exists()


def test_pickles_are_neither_fetched_nor_passed_on(booby_trapped, lfs_studio):
    _, source, mark = booby_trapped
    target = lfs_studio.name()
    lfs_studio.hub.requests.clear()
    lfs_studio.convert(source, target)
    asked = [each.path for each in lfs_studio.hub.requests.all() if f"/{source}/" in each.path]
    assert any(path.endswith("config.json") for path in asked)
    for name in PICKLES:
        assert not [path for path in asked if path.endswith(name)]
        assert name not in lfs_studio.tree(target)
    assert not mark.exists()


def test_without_code_none_travels_and_its_absence_is_told(booby_trapped, lfs_studio):
    _, source, _ = booby_trapped
    target = lfs_studio.name()
    lfs_studio.convert(source, target)
    done = lfs_studio.convert(source, target, recipe=Recipe(scales="amax", code="skip"))
    assert code_of(lfs_studio, target) == set()
    assert any("names code that is left out" in warning for warning in done.plan.warnings)
    assert "left out" in lfs_studio.read(target, "README.md").decode()


def test_code_can_be_refused_altogether(booby_trapped, lfs_studio):
    _, source, _ = booby_trapped
    with pytest.raises(SourceError, match=r"helper\.py, inference/model\.py") as refused:
        lfs_studio.convert(source, lfs_studio.name(), recipe=Recipe(code="refuse"))
    assert refused.value.exit_code == 3
    assert "--code copy" in refused.value.next_step


# ── which code is named ──────────────────────────────────────────────────────────────────────


def test_what_named_code_imports_is_named_too(tmp_path):
    source = written(
        tmp_path,
        **{
            "a.py": "from .b import x\nimport os\nfrom c import y\n",
            "b.py": "    from .d import (\n x)\nfrom .a import z\n",
            "c.py": "",
            "d.py": "",
            "e.py": "",
            "tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["e.Slow", None]}}),
        },
    )
    config = {"auto_map": {"AutoConfig": "a.Config", "AutoModel": "other/repo--c.Model"}}
    kept = choose_copies(source, config, "copy")
    assert kept.paths == {"a.py", "b.py", "d.py", "e.py", "tokenizer_config.json"}
    assert "c.py" in kept.warnings[0]


@pytest.mark.parametrize(
    "auto_map",
    [None, [], "a.X", {"x": None}, {"x": 1}, {"x": ""}, {"x": ["", {}]}, {"x": "../../a.X"},
     {"x": "a"}, {"x": "sub/a.X"}],
)  # fmt: skip
def test_an_odd_auto_map_names_nothing(tmp_path, auto_map):
    source = written(tmp_path, **{"a.py": "", "odd_config.json": "[" * 100_000})
    assert "a.py" not in choose_copies(source, {"auto_map": auto_map}, "copy").paths


def test_a_source_without_named_code_is_not_refused(tmp_path):
    source = written(tmp_path, **{"a.py": "", "tokenizer.json": "{}"})
    assert choose_copies(source, {}, "refuse").paths == {"tokenizer.json"}


@pytest.mark.parametrize(
    "path",
    ["x\n.json", "x\u202enosj.json", "x\0.json", "a\\..\\b.json", "\x1b[2J.txt", "/etc/x.json",
     "../x.json", "assets/../x.png", "inference/x.so", "inference/x.sh", "encoding/.x.py",
     "readme.MD", "CONFIG.json", "MODEL.safetensors.INDEX.json", "x.PKL"],
)  # fmt: skip
def test_a_name_that_hides_something_does_not_travel(path):
    assert not travels(path)


def test_what_travels_together_has_a_cap(tmp_path, monkeypatch):
    source = written(tmp_path, **{"a.json": "1234", "b.json": "1234", "c.json": "1234"})
    assert len(choose_copies(source, {}, "copy").entries) == 3
    monkeypatch.setattr(copies, "MAX_ALL_COPIED_BYTES", 11)
    with pytest.raises(SourceError, match="11 together"):
        choose_copies(source, {}, "copy")
    monkeypatch.setattr(copies, "MAX_COPIED_BYTES", 3)
    with pytest.raises(SourceError, match="3 bytes each"):
        choose_copies(source, {}, "copy")


# ── the package itself ───────────────────────────────────────────────────────────────────────

RUNS_THINGS = {"pickle", "marshal", "shelve", "dill", "joblib", "runpy", "transformers", "yaml"}
RUNNERS = {"eval", "exec", "compile", "__import__", "torch.load", "numpy.load", "np.load"}


def dangers(path):
    """Imports and calls of a module that could run what they are given."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from {name.name.partition(".")[0] for name in node.names} & RUNS_THINGS
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").partition(".")[0]} & RUNS_THINGS
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in RUNNERS:
            yield ast.unparse(node.func)


OWN_PIPES = {
    f"engines/{name}.py": ["pickle"] for name in ("process_child", "process_worker", "processes")
}
"""hubconv's own processes speak to each other so, through pipes that nobody else holds; what comes
from a source are names, numbers and bytes within, never the pickle itself."""


def test_no_module_can_run_what_a_source_holds():
    package = Path(hubconv.__file__).parent
    found = {
        path.relative_to(package).as_posix(): list(dangers(path)) for path in package.rglob("*.py")
    }
    assert len(found) > 50
    assert {name: what for name, what in found.items() if what} == OWN_PIPES


def test_a_module_that_could_would_be_seen(tmp_path):
    (tmp_path / "x.py").write_text(
        "import pickle\nfrom yaml import load\ntorch.load(x)\nnumpy.load(x)\neval(x)\n"
    )
    assert sorted(dangers(tmp_path / "x.py")) == [
        "eval",
        "numpy.load",
        "pickle",
        "torch.load",
        "yaml",
    ]


def test_the_traps_would_have_sprung(tmp_path):
    """The canaries of these tests are not duds."""
    mark = tmp_path / "mark"
    code = CANARY.format(path=str(mark))
    exec(compile(code, "trap", "exec"), {})
    assert mark.read_text() == "it ran"
    shutil.rmtree(tmp_path)
