"""Why weights of some roles cannot be NVFP4: the rule of the loaders, or of the model."""

from collections.abc import Mapping
from typing import Final

WHY_NEVER: Final[Mapping[str, str]] = {
    "embedding": "engines look embeddings up and have no NVFP4 table",
    "per_layer": "no engine is known to load projections of an embedding as NVFP4",
    "head": "an NVFP4 head does not start everywhere (vLLM issue 44081)",
    "norm": "it is no linear layer",
    "scalar": "it is no linear layer",
    "sink": "it is no linear layer",
    "hyper_connection": "it is no linear layer",
    "router": "engines build routers without a quantization configuration",
    "attention_gate": "it has one row for each head; no engine is known to load it as NVFP4",
    "attention": "vLLM reorders the rows of q and k while it loads them (llama4.py)",
    "kv_b": "engines of MLA split it after loading and read no packed weight there",
    "grouped": "vLLM multiplies by it in groups, never through its linear layer (o_proj.py:61-104)",
    "indexer": "vLLM fuses the indexer's projections in BF16 (deepseek_v2.py:710-718)",
    "compressor": "vLLM builds the compressor without a quantization configuration",
    "recurrence": "ModelOpt leaves convolutions and recurrences alone, and engines expect that",
    "mtp_projection": "vLLM builds it as a plain linear layer (deepseek_mtp.py:87)",
    "vision": "ModelOpt leaves towers and projectors alone, and engines expect that",
}
"""By role, for the roles that profiles list under `never`."""

NO_ENGINE: Final = "no engine is known to load it as NVFP4"


def why_never(role: str) -> str:
    """The reason why a role stays as it is whatever is asked for."""
    return WHY_NEVER.get(role, NO_ENGINE)
