"""Inventory to weights: every data tensor with the companions that prove what it is."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hubconv.errors import ScaleError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.stored import StoredWeight
from hubconv.profiles import Profile
from hubconv.profiles.stored_as import (
    READERS,
    Reader,
    fp8_block_of,
    int4_group_of,
    scale_name,
    stored_weight,
)
from hubconv.steps.inventory import Inventory

NEEDS_PROOF: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "F4"})
"""Element types that mean nothing by themselves: a companion must prove what they are."""

_HARMLESS: Final = frozenset({"bias"})
"""What may stand beside a weight without a say in what its bytes mean."""


@dataclass(frozen=True, slots=True)
class Found:
    """A weight with its companions, or a bare tensor, before anything is decided.

    Attributes:
        data: The tensor itself.
        scale: Its scale; None for plain weights and bare tensors.
        weight: What both are together; None for bare tensors.
        module: Its name without the data suffix.
        beside: What else goes with it: its stated shape, a scale for activations.
    """

    data: StoredTensor
    scale: StoredTensor | None
    weight: StoredWeight | None
    module: str
    beside: tuple[StoredTensor, ...] = ()

    @property
    def reads(self) -> tuple[StoredTensor, ...]:
        """Data first, then its scale, then what else goes with it."""
        scale = () if self.scale is None else (self.scale,)
        return (self.data, *scale, *self.beside)


def find_weights(
    inventory: Inventory, profile: Profile, keep: Sequence[re.Pattern[str]] = ()
) -> Iterator[Found]:
    """Pair every weight with its companions; what is no weight is a bare tensor.

    Raises:
        ScaleError: A quantized element type without a proven scale.
    """
    tensors = inventory.tensors
    block = fp8_block_of(inventory.config)
    readers = [READERS[name] for name in profile.readers]
    packed = any(reader.kind == "int4" for reader in readers)
    group = int4_group_of(inventory.config) if packed else None
    fitting = {
        dtype: [reader for reader in readers if dtype in reader.dtypes]
        for dtype in {tensor.dtype for tensor in tensors.values()}
    }
    readings = {
        name: reader
        for name, tensor in tensors.items()
        if (reader := _reader_of(tensor, tensors, fitting[tensor.dtype], profile)) is not None
    }
    companions = frozenset(
        name for data, reader in readings.items() for name in _companions(reader, data)
    )
    for name, tensor in tensors.items():
        if name in companions:
            continue
        reader = readings.get(name)
        if reader is not None and len(tensor.shape) == 3:
            yield Found(tensor, tensors[scale_name(reader, name)], None, _bare(name))
            continue
        if reader is not None:
            scale = tensors[scale_name(reader, name)] if reader.scale else None
            weight = stored_weight(reader, tensor, scale, block, group)
            beside = tuple(tensors[each] for each in reader.beside(name) if each in tensors)
            yield Found(tensor, scale, weight, name.removesuffix(reader.data), beside)
            continue
        unclear = tensor.dtype in NEEDS_PROOF or any(
            reader.scale and name.endswith(reader.data) for reader in fitting[tensor.dtype]
        )
        if unclear and not any(pattern.search(name) for pattern in keep):
            raise _unproven(tensor, [scale_name(r, name) for r in readers if r.scale])
        yield Found(tensor, None, None, _bare(name))


def _bare(name: str) -> str:
    return name.removesuffix(".weight")


def _reader_of(
    tensor: StoredTensor,
    tensors: Mapping[str, StoredTensor],
    readers: Sequence[Reader],
    profile: Profile,
) -> Reader | None:
    """The first of the readers for its element type whose scale is there if it needs one.

    Only matrices, and stacks of them, are weights.
    """
    stacked = len(tensor.shape) == 3 and any(f.pattern.search(tensor.name) for f in profile.fused)
    if len(tensor.shape) != 2 and not stacked:
        return None
    for reader in readers:
        if not tensor.name.endswith(reader.data) or (stacked and not reader.scale):
            continue
        if not reader.scale or scale_name(reader, tensor.name) in tensors:
            return reader
    return None


def _companions(reader: Reader, data: str) -> list[str]:
    return [scale_name(reader, data), *reader.beside(data)] if reader.scale else []


def _unproven(tensor: StoredTensor, tried: Sequence[str]) -> ScaleError:
    return ScaleError(
        f"{tensor.name} in {tensor.shard} is {tensor.dtype} {list(tensor.shape)}, but no scale "
        f"goes with it (looked for {' and '.join(sorted(set(tried)))}).",
        f"If it is no quantized weight, keep it as it is: --keep 're:^{re.escape(tensor.name)}$'.",
    )


def check_leftovers(found: Sequence[Found], actions: Mapping[str, str]) -> None:
    """Nothing that no reader knows may stand beside a weight whose bytes are interpreted.

    A zero point, an order of columns or a second scale would change what they mean.

    Args:
        found: Every weight and bare tensor.
        actions: What happens to each, by the name of its data tensor.

    Raises:
        ScaleError: There is such a tensor.
    """
    touched = {
        item.module: item.data.name
        for item in found
        if item.weight is not None
        and (item.weight.kind != "plain" or actions[item.data.name] == "nvfp4")
    }
    for item in found:
        module, _, leaf = item.data.name.rpartition(".")
        is_known = item.weight is not None or actions[item.data.name] == "drop"
        if is_known or leaf in _HARMLESS or module not in touched:
            continue
        raise ScaleError(
            f"{item.data.name} in {item.data.shard} ({item.data.dtype} {list(item.data.shape)}) "
            f"stands beside {touched[module]}; hubconv does not know what it makes of that weight.",
            "Look for an upload of the model in a format that hubconv reads: BF16, FP8 with "
            "scales, MXFP4, or symmetric INT4.",
        )
