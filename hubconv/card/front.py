"""The front matter of a card: what the Hub makes its model tree, filters and snippets from."""

import re
from collections.abc import Sequence
from typing import Final

from hubconv.card.facts import CardFacts

_FOREIGN_TAGS: Final = re.compile(
    r"(fp8|fp4|int[48]|[48]-?bit|mxfp4|nvfp4|gguf|mlx|awq|gptq|compressed-tensors|modelopt|"
    r"quantized|base_model|license|region|dataset|endpoints_compatible|text-generation-inference)"
    r"($|[:_\-].*)",
    re.IGNORECASE,
)
"""Tags of the source that speak of its own bytes, or that the Hub adds by itself."""

_SNIPPETS: Final = "transformers"
"""The Hub shows its vLLM and SGLang snippets for text models with this tag, whatever their
library."""


def front_matter(facts: CardFacts) -> dict[str, str | Sequence[str]]:
    """Keys and values of the card's front matter, in order; empty values are left out."""
    card, layout = facts.source_card, facts.report["layout"]
    spelled = "compressed-tensors" if layout == "compressed-tensors" else "modelopt"
    # transformers cannot read ModelOpt's spelling: a snippet made for it would fail.
    library = (card.library_name or "transformers") if spelled == "compressed-tensors" else "vllm"
    tags = ["nvfp4", spelled, "hubconv", "vllm"]
    tags += [_SNIPPETS] * (library != _SNIPPETS)
    tags += [tag for tag in card.tags if not _FOREIGN_TAGS.fullmatch(tag)]
    values: dict[str, str | Sequence[str]] = {
        "base_model": facts.original,
        "base_model_relation": "quantized" if facts.original else "",
        "license": card.license,
        "license_name": card.license_name,
        "license_link": facts.license_link,
        "language": card.language,
        "pipeline_tag": card.pipeline_tag or "text-generation",
        "library_name": library,
        "tags": tuple(dict.fromkeys(tags)),
        "datasets": card.datasets,
        "quantized_by": "hubconv",
    }
    return {key: value for key, value in values.items() if value}
