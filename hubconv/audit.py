"""`hubconv verify`: reads any NVFP4 checkpoint back, whoever made it.

With hubconv's own manifest the tree is compared with it; with the source, the plan is made again
and decoded weights are compared; always, the loader contract is applied to headers and config.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hubconv.ends import Source
from hubconv.errors import HubconvError, SourceError
from hubconv.formats import contract
from hubconv.formats.checkpoint import INDEX_NAME, StoredTensor
from hubconv.formats.contract import Finding
from hubconv.manifest import compare_tree, read_manifest
from hubconv.opening import Scratch, open_source
from hubconv.profiles import choose_profile
from hubconv.profiles.needs import missing
from hubconv.steps.decide import Recipe
from hubconv.steps.inventory import MAX_JSON_BYTES, read_config
from hubconv.steps.plan import Plan, make_plan
from hubconv.steps.verify import Sample, decoded_findings, read_tensors
from hubconv.version import __version__

SCALARS: Final = (".weight_scale_2", ".weight_global_scale", ".input_scale", ".input_global_scale")
MOST_SCALARS: Final = 4096
"""Scalars read one by one from a repository; a folder's are all read."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at, and what was found.

    Attributes:
        ref: The checkpoint.
        findings: Breaches, errors first.
        tensors: Tensors whose headers were read.
        modules: NVFP4 weights among them.
        scalars: Global and input scales whose value was read.
        decoded: Weights of which rows were compared with the source.
        notes: What was not checked, and why.
    """

    ref: str
    findings: tuple[Finding, ...]
    tensors: int
    modules: int
    scalars: int
    decoded: int
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that do not load, or load wrong numbers."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


def audit(target: str, source: str = "", *, revision: str = "", work_dir: str = "") -> Audit:
    """Read a checkpoint back.

    Args:
        target: A repository or folder.
        source: What it was made from; empty to leave weights uncompared.
        revision: Branch, tag or commit of the target.
        work_dir: Folder for temporary files.

    Raises:
        SourceError: There is nothing to read.
    """
    with Scratch(work_dir) as scratch:
        view = open_source(target, revision, scratch)
        manifest = read_manifest(view)
        origin = _open_origin(source, manifest, scratch) if source else None
        return _Audit(view, manifest, origin).run()


def _open_origin(source: str, manifest: Mapping[str, Any] | None, scratch: Path) -> Source:
    made_from = (manifest or {}).get("source") or {}
    commit = str(made_from.get("commit") or "") if made_from.get("repo") == source else ""
    return open_source(source, commit, scratch)


class _Audit:
    def __init__(
        self, view: Source, manifest: Mapping[str, Any] | None, origin: Source | None
    ) -> None:
        self._view = view
        self._manifest = manifest
        self._origin = origin
        self._notes: list[str] = []

    def run(self) -> Audit:
        """Every check that the material at hand allows."""
        config = read_config(self._view)
        index = self._json(INDEX_NAME)
        shards = sorted(path for path in self._view.files() if path.endswith(".safetensors"))
        if not shards:
            raise SourceError(f"{self._view.ref} holds no safetensors weights.")
        tensors, findings = read_tensors(self._view, shards)
        findings += self._tree()
        scalars = self._scalars(tensors)
        extra = {path: table for path in ("hf_quant_config.json",) if (table := self._json(path))}
        plan = self._plan()
        findings += contract.check(
            tensors,
            config,
            extra,
            weight_map=(index or {}).get("weight_map"),
            total_size=((index or {}).get("metadata") or {}).get("total_size"),
            scalars=scalars,
            partners=_partners(config, tensors),
            expected=_expected(plan),
        )
        findings += self._needs(config, tensors)
        decoded = 0
        if plan is not None and self._origin is not None:
            chosen, far = decoded_findings(plan, tensors, self._view, self._origin, {}, Sample())
            findings += far
            decoded = len(chosen)
        else:
            self._notes.append("weights were not compared with their source: no --source")
        return Audit(
            self._view.ref,
            tuple(sorted(findings, key=lambda finding: finding.severity != "error")),
            len(tensors),
            len(_packed(tensors)),
            len(scalars),
            decoded,
            tuple(self._notes),
        )

    def _needs(
        self, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
    ) -> Iterator[Finding]:
        """What the model cannot do without, by its own config: no source and no index is asked."""
        try:
            profile = choose_profile(config, tensors)
        except SourceError:
            profile = None
        needs = profile.needs if profile is not None else None
        absent = missing(needs, config, tensors) if needs is not None else None
        if absent is None:
            self._notes.append(
                "whether every tensor of the model is there: no profile says what it must have"
            )
        for name in absent or ():
            yield Finding("need.missing", name, "The model needs it, and it is not there.")

    def _json(self, path: str) -> dict[str, Any] | None:
        entry = self._view.files().get(path)
        if entry is None or entry.size > MAX_JSON_BYTES:
            return None
        try:
            table = json.loads(self._view.read(path, 0, entry.size))
        except ValueError:
            return None
        return table if isinstance(table, dict) else None

    def _tree(self) -> Iterator[Finding]:
        if self._manifest is None:
            self._notes.append("no hubconv.json: hubconv did not make it; no manifest to compare")
            return
        for sentence in compare_tree(self._view, self._manifest):
            yield Finding("tree.manifest", self._view.ref, sentence)

    def _plan(self) -> Plan | None:
        if self._origin is None:
            return None
        try:
            asked = dict((self._manifest or {}).get("recipe") or {})
            asked.pop("version", None)
            for name in ("keep", "quantize"):
                asked[name] = tuple(map(str, asked.get(name) or ()))
            asked.pop("input_scales_from", None)  # numbers, which no name or shape depends on
            return make_plan(self._origin, Recipe(**asked), __version__)
        except (HubconvError, TypeError, ValueError) as error:
            self._notes.append(f"the source could not be planned again: {error}")
            return None

    def _scalars(self, tensors: Mapping[str, StoredTensor]) -> dict[str, float]:
        """Values of global and input scales: all of a folder's, some of a repository's."""
        wanted = [t for name, t in tensors.items() if name.endswith(SCALARS) and t.nbytes == 4]
        if self._view.commit and len(wanted) > MOST_SCALARS:
            self._notes.append(f"{MOST_SCALARS} of {len(wanted)} global and input scales were read")
            wanted = wanted[:MOST_SCALARS]
        by_shard: dict[str, list[StoredTensor]] = {}
        for tensor in wanted:
            by_shard.setdefault(tensor.shard, []).append(tensor)
        return {
            tensor.name: float(np.frombuffer(raw, "<f4")[0])
            for found in by_shard.values()
            for tensor in found
            if len(raw := self._view.read(tensor.shard, tensor.begin, tensor.end)) == 4
        }


def _packed(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Modules with an NVFP4 weight, in either convention."""
    return [
        name.removesuffix(".weight_packed").removesuffix(".weight")
        for name, tensor in tensors.items()
        if tensor.dtype == "U8"
        and name.endswith((".weight_packed", ".weight"))
        and f"{name.removesuffix('.weight_packed').removesuffix('.weight')}.weight_scale" in tensors
    ]


