"""NVFP4 checkpoints as other tools write them, from a plain miniature; without the code under test.

ModelOpt: `weight`, `weight_scale`, `weight_scale_2`, `input_scale`, scalars of shape [], one
hf_quant_config.json, and in newer versions a flat entry in config.json. llm-compressor:
`weight_packed`, `weight_scale`, `weight_global_scale` and `input_global_scale`, which divide, of
shape [1]. Both sort tensors by size of element, then by name, as the safetensors library does.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkpoints.broken import INDEX, Tensor, _rewrite, read_folder

PARTNERS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([
    (code & 7) / 8 * 2.0**-6 if code < 8 else (1 + (code & 7) / 8) * 2.0 ** ((code >> 3) - 7)
    for code in range(127)
])  # fmt: skip
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1}


@dataclass
class Foreign:
    """What a tool is about to write, open to damage."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    hf_quant: dict[str, Any] | None = None
    left_out: set[str] = field(default_factory=set)  # of the index
    shards: int = 2

    @property
    def quant(self) -> dict[str, Any]:
        return self.config["quantization_config"]

    def put(self, name: str, **change: Any) -> None:
        self.tensors[name] = replace(self.tensors[name], **change)

    def scale(self, name: str, factor: float) -> None:
        values = np.frombuffer(self.tensors[name].data, "<f4") * np.float32(factor)
        self.put(name, data=values.astype("<f4").tobytes())

    def names(self, pattern: str) -> list[str]:
        found = [name for name in self.tensors if re.search(pattern, name)]
        assert found, pattern
        return found

    def drop(self, pattern: str) -> list[str]:
        gone = self.names(pattern)
        for name in gone:
            del self.tensors[name]
        return gone

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        ordered = sorted(self.tensors.values(), key=lambda t: (-BYTES[t.dtype], t.name))
        half = -(-len(ordered) // self.shards)
        weight_map = {}
        for number in range(self.shards):
            some = ordered[number * half : (number + 1) * half]
            name = f"model-{number + 1:05}-of-{self.shards:05}.safetensors"
            name = "model.safetensors" if self.shards == 1 else name
            _rewrite(folder / name, some)
            weight_map |= {t.name: name for t in some if t.name not in self.left_out}
        if self.shards > 1:
            size = sum(len(t.data) for t in ordered)
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps(self.config))
        if self.hf_quant is not None:
            (folder / "hf_quant_config.json").write_text(json.dumps(self.hf_quant))
        return folder


def quantize(
    source: Path, like: str, spell: Callable[..., dict[str, Tensor]], *, joint: bool = True
) -> tuple[dict[str, Tensor], list[str]]:
    """A plain checkpoint with some of its linears in NVFP4, by the plain rule."""
    tensors = read_folder(source)
    modules = [name.removesuffix(".weight") for name in tensors if re.search(like, name)]
    values = {module: _values(tensors[f"{module}.weight"]) for module in modules}
    out = {name: t for name, t in tensors.items() if name.removesuffix(".weight") not in values}
    for module in modules:
        group = [m for m in _partners(module) if m in values] if joint else [module]
        amax = max(float(np.abs(values[m]).max()) for m in group)
        out |= spell(module, *encode(values[module], np.float32(amax / 2688)))
    return out, modules


def modelopt(
    source: Path,
    like: str,
    *,
    algo: str = "NVFP4",
    form: str = "both",
    joint: bool = True,
    ignore: Sequence[str] = ("lm_head",),
) -> Foreign:
    """As ModelOpt's export writes it; form: both, file (hf_quant_config.json alone), nested."""

    def spell(module: str, codes: Any, scales: Any, factor: Any) -> dict[str, Tensor]:
        made = _parts(module, codes, scales, "weight")
        for name, value in (("weight_scale_2", factor), ("input_scale", np.float32(0.01))):
            made[f"{module}.{name}"] = Tensor(f"{module}.{name}", "F32", (), _f4(value))
        return made

    tensors, _ = quantize(source, like, spell, joint=joint)
    config = json.loads((source / "config.json").read_text())
    nested = {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quantization": {
            "quant_algo": algo,
            "kv_cache_quant_algo": None,
            "group_size": 16,
            "exclude_modules": list(ignore),
        },
    }
    flat = {
        "config_groups": {
            "group_0": {
                "input_activations": {
                    "dynamic": False, "num_bits": 4, "type": "float", "group_size": 16,
                },
                "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
                "targets": ["Linear"],
            }
        },
        "ignore": list(ignore),
        "quant_algo": algo,
        "group_size": 16,
        "producer": nested["producer"],
        "quant_method": "modelopt",
    }  # fmt: skip
    if algo == "W4A16_NVFP4":
        del flat["config_groups"]["group_0"]["input_activations"]
    if form == "both":
        config["quantization_config"] = flat
    elif form == "nested":
        config["quantization_config"] = {"quant_method": "modelopt", **nested}
    return Foreign(tensors, config, None if form == "nested" else nested)


