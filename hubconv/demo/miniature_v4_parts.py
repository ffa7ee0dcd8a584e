"""The tensors of a miniature DeepSeek V4, by the names, roles and shapes of the real one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["fp8", "fp8_grouped", "mxfp4", "bf16", "f32", "norm", "token_table"]

HEADS: Final = 4
HEAD_DIM: Final = 128
Q_LORA_RANK: Final = 128
O_GROUPS: Final = 2
O_LORA_RANK: Final = 128
INDEX_HEADS: Final = 4
INDEX_HEAD_DIM: Final = 64
HYPER_CONNECTIONS: Final = 4
EXPERTS_PER_TOKEN: Final = 2
HASH_LAYERS: Final = 1


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a miniature; the defaults give five megabytes.

    Attributes:
        hidden: Hidden size, a multiple of 128.
        width: Intermediate size of an expert, a multiple of 128.
        experts: Routed experts per layer, at least two.
        layers: Layers, the MTP layer not counted.
        vocabulary: Rows of the embedding.
        shards: Files to write.
    """

    hidden: int = 256
    width: int = 128
    experts: int = 4
    layers: int = 4
    vocabulary: int = 320
    shards: int = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor, or a weight with its scale, before a spelling is chosen.

    Attributes:
        name: Name of the tensor; for quantized roles without `.weight` and `.scale`.
        role: What it is, and so how it is made and stored.
        shape: Logical shape.
    """

    name: str
    role: Role
    shape: tuple[int, ...]


def parts(size: Size) -> Iterator[Part]:
    """Every tensor of the model, in its order."""
    hidden, ratios = size.hidden, compress_ratios(size.layers)
    yield Part("embed.weight", "bf16", (size.vocabulary, hidden))
    for n in range(size.layers):
        yield from _layer(f"layers.{n}.", size, ratios[n], hashed=n < HASH_LAYERS)
    yield Part("norm.weight", "norm", (hidden,))
    yield Part("head.weight", "bf16", (size.vocabulary, hidden))
    yield from _hyper_connection_head("", hidden)
    yield from _layer("mtp.0.", size, ratios[-1], hashed=False)
    yield Part("mtp.0.e_proj", "fp8", (hidden, hidden))
    yield Part("mtp.0.h_proj", "fp8", (hidden, hidden))
    for norm in ("enorm", "hnorm", "norm"):
        yield Part(f"mtp.0.{norm}.weight", "norm", (hidden,))
    yield from _hyper_connection_head("mtp.0.", hidden)


def compress_ratios(layers: int) -> list[int]:
    """Compression of each layer's attention and of the MTP layer's: 0, 0, 4, 128, 4, 128, …, 0."""
    return [(0, 0)[n] if n < 2 else (4, 128)[n % 2] for n in range(layers)] + [0]


def _layer(prefix: str, size: Size, ratio: int, *, hashed: bool) -> Iterator[Part]:
    hidden, experts = size.hidden, size.experts
    yield from _attention(f"{prefix}attn.", hidden, ratio)
    yield Part(f"{prefix}attn_norm.weight", "norm", (hidden,))
    yield Part(f"{prefix}ffn_norm.weight", "norm", (hidden,))
    yield Part(f"{prefix}ffn.gate.weight", "bf16", (experts, hidden))
    if hashed:
        shape = (size.vocabulary, EXPERTS_PER_TOKEN)
        yield Part(f"{prefix}ffn.gate.tid2eid", "token_table", shape)
    else:
        yield Part(f"{prefix}ffn.gate.bias", "f32", (experts,))
    for n in range(experts):
        yield from _mlp(f"{prefix}ffn.experts.{n}.", "mxfp4", size)
    yield from _mlp(f"{prefix}ffn.shared_experts.", "fp8", size)
    mixes = HYPER_CONNECTIONS * (2 + HYPER_CONNECTIONS)
    for where in ("attn", "ffn"):
        yield Part(f"{prefix}hc_{where}_fn", "f32", (mixes, HYPER_CONNECTIONS * hidden))
        yield Part(f"{prefix}hc_{where}_base", "f32", (mixes,))
        yield Part(f"{prefix}hc_{where}_scale", "f32", (3,))


def _attention(prefix: str, hidden: int, ratio: int) -> Iterator[Part]:
    yield Part(f"{prefix}attn_sink", "f32", (HEADS,))
    yield Part(f"{prefix}wq_a", "fp8", (Q_LORA_RANK, hidden))
    yield Part(f"{prefix}q_norm.weight", "norm", (Q_LORA_RANK,))
    yield Part(f"{prefix}wq_b", "fp8", (HEADS * HEAD_DIM, Q_LORA_RANK))
    yield Part(f"{prefix}wkv", "fp8", (HEAD_DIM, hidden))
    yield Part(f"{prefix}kv_norm.weight", "norm", (HEAD_DIM,))
    grouped = (O_GROUPS * O_LORA_RANK, HEADS * HEAD_DIM // O_GROUPS)
    yield Part(f"{prefix}wo_a", "fp8_grouped", grouped)
    yield Part(f"{prefix}wo_b", "fp8", (hidden, O_GROUPS * O_LORA_RANK))
    if ratio:
        yield from _compressor(f"{prefix}compressor.", hidden, ratio, HEAD_DIM)
    if ratio == 4:
        indexer = f"{prefix}indexer."
        yield Part(f"{indexer}wq_b", "fp8", (INDEX_HEADS * INDEX_HEAD_DIM, Q_LORA_RANK))
        yield Part(f"{indexer}weights_proj.weight", "bf16", (INDEX_HEADS, hidden))
        yield from _compressor(f"{indexer}compressor.", hidden, ratio, INDEX_HEAD_DIM)


def _compressor(prefix: str, hidden: int, ratio: int, dim: int) -> Iterator[Part]:
    channels = 2 * dim if ratio == 4 else dim  # windows overlap at ratio 4
    yield Part(f"{prefix}ape", "f32", (ratio, channels))
    yield Part(f"{prefix}wkv.weight", "bf16", (channels, hidden))
    yield Part(f"{prefix}wgate.weight", "bf16", (channels, hidden))
    yield Part(f"{prefix}norm.weight", "norm", (dim,))


def _mlp(prefix: str, role: Role, size: Size) -> Iterator[Part]:
    yield Part(f"{prefix}w1", role, (size.width, size.hidden))
    yield Part(f"{prefix}w2", role, (size.hidden, size.width))
    yield Part(f"{prefix}w3", role, (size.width, size.hidden))


def _hyper_connection_head(prefix: str, hidden: int) -> Iterator[Part]:
    shape = (HYPER_CONNECTIONS, HYPER_CONNECTIONS * hidden)
    yield Part(f"{prefix}hc_head_fn", "f32", shape)
    yield Part(f"{prefix}hc_head_base", "f32", (HYPER_CONNECTIONS,))
    yield Part(f"{prefix}hc_head_scale", "f32", (1,))
