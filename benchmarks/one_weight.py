"""Memory that one large weight takes, from folder to folder: its windows, not itself.

A checkpoint whose down_proj is 7168 x 36864 FP8 with one scale for 128 x 128, and little else. The
baseline is the same command on a checkpoint of a few kilobytes: what Python, numba and the compiled
kernels take by themselves.

    python benchmarks/one_weight.py --folder /tmp/one-weight
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from hub_process import HUBCONV
from sampling import watch

from hubconv.formats.checkpoint import write_header

SIDE = 128
HIDDEN = 256


def write(folder: Path, rows: int, cols: int) -> int:
    """Write the checkpoint; the answer is the bytes of its large weight."""
    folder.mkdir(parents=True)
    layer = "model.layers.0"
    small = [f"{layer}.self_attn.{part}_proj.weight" for part in "qkvo"]
    tensors = [(f"{layer}.mlp.down_proj.weight_scale_inv", "F32", (rows // SIDE, cols // SIDE))]
    tensors += [(name, "BF16", (HIDDEN, HIDDEN)) for name in small]
    tensors += [("model.embed_tokens.weight", "BF16", (SIDE, HIDDEN))]
    tensors += [
        ("lm_head.weight", "BF16", (SIDE, HIDDEN)),
        ("model.norm.weight", "BF16", (HIDDEN,)),
    ]
    tensors += [(f"{layer}.mlp.down_proj.weight", "F8_E4M3", (rows, cols))]
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(write_header(tensors))
        for _, dtype, shape in tensors[:-1]:
            values = random.random(shape, np.float32) * np.float32(1e-3) + np.float32(1e-4)
            file.write(values.tobytes() if dtype == "F32" else (
                (values.view(np.uint32) >> 16).astype("<u2").tobytes()))  # fmt: skip
        for first in range(0, rows, SIDE):
            codes = random.integers(0, 256, (min(SIDE, rows - first), cols)).astype(np.uint8)
            codes[codes & 0x7F == 0x7F] = 0x38
            file.write(codes.tobytes())
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": cols, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": SIDE, "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [SIDE, SIDE]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return rows * cols


def main() -> None:
    """Run both and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=7168)
    parser.add_argument("--cols", type=int, default=36864)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    peaks = {}
    for name, shape in {"small": (SIDE, SIDE), "large": (options.rows, options.cols)}.items():
        nbytes = write(folder / name, *shape)
        command = [*HUBCONV, str(folder / name), str(folder / f"{name}-NVFP4"), "--quiet"]
        run = watch([*command, "--device", options.device], [])
        if run.code:
            raise SystemExit(f"hubconv ended with {run.code}")
        peaks[name] = run.memory
        print(f"{name:6} weight of {nbytes / 1e6:8.1f} MB: peak {run.memory / 1e6:8.1f} MB")
    print(f"the large weight takes {(peaks['large'] - peaks['small']) / 1e6:.1f} MB")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
