"""Headers of a result, read back: what its shards really hold.

Where a header is byte for byte the planned one it says what the plan says; only another one is
parsed. The largest models have 300,000 tensors, which take seconds to parse.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hubconv.ends import FileEntry, Source
from hubconv.errors import HeaderError, IntegrityError, SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.steps.inventory import HEADER_THREADS, read_header
from hubconv.steps.shards import Unit

_NO_UNITS: Final[Mapping[str, Unit]] = {}


def read_planned(
    view: Source, units: Sequence[Unit]
) -> tuple[dict[str, StoredTensor], list[Finding]]:
    """Every tensor that the shards of some units hold, and what is wrong with their headers."""
    return read_tensors(view, [unit.shard for unit in units], {unit.shard: unit for unit in units})


def read_tensors(
    view: Source, shards: Sequence[str], planned: Mapping[str, Unit] = _NO_UNITS
) -> tuple[dict[str, StoredTensor], list[Finding]]:
    """Every tensor of some shards, by headers alone, and what is wrong with the headers.

    Args:
        view: Where they are read.
        shards: Their names; those that are missing are left out.
        planned: Units by shard, where what should be there is known.
    """
    files = view.files()
    here = [files[shard] for shard in shards if shard in files]

    def header(entry: FileEntry) -> list[StoredTensor] | Finding:
        try:
            unit = planned.get(entry.path)
            if unit is not None and _is_as_planned(view, entry, unit):
                return unit.tensors()
            return read_header(view, entry)
        except HeaderError as error:
            return Finding("header.invalid", entry.path, error.what)
        except (SourceError, IntegrityError) as error:
            return Finding("header.unreadable", entry.path, error.what)

    tensors: dict[str, StoredTensor] = {}
    findings = []
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for entry, found in zip(here, pool.map(header, here), strict=True):
            if isinstance(found, Finding):
                findings.append(found)
                continue
            for tensor in found:
                if tensor.name in tensors:
                    told = f"stands in {tensors[tensor.name].shard} and in {entry.path}"
                    findings.append(Finding("header.twice", tensor.name, told))
                tensors[tensor.name] = tensor
    return tensors, findings


def _is_as_planned(view: Source, entry: FileEntry, unit: Unit) -> bool:
    if entry.size != unit.nbytes:
        return False
    there = view.read(entry.path, 0, unit.header_bytes)
    return hashlib.sha256(there).digest() == unit.header_sha256
