"""What the journal of a plan says of a finished unit."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from hubconv.formats.nvfp4 import Quality


@dataclass(frozen=True, slots=True)
class TensorQuality:
    """How one NVFP4 weight came out."""

    module: str
    role: str
    shape: tuple[int, int]
    global_scale: float
    quality: Quality


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """The proof that an output shard is finished: an entry of the journal.

    Attributes:
        plan_id: The plan it belongs to.
        shard: Its path in the target.
        size: Bytes.
        sha256: Of its content, computed while it was written.
        tensors: Every NVFP4 weight in it.
        device: What computed it.
        version: hubconv's version.
        seconds: Wall time it took.
    """

    plan_id: str
    shard: str
    size: int
    sha256: str
    tensors: tuple[TensorQuality, ...]
    device: str
    version: str
    seconds: float

    def to_json(self) -> str:
        """One line of JSON."""
        table = {name: getattr(self, name) for name in _UNIT}
        # Not by dataclasses.asdict: it copies every number, four times as slow for 20,000 weights.
        table["tensors"] = [_table(tensor) for tensor in self.tensors]
        return json.dumps(table, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The record a line of JSON holds.

        Raises:
            ValueError: It holds no record: whoever reads journals then makes the unit again.
        """
        try:
            data = json.loads(text)
            tensors = tuple(_tensor_quality(entry) for entry in data.pop("tensors"))
            return cls(tensors=tensors, **data)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a unit record: {error}") from error


_UNIT: Final = tuple(field.name for field in dataclasses.fields(UnitRecord))
_TENSOR: Final = tuple(field.name for field in dataclasses.fields(TensorQuality))
_QUALITY: Final = tuple(field.name for field in dataclasses.fields(Quality))


def _table(tensor: TensorQuality) -> dict[str, Any]:
    table = {name: getattr(tensor, name) for name in _TENSOR}
    table["quality"] = {name: getattr(tensor.quality, name) for name in _QUALITY}
    return table


def _tensor_quality(entry: Mapping[str, Any]) -> TensorQuality:
    rows, cols = entry["shape"]
    return TensorQuality(
        entry["module"],
        entry["role"],
        (rows, cols),
        entry["global_scale"],
        Quality(**entry["quality"]),
    )
