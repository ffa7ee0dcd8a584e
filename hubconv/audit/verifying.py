"""`hubconv verify`: reads any NVFP4 checkpoint back, whoever made it.

With hubconv's own manifest the tree is compared with it; with the source, decoded weights are held
against it, and of our own results the plan is made again; always, the loader contract is applied to
headers and config. What cannot be read is a finding, like anything else that is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hubconv.audit.account import Looked
from hubconv.audit.choosing import rank
from hubconv.audit.decoding import Bench, chosen, look
from hubconv.audit.depth import USUAL, Depth
from hubconv.audit.origin import Origin, lost, open_origin
from hubconv.audit.packed import Packed, find_packed, scalars_of
from hubconv.audit.reading import Place, named_scalars, read_scalars
from hubconv.audit.recorded import recorded_weights
from hubconv.audit.result import HF_QUANT_CONFIG, Result, open_result
from hubconv.audit.suspicion import reciprocal_findings
from hubconv.audit.whole import Whole, read_whole
from hubconv.errors import HubconvError, IntegrityError, SourceError, TemporaryError
from hubconv.formats import contract
from hubconv.formats.checkpoint import StoredTensor
from hubconv.formats.contract import Finding
from hubconv.formats.contract.names import FUSED
from hubconv.formats.nvfp4 import Quality
from hubconv.manifest import compare_tree
from hubconv.opening import Scratch, open_source
from hubconv.profiles.needs import missing
from hubconv.progress import Progress
from hubconv.steps.decide import Recipe
from hubconv.steps.plan import Plan, make_plan
from hubconv.version import __version__

SCALARS: Final = ("weight_scale_2", "weight_global_scale", "input_scale", "input_global_scale")
MOST_SCALARS: Final = 4096
"""Scalars read from a repository, where not everything is; a folder's are all read."""

USUAL_PARTNERS: Final = (*FUSED.values(), ("w1", "w3"))
"""Modules that engines fuse, in families without a profile."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at, and what was found.

    Attributes:
        ref: The checkpoint.
        commit: Its pinned commit; empty for a folder.
        findings: Breaches, errors first.
        tensors: Tensors whose headers were read.
        modules: NVFP4 weights among them; each expert of a fused tensor counts.
        scalars: Global and input scales whose value was read.
        looked: Weights of which rows were decoded.
        notes: What was not checked, and why.
        depth: How deep the look went.
        whole: What came of reading every byte; None where not every byte was read.
    """

    ref: str
    commit: str
    findings: tuple[Finding, ...]
    tensors: int
    modules: int
    scalars: int
    looked: tuple[Looked, ...]
    notes: tuple[str, ...]
    depth: Depth = USUAL
    whole: Whole | None = None

    @property
    def decoded(self) -> int:
        """Weights of which rows were compared with the source."""
        return len(self.compared)

    @property
    def compared(self) -> tuple[Looked, ...]:
        """Those weights."""
        return tuple(look for look in self.looked if look.quality is not None)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that do not load, or load wrong numbers."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def by_role(self) -> dict[str, tuple[int, Quality]]:
        """Weights compared with the source and how far they are from it, by role."""
        roles: dict[str, tuple[int, Quality]] = {}
        for each in self.compared:
            count, quality = roles.get(each.role, (0, Quality()))
            roles[each.role] = (count + 1, quality + (each.quality or Quality()))
        return dict(sorted(roles.items()))


def audit(
    target: str,
    source: str = "",
    *,
    revision: str = "",
    work_dir: str = "",
    depth: Depth = USUAL,
    progress: Progress | None = None,
) -> Audit:
    """Read a checkpoint back.

    Args:
        target: A repository or folder.
        source: What it was made from; empty to leave weights uncompared.
        revision: Branch, tag or commit of the target.
        work_dir: Folder for temporary files.
        depth: How much of it is read.
        progress: Told how far a look at every byte is.

    Raises:
        SourceError: There is nothing to read.
    """
    with Scratch(work_dir) as scratch:
        result = open_result(open_source(target, revision, scratch))
        origin = open_origin_of(result, source, scratch) if source else None
        return _Audit(result, origin, depth, progress or Progress()).run()


