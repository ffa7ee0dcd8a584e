"""Tiny random models by transformers, converted by hubconv, and run by transformers."""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hubconv.pipeline import Request, convert
from hubconv.steps.decide import Recipe

COMMON = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,  # enough that every weight is heard in the logits
}
GROUPED = COMMON | {"num_key_value_heads": 2, "head_dim": 32}
MODELS = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        GROUPED | {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        COMMON
        | {
            "moe_intermediate_size": 64,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
            "q_lora_rank": 96,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 32,
            "v_head_dim": 32,
        },
    ),
}
DENSE = ("llama", "qwen3")
MOE = ("qwen3_moe", "deepseek_v3")

_SPELLINGS = {
    "compressed-tensors": ("weight_packed", "weight_global_scale"),
    "modelopt": ("weight", "weight_scale_2"),
}
_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
_E2M1 = torch.cat([_E2M1, -_E2M1])


@dataclass(frozen=True)
class Result:
    """A converted folder."""

    path: Path
    layout: str

    @property
    def config(self):
        return json.loads((self.path / "config.json").read_text())

    @property
    def tensors(self):
        return read(self.path)

    @property
    def modules(self):
        suffix = f".{_SPELLINGS[self.layout][1]}"
        return [name.removesuffix(suffix) for name in self.tensors if name.endswith(suffix)]

    def decoded(self):
        """Every NVFP4 weight by its module: what the stored numbers mean, in float64."""
        tensors, (packed, scalar) = self.tensors, _SPELLINGS[self.layout]
        found = {}
        for module in self.modules:
            codes, number = tensors[f"{module}.{packed}"], tensors[f"{module}.{scalar}"].double()
            factor = 1 / number if self.layout == "compressed-tensors" else number
            elements = _E2M1[torch.stack([codes & 15, codes >> 4], -1).long()].flatten(1)
            scales = tensors[f"{module}.weight_scale"].double().repeat_interleave(16, 1)
            found[module] = elements * scales * factor
        return found


def read(folder):
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        tensors |= read_one(path)
    return tensors


def make(name, folder):
    """A model of random numbers, saved by transformers."""
    import transformers

    family, numbers = MODELS[name]
    torch.manual_seed(20261128)
    config = getattr(transformers, family)(**numbers)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def converted(source, target, layout, **recipe):
    request = Request(
        str(source), str(target), recipe=Recipe(layout=layout, **recipe), device="cpu"
    )
    assert convert(request).status == "published"
    return Result(target, layout)


def plain(result, weights, folder):
    """A BF16 checkpoint: the result's other tensors, and `weights` in place of what is NVFP4."""
    kept = {
        name: tensor
        for name, tensor in result.tensors.items()
        if name.rpartition(".")[0] not in weights
    }
    for module, weight in weights.items():
        kept[f"{module}.weight"] = weight.to(torch.bfloat16).contiguous()
    folder.mkdir()
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = {key: value for key, value in result.config.items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def read_one(path):
    with safe_open(path, "pt") as shard:
        return {name: shard.get_tensor(name) for name in sorted(shard.keys())}


def rewritten(result, folder, shard, tensors):
    """A copy of a result with other tensors in one shard."""
    shutil.copytree(result.path, folder)
    save_file(tensors, folder / shard, {"format": "pt"})
    return Result(folder, result.layout)


def spoiled(result, folder, module, factor):
    """A copy of a result with one global scale wrong by `factor`."""
    name = f"{module}.{_SPELLINGS[result.layout][1]}"
    for path in sorted(result.path.glob("*.safetensors")):
        tensors = read_one(path)
        if name in tensors:
            tensors[name] = tensors[name] * factor
            return rewritten(result, folder, path.name, tensors)
    raise AssertionError(name)


def load(folder, **options):
    from transformers import AutoModelForCausalLM

    options = {"dtype": torch.bfloat16, **options}
    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


@cache
def _prompts():
    return torch.randint(320, (2, 24), generator=torch.Generator().manual_seed(7))


def logits(model):
    with torch.no_grad():
        return model(_prompts()).logits.double()


def away(found, wanted):
    """Relative distance of two logits."""
    return ((found - wanted).norm() / wanted.norm()).item()


def recipes(names, layouts, policies=("", "linears")):
    """Models under layouts and policies; a policy that does the same as another once."""
    for name, layout, policy in product(names, layouts, policies):
        if policy or name in MOE:
            yield name, layout, policy
