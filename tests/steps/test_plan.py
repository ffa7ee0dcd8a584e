"""The plan of every family: complete, exact, aligned, and refused where it must be."""

import json
import os
import re
from collections import Counter
from contextlib import contextmanager

import pytest
from checkpoints.broken import BROKEN, _drop, read_folder
from profiles.walks import (
    DENSE,
    SERVED,
    V3,
    V4,
    copy_of,
    keeps,
    plan_of,
    planned,
    result,
    source_folder,
)

from hubconv.demo import deepseek_v4 as v4
from hubconv.demo import miniature_v4_files as papers
from hubconv.demo.miniature import in_slices
from hubconv.demo.miniature_v4_parts import Size, parts
from hubconv.ends import FileEntry
from hubconv.errors import SourceError, UnknownTensorError, UsageError
from hubconv.folder import FolderSource
from hubconv.formats.checkpoint import INDEX_NAME, write_header, write_index
from hubconv.formats.dtypes import alignment
from hubconv.steps import plan as plan_module
from hubconv.steps.copies import travels
from hubconv.steps.decide import Recipe
from hubconv.steps.plan import make_plan, plan_id

NEVER = re.compile(
    r"embed|(^|\.)head\.|lm_head|norm|\.gate\.|indexer|compressor|kv_b_proj|wo_a|eh_proj|[eh]_proj$"
    r"|attn_sink|tid2eid|hc_"
)
# Names that stand for a module the pattern above must not catch.
GATED = re.compile(r"\.(gate|up|down)_proj$")

RECIPES_OF = {
    **{name: [{}, {"policy": "all"}, {"mtp": "drop"}, {"mtp": "nvfp4"}] for name in V4},
    **{
        name: [
            {},
            {"policy": "mlp"},
            {"policy": "linears"},
            {"policy": "linears", "layout": "modelopt"},
            {"mtp": "drop"},
            {"mtp": "nvfp4", "policy": "all"},
        ]
        for name in V3
    },
    **{name: [{}, {"policy": "mlp"}, {"layout": "modelopt"}] for name in DENSE},
}
CASES = [
    pytest.param(name, {**recipe, "max_shard_bytes": size}, id=f"{name}-{number}-{size}")
    for name, recipes in RECIPES_OF.items()
    for number, recipe in enumerate(recipes)
    for size in (0, 300_000)
]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_every_source_tensor_is_in_exactly_one_job(name, recipe):
    jobs = plan_of(name, **recipe).jobs

    reads = Counter(tensor.name for job in jobs for tensor in job.reads)

    assert reads == Counter(list(read_folder(source_folder(name))))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_every_output_has_one_name_and_lies_in_one_unit(name, recipe):
    plan = plan_of(name, **recipe)

    in_units = [output.name for unit in plan.units for output in unit.outputs]
    in_jobs = [output.name for job in plan.jobs for output in job.writes]

    assert Counter(in_units) == Counter(set(in_jobs))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_every_tensor_is_aligned_to_its_element_size(name, recipe):
    for unit in plan_of(name, **recipe).units:
        position = unit.header_bytes
        assert position % 8 == 0
        for output in unit.outputs:
            assert position % alignment(output.dtype) == 0, output.name
            position += output.nbytes
        assert position == unit.nbytes


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_the_index_names_every_output_and_its_exact_size(name, recipe):
    plan = plan_of(name, **recipe)
    if INDEX_NAME not in plan.files:
        assert len(plan.units) == 1
        return

    index = json.loads(plan.files[INDEX_NAME])

    assert index["weight_map"] == {o.name: u.shard for u in plan.units for o in u.outputs}
    assert index["metadata"]["total_size"] == sum(o.nbytes for u in plan.units for o in u.outputs)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_what_must_never_be_nvfp4_never_is(name, recipe):
    converted = [job.module for job in plan_of(name, **recipe).jobs if job.action == "nvfp4"]

    assert converted
    assert [m for m in converted if NEVER.search(m) and not GATED.search(m)] == []


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_partner_sets_are_whole_wherever_their_members_lie(name, recipe):
    plan = plan_of(name, **recipe)

    for key, group in plan.sets.items():
        members = {job.module.rpartition(".")[2] for job in group.members}
        assert members == set(key.rpartition(".")[2].split("+"))
    fused = {"w1": 2, "w3": 2, "gate_proj": 2, "q_proj": 3, "q_a_proj": 2, "kv_a_proj_with_mqa": 2}
    for job in plan.jobs:
        leaf = job.module.rpartition(".")[2]
        if job.action == "nvfp4" and leaf in fused:
            assert len(plan.sets[job.partners].members) == fused[leaf]


