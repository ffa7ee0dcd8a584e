"""How an NVFP4 checkpoint is spelled for the engines that load it: three layouts, by name."""

from typing import Final

from hubconv.errors import UsageError
from hubconv.formats.layouts.base import Layout
from hubconv.formats.layouts.compressed_tensors import CompressedTensors
from hubconv.formats.layouts.modelopt import ModelOpt
from hubconv.formats.layouts.modelopt_v4 import ModelOptV4

LAYOUTS: Final[dict[str, Layout]] = {
    made.name: made for made in (CompressedTensors(), ModelOpt(), ModelOptV4())
}
"""Every layout by its name on the command line."""


def layout(name: str) -> Layout:
    """The layout called `name`.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in LAYOUTS:
        raise UsageError(f"There is no layout {name!r}.", f"Choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]