def compressed_tensors(
    source: Path,
    like: str,
    *,
    activations: str = "w4a4",
    joint: bool = True,
    ignore: Sequence[str] = ("lm_head",),
) -> Foreign:
    """As llm-compressor writes it."""

    def spell(module: str, codes: Any, scales: Any, factor: Any) -> dict[str, Tensor]:
        made = _parts(module, codes, scales, "weight_packed")
        scalars = {"weight_global_scale": np.float32(1) / factor}
        if activations == "w4a4":
            scalars["input_global_scale"] = np.float32(128)
        for name, value in scalars.items():
            made[f"{module}.{name}"] = Tensor(f"{module}.{name}", "F32", (1,), _f4(value))
        return made

    tensors, _ = quantize(source, like, spell, joint=joint)
    weights = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": 16,
        "num_bits": 4,
        "observer": "static_minmax",
        "observer_kwargs": {},
        "strategy": "tensor_group",
        "symmetric": True,
        "type": "float",
    }
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "config_groups": {
            "group_0": {
                "format": "nvfp4-pack-quantized",
                "input_activations": {**weights, "dynamic": "local"}
                if activations == "w4a4"
                else None,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": weights,
            }
        },
        "format": "nvfp4-pack-quantized",
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.14.0",
    }
    return Foreign(tensors, config)


def fuse_experts(files: Foreign, *, transposed: bool = False) -> None:
    """Put the experts of each layer into one tensor, as ModelOpt does where the model has them so.

    gate and up stand below one another and share a scalar for each expert.
    """
    layers = {name.partition(".experts.")[0] for name in files.names(r"\.experts\.\d+\.")}
    for layer in layers:
        stem = f"{layer}.experts"
        experts = 1 + max(int(n.split(".experts.")[1].split(".")[0])
                          for n in files.names(re.escape(stem) + r"\.\d"))  # fmt: skip
        for fused in FUSED:
            for end in ("weight", "weight_scale"):
                stacked = np.stack([
                    np.concatenate([
                        _bytes(files.tensors[f"{stem}.{e}.{p}.{end}"]) for p in FUSED[fused]
                    ])
                    for e in range(experts)
                ])  # fmt: skip
                stacked = stacked.transpose(0, 2, 1) if transposed else stacked
                name = f"{stem}.{fused}" + ("" if end == "weight" else f"_{end}")
                dtype = "U8" if end == "weight" else "F8_E4M3"
                files.tensors[name] = Tensor(name, dtype, stacked.shape, stacked.tobytes())
            for end in ("weight_scale_2", "input_scale"):
                each = [f"{stem}.{e}.{FUSED[fused][0]}.{end}" for e in range(experts)]
                name = f"{stem}.{fused}_{end}"
                data = b"".join(files.tensors[one].data for one in each)
                files.tensors[name] = Tensor(name, "F32", (experts,), data)
        files.drop(re.escape(stem) + r"\.\d+\.")


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)


def _partners(module: str) -> list[str]:
    parent, _, leaf = module.rpartition(".")
    group = next((members for members in PARTNERS if leaf in members), (leaf,))
    return [f"{parent}.{member}" for member in group]


def encode(
    values: npt.NDArray[np.float64], factor: np.float32
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], np.float32]:
    """Codes, scales and global scale of the plain rule."""
    rows, cols = values.shape
    blocks = values.reshape(rows, -1, 16)
    ideal = np.abs(blocks).max(-1) / 6 / float(factor)
    scales = np.abs(ideal[..., None] - E4M3).argmin(-1).astype(np.uint8)
    scales = np.maximum(scales, 1)
    units = blocks / (E4M3[scales] * float(factor))[..., None]
    codes = np.abs(np.abs(units)[..., None] - E2M1).argmin(-1).astype(np.uint8)
    codes = (codes | ((units < 0) << 3).astype(np.uint8)).reshape(rows, cols)
    return codes[:, 0::2] | (codes[:, 1::2] << 4), scales, factor


def _values(tensor: Tensor) -> npt.NDArray[np.float64]:
    assert tensor.dtype == "BF16"
    bits = np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(tensor.shape).astype(np.float64)


def _parts(module: str, codes: Any, scales: Any, data: str) -> dict[str, Tensor]:
    names = {data: ("U8", codes), "weight_scale": ("F8_E4M3", scales)}
    return {
        f"{module}.{name}": Tensor(f"{module}.{name}", dtype, array.shape, array.tobytes())
        for name, (dtype, array) in names.items()
    }


def _f4(value: Any) -> bytes:
    return np.array(value, "<f4").tobytes()