@pytest.mark.parametrize("name", SERVED)
def test_files_come_out_exactly_as_large_as_planned(name):
    walk = result(name)

    sizes = {path.name: path.stat().st_size for path in walk.shards.iterdir()}

    assert sizes == {unit.shard: unit.nbytes for unit in walk.plan.units}
    assert sum(sizes.values()) == walk.plan.target_bytes


def roles(name, **recipe):
    return {job.module: (job.role, job.action) for job in plan_of(name, **recipe).jobs}


def test_roles_of_deepseek_v4_are_as_the_family_has_them():
    found = roles("deepseek_v4")

    assert found["embed"] == ("embedding", "keep")
    assert found["head"] == ("head", "keep")
    assert found["norm"] == ("norm", "keep")
    assert found["layers.2.attn.indexer.wq_b"] == ("indexer", "keep")
    assert found["layers.2.attn.compressor.wkv"] == ("compressor", "keep")
    assert found["layers.0.attn.wo_a"] == ("grouped", "keep")
    assert found["layers.0.ffn.gate.tid2eid"] == ("router", "keep")
    assert found["layers.0.ffn.experts.0.w1"] == ("routed_expert", "nvfp4")
    assert found["layers.0.ffn.shared_experts.w1"] == ("shared_expert", "keep")
    assert found["mtp.0.ffn.experts.0.w1"] == ("mtp_expert", "keep")
    assert found["mtp.0.e_proj"] == ("mtp_projection", "keep")


def test_the_fp8_repack_is_spelled_back_where_it_is_kept():
    found = roles("deepseek_v4_sgl_fp8")

    assert found["layers.0.attn.wo_a"] == ("grouped", "recode")
    assert found["layers.0.attn.wq_a"] == ("attention", "recode")
    assert found["mtp.0.ffn.experts.0.w1"] == ("mtp_expert", "recode")
    assert found["layers.0.ffn.experts.0.w1"] == ("routed_expert", "nvfp4")


def test_scales_of_the_indexer_stay_with_their_weight():
    jobs = {job.module: job for job in plan_of("deepseek_v32").jobs}
    job = jobs["model.layers.1.self_attn.indexer.wq_b"]

    assert [tensor.name for tensor in job.reads] == [
        f"{job.module}.weight",
        f"{job.module}.weight_scale_inv",
    ]
    assert [output.name for output in job.writes] == [
        f"{job.module}.weight",
        f"{job.module}.weight_scale",
    ]


def test_dropped_mtp_layers_leave_nothing_behind_and_are_not_announced():
    plan = plan_of("deepseek_v3", mtp="drop")

    assert not [o.name for u in plan.units for o in u.outputs if ".layers.2." in o.name]
    assert json.loads(plan.files["config.json"])["num_nextn_predict_layers"] == 0


def test_mtp_experts_become_nvfp4_on_demand():
    assert roles("deepseek_v3")["model.layers.2.mlp.experts.0.up_proj"][1] != "nvfp4"
    found = roles("deepseek_v3", mtp="nvfp4")
    assert found["model.layers.2.mlp.experts.0.up_proj"][1] == "nvfp4"
    assert found["model.layers.2.eh_proj"][1] == "keep"


# --- Shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVED)
def test_shards_keep_the_names_of_the_source(name):
    shards = {path.name for path in source_folder(name).glob("*.safetensors")}

    assert {unit.shard for unit in plan_of(name).units} == shards


@pytest.mark.parametrize("name", SERVED)
def test_regrouped_shards_are_numbered_and_stay_below_the_limit(name):
    units = plan_of(name, max_shard_bytes=300_000).units

    count = len(units)
    assert [u.shard for u in units] == [
        f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)
    ]
    assert count > 2
    for unit in units:
        assert unit.data_bytes <= 300_000 or len(unit.jobs) + len(unit.tail) == 1