def _partners(
    config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> Sequence[Sequence[str]]:
    try:
        profile = choose_profile(config, tensors)
    except SourceError:
        return ()
    packed = _packed(tensors)
    present = {*packed, *(name.removesuffix(".weight") for name in tensors)}
    sets = {tuple(profile.partners_of(module, present)) for module in packed}
    return sorted(members for members in sets if members)


def _expected(plan: Plan | None) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    if plan is None:
        return None
    return {o.name: (o.dtype, o.shape) for unit in plan.units for o in unit.outputs}


def audit_json(done: Audit) -> dict[str, Any]:
    """An audit as JSON."""
    return {
        "status": "faulty" if done.errors else "sound",
        "target": done.ref,
        "tensors": done.tensors,
        "nvfp4_weights": done.modules,
        "scales_read": done.scalars,
        "decoded": done.decoded,
        "findings": [
            {
                "rule": finding.rule,
                "severity": finding.severity,
                "where": finding.where,
                "what": finding.what,
                "engines": list(finding.engines),
            }
            for finding in done.findings
        ],
        "not_checked": list(done.notes),
    }


def render_audit(done: Audit, most: int = 40) -> str:
    """An audit for a terminal: what was checked, then every finding."""
    lines = [
        f"{done.ref}: {done.tensors} tensors, {done.modules} NVFP4 weights, {done.scalars} scales "
        f"read, {done.decoded} weights compared with the source."
    ]
    for finding in done.findings[:most]:
        engines = ", ".join(finding.engines)
        lines.append(f"  {finding.severity:7} {finding.rule:22} {finding.where}")
        lines.append(f"          {finding.what} ({engines})")
    if len(done.findings) > most:
        lines.append(f"  ... and {len(done.findings) - most} more (--json lists all)")
    lines += [f"  not checked: {note}" for note in done.notes]
    if not done.findings:
        lines.append("  Nothing wrong found.")
    return "\n".join(lines)