def open_origin_of(result: Result, source: str, scratch: Path) -> Origin:
    """The source that a word names, at the commit that the result was made from where it says so.

    Raises:
        SourceError: There is nothing to read.
    """
    made_from = (result.manifest or {}).get("source")
    made_from = made_from if isinstance(made_from, dict) else {}
    commit = str(made_from.get("commit") or "") if made_from.get("repo") == source else ""
    return open_origin(open_source(source, commit, scratch))


@dataclass(slots=True)
class _Audit:
    result: Result
    origin: Origin | None
    depth: Depth
    progress: Progress
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def run(self) -> Audit:
        """Every check that the material at hand allows."""
        result = self.result
        self.notes += [*result.notes, *(self.origin.notes if self.origin else ())]
        self.findings += result.findings
        self.findings += self._tree()
        packed, unread = find_packed(result.modules)
        scalars = self._scalars(packed)
        self._contract(scalars)
        self.findings += reciprocal_findings(packed.values(), scalars)
        self.findings += self._needs()
        if self.origin is None:
            self.notes.append("weights were not compared with their source: no --source")
        elif not result.is_ours:
            self.findings += lost(self.origin, result, packed)
        if unread and self.depth.kind != "fast":
            self.notes.append(
                f"{len(unread)} NVFP4 weights that cannot be decoded as they stand, such as "
                f"{unread[0]}"
            )
        looked, whole = self._decode(packed, scalars)
        self.findings += [finding for each in looked for finding in each.findings]
        return Audit(
            result.view.ref,
            result.view.commit,
            tuple(sorted(self.findings, key=lambda finding: finding.severity != "error")),
            len(result.tensors),
            len(packed) + len(unread),
            len(scalars),
            looked,
            tuple(self.notes),
            self.depth,
            whole,
        )

    def _contract(self, scalars: Mapping[Place, float]) -> None:
        result = self.result
        hidden = result.hidden
        weight_map = result.weight_map
        if weight_map is not None and hidden:
            weight_map = {n: shard for n, shard in weight_map.items() if n not in hidden}
        expected = _expected(self._plan(), hidden)
        named = named_scalars(scalars, _scalar_tensors(result))
        self.findings += contract.check(
            result.tensors,
            result.config,
            {HF_QUANT_CONFIG: result.hf_quant} if result.hf_quant else {},
            weight_map=weight_map,
            total_size=None if result.unreadable else result.total_size,
            scalars=named,
            partners=_partners(result),
            expected=expected,
        )

    def _decode(
        self, packed: Mapping[str, Packed], scalars: Mapping[Place, float]
    ) -> tuple[tuple[Looked, ...], Whole | None]:
        depth = self.depth
        if depth.kind == "fast" or (self.origin is None and depth.kind == "rows"):
            return (), None
        recorded = recorded_weights(self.result) if self.origin is not None else {}
        bench = Bench(self.result, self.origin, scalars, recorded)
        weights = chosen(self.result, packed, depth)
        if self.origin is not None:
            without = [weight for weight in weights if bench.counterpart(weight) is None]
            if without:
                self.notes.append(
                    f"{len(without)} weights were not compared: the source has nothing readable "
                    f"of their name, such as {without[0].module}"
                )
        if depth.kind == "full":
            whole = read_whole(bench, weights, self.progress)
            self.findings += whole.findings
            return whole.looked, whole
        return tuple(look(bench, weights, whole=depth.kind == "weights")), None

    def _needs(self) -> Iterator[Finding]:
        """What the model cannot do without, by its own config: no source and no index is asked."""
        result = self.result
        needs = result.profile.needs if result.profile is not None else None
        names = {*result.tensors, *result.hidden}
        absent = missing(needs, result.config, names) if needs is not None else None
        if absent is None:
            self.notes.append(
                "whether every tensor of the model is there: no profile says what it must have"
            )
        # Of experts in one tensor the profile would ask one by one.
        fused = {m.container for m in result.modules.values() if m.is_fused}
        for name in absent or ():
            if not any(name.startswith(f"{container}.") for container in fused):
                yield Finding("need.missing", name, "The model needs it, and it is not there.")

    def _tree(self) -> Iterator[Finding]:
        result = self.result
        if result.manifest is None:
            self.notes.append("no hubconv.json: hubconv did not make it; no manifest to compare")
            return
        small: dict[str, bytes] | None = None
        if self.depth.kind == "fast":
            small = {}
            self.notes.append("hashes of files that the tree does not name any for: --fast")
        elif self.depth.kind == "full":  # the shards are hashed as they stream by
            small = {path: b"" for path in result.view.files() if path not in result.shards}
        try:
            for sentence in compare_tree(result.view, result.manifest, small):
                yield Finding("tree.manifest", result.view.ref, sentence)
        except TemporaryError:
            raise
        except (SourceError, IntegrityError) as error:
            yield Finding("file.unreadable", result.view.ref, error.what)

    def _plan(self) -> Plan | None:
        """The plan of our own result, made again; another tool's decisions nobody can repeat."""
        if self.origin is None or self.result.manifest is None:
            return None
        try:
            asked = dict(self.result.manifest.get("recipe") or {})
            asked.pop("version", None)
            for name in ("keep", "quantize"):
                asked[name] = tuple(map(str, asked.get(name) or ()))
            asked.pop("input_scales_from", None)  # numbers, which no name or shape depends on
            return make_plan(self.origin.view, Recipe(**asked), __version__)
        except TemporaryError:
            raise
        except (HubconvError, TypeError, ValueError) as error:
            self.notes.append(f"the source could not be planned again: {error}")
            return None

    def _scalars(self, packed: Mapping[str, Packed]) -> dict[Place, float]:
        """Values of global and input scales by place: all, or of a repository some."""
        if self.depth.kind == "fast":
            self.notes.append("values of scales, so partners' too: --fast")
            return {}
        wanted = _scalar_tensors(self.result)
        if self.result.view.commit and self.depth.kind != "full" and len(wanted) > MOST_SCALARS:
            wanted = self._some(wanted, packed)
        try:
            return read_scalars(self.result.view, wanted)
        except (SourceError, IntegrityError) as error:
            self.findings.append(Finding("file.unreadable", self.result.view.ref, error.what))
            return {}

    def _some(
        self, wanted: Sequence[StoredTensor], packed: Mapping[str, Packed]
    ) -> list[StoredTensor]:
        """Scales of weights that are decoded, and others; those of partners stay together."""
        needed = [weight.scalar for weight in chosen(self.result, packed, self.depth)]
        parents = {tensor: tensor.name.rsplit(".", 2)[0] for tensor in wanted}
        ranked = sorted(wanted, key=lambda tensor: rank(self.depth.seed, parents[tensor]))
        self.notes.append(f"{MOST_SCALARS} of {len(wanted)} global and input scales were read")
        return [*needed, *ranked[:MOST_SCALARS]]


