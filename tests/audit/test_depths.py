"""How much is read at each depth, and that what is read is what was asked for."""

import json

import numpy as np
import pytest
from checkpoints.broken import _raw, read
from profiles.test_families import FAMILIES
from profiles.walks import SERVED, publish, result, source_folder, staged

from hubconv.audit import Depth, audit, audit_json, reading, render_audit, whole
from hubconv.audit.choosing import choose, layer_of
from hubconv.ends import MANIFEST
from hubconv.folder import FolderSource
from hubconv.progress import NOTHING, Progress
from hubconv.steps.report import TENSOR_DETAILS, tensor_details

FULL = Depth("full")


@pytest.fixture
def published(tmp_path):
    def make(name, *, details=False, **recipe):
        target = tmp_path / name
        walk = staged(name, target, **recipe)
        publish(walk, target, recipe=recipe, source={"repo": str(source_folder(name))})
        if details:
            (target / TENSOR_DETAILS).write_bytes(tensor_details(walk.records))
        return target

    return make


@pytest.fixture
def reads(monkeypatch):
    """(path, bytes) of every read of any folder."""
    seen = []
    plain, plain_open = FolderSource.read, FolderSource.open

    class Told:
        def __init__(self, shard, path):
            self.shard, self.path = shard, path

        def read(self, begin, end):
            seen.append((self.path, end - begin))
            return self.shard.read(begin, end)

    def opened(self, path, ranges=(), *, whole=True):
        from contextlib import contextmanager

        @contextmanager
        def telling():
            with plain_open(self, path, ranges, whole=whole) as shard:
                yield Told(shard, f"{self.ref}/{path}")

        return telling()

    monkeypatch.setattr(FolderSource, "open", opened)
    assert plain is FolderSource.read
    return seen


# ── full ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SERVED)
def test_full_decodes_every_weight_and_hashes_every_shard(published, name):
    target = published(name, details=True)
    walk = result(name)
    nvfp4 = [job for job in walk.plan.jobs if job.action == "nvfp4"]

    done = audit(str(target), str(source_folder(name)), depth=FULL)

    assert done.findings == ()
    assert done.notes == ()
    assert {look.module for look in done.compared} == {job.module for job in nvfp4}
    assert done.whole.hashed == len(walk.plan.units)
    assert done.whole.kept > 0
    # The figures are those of the conversion, to the last block.
    recorded = {t.module: t.quality for record in walk.records for t in record.tensors}
    for look in done.compared:
        assert look.quality.exact_blocks == recorded[look.module].exact_blocks
        assert look.quality.error_sq == pytest.approx(recorded[look.module].error_sq, rel=1e-9)
        assert look.rows == recorded_rows(walk, look.module)
    assert "shards hashed" in render_audit(done)


def recorded_rows(walk, module):
    return next(t.shape[0] for r in walk.records for t in r.tensors if t.module == module)


def test_full_without_source_hashes_and_looks_at_every_scale(published):
    target = published("deepseek_v3")
    wrong = change(target, "layers.1.mlp.experts.3.up_proj.weight_scale", 0, 0x7F)
    (target / MANIFEST).unlink()

    done = audit(str(target), depth=FULL)

    assert {(f.rule, f.where) for f in done.errors} == {("scale.block", wrong)}
    assert done.decoded == 0
    assert len(done.looked) == done.modules


def change(folder, suffix, position, byte, *, last=False):
    """Set one byte of a tensor, in its place; its name."""
    paths = sorted(folder.glob("*.safetensors"))
    found = [
        (path, name, place["data_offsets"])
        for path in paths
        for name, place in _raw(path)[0]
        if name.endswith(suffix)
    ]
    path, name, (begin, end) = found[-1 if last else 0]
    content = bytearray(path.read_bytes())
    start = len(content) - len(_raw(path)[1])
    content[start + begin + position % (end - begin)] = byte
    path.write_bytes(content)
    return name


