"""Conversions of miniature checkpoints, folder to folder, as the pipeline walks them.

Sound sources and whole results are made once and shared: tests that change one work on a copy.
"""

import atexit
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from checkpoints.broken import Tensor, read
from checkpoints.recipes import RECIPES

from hubconv.ends import MANIFEST, Release
from hubconv.folder import FolderSource, FolderStaging, FolderTarget
from hubconv.formats import nvfp4, stored
from hubconv.formats.stored import StoredWeight
from hubconv.kernels import choose
from hubconv.records import UnitRecord
from hubconv.steps.decide import Job, Recipe
from hubconv.steps.plan import Plan, make_plan
from hubconv.steps.shards import Unit
from hubconv.steps.verify import Sample, Verification, verify_staged
from hubconv.work import Bench, work

SERVED = (
    "deepseek_v4",
    "deepseek_v4_sgl_fp8",
    "deepseek_v3",
    "deepseek_v32",
    "llama_bf16",
    "llama_bf16_tied",
)
V4 = SERVED[:2]
V3 = SERVED[2:4]
DENSE = SERVED[4:]


@dataclass(frozen=True)
class Walk:
    plan: Plan
    records: tuple[UnitRecord, ...]
    source: FolderSource
    staging: FolderStaging
    shards: Path

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What the result holds, read without the code under test."""
        found = [tensor for path in sorted(self.shards.glob("*")) for tensor in read(path)]
        assert len({tensor.name for tensor in found}) == len(found)
        return {tensor.name: tensor for tensor in found}

    def verified(self, tensors: int = 10_000) -> Verification:
        return verify_staged(
            self.plan, self.records, self.staging.view(), self.source, Sample(tensors)
        )

    def release(self, **files: bytes) -> Release:
        return Release(self.plan.plan_id, "title", self.records, {**self.plan.files, **files}, ())


@cache
def _room() -> Path:
    room = Path(tempfile.mkdtemp(prefix="hubconv-tests-"))
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    return room


@cache
def source_folder(name: str) -> Path:
    """A sound miniature; nobody writes into it."""
    folder = _room() / name
    RECIPES[name](folder)
    return folder


def copy_of(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(source_folder(name), folder))


def planned(folder: Path, **recipe: Any) -> Plan:
    return make_plan(FolderSource(folder), Recipe(**recipe), "0.0.1")


@cache
def plan_of(name: str, **recipe: Any) -> Plan:
    return planned(source_folder(name), **recipe)


def bench_of(folder: Path, target: Path, **recipe: Any) -> Bench:
    source = FolderSource(folder)
    plan = make_plan(source, Recipe(**recipe), "0.0.1")
    staging = FolderTarget(target).stage(plan.plan_id)
    return Bench(plan, source, staging, choose("cpu"), "0.0.1")


def make(bench: Bench, unit: Unit) -> UnitRecord:
    record = work(bench, unit)
    bench.staging.add(record)
    return record


def convert(folder: Path, target: Path, **recipe: Any) -> Walk:
    bench = bench_of(folder, target, **recipe)
    records = tuple(make(bench, unit) for unit in bench.plan.units)
    shards = target / ".hubconv" / bench.plan.plan_id / "shards"
    return Walk(bench.plan, records, bench.source, bench.staging, shards)


@cache
def result(name: str, **recipe: Any) -> Walk:
    """A whole conversion, staged and not published; nobody writes into it."""
    target = Path(tempfile.mkdtemp(dir=_room()))
    return convert(source_folder(name), target, **recipe)


def staged(name: str, target: Path, **recipe: Any) -> Walk:
    """A whole conversion to change at will: a copy of the shared one."""
    shared = result(name, **recipe)
    plan_id = shared.plan.plan_id
    shutil.copytree(shared.shards.parents[2], target, dirs_exist_ok=True)
    shards = target / ".hubconv" / plan_id / "shards"
    return replace(shared, staging=FolderTarget(target).stage(plan_id), shards=shards)


def keeps(message: str) -> tuple[str, ...]:
    """What the --keep in a message would pass on, once the shell has taken its quotes."""
    found = tuple(re.findall(r"--keep '([^']*)'", message))
    assert found, message
    return found


def publish(walk: Walk, target: Path, **more: Any) -> None:
    """Publish with a manifest of the keys that reading back needs."""
    known = {r.shard: {"size": r.size, "sha256": r.sha256} for r in walk.records}
    for path, content in walk.plan.files.items():
        known[path] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"plan_id": walk.plan.plan_id, "files": known, **more}
    walk.staging.publish(walk.release(**{MANIFEST: json.dumps(manifest).encode()}))
    assert (target / MANIFEST).exists()
    walk.staging.discard()


# --- What bytes mean ------------------------------------------------------------------------------


def weights_of(job: Job, source: Mapping[str, Tensor]) -> npt.NDArray[np.float64]:
    """The source's weights of a job."""
    data = source[job.reads[0].name].data
    scales = source[job.reads[1].name].data if len(job.reads) > 1 else b""
    window = stored.window(job.weight, 0, data, scales)
    return stored.dequantize(window).astype(np.float64)


def decoded(job: Job, tensors: Mapping[str, Tensor], layout: str) -> npt.NDArray[np.float64]:
    """What a job's NVFP4 tensors mean."""
    parts = {output.content: tensors[output.name] for output in job.writes}
    return nvfp4_values(parts["codes"], parts["scales"], scalar_of(parts["global_scale"], layout))


def scalar_of(tensor: Tensor, layout: str) -> float:
    value = float(np.frombuffer(tensor.data, "<f4")[0])
    return 1 / value if layout == "compressed-tensors" else value


def nvfp4_values(codes: Tensor, scales: Tensor, scale: float) -> npt.NDArray[np.float64]:
    packed = np.frombuffer(codes.data, np.uint8).reshape(codes.shape)
    blocks = np.frombuffer(scales.data, np.uint8).reshape(scales.shape)
    return nvfp4.decode(packed, blocks, scale)


def values(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Every tensor of a DeepSeek V4 result by value: weights decoded, all others as bytes."""
    meant: dict[str, Any] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if name.endswith((".scale", ".weight_scale", ".weight_scale_2", ".input_scale")):
            continue
        scale = tensors.get(f"{module}.scale")
        if f"{module}.weight_scale" in tensors:
            one = tensors[f"{module}.weight_scale_2"]
            meant[name] = nvfp4_values(
                tensor, tensors[f"{module}.weight_scale"], scalar_of(one, "modelopt-v4")
            )
        elif scale is not None:
            kind = "mxfp4" if tensor.dtype == "I8" else "fp8"
            block = (1, 32) if kind == "mxfp4" else (128, 128)
            rows, cols = tensor.shape
            weight = StoredWeight(
                kind, tensor.dtype, rows, cols * (1 + (kind == "mxfp4")), scale.dtype, block
            )
            window = stored.window(weight, 0, tensor.data, scale.data)
            meant[name] = stored.dequantize(window).astype(np.float64)
        else:
            meant[name] = (tensor.dtype, tensor.shape, tensor.data)
    return meant
