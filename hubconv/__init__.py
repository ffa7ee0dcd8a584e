"""hubconv turns a checkpoint on the Hugging Face Hub into an NVFP4 checkpoint on the Hub.

The way of the data is the order of the rooms: `steps/plan` reads headers and decides everything,
`work` makes one output shard, `steps/publish` composes what one commit shows.

    import hubconv
    made = hubconv.plan("deepseek-ai/X")
    done = hubconv.convert(hubconv.Request("deepseek-ai/X", "my-org/X-NVFP4"))

Importing this package imports neither torch nor huggingface_hub.
"""

from typing import TYPE_CHECKING, Any

from hubconv.version import __version__

if TYPE_CHECKING:
    from hubconv.pipeline import Outcome, Request, convert, plan
    from hubconv.steps.decide import Recipe
    from hubconv.steps.plan import Plan

__all__ = ["Outcome", "Plan", "Recipe", "Request", "__version__", "convert", "plan"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in __all__:
        raise AttributeError(f"module 'hubconv' has no attribute {name!r}")
    from hubconv import pipeline

    return getattr(pipeline, name)
