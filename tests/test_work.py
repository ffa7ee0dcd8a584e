"""The work on a shard: what comes out means what the source means, whatever the way it was made."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors
from checkpoints.broken import BROKEN, read, shards
from profiles.walks import (
    SERVED,
    V3,
    V4,
    bench_of,
    convert,
    copy_of,
    decoded,
    keeps,
    make,
    plan_of,
    result,
    scalar_of,
    source_folder,
    values,
    weights_of,
)

from hubconv.demo.miniature import Entry, write_checkpoint
from hubconv.engines.stop import Stop
from hubconv.engines.threads import run_units
from hubconv.errors import BrokenLineError, DamagedError, IntegrityError
from hubconv.formats import stored
from hubconv.formats.checkpoint import write_header
from hubconv.progress import SilentProgress
from hubconv.steps.schedule import Limits, window_rows
from hubconv.work import unit as unit_of_work

VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in SERVED),
    *(
        pytest.param("deepseek_v3", recipe, id="-".join(recipe.values()))
        for recipe in (
            {"layout": "modelopt", "policy": "linears"},
            {"policy": "mlp"},
            {"scales": "amax"},
            {"mtp": "nvfp4"},
            {"activations": "w4a4"},
        )
    ),
]


def source_tensors(name):
    return {each.name: each for path in shards(source_folder(name)) for each in read(path)}


def digests(walk):
    return {record.shard: record.sha256 for record in walk.records}


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), VARIANTS)
def test_every_weight_decodes_to_the_weights_of_the_source(name, recipe):
    walk = result(name, **recipe)
    source, tensors = source_tensors(name), walk.tensors

    for job in walk.plan.jobs:
        if job.action != "nvfp4":
            continue
        wanted = weights_of(job, source).reshape(-1, 16)
        got = decoded(job, tensors, walk.plan.layout).reshape(-1, 16)
        assert np.isfinite(got).all()
        # Neighbouring codes lie at most 2 of 6 apart: no weight is off by more than a sixth of
        # its block's largest, and the block scale, itself rounded, adds little.
        amax = np.abs(wanted).max(1, keepdims=True)
        assert (np.abs(got - wanted) <= 0.21 * amax).all(), job.module
        assert np.linalg.norm(got - wanted) <= 0.11 * np.linalg.norm(wanted), job.module


@pytest.mark.parametrize(("name", "recipe"), VARIANTS)
def test_kept_tensors_are_the_same_bytes(name, recipe):
    walk = result(name, **recipe)
    source, tensors = source_tensors(name), walk.tensors

    kept = 0
    for job in walk.plan.jobs:
        if job.action not in {"keep", "rename"}:
            continue
        for output in job.writes:
            assert tensors[output.name].data == source[job.reads[output.source].name].data
            kept += 1
        assert len(job.writes) == len(job.reads)
    assert kept


@pytest.mark.parametrize(("name", "recipe"), VARIANTS)
def test_a_partner_set_shares_one_global_scale(name, recipe):
    walk = result(name, **recipe)
    tensors = walk.tensors

    for group in walk.plan.sets.values():
        scales = {
            tensors[output.name].data
            for job in group.members
            for output in job.writes
            if output.content == "global_scale"
        }
        assert len(scales) == 1, group.key


def test_partners_in_other_shards_share_their_scale_too():
    walk = result("deepseek_v3")
    shard_of = {o.name: u.shard for u in walk.plan.units for o in u.outputs}
    across = [
        group
        for group in walk.plan.sets.values()
        if len({shard_of[job.writes[0].name] for job in group.members}) > 1
    ]

    assert [group.key for group in across] == ["model.layers.1.mlp.experts.1.gate_proj+up_proj"]
    first, second = (
        scalar_of(walk.tensors[job.writes[2].name], "compressed-tensors")
        for job in across[0].members
    )
    assert first == second
    assert walk.plan.twice_bytes > 0


@pytest.mark.parametrize("name", SERVED)
def test_regrouped_shards_hold_the_same_tensors(name):
    assert result(name, max_shard_bytes=300_000).tensors == result(name).tensors


def test_both_spellings_of_deepseek_v4_become_equal_and_lose_nothing():
    official, repack = (result(name) for name in V4)

    ours, theirs = values(official.tensors), values(repack.tensors)

    assert set(ours) == set(theirs)
    for name, wanted in ours.items():
        if isinstance(wanted, tuple):
            assert theirs[name] == wanted, name
        else:
            np.testing.assert_array_equal(theirs[name], wanted, err_msg=name)
    assert set(official.tensors) == set(repack.tensors)
    for walk in (official, repack):
        blocks = sum(q.quality.blocks for r in walk.records for q in r.tensors)
        assert blocks == sum(q.quality.exact_blocks for r in walk.records for q in r.tensors) > 0


@pytest.mark.parametrize("name", V4)
def test_deepseek_v4_means_exactly_what_its_source_means(name):
    walk = result(name)
    source, meant = source_tensors(name), values(walk.tensors)

    for job in walk.plan.jobs:
        if job.weight is None or not job.writes:
            continue
        found = meant[job.writes[0].name]
        wanted = weights_of(job, source)
        if isinstance(found, tuple):
            assert found[2] == source[job.reads[0].name].data
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=job.module)


def test_the_plain_rule_takes_its_scale_from_the_largest_weight():
    walk = result("llama_bf16", scales="amax")
    source = source_tensors("llama_bf16")

    for group in walk.plan.sets.values():
        amax = max(np.abs(weights_of(job, source)).max() for job in group.members)
        scale = float(np.float32(amax) / np.float32(2688))
        for job in group.members:
            stored_scale = walk.tensors[job.writes[2].name].data
            assert np.frombuffer(stored_scale, "<f4")[0] == np.float32(1 / scale)


def test_records_tell_the_quality_of_every_weight():
    walk = result("llama_bf16")

    told = {q.module: q for record in walk.records for q in record.tensors}

    assert set(told) == {job.module for job in walk.plan.jobs if job.action == "nvfp4"}
    for job in walk.plan.jobs:
        if job.action == "nvfp4":
            assert told[job.module].shape == (job.weight.rows, job.weight.cols)
            assert told[job.module].quality.elements == job.weight.rows * job.weight.cols
            assert 0.05 < told[job.module].quality.relative_error < 0.09


# --- One result, whatever the way -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param("deepseek_v3", {}, id="again"),
        pytest.param("deepseek_v3", {"held_bytes": 0}, id="nothing held"),
        pytest.param("deepseek_v4_sgl_fp8", {"window_bytes": 1500}, id="small windows"),
        pytest.param(
            "llama_bf16_tied",
            {"window_bytes": 40_000, "held_bytes": 100_000, "copy_bytes": 77},
            id="odd sizes",
        ),
    ],
)
def test_the_bytes_do_not_depend_on_how_much_is_in_memory(tmp_path, name, sizes):
    bench = replace(bench_of(source_folder(name), tmp_path), limits=Limits(**sizes))

    records = [make(bench, unit) for unit in bench.plan.units]

    assert {r.shard: r.sha256 for r in records} == digests(result(name))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    bench = bench_of(source_folder("deepseek_v3"), tmp_path)

    records = run_units(bench, bench.plan.units, workers, SilentProgress(), Stop())

    assert {r.shard: r.sha256 for r in records} == digests(result("deepseek_v3"))


def test_a_weight_with_one_scale_for_all_is_read_in_small_windows():
    weight = stored.StoredWeight("fp8", "F8_E4M3", 1000, 1024, "F32", (1000, 1024))

    windows = list(window_rows(weight, 64 * 1024))

    assert windows[0] == (0, 64)
    assert sum(rows for _, rows in windows) == 1000


@pytest.mark.parametrize("window_bytes", [1, 5_000, 10**9])
@pytest.mark.parametrize("block", [(128, 128), (1, 96), (300, 96)])
def test_windows_cover_a_weight_and_cut_no_block(window_bytes, block):
    weight = stored.StoredWeight("fp8", "F8_E4M3", 300, 96, "F32", block)

    position = 0
    for first, rows in window_rows(weight, window_bytes):
        assert first == position
        assert first % block[0] == 0 or block[0] == weight.rows
        position += rows
    assert position == 300


# --- Odd shapes -----------------------------------------------------------------------------------

ODD = [
    Entry("model.layers.0.mlp.down_proj.weight", "BF16", (3, 16), b"\x80\x3c\x81\xbc" * 24),
    Entry("model.layers.0.self_attn.o_proj.weight", "BF16", (5, 48), b"\x01\x3f" * 240),
    Entry("model.norm.weight", "BF16", (7,), bytes(14)),
    Entry("model.layers.0.input_layernorm.weight", "BF16", (), bytes(2)),
    Entry("model.layers.0.post_attention_layernorm.weight", "F32", (3,), bytes(12)),
    Entry("model.layers.1.table", "I64", (3,), bytes(range(24))),
    Entry("model.layers.1.flags", "BOOL", (5,), b"\x01\x00\x01\x00\x01"),
    Entry("model.layers.1.byte", "U8", (), b"\x07"),
    Entry("model.layers.1.empty", "F32", (0, 4), b""),
]


def test_tensors_of_odd_sizes_are_aligned_and_other_readers_see_them(tmp_path):
    write_checkpoint(
        tmp_path / "source",
        {"model.safetensors": ODD},
        config={"model_type": "llama"},
        index=False,
    )

    walk = convert(
        tmp_path / "source", tmp_path / "target", keep=("table", "flags", "byte", "empty")
    )

    tensors = walk.tensors
    assert len(walk.plan.units[0].tail) > 3
    for entry in ODD[2:]:
        assert (tensors[entry.name].dtype, tensors[entry.name].data) == (entry.dtype, entry.data)
    with safetensors.safe_open(walk.shards / "model.safetensors", "pt") as opened:
        for output in walk.plan.units[0].outputs:
            assert list(opened.get_slice(output.name).get_shape()) == list(output.shape)
            assert opened.get_tensor(output.name).numel() >= 0
    assert walk.verified().findings == ()


@pytest.mark.parametrize("name", SERVED)
def test_the_safetensors_library_sees_the_planned_tensors(name):
    walk = result(name)

    for unit in walk.plan.units:
        content = (walk.shards / unit.shard).read_bytes()
        seen = dict(safetensors.deserialize(content))
        assert {found: (e["dtype"], tuple(e["shape"])) for found, e in seen.items()} == {
            o.name: (o.dtype, o.shape) for o in unit.outputs
        }


@pytest.mark.parametrize(("name", "recipe"), VARIANTS)
def test_the_whole_result_passes_verification(name, recipe):
    verification = result(name, **recipe).verified()

    assert verification.findings == ()
    assert verification.decoded == len([
        job for job in plan_of(name, **recipe).jobs if job.action == "nvfp4"
    ])


# --- Numbers that are none ------------------------------------------------------------------------


def refused(folder, target, **recipe):
    bench = bench_of(folder, target, **recipe)
    with pytest.raises(IntegrityError) as raised:
        run_units(bench, bench.plan.units, 1, SilentProgress(), Stop())
    assert raised.value.exit_code == 7
    return raised.value


@pytest.mark.parametrize(
    ("name", "damage", "like", "recipe"),
    [
        ("deepseek_v3", "nan_in_fp8", r"layers\.0\.mlp\.up_proj", {"policy": "mlp"}),
        ("deepseek_v3", "nan_in_fp8", r"layers\.1\.mlp\.experts\.2\.down", {"policy": "mlp"}),
        ("deepseek_v3", "nan_in_fp8", r"layers\.1\.mlp\.experts\.1\.up", {"policy": "mlp"}),
        ("deepseek_v3", "nan_in_f32_scale", r"layers\.0\.mlp\.gate_proj", {"policy": "mlp"}),
        ("llama_bf16", "nan_in_bf16", r"layers\.1\.self_attn\.v_proj", {}),
        ("llama_bf16", "infinity_in_bf16", r"layers\.0\.mlp\.down_proj", {}),
    ],
)
def test_nan_and_infinity_are_refused_and_the_keep_in_the_message_works(
    tmp_path, name, damage, like, recipe
):
    folder = copy_of(name, tmp_path / "source")
    spoiled = BROKEN[damage](folder, like)

    error = refused(folder, tmp_path / "target", **recipe)

    module = spoiled.removesuffix(".weight").removesuffix(".weight_scale_inv")
    assert error.what.startswith(module)
    assert re.search(
        r"holds \d+ values that are NaN or infinite, the first at \[\d+, \d+\]", error.what
    )
    walk = convert(folder, tmp_path / "other", keep=keeps(error.next_step), **recipe)
    assert walk.verified().errors == ()
    assert not [job for job in walk.plan.jobs if job.module == module and job.action == "nvfp4"]


@pytest.mark.parametrize(
    ("name", "damage", "like"),
    [
        ("deepseek_v4", "nan_in_e8m0", r"^layers\.1\.ffn\.experts\.0\.w1"),
        ("deepseek_v4_sgl_fp8", "nan_in_fp8", r"^layers\.1\.ffn\.experts\.0\.w1"),
        ("deepseek_v4_sgl_fp8", "nan_in_f32_scale", r"^layers\.1\.ffn\.experts\.0\.w2\.scale"),
        ("deepseek_v4_sgl_fp8", "nan_in_bf16", r"^layers\.1\.attn\.wo_a"),
        ("deepseek_v4_sgl_fp8", "nan_in_fp8", r"^mtp\.0\.ffn\.experts\.0\.w1"),
    ],
)
def test_where_no_keep_is_of_use_none_is_named(tmp_path, name, damage, like):
    folder = copy_of(name, tmp_path / "source")
    spoiled = BROKEN[damage](folder, like)

    error = refused(folder, tmp_path / "target")

    assert error.what.startswith(spoiled.rpartition(".")[0])
    assert "--keep" not in str(error)
    assert error.next_step


def bf16(values):
    return (np.asarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


@pytest.fixture
def outlier(tmp_path):
    weights = np.full((64, 256), 0.01, np.float32)
    weights[3, 7] = 1e6
    calm = bf16(np.full((64, 256), 0.01))
    entries = [
        Entry("model.layers.0.mlp.gate_proj.weight", "BF16", (64, 256), bf16(weights)),
        Entry("model.layers.0.mlp.up_proj.weight", "BF16", (64, 256), calm),
        Entry("model.layers.0.mlp.down_proj.weight", "BF16", (64, 256), calm),
    ]
    folder = tmp_path / "source"
    write_checkpoint(
        folder, {"model.safetensors": entries}, config={"model_type": "llama"}, index=False
    )
    return folder


def test_a_tensor_flattened_by_one_outlier_is_refused(outlier, tmp_path):
    error = refused(outlier, tmp_path / "target")

    assert re.match(r"1023 of 1024 blocks of model\.layers\.0\.mlp\.gate_proj", error.what)
    assert "--allow-flushed" in error.next_step
    walk = convert(outlier, tmp_path / "kept", keep=keeps(error.next_step))
    assert {job.module for job in walk.plan.jobs if job.action == "nvfp4"} == {
        "model.layers.0.mlp.down_proj"
    }


def test_flattening_can_be_accepted(outlier, tmp_path):
    walk = convert(outlier, tmp_path / "target", allow_flushed=True)

    flushed = {q.module: q.quality.flushed_blocks for q in walk.records[0].tensors}
    assert flushed["model.layers.0.mlp.gate_proj"] == 1023
    assert flushed["model.layers.0.mlp.down_proj"] == 0


def test_a_recode_that_would_not_be_exact_is_refused(tmp_path):
    folder = copy_of("deepseek_v4_sgl_fp8", tmp_path / "source")
    for path in shards(folder):
        tensors = read(path)
        spoiled = [
            replace(t, data=b"\x81\x3f" + t.data[2:])
            if t.name == "layers.1.attn.wo_a.weight"
            else t
            for t in tensors
        ]
        header = write_header([(t.name, t.dtype, t.shape) for t in spoiled])
        path.write_bytes(header + b"".join(t.data for t in spoiled))

    error = refused(folder, tmp_path / "target")

    assert error.what.startswith("layers.1.attn.wo_a: 1 of ")
    assert "--keep" not in str(error)


# --- Sources that change --------------------------------------------------------------------------


def test_a_shard_cut_short_after_planning_is_noticed(tmp_path):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    bench = bench_of(folder, tmp_path / "target")
    path = shards(folder)[0]
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(Exception, match="changed its size"):
        make(bench, bench.plan.units[0])

    assert list((tmp_path / "target").rglob("*.partial")) == []
    assert bench.staging.records() == {}


@pytest.mark.parametrize("name", V3)
def test_all_source_bytes_are_counted_as_converted(tmp_path, name):
    counted = []
    bench = replace(bench_of(source_folder(name), tmp_path), converted=counted.append)

    for unit in bench.plan.units:
        make(bench, unit)

    assert sum(counted) == sum(t.nbytes for job in bench.plan.jobs if job.writes for t in job.reads)


def test_a_header_garbled_on_the_way_to_the_plan_is_found_in_the_proven_shard(tmp_path):
    bench = bench_of(source_folder("llama_bf16"), tmp_path / "target")
    unit = bench.plan.units[0]
    job = unit.jobs[0]
    data = job.reads[0]
    moved = replace(data, begin=data.begin + 8, end=data.end + 8)
    garbled = replace(unit, jobs=(replace(job, reads=(moved, *job.reads[1:])), *unit.jobs[1:]))

    with pytest.raises(IntegrityError, match="not what its header said"):
        make(bench, garbled)


# --- Made again -----------------------------------------------------------------------------------

DAMAGED, BROKEN_LINE = DamagedError("damaged"), BrokenLineError("broken")


@pytest.mark.parametrize(
    ("failures", "ends"),
    [
        ([], None),
        ([BROKEN_LINE, BROKEN_LINE], None),
        ([DAMAGED, BROKEN_LINE], None),
        ([BROKEN_LINE, DAMAGED], None),
        ([DAMAGED, DAMAGED], DAMAGED),
        ([DAMAGED, BROKEN_LINE, DAMAGED], DAMAGED),
        ([BROKEN_LINE, BROKEN_LINE, BROKEN_LINE], BROKEN_LINE),
    ],
)
def test_a_unit_is_made_again_three_times_at_most_and_counted_once(
    tmp_path, monkeypatch, failures, ends
):
    counted, left, tries = [], list(failures), []
    bench = replace(bench_of(source_folder(SERVED[0]), tmp_path), converted=counted.append)
    once, first = unit_of_work._once, bench.plan.units[0]

    def failing(bench, unit, converted):
        made = once(bench, unit, converted)
        tries.append(unit.shard)
        if left:
            raise left.pop(0)
        return made

    monkeypatch.setattr(unit_of_work, "_once", failing)
    if ends is not None:
        with pytest.raises(type(ends)):
            unit_of_work.work(bench, first)
        assert len(tries) == len(failures)
        return
    unit_of_work.work(bench, first)
    assert len(tries) == len(failures) + 1
    jobs = (*first.jobs, *first.tail)
    assert sum(counted) == sum(tensor.nbytes for job in jobs for tensor in job.reads)
