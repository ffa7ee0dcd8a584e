"""Weights of a checkpoint that are not NVFP4, by the name under which another has them too."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from hubconv.errors import HubconvError, ScaleError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.dtypes import PLAIN_FLOATS
from hubconv.formats.stored import StoredWeight
from hubconv.profiles import Profile
from hubconv.profiles.reader import Fused, load_profiles
from hubconv.profiles.stored_as import (
    READERS,
    Reader,
    fp8_block_of,
    int4_group_of,
    scale_name,
    stored_weight,
)
from hubconv.steps.fused import fused_parts
from hubconv.steps.weights import Found

Item = TypeVar("Item")

_ROOT: Final = re.compile(r"^(?:(?:model|language_model|text_model)\.)+")

_FUSED: Final = (
    Fused(re.compile(r"\.experts\.(gate_up_proj)$"), ("gate_proj", "up_proj"), "columns"),
    Fused(re.compile(r"\.experts\.(down_proj)$"), ("down_proj",), "rows"),
)
"""How tensors of all experts lie where no profile says it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight matrix in a format that is not NVFP4.

    Attributes:
        module: Its name.
        weight: What its bytes mean.
        data: Where they are.
        scale: Where its scales are; None for plain weights.
    """

    module: str
    weight: StoredWeight
    data: StoredTensor
    scale: StoredTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in elements."""
        return (self.weight.rows, self.weight.cols)


class Named(Generic[Item]):
    """Things by module name, found too where only what stands before the layers differs.

    Args:
        items: By module.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self._items = items
        self._bare: dict[str, str | None] = {}
        for name in items:
            bare = bare_name(name)
            self._bare[bare] = None if bare in self._bare else name

    def find(self, module: str) -> Item | None:
        """What is called so; None where nothing is, or where two things may be meant."""
        name = module if module in self._items else self._bare.get(bare_name(module))
        return self._items[name] if name is not None else None


def bare_name(module: str) -> str:
    """A name without the words that wrappers of a language model put before it."""
    return _ROOT.sub("", module)


def stored_weights(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, object], profile: Profile | None
) -> dict[str, Stored]:
    """Every weight that can be read, by module; what cannot is passed over."""
    # All of them, for a result may spell what it kept in another way than its source. The plain one
    # last: it asks for no scale.
    readers = sorted(READERS.values(), key=lambda reader: not reader.scale)
    block = fp8_block_of(config)
    try:
        group = int4_group_of(config)
    except ScaleError:
        group = None
    fusing = profile if profile is not None and profile.fused else _fusing()
    found: dict[str, Stored] = {}
    for tensor in tensors.values():
        for each in _read(tensor, tensors, readers, block, group):
            found[each.module] = each
        for part in _fused(tensor, config, fusing):
            found[part.module] = part
    return found


def _read(
    tensor: StoredTensor,
    tensors: Mapping[str, StoredTensor],
    readers: Sequence[Reader],
    block: tuple[int, int] | None,
    group: int | None,
) -> Iterator[Stored]:
    if len(tensor.shape) != 2:
        return
    for reader in readers:
        if not tensor.name.endswith(reader.data) or tensor.dtype not in reader.dtypes:
            continue
        scale = tensors.get(scale_name(reader, tensor.name)) if reader.scale else None
        if reader.scale and scale is None:
            continue
        scale = _flat(scale)
        try:
            weight = stored_weight(reader, tensor, scale, block or (128, 128), group)
        except ScaleError:
            continue
        yield Stored(tensor.name.removesuffix(reader.data), weight, tensor, scale)
        return


def _fusing() -> Profile:
    """Any profile, with the usual rule for tensors of all experts."""
    return replace(load_profiles()[0], fused=_FUSED)


def _flat(scale: StoredTensor | None) -> StoredTensor | None:
    """Block scales in two dimensions where ModelOpt writes four: [rows, 1, columns, 1]."""
    if scale is None or len(scale.shape) != 4 or scale.shape[1::2] != (1, 1):
        return scale
    return replace(scale, shape=scale.shape[::2])


def _fused(
    tensor: StoredTensor, config: Mapping[str, object], profile: Profile
) -> Iterator[Stored]:
    if len(tensor.shape) != 3 or tensor.dtype not in PLAIN_FLOATS:
        return
    try:
        parts = fused_parts(Found(tensor, None, None, tensor.name), profile, config)
    except HubconvError:
        return
    for part in parts:
        if part.weight is not None:
            yield Stored(part.module, part.weight, part.data)
