"""The checkpoint that several benchmarks convert: a DeepSeek-V4 FP8 repack of any size."""

from pathlib import Path

from hubconv.demo import deepseek_v4
from hubconv.demo.miniature_v4_parts import Size

SHARDS_PER_GB = 5.0


def write_v4(folder: Path, gigabytes: float, shards_per_gb: float = SHARDS_PER_GB) -> list[Path]:
    """Write about so many gigabytes in shards, by default of about 200 MB; every expert differs.

    Args:
        folder: Where to write.
        gigabytes: About how large.
        shards_per_gb: How many shards make a gigabyte.

    Returns:
        The shards.
    """
    experts = max(4, int(gigabytes * 1e9 / (4 * 3 * 2048 * 1024)))
    size = Size(
        hidden=2048, width=1024, experts=experts, layers=3, vocabulary=2048,
        shards=max(3, round(gigabytes * shards_per_gb)),
    )  # fmt: skip
    deepseek_v4.fp8_repack(folder, size=size, fast=True)
    return sorted(folder.glob("*.safetensors"))


def write_tiny(folder: Path) -> None:
    """A checkpoint whose conversion compiles and loads what later ones only load."""
    deepseek_v4.fp8_repack(folder, fast=True)