def test_one_large_limit_gives_one_file_of_the_plain_name():
    plan = plan_of("llama_bf16", max_shard_bytes=10**9)

    assert [unit.shard for unit in plan.units] == ["model.safetensors"]
    assert set(json.loads(plan.files[INDEX_NAME])["weight_map"].values()) == {"model.safetensors"}


# --- --keep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "recipe", "keep"),
    [
        ("deepseek_v3", {"policy": "mlp"}, r"layers\.1\.mlp\.experts\.1\.gate_proj\."),
        ("deepseek_v3", {"policy": "mlp"}, r"layers\.1\.mlp\.experts\.1\.down_proj\."),
        ("deepseek_v3", {"policy": "mlp"}, r"layers\.0\.mlp\.up_proj\."),
        ("deepseek_v3", {"policy": "linears"}, r"layers\.1\.self_attn\.q_a_proj\."),
        ("llama_bf16", {}, r"layers\.1\.self_attn\.k_proj\."),
        ("llama_bf16", {}, r"layers\.0\.mlp\.gate_proj\."),
    ],
)
def test_a_split_set_is_refused_with_a_keep_that_works(name, recipe, keep):
    with pytest.raises(SourceError) as refused:
        planned(source_folder(name), keep=(keep,), **recipe)

    way_out = keeps(refused.value.next_step)
    plan = planned(source_folder(name), keep=way_out, **recipe)
    kept = [job.module for job in plan.jobs if job.reason == "--keep"]
    assert any(re.search(keep, f"{module}.") for module in kept)


@pytest.mark.parametrize("name", V4)
def test_no_routed_expert_of_deepseek_v4_can_be_kept(name):
    with pytest.raises(UsageError, match="take every routed expert") as refused:
        planned(source_folder(name), keep=(r"layers\.1\.ffn\.experts\.",))

    assert refused.value.exit_code == 2


def test_mtp_experts_are_kept_all_or_none():
    keep = r"^mtp\.0\.ffn\.experts\.1\."
    with pytest.raises(SourceError, match="all experts of a layer in one format") as refused:
        planned(source_folder("deepseek_v4"), mtp="nvfp4", keep=(keep,))

    plan = planned(source_folder("deepseek_v4"), mtp="nvfp4", keep=keeps(refused.value.next_step))
    assert not [j for j in plan.jobs if j.role == "mtp_expert" and j.action == "nvfp4"]


@pytest.mark.parametrize("lost", ["k_proj", "v_proj"])
def test_an_incomplete_set_is_refused_with_a_keep_that_works(tmp_path, lost):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    _drop(folder, f"model.layers.0.self_attn.{lost}.weight")

    with pytest.raises(SourceError, match="must share its global scale") as refused:
        planned(folder)

    planned(folder, keep=keeps(refused.value.next_step))


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(UsageError, match="regular expression"):
        planned(source_folder("llama_bf16"), keep=("re:(",))


def test_keeping_everything_leaves_nothing_to_do():
    with pytest.raises(SourceError, match="No tensor of this"):
        planned(source_folder("llama_bf16"), keep=("re:.",))


# --- What is refused ------------------------------------------------------------------------------


def test_an_unknown_layout_is_refused():
    with pytest.raises(UsageError):
        planned(source_folder("llama_bf16"), layout="gguf")


def test_a_layout_no_engine_loads_is_refused():
    with pytest.raises(UsageError, match="no engine would load it"):
        planned(source_folder("deepseek_v4"), layout="compressed-tensors")


def test_an_unknown_policy_is_refused_and_the_known_ones_named():
    with pytest.raises(UsageError, match=r"no policy 'half'.*linears, mlp"):
        planned(source_folder("llama_bf16"), policy="half")


def test_deepseek_v4_has_no_weight_only_form():
    with pytest.raises(UsageError, match="weight-only"):
        planned(source_folder("deepseek_v4"), activations="w4a16")


