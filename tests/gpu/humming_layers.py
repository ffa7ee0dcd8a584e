"""Weights of a converted folder as layers of humming, the NVFP4 kernel of vLLM up to Hopper.

humming is imported where it is needed: it compiles its kernels for the device at hand.
"""

import json
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import safe_open

TILE = 128
"""humming's tiles on compute capability 9.0 want this many rows and columns of a weight."""

FUSED = (
    ("q_proj", "k_proj"),  # Gemma 4's layers that take their keys for values
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
)
"""Siblings that engines multiply as one weight under one global scale, in their order."""

_NIBBLES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
_E2M1 = torch.cat([_NIBBLES, -_NIBBLES])
_SPELLINGS = {
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_global_scale"),
    "modelopt": ("weight", "weight_scale", "weight_scale_2"),
}


@dataclass(frozen=True)
class Weight:
    """One weight as an engine holds it: perhaps several of the file, one below the other.

    Attributes:
        codes: [rows, cols / 2], two elements a byte.
        scales: [rows, cols / 16], E4M3.
        scalar: The one global scale, as stored.
        divides: Whether the stored scalar is a divisor.
        ends: The last row of every part, plus one.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    scalar: torch.Tensor
    divides: bool
    ends: tuple[int, ...]

    @property
    def shape(self):
        return self.codes.shape[0], self.codes.shape[1] * 2

    @property
    def padded(self):
        """Shape in whole tiles; what is added means zero."""
        rows, cols = self.shape
        return -(-rows // TILE) * TILE, -(-cols // TILE) * TILE

    @property
    def factor(self):
        value = self.scalar.double().reshape(())
        return 1 / value if self.divides else value

    def decoded(self):
        """What the stored numbers mean, in float64."""
        pairs = torch.stack([self.codes & 15, self.codes >> 4], -1).long()
        elements = _E2M1[pairs].reshape(self.shape)
        return elements * self.scales.double().repeat_interleave(16, 1) * self.factor


@dataclass(frozen=True)
class Converted:
    """A folder that hubconv wrote."""

    path: Path
    spelling: str
    tensors: dict[str, torch.Tensor]
    config: dict

    @property
    def modules(self):
        """Names of all NVFP4 weights."""
        suffix = "." + _SPELLINGS[self.spelling][2]
        return [name.removesuffix(suffix) for name in self.tensors if name.endswith(suffix)]

    def weight(self, *modules):
        """Modules as one weight, under the global scale of the first: as engines take it."""
        codes, scales, scalar = (
            [self.tensors[f"{module}.{part}"] for module in modules]
            for part in _SPELLINGS[self.spelling]
        )
        ends = tuple(accumulate(part.shape[0] for part in codes))
        below = torch.cat([part.view(torch.uint8) for part in scales])
        divides = self.spelling == "compressed-tensors"
        return Weight(torch.cat(codes), below.view(torch.float8_e4m3fn), scalar[0], divides, ends)

    def products(self):
        """Every NVFP4 module once, in the groups that engines multiply as one."""
        modules, done = self.modules, set()
        for module in modules:
            parent, _, leaf = module.rpartition(".")
            group = [module]
            for leaves in (leaves for leaves in FUSED if leaf in leaves):
                siblings = [f"{parent}.{each}" for each in leaves]
                group = siblings if set(siblings) <= set(modules) else group
            if not done.issuperset(group):
                done.update(group)
                yield tuple(group)

    def schema(self):
        """humming's description of the NVFP4 weights, made from the folder's configuration."""
        from humming.schema import BaseWeightSchema

        if self.spelling == "modelopt":
            # humming knows this name of the algorithm only; what it means for weights is the same.
            return BaseWeightSchema.from_config({"quant_method": "modelopt", "quant_algo": "nvfp4"})
        groups = self.config["quantization_config"]["config_groups"].values()
        (group,) = [each for each in groups if each["weights"]["num_bits"] == 4]
        described = {"quant_method": "compressed-tensors", "format": group["format"]}
        return BaseWeightSchema.from_config(group["weights"] | described)


@cache
def opened(path, layout):
    """A folder that hubconv wrote, with all its tensors."""
    tensors = {}
    for shard in sorted(path.glob("*.safetensors")):
        with safe_open(shard, "pt") as held:
            tensors |= {name: held.get_tensor(name) for name in sorted(held.keys())}
    spelling = "modelopt" if layout.startswith("modelopt") else layout
    return Converted(path, spelling, tensors, json.loads((path / "config.json").read_text()))


def _filled(raw, rows, cols):
    """Bytes with zeros to the right and below."""
    room = torch.zeros((rows, cols), dtype=torch.uint8)
    room[: raw.shape[0], : raw.shape[1]] = raw
    return room


def _spelled(folder, weight):
    """A weight's tensors in whole tiles, by the names humming expects."""
    rows, cols = weight.padded
    codes = _filled(weight.codes, rows, cols // 2)
    scales = _filled(weight.scales.view(torch.uint8), rows, cols // 16).view(torch.float8_e4m3fn)
    # humming wants one dimension, which ModelOpt's scalars have not.
    values = (codes, scales, weight.scalar.reshape(1))
    return dict(zip(_SPELLINGS[folder.spelling], values, strict=True))


def _wide(inputs, cols):
    """Inputs with zeros for the columns that were added to a weight."""
    return torch.nn.functional.pad(inputs, (0, cols - inputs.shape[1])).contiguous()


def _ready(folder, shape, tensors, experts=None):
    from humming.layer import HummingLayer

    layer = HummingLayer(
        shape_n=shape[0],
        shape_k=shape[1],
        weight_config=folder.schema(),
        num_experts=experts,
        torch_dtype=torch.bfloat16,
    )
    # It loads what it finds and says nothing of what it does not.
    assert {name for name, _ in layer.named_parameters()} == set(tensors)
    layer.load_from_tensors(tensors)
    layer = layer.cuda()
    layer.transform()
    return layer


def _tuned(layer, rows, kind):
    """The kernel that humming takes for this many rows; only that one is then compiled."""
    from humming.tune import get_heuristics_config

    return get_heuristics_config(layer.humming_config, shape_m=rows, gemm_type=kind)


def run(layer, inputs):
    """[inputs, rows] of a layer that is ready."""
    return layer(inputs, tuning_config=_tuned(layer, inputs.shape[0], "dense"))


def times(folder, weight, inputs):
    """inputs @ weight.T by humming, in BF16."""
    layer = _ready(folder, weight.padded, _spelled(folder, weight))
    return run(layer, _wide(inputs, weight.padded[1]))[:, : weight.shape[0]]


def times_experts(folder, weights, inputs, chosen):
    """Every input times the weights of its `chosen` experts: [inputs, chosen, rows], BF16."""
    from humming.testing.data import generate_moe_tensors

    spelled = [_spelled(folder, weight) for weight in weights]
    tensors = {
        name: torch.cat([one[name] for one in spelled])
        if one_dimension
        else _stacked([one[name] for one in spelled])
        for name, one_dimension in ((name, spelled[0][name].dim() == 1) for name in spelled[0])
    }
    rows, cols = weights[0].padded
    layer = _ready(folder, (rows, cols), tensors, len(weights))
    tuning = _tuned(layer, chosen.numel(), "indexed")
    block = tuning["block_shape"][0]
    _, _, sorted_ids, expert_ids, padded = generate_moe_tensors(
        chosen, len(weights), "indexed", block_size_config=block
    )
    outputs = torch.zeros((chosen.numel(), rows), dtype=torch.bfloat16, device=inputs.device)
    found = layer(
        _wide(inputs, cols),
        outputs=outputs,
        sorted_ids=sorted_ids,
        expert_ids=expert_ids,
        num_tokens_padded=padded,
        top_k=chosen.shape[1],
        compute_config={"gemm_type": "indexed"},
        tuning_config=tuning,
    )
    return found.reshape(*chosen.shape, rows)[..., : weights[0].shape[0]]


def _stacked(parts):
    stack = torch.stack([part.view(torch.uint8) for part in parts])
    return stack.view(parts[0].dtype)