def _scalar_tensors(result: Result) -> list[StoredTensor]:
    """Global and input scales, one by one where a tensor holds those of all experts."""
    found: list[StoredTensor] = []
    for module in result.modules.values():
        if module.kind != "nvfp4":
            continue
        for name, part in module.parts.items():
            if name in SCALARS and isinstance(part, StoredTensor) and part.dtype == "F32":
                found += scalars_of(part)
    return found


def _partners(result: Result) -> list[tuple[str, ...]]:
    """Sets of modules that engines fuse, of which any is NVFP4."""
    sets: set[tuple[str, ...]] = set()
    for module in result.modules.values():
        if module.kind != "nvfp4" or module.is_fused:
            continue
        if result.profile is not None:
            sets.add(tuple(result.profile.partners_of(module.name, result.modules)))
        else:
            sets.update(_guessed(module.name, result))
    return sorted(members for members in sets if members)


def _guessed(module: str, result: Result) -> Iterator[tuple[str, ...]]:
    """Sets of the usual names that a module is in, where all of their modules are there."""
    parent, dot, leaf = module.rpartition(".")
    for members in USUAL_PARTNERS:
        names = tuple(f"{parent}.{member}" for member in members)
        if dot and leaf in members and all(name in result.modules for name in names):
            yield names


def _expected(
    plan: Plan | None, hidden: frozenset[str]
) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    if plan is None:
        return None
    outputs = (output for unit in plan.units for output in unit.outputs)
    return {o.name: (o.dtype, o.shape) for o in outputs if o.name not in hidden}