def test_an_unknown_tensor_is_refused_with_a_keep_that_works(tmp_path):
    folder = copy_of("deepseek_v3", tmp_path / "source")
    name = BROKEN["unknown_tensor"](folder)

    with pytest.raises(UnknownTensorError, match=re.escape(name)) as refused:
        planned(folder)

    plan = planned(folder, keep=keeps(refused.value.next_step))
    assert name in {output.name for unit in plan.units for output in unit.outputs}


def test_ghosts_are_accepted_only_where_the_profile_knows_them(tmp_path):
    ghosts = [w for w in plan_of("deepseek_v4_sgl_fp8").warnings if "no shard holds" in w]
    assert len(ghosts) == 1

    folder = copy_of("deepseek_v4_sgl_fp8", tmp_path / "source")
    index = json.loads((folder / INDEX_NAME).read_text())
    index["weight_map"]["layers.0.attn.wq_b.extra"] = next(iter(index["weight_map"].values()))
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(SourceError, match=r"1 tensors that no shard holds: layers\.0\.attn"):
        planned(folder)


@pytest.mark.parametrize("recipe", [{}, {"layout": "modelopt"}])
def test_a_source_that_is_nvfp4_already_is_refused(tmp_path, recipe):
    walk = result("llama_bf16", **recipe)
    for path in walk.shards.iterdir():
        os.link(path, tmp_path / path.name)
    for path, content in walk.plan.files.items():
        (tmp_path / path).write_bytes(content)

    with pytest.raises(SourceError, match="is NVFP4 already"):
        planned(tmp_path)


def test_columns_that_do_not_fill_blocks_are_kept(tmp_path):
    from hubconv.demo.miniature import Entry, write_checkpoint

    write_checkpoint(
        tmp_path,
        {
            "model.safetensors": [
                Entry("model.layers.0.mlp.down_proj.weight", "BF16", (32, 24), bytes(1536)),
                Entry("model.layers.0.self_attn.o_proj.weight", "BF16", (32, 32), bytes(2048)),
            ]
        },
        config={"model_type": "llama"},
        index=False,
    )

    jobs = {job.module: job for job in planned(tmp_path).jobs}

    assert jobs["model.layers.0.mlp.down_proj"].action == "keep"
    assert "24 columns" in jobs["model.layers.0.mlp.down_proj"].reason
    assert jobs["model.layers.0.self_attn.o_proj"].action == "nvfp4"


# --- What travels along ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "does"),
    [
        ("tokenizer.json", True),
        ("modeling_x.py", True),
        ("chat_template.jinja", True),
        ("tiktoken.model", True),
        ("LICENSE-MODEL", True),
        ("USE_POLICY.md", True),
        ("encoding/encoding_dsv4.py", True),
        ("inference/kernel/deep/cast.py", True),
        ("assets/a/b.png", True),
        ("README.md", False),
        ("config.json", False),
        ("hubconv.json", False),
        ("model.safetensors.index.json", False),
        ("original/config.json", False),
        ("metal/model.bin", False),
        ("consolidated.00.pth", False),
        ("assets/weights.pth", False),
        ("inference/weights.bin", False),
        ("inference/.cache/x.py", False),
        (".gitattributes", False),
        (".hubconv/x.json", False),
        ("tokenizer.pkl", False),
        ("notes/extra.json", False),
    ],
)
def test_only_harmless_files_travel(path, does):
    assert travels(path) is does


def test_copies_of_every_family_hold_no_weights_and_no_second_model():
    copies = {name: {entry.path for entry in plan_of(name).copies} for name in SERVED}

    assert "encoding/encoding_dsv32.py" in copies["deepseek_v32"]
    assert "inference/model.py" in copies["deepseek_v3"]
    assert "figures/x.png" in copies["deepseek_v3"]
    assert "USE_POLICY.md" in copies["llama_bf16"]
    assert not [p for paths in copies.values() for p in paths if p.startswith(("original", "."))]