@pytest.mark.parametrize("suffix", [".weight_packed", ".kv_b_proj.weight", "norm.weight"])
def test_full_finds_one_byte_that_a_sample_passes_over(published, suffix):
    target = published("deepseek_v3", details=True)
    (target / MANIFEST).write_text(  # as if the manifest had been made after the damage
        json.dumps(json.loads((target / MANIFEST).read_text()) | {"files": {}})
    )
    change(target, suffix, 200, 0x33, last=True)

    source = str(source_folder("deepseek_v3"))
    quick, deep = audit(str(target), source), audit(str(target), source, depth=FULL)

    assert quick.findings == ()
    assert {f.rule for f in deep.errors} & {"decoded.recorded", "decoded.blocks", "kept.differs"}


def test_full_names_both_hashes_of_a_shard_that_is_not_the_manifests(published):
    target = published("llama_bf16_tied")
    manifest = json.loads((target / MANIFEST).read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    (target / MANIFEST).write_text(json.dumps(manifest))

    done = audit(str(target), depth=FULL)

    (finding,) = done.errors
    assert (finding.rule, finding.where) == ("tree.content", "model.safetensors")
    assert "0" * 64 in finding.what


def test_full_hashes_files_that_are_no_shards_too(published):
    target = published("llama_bf16_tied")
    path = target / "config.json"
    path.write_bytes(path.read_bytes().replace(b"  ", b" \n", 1))

    assert [f.rule for f in audit(str(target), depth=FULL).errors] == ["tree.manifest"]


def test_full_holds_little_at_a_time_whatever_the_size(published, reads, monkeypatch):
    target = published("deepseek_v3", details=True)
    source = str(source_folder("deepseek_v3"))
    whole_sums = audit(str(target), source, depth=FULL).by_role
    for module in (reading, whole):
        monkeypatch.setattr(module, "CHUNK_BYTES", 2048)
    monkeypatch.setattr(reading, "WINDOW_ELEMENTS", 512)
    reads.clear()

    done = audit(str(target), source, depth=FULL)

    shards = [size for path, size in reads if path.endswith(".safetensors")]
    headers = [size for size in shards if size > 2048 * 4]  # a header is fetched as one
    assert len(shards) > 1000
    assert len(headers) <= 4 * len(list(target.glob("*.safetensors")))
    assert done.findings == ()
    for role, (count, quality) in whole_sums.items():
        assert done.by_role[role][0] == count
        assert done.by_role[role][1].error_sq == pytest.approx(quality.error_sq, rel=1e-9)
        assert done.by_role[role][1].exact_blocks == quality.exact_blocks


def test_full_reads_each_byte_of_the_target_about_once(published, reads):
    target = published("llama_bf16")
    reads.clear()

    audit(str(target), str(source_folder("llama_bf16")), depth=FULL)

    for path in target.glob("*.safetensors"):
        size = path.stat().st_size
        read_bytes = sum(n for p, n in reads if p == str(path.resolve()))
        # Once for its hash; headers (at most all of so small a file) and scales again.
        assert size <= read_bytes < 2.4 * size


def test_progress_is_told_of_every_shard(published):
    class Told(Progress):
        def __init__(self):
            self.shards, self.nbytes, self.announced = [], 0, ()

        def plan(self, whole, done=NOTHING):
            self.announced = (whole.units, whole.source_bytes)

        def converted(self, source_bytes):
            self.nbytes += source_bytes

        def unit_finished(self, shard, size, seconds):
            self.shards.append(shard)

    target, told = published("deepseek_v3"), Told()

    audit(str(target), depth=FULL, progress=told)

    shards = sorted(path.name for path in target.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert (told.shards, told.nbytes) == (shards, size)
    assert told.announced == (len(shards), size)


# ── sample ───────────────────────────────────────────────────────────────────────────────────


def test_a_sample_decodes_whole_weights_and_says_which_seed(published):
    target = published("deepseek_v3", details=True)

    done = audit(str(target), str(source_folder("deepseek_v3")), depth=Depth("weights", 5, seed=7))

    assert done.findings == ()
    assert done.decoded == 5
    walk = result("deepseek_v3")
    assert all(look.rows == recorded_rows(walk, look.module) for look in done.compared)
    assert "5 weights, seed 7" in render_audit(done)
    assert audit_json(done)["seed"] == 7


def test_the_same_seed_looks_at_the_same_weights_and_another_at_others(published):
    target, source = published("deepseek_v3"), str(source_folder("deepseek_v3"))

    def modules(seed):
        done = audit(str(target), source, depth=Depth("weights", 4, seed))
        return {look.module for look in done.compared}

    assert modules(1) == modules(1)
    assert len({frozenset(modules(seed)) for seed in range(6)}) > 3


def test_more_than_there_are_is_all(published):
    target = published("llama_bf16_tied")

    done = audit(str(target), str(source_folder("llama_bf16_tied")), depth=Depth("weights", 10_000))

    assert done.decoded == done.modules


def test_a_choice_is_spread_over_roles_and_layers():
    names = [
        f"layers.{layer}.{part}"
        for layer in range(8)
        for part in ("q", "o", *(f"experts.{e}.w{w}" for e in range(64) for w in (1, 2, 3)))
    ]

    def role(name):
        return "expert" if "experts" in name else name[-1]

    def picked(count, seed=0):
        return choose(names, count, seed, name_of=lambda n: n, role_of=role)

    for seed in range(5):
        some = picked(24, seed)
        assert len(set(some)) == 24
        assert {role(name) for name in some} == {"q", "o", "expert"}
        for each in ("q", "o", "expert"):
            mine = [name for name in some if role(name) == each]
            assert len(mine) == 8
            assert {layer_of(name) for name in mine} == set(range(8))
    assert picked(24, 1) != picked(24, 2)
    # A longer look goes on where a shorter one ended.
    assert picked(30)[:24] == picked(24)
    assert sorted(picked(10_000)) == sorted(names)


def test_the_order_of_a_choice_never_changes():
    names = [f"layers.{n}.w" for n in range(100)]

    picked = choose(names, 5, 0, name_of=lambda n: n, role_of=lambda _: "")

    assert picked == ["layers.87.w", "layers.46.w", "layers.15.w", "layers.44.w", "layers.99.w"]


# ── fast ─────────────────────────────────────────────────────────────────────────────────────


def test_fast_reads_headers_and_configuration_and_says_what_it_leaves_out(published, reads):
    target = published("deepseek_v3")
    change(target, ".weight_global_scale", 3, 0x7F)
    reads.clear()

    done = audit(str(target), depth=Depth("fast"))

    shards = [path for path, _ in reads if path.endswith(".safetensors")]
    assert len(shards) == len(list(target.glob("*.safetensors")))  # one read each: the header
    assert done.findings == ()  # the damage is in bytes that nobody asked for
    assert (done.scalars, done.decoded) == (0, 0)
    assert sum("--fast" in note for note in done.notes) == 2
    assert audit(str(target)).errors != ()


def lose_a_shard(folder):
    next(folder.glob("model-00002*")).unlink()


def lose_the_config(folder):
    (folder / "config.json").write_text("{}")


def spoil_the_config(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"compressed"', '"depressed"'))


@pytest.mark.parametrize("damage", [lose_a_shard, lose_the_config, spoil_the_config])
def test_fast_finds_what_tree_headers_and_configuration_tell(published, damage):
    target = published("deepseek_v3")
    damage(target)

    assert audit(str(target), depth=Depth("fast")).errors


# ── what hubconv recorded ────────────────────────────────────────────────────────────────────


def test_a_record_that_does_not_fit_the_weights_is_found(published):
    target = published("llama_bf16_tied", details=True)
    walk = result("llama_bf16_tied")
    from dataclasses import replace

    told = [
        replace(
            record,
            tensors=tuple(
                replace(t, quality=replace(t.quality, error_sq=t.quality.error_sq * 1.001))
                for t in record.tensors
            ),
        )
        for record in walk.records
    ]
    (target / TENSOR_DETAILS).write_bytes(tensor_details(told))

    done = audit(str(target), str(source_folder("llama_bf16_tied")), depth=FULL)

    assert {f.rule for f in done.errors} == {"decoded.recorded"}
    assert len(done.errors) == done.modules


@pytest.mark.parametrize("garbage", [b"", b"junk", b"\x1f\x8b" + b"\0" * 30])
def test_a_record_that_is_none_is_passed_over(published, garbage):
    target = published("llama_bf16_tied")
    (target / TENSOR_DETAILS).write_bytes(garbage)

    done = audit(str(target), str(source_folder("llama_bf16_tied")), depth=FULL)

    assert done.findings == ()


def test_a_record_that_unpacks_without_end_is_not_unpacked_to_the_end(published, monkeypatch):
    import gzip

    from hubconv.audit import recorded

    monkeypatch.setattr(recorded, "MOST_BYTES", 1 << 16)
    target = published("llama_bf16_tied")
    (target / TENSOR_DETAILS).write_bytes(gzip.compress(b'{"module": "x"}\n' * (1 << 16)))

    done = audit(str(target), str(source_folder("llama_bf16_tied")), depth=FULL)

    assert done.findings == ()


def test_a_source_that_is_not_finite_is_a_warning(published, tmp_path):
    from checkpoints.broken import nan_in_bf16
    from profiles.walks import copy_of

    target = published("llama_bf16_tied")
    (target / MANIFEST).unlink()
    source = copy_of("llama_bf16_tied", tmp_path / "source")
    wrong = nan_in_bf16(source, r"down_proj\.weight$")

    done = audit(str(target), str(source), depth=FULL)

    assert {(f.severity, f.rule, f.where) for f in done.findings} == {
        ("warning", "source.unreadable", wrong.removesuffix(".weight"))
    }


def test_scalars_near_one_another_come_by_one_read(tmp_path):
    from checkpoints import foreign

    files = foreign.modelopt(source_folder("llama_bf16"), r"_proj\.weight$")
    view = FolderSource(files.write(tmp_path / "x"))
    asked = []
    plain = view.read
    view.read = lambda path, begin, end: asked.append(path) or plain(path, begin, end)
    tensors = [
        t
        for shard in sorted(p for p in view.files() if p.endswith(".safetensors"))
        for t in __import__("hubconv.steps.inventory", fromlist=["x"]).read_header(
            view, view.files()[shard]
        )
        if t.dtype == "F32" and t.nbytes == 4
    ]
    asked.clear()

    values = reading.read_scalars(view, tensors)

    assert len(values) == len(tensors) == 28
    assert len(asked) == len({t.shard for t in tensors})
    stored = {t.name: t for path in (tmp_path / "x").glob("*.safetensors") for t in read(path)}
    for tensor in tensors:
        expected = np.frombuffer(stored[tensor.name].data, "<f4")[0]
        assert values[reading.place_of(tensor)] == expected


def test_sums_of_a_weight_are_let_go_of_when_it_is_done(published, monkeypatch):
    import weakref

    from hubconv.audit import account

    alive, most = weakref.WeakSet(), []

    class Counted(account.Fidelity):
        def __init__(self, cols):
            super().__init__(cols)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(account, "Fidelity", Counted)
    target = published("qwen3_moe_bf16")

    done = audit(str(target), str(source_folder("qwen3_moe_bf16")), depth=FULL)

    assert len(most) == done.decoded == 24
    assert max(most) <= whole.THREADS + 1


def test_tensors_that_others_leave_out_on_purpose_are_no_errors(tmp_path):
    from checkpoints import foreign

    files = foreign.modelopt(source_folder("glm45_bf16"), r"experts\.\d+\.\w+_proj\.weight$")
    layers = files.config["num_hidden_layers"]
    gone = files.drop(rf"layers\.{layers}\.")  # multi-token prediction
    assert gone
    folder = files.write(tmp_path / "x")

    done = audit(str(folder), str(source_folder("glm45_bf16")))

    lost = [f for f in done.findings if f.rule == "source.lost"]
    assert lost
    assert {f.severity for f in lost} == {"warning"}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_every_family_finds_its_source(published, name):
    target = published(name, details=True)

    done = audit(str(target), str(source_folder(name)), depth=FULL)

    assert done.findings == ()
    assert done.decoded == done.modules > 0
    assert not [note for note in done.notes if "not compared" in note]
