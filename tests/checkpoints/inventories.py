"""Full inventories of published checkpoints: names, element types and shapes, and no weights.

Each is computed from the dimensions its config.json states, and must come to the tensors and bytes
that its publisher's index states. `HeadersOnly` shows one as a repository that can be planned from.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

from checkpoints import configs
from hubconv.ends import FileEntry
from hubconv.formats.checkpoint import INDEX_NAME, nbytes_of, write_header, write_index

Line = tuple[str, str, tuple[int, ...]]
"""Name, element type, shape."""


def fp8(name: str, rows: int, cols: int, scale: str = "F32") -> Iterator[Line]:
    """A weight with a scale for each 128x128 block."""
    suffix = "scale" if scale == "F8_E8M0" else "weight_scale_inv"
    yield f"{name}.weight", "F8_E4M3", (rows, cols)
    yield f"{name}.{suffix}", scale, (ceil(rows / 128), ceil(cols / 128))


def plain(name: str, *shape: int, dtype: str = "BF16") -> Line:
    return name, dtype, shape


def gated(prefix: str, hidden: int, width: int, **how: str) -> Iterator[Line]:
    for leaf, rows, cols in (
        ("gate", width, hidden),
        ("up", width, hidden),
        ("down", hidden, width),
    ):
        yield from fp8(f"{prefix}.{leaf}_proj", rows, cols, **how)


# --- DeepSeek V4 ----------------------------------------------------------------------------------


class V4:
    """Flash or Pro, as DeepSeek publishes them."""

    def __init__(
        self, hidden: int, width: int, experts: int, layers: int, heads: int, q_lora: int,
        groups: int, ratios: list[int],
    ) -> None:  # fmt: skip
        self.hidden, self.width, self.experts, self.layers = hidden, width, experts, layers
        self.heads, self.q_lora, self.groups, self.ratios = heads, q_lora, groups, ratios

    VOCABULARY, HEAD, RANK, HC, INDEX = 129280, 512, 1024, 4, 128

    def lines(self) -> Iterator[Line]:
        hidden = self.hidden
        yield plain("embed.weight", self.VOCABULARY, hidden)
        for n in range(self.layers):
            yield from self._layer(f"layers.{n}.", self.ratios[n], hashed=n < 3)
        yield plain("norm.weight", hidden)
        yield plain("head.weight", self.VOCABULARY, hidden)
        yield from self._mixed("hc_head", self.HC, 1)
        yield from self._layer("mtp.0.", self.ratios[-1], hashed=False)
        for leaf in ("e_proj", "h_proj"):
            yield from fp8(f"mtp.0.{leaf}", hidden, hidden, "F8_E8M0")
        yield from (plain(f"mtp.0.{leaf}.weight", hidden) for leaf in ("enorm", "hnorm", "norm"))
        yield from self._mixed("mtp.0.hc_head", self.HC, 1)

    def _mixed(self, name: str, rows: int, scales: int) -> Iterator[Line]:
        yield plain(f"{name}_fn", rows, self.HC * self.hidden, dtype="F32")
        yield plain(f"{name}_base", rows, dtype="F32")
        yield plain(f"{name}_scale", scales, dtype="F32")

    def _layer(self, prefix: str, ratio: int, *, hashed: bool) -> Iterator[Line]:
        hidden, e8m0 = self.hidden, "F8_E8M0"
        attn = f"{prefix}attn."
        yield plain(f"{attn}attn_sink", self.heads, dtype="F32")
        yield from fp8(f"{attn}wq_a", self.q_lora, hidden, e8m0)
        yield from fp8(f"{attn}wq_b", self.heads * self.HEAD, self.q_lora, e8m0)
        yield from fp8(f"{attn}wkv", self.HEAD, hidden, e8m0)
        wide = self.groups * self.RANK
        yield from fp8(f"{attn}wo_a", wide, self.heads * self.HEAD // self.groups, e8m0)
        yield from fp8(f"{attn}wo_b", hidden, wide, e8m0)
        yield plain(f"{attn}q_norm.weight", self.q_lora)
        yield plain(f"{attn}kv_norm.weight", self.HEAD)
        if ratio:
            yield from self._compressor(f"{attn}compressor.", ratio, self.HEAD)
        if ratio == 4:
            yield from fp8(f"{attn}indexer.wq_b", 64 * self.INDEX, self.q_lora, e8m0)
            yield plain(f"{attn}indexer.weights_proj.weight", 64, hidden)
            yield from self._compressor(f"{attn}indexer.compressor.", ratio, self.INDEX)
        yield plain(f"{prefix}attn_norm.weight", hidden)
        yield plain(f"{prefix}ffn_norm.weight", hidden)
        yield plain(f"{prefix}ffn.gate.weight", self.experts, hidden)
        if hashed:
            yield plain(f"{prefix}ffn.gate.tid2eid", self.VOCABULARY, 6, dtype="I64")
        else:
            yield plain(f"{prefix}ffn.gate.bias", self.experts, dtype="F32")
        for n in range(self.experts):
            for leaf, rows, cols in self._matrices():
                name = f"{prefix}ffn.experts.{n}.{leaf}"
                yield plain(f"{name}.weight", rows, cols // 2, dtype="I8")
                yield plain(f"{name}.scale", rows, cols // 32, dtype=e8m0)
        for leaf, rows, cols in self._matrices():
            yield from fp8(f"{prefix}ffn.shared_experts.{leaf}", rows, cols, e8m0)
        for where in ("attn", "ffn"):
            yield from self._mixed(f"{prefix}hc_{where}", self.HC * (self.HC + 2), 3)

    def _matrices(self) -> list[tuple[str, int, int]]:
        return [
            ("w1", self.width, self.hidden),
            ("w2", self.hidden, self.width),
            ("w3", self.width, self.hidden),
        ]

    def _compressor(self, prefix: str, ratio: int, dim: int) -> Iterator[Line]:
        channels = 2 * dim if ratio == 4 else dim
        yield plain(f"{prefix}ape", ratio, channels, dtype="F32")
        yield plain(f"{prefix}wkv.weight", channels, self.hidden)
        yield plain(f"{prefix}wgate.weight", channels, self.hidden)
        yield plain(f"{prefix}norm.weight", dim)

    def config(self) -> dict[str, Any]:
        return {
            "model_type": "deepseek_v4",
            "expert_dtype": "fp4",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "n_routed_experts": self.experts,
            "n_shared_experts": 1,
            "num_hash_layers": 3,
            "compress_ratios": self.ratios,
            "num_nextn_predict_layers": 1,
            configs.ENTRY: configs.FP8 | {"scale_fmt": "ue8m0"},
        }


def ratios_of(layers: int, first: int) -> list[int]:
    """Two layers of one compression, then 4 and 128 in turn; none for the MTP layer."""
    return [first if n < 2 else (4, 128)[n % 2] for n in range(layers)] + [0]


V4_FLASH = V4(4096, 2048, 256, 43, 64, 1024, 8, ratios_of(43, 0))
V4_PRO = V4(7168, 3072, 384, 61, 128, 1536, 16, ratios_of(61, 128))


# --- DeepSeek V3 ----------------------------------------------------------------------------------


class V3:
    """V3, R1 and V3.1."""

    HIDDEN, LAYERS, DENSE, EXPERTS, VOCABULARY = 7168, 61, 3, 256, 129280

    def lines(self) -> Iterator[Line]:
        hidden = self.HIDDEN
        yield plain("model.embed_tokens.weight", self.VOCABULARY, hidden)
        for n in range(self.LAYERS + 1):
            yield from self._layer(f"model.layers.{n}.", n)
        yield plain("model.norm.weight", hidden)
        yield plain("lm_head.weight", self.VOCABULARY, hidden)
        mtp = f"model.layers.{self.LAYERS}."
        yield plain(f"{mtp}embed_tokens.weight", self.VOCABULARY, hidden)
        yield plain(f"{mtp}shared_head.head.weight", self.VOCABULARY, hidden)
        yield plain(f"{mtp}eh_proj.weight", hidden, 2 * hidden)
        for leaf in ("enorm", "hnorm", "shared_head.norm"):
            yield plain(f"{mtp}{leaf}.weight", hidden)

    def _layer(self, prefix: str, number: int) -> Iterator[Line]:
        hidden = self.HIDDEN
        attn = f"{prefix}self_attn."
        yield from fp8(f"{attn}q_a_proj", 1536, hidden)
        yield from fp8(f"{attn}q_b_proj", 128 * 192, 1536)
        yield from fp8(f"{attn}kv_a_proj_with_mqa", 576, hidden)
        yield from fp8(f"{attn}kv_b_proj", 128 * 256, 512)
        yield from fp8(f"{attn}o_proj", hidden, 128 * 128)
        yield plain(f"{attn}q_a_layernorm.weight", 1536)
        yield plain(f"{attn}kv_a_layernorm.weight", 512)
        yield plain(f"{prefix}input_layernorm.weight", hidden)
        yield plain(f"{prefix}post_attention_layernorm.weight", hidden)
        if number < self.DENSE:
            yield from gated(f"{prefix}mlp", hidden, 18432)
            return
        yield plain(f"{prefix}mlp.gate.weight", self.EXPERTS, hidden)
        yield plain(f"{prefix}mlp.gate.e_score_correction_bias", self.EXPERTS, dtype="F32")
        for n in range(self.EXPERTS):
            yield from gated(f"{prefix}mlp.experts.{n}", hidden, 2048)
        yield from gated(f"{prefix}mlp.shared_experts", hidden, 2048)

    def config(self) -> dict[str, Any]:
        return configs.DEEPSEEK_V3 | {
            "hidden_size": self.HIDDEN,
            "num_hidden_layers": self.LAYERS,
            "first_k_dense_replace": self.DENSE,
            "n_routed_experts": self.EXPERTS,
            "q_lora_rank": 1536,
        }


# --- Qwen3-30B-A3B FP8 ----------------------------------------------------------------------------


class Qwen3:
    """Qwen3-30B-A3B-FP8."""

    HIDDEN, LAYERS, EXPERTS, VOCABULARY = 2048, 48, 128, 151936

    def lines(self) -> Iterator[Line]:
        hidden = self.HIDDEN
        yield plain("model.embed_tokens.weight", self.VOCABULARY, hidden)
        for n in range(self.LAYERS):
            prefix = f"model.layers.{n}."
            for leaf, rows in (("q", 4096), ("k", 512), ("v", 512)):
                yield from fp8(f"{prefix}self_attn.{leaf}_proj", rows, hidden, "BF16")
            yield from fp8(f"{prefix}self_attn.o_proj", hidden, 4096, "BF16")
            yield plain(f"{prefix}self_attn.q_norm.weight", 128)
            yield plain(f"{prefix}self_attn.k_norm.weight", 128)
            yield plain(f"{prefix}input_layernorm.weight", hidden)
            yield plain(f"{prefix}post_attention_layernorm.weight", hidden)
            yield plain(f"{prefix}mlp.gate.weight", self.EXPERTS, hidden)
            for e in range(self.EXPERTS):
                yield from gated(f"{prefix}mlp.experts.{e}", hidden, 768, scale="BF16")
        yield plain("model.norm.weight", hidden)
        yield plain("lm_head.weight", self.VOCABULARY, hidden)

    def config(self) -> dict[str, Any]:
        return configs.QWEN3_MOE_FP8 | {
            "hidden_size": self.HIDDEN,
            "num_hidden_layers": self.LAYERS,
            "num_experts": self.EXPERTS,
            "moe_intermediate_size": 768,
        }


# --- gpt-oss-20b ----------------------------------------------------------------------------------


class GptOss:
    """gpt-oss-20b."""

    HIDDEN, LAYERS, EXPERTS, VOCABULARY = 2880, 24, 32, 201088

    def lines(self) -> Iterator[Line]:
        hidden, experts = self.HIDDEN, self.EXPERTS
        yield plain("model.embed_tokens.weight", self.VOCABULARY, hidden)
        for n in range(self.LAYERS):
            prefix = f"model.layers.{n}."
            for leaf, rows, cols in (
                ("q", 4096, hidden), ("k", 512, hidden), ("v", 512, hidden), ("o", hidden, 4096),
            ):  # fmt: skip
                yield plain(f"{prefix}self_attn.{leaf}_proj.weight", rows, cols)
                yield plain(f"{prefix}self_attn.{leaf}_proj.bias", rows)
            yield plain(f"{prefix}self_attn.sinks", 64)
            yield plain(f"{prefix}input_layernorm.weight", hidden)
            yield plain(f"{prefix}post_attention_layernorm.weight", hidden)
            yield plain(f"{prefix}mlp.router.weight", experts, hidden)
            yield plain(f"{prefix}mlp.router.bias", experts)
            for leaf, rows in (("gate_up", 2 * hidden), ("down", hidden)):
                name = f"{prefix}mlp.experts.{leaf}_proj"
                yield plain(f"{name}_blocks", experts, rows, hidden // 32, 16, dtype="U8")
                yield plain(f"{name}_scales", experts, rows, hidden // 32, dtype="U8")
                yield plain(f"{name}_bias", experts, rows)
        yield plain("model.norm.weight", hidden)
        yield plain("lm_head.weight", self.VOCABULARY, hidden)

    def config(self) -> dict[str, Any]:
        return configs.GPT_OSS | {"hidden_size": self.HIDDEN, "num_hidden_layers": self.LAYERS}


INVENTORIES = {
    "DeepSeek-V4-Flash": V4_FLASH,
    "DeepSeek-V4-Pro": V4_PRO,
    "DeepSeek-V3": V3(),
    "Qwen3-30B-A3B-FP8": Qwen3(),
    "gpt-oss-20b": GptOss(),
}


class HeadersOnly:
    """An inventory as a repository of headers: whatever reads a weight fails."""

    commit, restricted, born = "c" * 40, "", ""

    def __init__(self, name: str, shards: int) -> None:
        self.ref = f"org/{name}"
        made = INVENTORIES[name]
        lines = list(made.lines())
        names = [f"model-{n:05d}-of-{shards:05d}.safetensors" for n in range(1, shards + 1)]
        size = ceil(len(lines) / shards)
        held = {shard: lines[n * size : (n + 1) * size] for n, shard in enumerate(names)}
        self._content = {shard: write_header(part) for shard, part in held.items()}
        bytes_of = {
            shard: sum(nbytes_of(dtype, shape) for _, dtype, shape in part)
            for shard, part in held.items()
        }
        self._files = {
            shard: FileEntry(shard, len(header) + bytes_of[shard], "a" * 64)
            for shard, header in self._content.items()
        }
        index = {name: shard for shard, part in held.items() for name, _, _ in part}
        small = {
            "config.json": json.dumps(made.config()).encode(),
            INDEX_NAME: write_index(index, sum(bytes_of.values())),
        }
        self._content |= small
        self._files |= {path: FileEntry(path, len(text)) for path, text in small.items()}

    def files(self):
        return self._files

    def read(self, path, begin, end):
        assert end <= len(self._content[path]) or begin == 0, "a plan reads no weight"
        return self._content[path][begin:end]

    @contextmanager
    def open(self, path, reads=(), *, whole=True):
        raise AssertionError(f"a plan opens no shard, not even {path}")
        yield
