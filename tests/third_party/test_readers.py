"""Other people's code reads what hubconv wrote, and gets the numbers that hubconv says are there.

Needs compressed-tensors or nvidia-modelopt beside the tests; skipped where they are not installed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.recipes import RECIPES
from safetensors import safe_open

from hubconv.formats import nvfp4
from hubconv.pipeline import Request, convert
from hubconv.steps.decide import Recipe


def read_folder(folder):
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            tensors |= {name: shard.get_tensor(name) for name in sorted(shard.keys())}
    return tensors


def converted(tmp_path, recipe, **options):
    source, target = tmp_path / "source", tmp_path / "target"
    RECIPES[recipe](source)
    done = convert(Request(str(source), str(target), recipe=Recipe(**options), device="cpu"))
    assert done.status == "published"
    return target, read_folder(target), json.loads((target / "config.json").read_text())


def decoded(tensors, module, packed, scalar, *, divides):
    scale = tensors[f"{module}.{scalar}"].float().item()
    codes = tensors[f"{module}.{packed}"].numpy()
    scales = tensors[f"{module}.weight_scale"].view(torch.uint8).numpy()
    return nvfp4.decode(
        codes, scales, float(np.float32(1) / np.float32(scale)) if divides else scale
    )


RUNS = [
    ("llama_bf16", {}),
    ("llama_bf16", {"activations": "w4a4"}),
    ("llama_bf16_tied", {}),
    ("deepseek_v3", {}),
    ("deepseek_v3", {"policy": "linears"}),
    ("deepseek_v32", {}),
    ("qwen3_moe_fp8", {}),
    ("qwen35_moe_bf16", {"policy": "linears"}),
    ("kimi_k25", {}),
    ("glm45_fp8", {}),
    ("llama_fp8_static", {"policy": "mlp"}),
]


@pytest.mark.parametrize(("recipe", "options"), RUNS)
def test_compressed_tensors_own_decompressor_reads_equal_values(tmp_path, recipe, options):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationConfig

    _, tensors, config = converted(tmp_path, recipe, **options)
    table = QuantizationConfig.model_validate(config["quantization_config"])
    scheme = next(g for g in table.config_groups.values() if g.weights.num_bits == 4)
    modules = [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]
    assert modules
    for module in modules:
        local = {
            part: tensors[f"{module}.{part}"]
            for part in ("weight_packed", "weight_scale", "weight_global_scale")
        }
        theirs = NVFP4PackedCompressor.decompress(local, scheme)["weight"].double().numpy()
        ours = decoded(tensors, module, "weight_packed", "weight_global_scale", divides=True)
        # Theirs computes in the type it unpacks to; a power-of-two scale loses nothing in it.
        assert np.array_equal(theirs, ours), module


FOLDERS = [
    "llama_bf16",
    "deepseek_v3",
    "glm5_fp8",
    "kimi_k2_fp8",
    "kimi_k25",
    "minimax_m2",
    "mixtral_bf16",
    "nemotron3_bf16",
    "qwen3_moe_fp8",
    "qwen35_bf16",
    "qwen35_moe_bf16",
]


@pytest.mark.parametrize("recipe", FOLDERS)
def test_compressed_tensors_own_checkpoint_dequantizer_gives_our_bf16_values(tmp_path, recipe):
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.entrypoints.convert import convert_checkpoint
    from compressed_tensors.entrypoints.convert.converters import CompressedTensorsDequantizer

    target, tensors, _ = converted(tmp_path, recipe)
    plain = tmp_path / "plain"
    convert_checkpoint(str(target), str(plain), CompressedTensorsDequantizer(str(target)))
    theirs = read_folder(plain)
    modules = [n.removesuffix(".weight_packed") for n in tensors if n.endswith(".weight_packed")]
    assert modules
    for module in modules:
        ours = decoded(tensors, module, "weight_packed", "weight_global_scale", divides=True)
        expected = torch.from_numpy(ours).to(torch.bfloat16)
        assert torch.equal(theirs[f"{module}.weight"], expected), module
    for name in tensors:
        if name.endswith(".weight") and tensors[name].dtype == torch.float8_e4m3fn:
            scale = tensors[name.replace(".weight", ".weight_scale")].float()
            rows, cols = tensors[name].shape
            wide = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
            expected = (tensors[name].float() * wide).to(torch.bfloat16)
            difference = (theirs[name].float() - expected.float()).abs().max().item()
            assert difference <= 2**-8 * expected.float().abs().max().item(), name


@pytest.mark.filterwarnings("ignore")  # of what ModelOpt imports
@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("deepseek_v3", {"layout": "modelopt"}),
        ("deepseek_v3", {"layout": "modelopt", "scales": "amax"}),
        ("llama_bf16", {"layout": "modelopt"}),
        ("deepseek_v4", {}),
        ("deepseek_v4_sgl_fp8", {}),
    ],
)
def test_modelopts_own_quantized_tensor_reads_equal_values(tmp_path, recipe, options):
    pytest.importorskip("modelopt")
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    _, tensors, _ = converted(tmp_path, recipe, **options)
    modules = [n.removesuffix(".weight_scale_2") for n in tensors if n.endswith(".weight_scale_2")]
    assert modules
    for module in modules:
        packed = tensors[f"{module}.weight"]
        shape = torch.Size((packed.shape[0], packed.shape[1] * 2))
        theirs = NVFP4QTensor(shape, torch.float32, packed).dequantize(
            scale=tensors[f"{module}.weight_scale"],
            double_scale=tensors[f"{module}.weight_scale_2"],
            block_sizes={-1: 16},
        )
        ours = decoded(tensors, module, "weight", "weight_scale_2", divides=False)
        if options.get("scales") == "amax":
            # Its global scale is no power of two, so theirs rounds each product to float32.
            assert np.allclose(theirs.double().numpy(), ours, rtol=2**-22, atol=0), module
        else:
            assert np.array_equal(theirs.double().numpy(), ours), module
