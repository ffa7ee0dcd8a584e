"""A kernel that does its work only when it is waited for: the same bytes, the same words."""

import threading
from dataclasses import replace

import pytest
from checkpoints.broken import BROKEN
from profiles.walks import bench_of, copy_of, make, result, source_folder

from hubconv.engines.stop import Stop
from hubconv.engines.threads import run_units
from hubconv.errors import IntegrityError
from hubconv.kernels import choose
from hubconv.progress import SilentProgress
from hubconv.steps.schedule import Limits

NAMES = ["deepseek_v4_sgl_fp8", "deepseek_v3", "llama_bf16", "kimi_k2_thinking", "llama4_bf16"]
SMALL = {
    "held": Limits(window_bytes=1024),
    "not held": Limits(window_bytes=1024, held_bytes=0),
}


class Late:
    """The CPU's kernel, as late as it may be."""

    def __init__(self):
        self._cpu = choose("cpu")
        self.most = self._open = 0
        self.most_codes = self._codes = 0

    def __getattr__(self, name):
        return getattr(self._cpu, name)

    def _begun(self, work, *asked):
        self._open += 1
        self.most = max(self.most, self._open)
        thread = threading.get_ident()

        def end():
            assert threading.get_ident() == thread
            self._open -= 1
            return work(*asked)

        return end

    def begin_amax(self, window):
        return self._begun(self._cpu.amax, window)

    def begin_encode(self, window, global_scale, scales):
        self._codes += 1
        self.most_codes = max(self.most_codes, self._codes)

        def encode(*asked):
            self._codes -= 1
            return self._cpu.encode(*asked)

        return self._begun(encode, window, global_scale, scales)


@pytest.mark.parametrize("limits", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_those_of_work_that_is_done_at_once(tmp_path, name, limits):
    late = Late()
    bench = replace(bench_of(source_folder(name), tmp_path), kernel=late, limits=limits)
    made = {unit.shard: make(bench, unit).sha256 for unit in bench.plan.units}
    assert made == {record.shard: record.sha256 for record in result(name).records}
    assert late.most >= 2
    assert late._open == 0


@pytest.mark.parametrize("name", ["deepseek_v4_sgl_fp8", "llama_bf16"])
def test_a_weight_of_one_window_is_under_way_while_the_one_before_is_written(tmp_path, name):
    late = Late()
    bench = replace(bench_of(source_folder(name), tmp_path), kernel=late)
    for unit in bench.plan.units:
        make(bench, unit)
    assert late.most_codes == 2  # and no more: what is made and not written takes memory


@pytest.mark.parametrize("last", [2, 3, 4, 6])
def test_after_a_failure_no_further_weight_is_written(tmp_path, last):
    bench = bench_of(source_folder("llama_bf16"), tmp_path)
    unit = bench.plan.units[0]
    told, begun = [], []

    class Failing(Late):
        def begin_encode(self, *asked):
            begun.append(len(told))
            if len(begun) == last:
                raise IntegrityError("broken")
            return super().begin_encode(*asked)

    bench = replace(bench, kernel=Failing(), converted=told.append)
    with pytest.raises(IntegrityError, match="broken"):
        make(bench, unit)
    assert len(told) == begun[-1]


@pytest.mark.parametrize("limits", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize(
    ("name", "damage", "like", "recipe"),
    [
        ("deepseek_v3", "nan_in_fp8", r"layers\.1\.mlp\.experts\.1\.up", {"policy": "mlp"}),
        ("deepseek_v3", "nan_in_f32_scale", r"layers\.0\.mlp\.gate_proj", {"policy": "mlp"}),
        ("llama_bf16", "infinity_in_bf16", r"layers\.0\.mlp\.down_proj", {}),
        ("llama_bf16", "nan_in_bf16", r"layers\.1\.self_attn\.v_proj", {}),
    ],
)
def test_nan_is_told_of_the_weight_that_holds_it(tmp_path, name, damage, like, recipe, limits):
    folder = copy_of(name, tmp_path / "source")
    spoiled = BROKEN[damage](folder, like)
    bench = bench_of(folder, tmp_path / "target", **recipe)
    bench = replace(bench, kernel=Late(), limits=limits)
    with pytest.raises(IntegrityError) as raised:
        run_units(bench, bench.plan.units, 1, SilentProgress(), Stop())
    module = spoiled.removesuffix(".weight").removesuffix(".weight_scale_inv")
    assert raised.value.what.startswith(module)
    assert "NaN or infinite" in raised.value.what
