"""The checkpoint that several benchmarks convert: a DeepSeek-V4 FP8 repack of any size."""

from pathlib import Path
from typing import Final

from hubconv.demo import deepseek_v4
from hubconv.demo.miniature_v4_parts import Size

SHARDS_PER_GB: Final = 5.0
MANY_LAYERS_GB: Final = 20


EXPERTS: Final = {"small": (2048, 1024), "flash": (4096, 2048), "pro": (7168, 3072)}
"""Whose experts: hidden size and width."""


def write_v4(
    folder: Path, gigabytes: float, shards_per_gb: float = SHARDS_PER_GB, model: str = "small"
) -> list[Path]:
    """Write about so many gigabytes in shards, by default of about 200 MB; every expert differs.

    Args:
        folder: Where to write.
        gigabytes: About how large.
        shards_per_gb: How many shards make a gigabyte.
        model: Whose experts they are like.

    Returns:
        The shards.
    """
    hidden, width = EXPERTS[model]
    layers = 24 if gigabytes > MANY_LAYERS_GB else 3  # and one for multi-token prediction
    experts = max(4, int(gigabytes * 1e9 / ((layers + 1) * 3 * hidden * width)))
    size = Size(
        hidden=hidden, width=width, experts=experts, layers=layers, vocabulary=2048,
        shards=max(3, round(gigabytes * shards_per_gb)),
    )  # fmt: skip
    deepseek_v4.fp8_repack(folder, size=size, fast=True)
    return sorted(folder.glob("*.safetensors"))


def write_tiny(folder: Path) -> None:
    """A checkpoint whose conversion compiles and loads what later ones only load."""
    deepseek_v4.fp8_repack(folder, fast=True)
