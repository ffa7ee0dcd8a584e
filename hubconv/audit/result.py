"""A result as it lies there: files, headers, configuration; what cannot be read is a finding."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hubconv.ends import MANIFEST, Source
from hubconv.errors import HubconvError, SourceError, TemporaryError
from hubconv.formats.checkpoint import INDEX_NAME, StoredTensor
from hubconv.formats.contract import Finding, Module, modules_of
from hubconv.manifest import read_manifest
from hubconv.profiles import Profile, choose_profile
from hubconv.steps.inventory import MAX_CONFIG_BYTES, MAX_JSON_BYTES, MAX_SHARDS
from hubconv.steps.readback import read_tensors

HF_QUANT_CONFIG: Final = "hf_quant_config.json"
_ROOT_SHARD: Final = re.compile(r"(?!consolidated)[^/]+\.safetensors")


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of a result before any of its weights is read.

    Attributes:
        view: Where it lies.
        manifest: hubconv.json; None where there is none that can be used.
        config: config.json; empty where it cannot be read.
        hf_quant: hf_quant_config.json; None where there is none.
        weight_map: Tensor to shard by the index; None without one.
        total_size: What the index states; None where it states nothing.
        shards: Shards whose headers were read, or should have been.
        unreadable: Those of them whose header could not be.
        tensors: Every tensor by name.
        modules: The modules they make.
        profile: The family's rules; None for a family without.
        findings: What was wrong with reading all this.
        notes: What was left out, and why.
    """

    view: Source
    manifest: Mapping[str, Any] | None
    config: dict[str, Any]
    hf_quant: dict[str, Any] | None
    weight_map: Mapping[str, str] | None
    total_size: int | None
    shards: tuple[str, ...]
    unreadable: frozenset[str]
    tensors: Mapping[str, StoredTensor]
    modules: Mapping[str, Module]
    profile: Profile | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether hubconv made it, by its manifest."""
        return self.manifest is not None

    @property
    def hidden(self) -> frozenset[str]:
        """Tensors that the index puts into shards that cannot be read."""
        named = (self.weight_map or {}).items()
        return frozenset(name for name, shard in named if shard in self.unreadable)

    def role_of(self, module: str) -> str:
        """The role of a module; the last word of its name in a family without a profile."""
        role = self.profile.role_of(f"{module}.weight") if self.profile is not None else None
        return role.name if role is not None else module.rpartition(".")[2]


def open_result(view: Source) -> Result:
    """Read headers, index and configuration.

    Raises:
        SourceError: There are no safetensors weights at all.
    """
    reader = _Reader(view)
    config = reader.json("config.json", MAX_CONFIG_BYTES)
    if config is None and "config.json" not in view.files():
        reader.tell("config.missing", "config.json", "It is missing: no loader knows the model.")
    index = reader.json(INDEX_NAME, MAX_JSON_BYTES)
    weight_map, total_size = reader.index(index)
    shards = _shards(view, weight_map, reader)
    tensors, unreadable = read_tensors(view, shards)
    manifest = read_manifest(view)
    if manifest is None and MANIFEST in view.files():
        what = "It is no manifest of hubconv's: nothing is compared with it."
        reader.tell("tree.manifest-unreadable", MANIFEST, what, severity="warning")
    return Result(
        view,
        manifest,
        config or {},
        reader.json(HF_QUANT_CONFIG, MAX_CONFIG_BYTES),
        weight_map,
        total_size,
        shards,
        frozenset(f.where for f in unreadable if f.where in shards),
        tensors,
        modules_of(tensors.values()),
        _profile(config or {}, tensors),
        (*reader.findings, *unreadable),
        tuple(reader.notes),
    )


def _profile(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Profile | None:
    try:
        return choose_profile(config, tensors)
    except SourceError:
        return None


def _shards(
    view: Source, weight_map: Mapping[str, str] | None, reader: "_Reader"
) -> tuple[str, ...]:
    """Shards that loaders open: those of the index, and the others that lie beside them."""
    files = view.files()
    beside = {path for path in files if _ROOT_SHARD.fullmatch(path)}
    named = set((weight_map or {}).values())
    left = {path for path in files if path.endswith(".safetensors")} - beside - named
    if left:
        reader.notes.append(
            f"{len(left)} safetensors files that loaders of this format pass over, such as "
            f"{min(left)}"
        )
    for path in sorted(named - files.keys())[:MAX_SHARDS]:
        reader.tell("index.shard-missing", path, "The index counts on it, and it is not there.")
    shards = tuple(sorted(beside | (named & files.keys())))
    if not shards:
        raise SourceError(f"{view.ref} holds no safetensors weights.")
    if len(shards) > MAX_SHARDS:
        raise SourceError(f"{view.ref} has {len(shards)} shards; the cap is {MAX_SHARDS}.")
    if weight_map is None and shards != ("model.safetensors",) and INDEX_NAME not in files:
        what = f"There are {len(shards)} shards and no index: transformers does not find them."
        engines = ("compressed-tensors",)
        reader.tell("index.absent", INDEX_NAME, what, engines=engines, severity="warning")
    return shards


class _Reader:
    """Reads small files, and notes what was wrong with them."""

    def __init__(self, view: Source) -> None:
        self._view = view
        self.findings: list[Finding] = []
        self.notes: list[str] = []

    def tell(self, rule: str, where: str, what: str, **more: Any) -> None:  # noqa: ANN401
        self.findings.append(Finding(rule, where, what, **more))

    def json(self, path: str, most: int) -> dict[str, Any] | None:
        """A table out of a JSON file; None where there is none."""
        entry = self._view.files().get(path)
        if entry is None:
            return None
        if entry.size > most:
            self.tell("file.unreadable", path, f"It is {entry.size} bytes long.")
            return None
        try:
            table = json.loads(self._view.read(path, 0, entry.size))
        except (ValueError, RecursionError) as error:
            self.tell("file.unreadable", path, f"It is not valid JSON: {error}.")
            return None
        except TemporaryError:
            raise
        except HubconvError as error:
            self.tell("file.unreadable", path, error.what)
            return None
        if not isinstance(table, dict):
            self.tell("file.unreadable", path, "It is not a JSON object.")
            return None
        return table

    def index(self, index: Mapping[str, Any] | None) -> tuple[dict[str, str] | None, int | None]:
        """Its map and its sum of bytes."""
        if index is None:
            return None, None
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            self.tell("file.unreadable", INDEX_NAME, "It has no weight_map.")
            return None, None
        named = {name: shard for name, shard in weight_map.items() if isinstance(shard, str)}
        if len(named) < len(weight_map):
            what = f"{len(weight_map) - len(named)} entries of it name no file."
            self.tell("file.unreadable", INDEX_NAME, what)
        metadata = index.get("metadata")
        size = metadata.get("total_size") if isinstance(metadata, dict) else None
        return named, size if isinstance(size, int) and not isinstance(size, bool) else None
