"""Headers of a result, read back: what its shards really hold.

Where a header is byte for byte the planned one it says what the plan says; only another one is
parsed. The largest models have 300,000 tensors, which take seconds to parse.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hubconv.ends import FileEntry, Source
from hubconv.errors import HeaderError, IntegrityError, SourceError
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.steps.inventory import HEADER_THREADS, read_header
from hubconv.steps.shards import Unit


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of a result say.

    Attributes:
        tensors: Every tensor by name.
        findings: What is wrong with the headers.
        are_planned: Every shard of the plan is there, with the planned header byte for byte.
    """

    tensors: Mapping[str, StoredTensor]
    findings: tuple[Finding, ...]
    are_planned: bool


def read_planned(view: Source, units: Sequence[Unit]) -> Headers:
    """What the shards of some units hold."""
    planned = {unit.shard: unit for unit in units}
    right: set[str] = set()

    def header(entry: FileEntry) -> list[StoredTensor]:
        unit = planned[entry.path]
        if not _is_as_planned(view, entry, unit):
            return read_header(view, entry)
        right.add(entry.path)
        return unit.tensors()

    tensors, findings = _gathered(view, [unit.shard for unit in units], header)
    return Headers(tensors, tuple(findings), right == planned.keys())


def read_tensors(
    view: Source, shards: Sequence[str]
) -> tuple[dict[str, StoredTensor], list[Finding]]:
    """Every tensor of some shards, by headers alone, and what is wrong with the headers.

    Args:
        view: Where they are read.
        shards: Their names; those that are missing are left out.
    """
    return _gathered(view, shards, lambda entry: read_header(view, entry))


def _gathered(
    view: Source, shards: Sequence[str], header: Callable[[FileEntry], list[StoredTensor]]
) -> tuple[dict[str, StoredTensor], list[Finding]]:
    files = view.files()
    here = [files[shard] for shard in shards if shard in files]

    def read(entry: FileEntry) -> list[StoredTensor] | Finding:
        try:
            return header(entry)
        except HeaderError as error:
            return Finding("header.invalid", entry.path, error.what)
        except (SourceError, IntegrityError) as error:
            return Finding("header.unreadable", entry.path, error.what)

    tensors: dict[str, StoredTensor] = {}
    findings = []
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        for entry, found in zip(here, pool.map(read, here), strict=True):
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