# --- The plan id ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"layout": "modelopt"},
        {"policy": "mlp"},
        {"activations": "w4a4"},
        {"scales": "amax"},
        {"mtp": "drop"},
        {"keep": (r"layers\.0\.mlp\.",)},
        {"policy": "mlp", "quantize": (r"layers\.0\.self_attn\.",)},
        {"input_scale": 0.5},
        {"max_shard_bytes": 300_000},
    ],
)
def test_every_option_that_changes_bytes_changes_the_plan_id(other):
    assert plan_of("llama_bf16", **other).plan_id != plan_of("llama_bf16").plan_id


@pytest.mark.parametrize(
    "other", [{"allow_flushed": True}, {"layout": "compressed-tensors"}, {"policy": "linears"}]
)
def test_what_changes_no_byte_keeps_the_plan_id(other):
    assert plan_of("llama_bf16", **other).plan_id == plan_of("llama_bf16").plan_id


def test_the_plan_id_does_not_depend_on_the_order_of_keys():
    folder = source_folder("llama_bf16")
    source = FolderSource(folder)
    turned = FolderSource(folder)
    turned._files = dict(reversed(source.files().items()))

    ids = [make_plan(each, Recipe(), "0").plan_id for each in (source, turned)]

    assert ids[0] == ids[1]


def test_the_plan_id_changes_with_the_source_and_the_recipe_version(tmp_path, monkeypatch):
    folder = copy_of("llama_bf16_tied", tmp_path / "source")
    first = planned(folder).plan_id
    assert planned(folder).plan_id == first

    for path in (folder / "model.safetensors", folder / "tokenizer.json"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
        second = planned(folder).plan_id
        assert second != first
        first = second

    monkeypatch.setattr(plan_module, "RECIPE_VERSION", 10**6)
    assert planned(folder).plan_id != first


def test_the_plan_id_names_the_commit_of_a_repository():
    plan = plan_of("llama_bf16")
    source = FolderSource(source_folder("llama_bf16"))
    inventory = plan_module.take_inventory(source)
    profile = plan_module.choose_profile(inventory.config, inventory.tensors)
    facts = (source, inventory, profile, plan.layout, Recipe(), [e.path for e in plan.copies])
    before = plan_id(*facts)
    source.commit = "a" * 40

    assert before == plan.plan_id != plan_id(*facts)


# --- Size -----------------------------------------------------------------------------------------


class Headers:
    """The largest model there is, as a repository of headers without weights."""

    ref, commit, restricted = "org/large", "c" * 40, ""

    def __init__(self) -> None:
        size = Size(7168, 3072, 384, 61, 129280, 64)
        entries = [
            entry
            for part in parts(size)
            for entry in v4.spelled(part, "official", v4.Source(0, True))
        ]
        names = [f"model-{n:05d}-of-00064.safetensors" for n in range(1, 65)]
        shards = in_slices(entries, names)
        self.content = {
            name: write_header([(e.name, e.dtype, e.shape) for e in held])
            for name, held in shards.items()
        }
        self.entries = {
            name: FileEntry(name, len(self.content[name]) + sum(e.nbytes for e in held), "a" * 64)
            for name, held in shards.items()
        }
        index = write_index({e.name: name for name, held in shards.items() for e in held}, 1)
        config = json.dumps(papers.config(size) | {"expert_dtype": "fp4"}).encode()
        for name, content in {"config.json": config, INDEX_NAME: index}.items():
            self.content[name] = content
            self.entries[name] = FileEntry(name, len(content))
        self.tensors = len(entries)

    def files(self):
        return self.entries

    def read(self, path, begin, end):
        return self.content[path][begin:end]

    @contextmanager
    def open(self, path):
        raise AssertionError(f"a plan opens no shard, not even {path}")


@pytest.mark.slow
def test_the_largest_model_is_planned_from_its_headers():
    source = Headers()

    plan = make_plan(source, Recipe(), "0")

    assert source.tensors > 145_000
    assert sum(len(job.reads) for job in plan.jobs) == source.tensors
    converted = Counter(job.action for job in plan.jobs)["nvfp4"]
    assert converted == 61 * 384 * 3
    assert len(plan.sets) == 61 * 384 * 2
    assert len(json.loads(plan.files[INDEX_NAME])["weight_map"]) == sum(
        len(unit.outputs) for unit in plan.units
    )
    assert any("larger than the source" in warning for warning in plan.warnings)
