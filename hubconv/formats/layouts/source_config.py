"""The source's config.json without what it says about the source's own quantization."""

from collections.abc import Mapping
from typing import Any, Final

STALE: Final = frozenset({
    "quantization_config",
    "compression_config",
    "quantization",
    "expert_dtype",
    "routed_experts_quant_method",
})
"""Keys that describe stored bytes. A nested one left behind wins in some engines: Kimi K2.5 with
its int4 entry under text_config is read as int4."""


def without_stale(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `config` without stale entries, at the top or nested; the order is kept."""
    return {key: _cleaned(value) for key, value in config.items() if key not in STALE}


def source_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The source's quantization_config, wherever it stands; empty for a plain checkpoint."""
    nested = (value for value in config.values() if isinstance(value, dict))
    for holder in (config, *nested):
        found = holder.get("quantization_config")
        if isinstance(found, dict):
            return dict(found)
    return {}


def _cleaned(value: Any) -> Any:  # noqa: ANN401 - JSON is untyped
    if isinstance(value, dict):
        return without_stale(value)
    return [_cleaned(item) for item in value] if isinstance(value, list) else value
