"""Fused experts: one tensor [experts, rows, columns] read as the matrices it holds.

A matrix of one expert is a run of bytes of the whole, so that it is read, measured and written like
any other weight. Engines that take the fused BF16 tensor want NVFP4 expert by expert.
"""

from collections.abc import Mapping
from typing import Any

from hubconv.errors import SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.dtypes import PLAIN_FLOATS
from hubconv.formats.stored import StoredWeight
from hubconv.profiles.needs import value_of
from hubconv.profiles.reader import Fused, Profile
from hubconv.steps.weights import Found


def fused_parts(item: Found, profile: Profile, config: Mapping[str, Any]) -> list[Found]:
    """The weights that a fused tensor holds; none for any other tensor.

    Args:
        item: A tensor of the source.
        profile: Says which tensors are fused, and how.
        config: config.json, whose `hidden_size` proves which way the matrices lie.

    Raises:
        SourceError: They lie otherwise than the family's do, or nothing tells.
    """
    data = item.data
    for fused in profile.fused:
        match = fused.pattern.search(data.name)
        if match and len(data.shape) == 3 and data.dtype in PLAIN_FLOATS:
            _check_orientation(data, fused, config)
            return _parts(data, fused, data.name[: match.start(1)])
    return []


def _parts(data: StoredTensor, fused: Fused, stem: str) -> list[Found]:
    experts, rows, cols = data.shape
    rows //= len(fused.parts)
    size = data.nbytes // (experts * len(fused.parts))
    weight = StoredWeight("plain", data.dtype, rows, cols)
    found = []
    for number in range(experts * len(fused.parts)):
        expert, part = divmod(number, len(fused.parts))
        module = f"{stem}{expert}.{fused.parts[part]}"
        begin = data.begin + number * size
        tensor = StoredTensor(
            f"{module}.weight", data.dtype, (rows, cols), data.shard, begin, begin + size, data
        )
        found.append(Found(tensor, None, weight, module))
    return found


def _check_orientation(data: StoredTensor, fused: Fused, config: Mapping[str, Any]) -> None:
    _, rows, cols = data.shape
    hidden = value_of(config, "hidden_size")
    is_told = rows != cols and rows % len(fused.parts) == 0
    if not is_told or hidden != (rows if fused.hidden == "rows" else cols):
        raise SourceError(
            f"{data.name} in {data.shard} is {data.dtype} {list(data.shape)}; each expert's "
            f"{fused.hidden} should be the {hidden} of hidden_size in config.json, and not as many "
            "as there are the other way.",
            "Which way these matrices lie cannot be told: look for an upload of the model with one "
            "tensor for each expert.",
        )
