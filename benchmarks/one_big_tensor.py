"""Memory and disk where one shard holds one tensor larger than either may grow.

A dense checkpoint of one shard of about 6 GB: in its layer lie a gate_proj of 4 GB and an up_proj
of 2 GB, partners that share one global scale. The set is larger than any memory budget, so each is
read twice: for the largest weight, and again to be encoded. It is written in windows of a few
megabytes, uploaded, and removed before the conversion starts.

    python benchmarks/one_big_tensor.py --folder /tmp/one-big-tensor --max-disk 3GB
"""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hub_process import HF, HUBCONV, running
from sampling import bare_torch_bytes, watch

from hubconv.formats.checkpoint import INDEX_NAME, nbytes_of, write_header, write_index

SOURCE, TARGET = "demo-org/one-big-tensor", "demo/one-big-tensor-NVFP4"
SHARD = "model-00001-of-00001.safetensors"
COLS = 8192
WINDOW_ROWS = 1024
Tensor = tuple[str, str, tuple[int, ...]]


def tensors(gigabytes: float) -> list[Tensor]:
    """(name, dtype, shape) of all tensors; gate_proj takes so many gigabytes."""
    rows = int(gigabytes * 1e9 / 2 / COLS) // 128 * 128
    layer = "model.layers.0"
    made: list[Tensor] = [
        (f"{layer}.mlp.gate_proj.weight", "BF16", (rows, COLS)),
        (f"{layer}.mlp.up_proj.weight", "BF16", (rows // 2 // 128 * 128, COLS)),
        (f"{layer}.mlp.down_proj.weight", "BF16", (1024, COLS)),
        ("model.embed_tokens.weight", "BF16", (1024, COLS)),
        ("lm_head.weight", "BF16", (1024, COLS)),
        ("model.norm.weight", "BF16", (COLS,)),
    ]
    made += [(f"{layer}.self_attn.{part}_proj.weight", "BF16", (1024, COLS)) for part in "qkvo"]
    made += [
        (f"{layer}.{n}_layernorm.weight", "BF16", (COLS,)) for n in ("input", "post_attention")
    ]
    return made


def windows(shape: tuple[int, ...], seed: int) -> Iterator[bytes]:
    """BF16 weights of about Gaussian size, no two windows alike, in a few megabytes at a time."""
    rows, cols = shape if len(shape) == 2 else (1, shape[0])
    random = np.random.default_rng(seed)
    for first in range(0, rows, WINDOW_ROWS):
        size = (min(WINDOW_ROWS, rows - first), cols)
        weights = random.standard_normal(size, np.float32) * np.float32(0.02)
        yield (weights.view(np.uint32) >> 16).astype("<u2").tobytes()


def write(folder: Path, gigabytes: float) -> int:
    """Write the checkpoint; the answer is the bytes of its shard."""
    folder.mkdir(parents=True)
    made = tensors(gigabytes)
    with (folder / SHARD).open("wb") as file:
        file.write(write_header(made))
        for seed, (_, _, shape) in enumerate(made):
            for data in windows(shape, seed):
                file.write(data)
    total = sum(nbytes_of(dtype, shape) for _, dtype, shape in made)
    (folder / INDEX_NAME).write_bytes(write_index({name: SHARD for name, _, _ in made}, total))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": COLS,
        "intermediate_size": made[0][2][0], "num_hidden_layers": 1, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": 1024, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return (folder / SHARD).stat().st_size


def knows_max_disk() -> bool:
    """Whether this hubconv has the option."""
    text = subprocess.run(
        [*HUBCONV, "convert", "--help"], check=True, capture_output=True, text=True
    ).stdout
    return "--max-disk" in text


def main() -> None:
    """Run it and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of the large tensor")
    parser.add_argument("--mode", choices=["xet", "lfs"], default="xet")
    parser.add_argument("--max-disk", default="3GB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the folder; a Hub lies in it")
    options = parser.parse_args()
    folder = options.folder.resolve()
    made, work = folder / "source", folder / "work"
    shutil.rmtree(folder, ignore_errors=True)
    size = write(made, options.gigabytes)
    with running(folder, options.mode) as hub:
        command = [HF, "upload", SOURCE, str(made), ".", "--quiet"]
        subprocess.run(command, check=True, env=hub.environment("seed"), capture_output=True)
        shutil.rmtree(made)
        command = [*HUBCONV, SOURCE, TARGET, "--device", "cpu", "--work-dir", str(work), "--quiet"]
        command += ["--workers", str(options.workers)]
        command += ["--max-disk", options.max_disk] if knows_max_disk() else []
        run = watch(command, [work, folder / "hubconv"], hub.environment("hubconv"))
    torch = bare_torch_bytes()
    print(f"command               {' '.join(command[2:])}")
    print(f"exit code             {run.code}")
    print(f"shard                 {size / 1e9:8.2f} GB, of it one tensor of "
          f"{nbytes_of('BF16', tensors(options.gigabytes)[0][2]) / 1e9:.2f} GB")  # fmt: skip
    print(
        f"peak memory           {run.memory / 1e9:8.2f} GB  (bare torch {torch / 1e9:.2f} GB, "
        f"beyond it {(run.memory - torch) / 1e9:.2f} GB)"
    )
    print(f"peak disk             {run.disk / 1e9:8.2f} GB  (work folder, caches, scratch)")
    print(
        f"wall time             {run.seconds:8.1f} s, {os.cpu_count()} cores, CPU {run.cpu:.0f} s"
    )
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
