"""What a plan promises to loaders, held against their rules while its shards are made.

The rules need names, element types, shapes and configuration, all of which are planned. A result
whose headers are the planned ones, byte for byte, keeps what was promised.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hubconv.errors import IntegrityError
from hubconv.formats import contract
from hubconv.formats.checkpoint import INDEX_NAME, StoredTensor
from hubconv.formats.contract import Finding
from hubconv.formats.contract.config_rules import HF_QUANT_CONFIG
from hubconv.steps.plan import Plan


@dataclass(frozen=True, slots=True)
class Promise:
    """The result of a plan as loaders will see it.

    Attributes:
        modules: Its modules.
        findings: Breaches of their rules; none where it will load.
    """

    modules: Mapping[str, contract.Module]
    findings: tuple[Finding, ...]

    def faults(self, next_step: str) -> IntegrityError | None:
        """What is said where loaders would not take the result, or None where they will."""
        return faults_in(self.findings, next_step)


def promised(plan: Plan) -> Promise:
    """What the planned tensors are to loaders; the largest models take seconds."""
    return seen(plan, {tensor.name: tensor for unit in plan.units for tensor in unit.tensors()})


def seen(plan: Plan, tensors: Mapping[str, StoredTensor]) -> Promise:
    """What some tensors are to loaders, beside the configuration of a plan.

    Args:
        plan: Whose configuration and index are read.
        tensors: All that the shards hold, by name.
    """
    modules = contract.modules_of(tensors.values())
    index = _table(plan.files, INDEX_NAME)
    nested = _table(plan.files, HF_QUANT_CONFIG)
    findings = contract.check_names(
        modules,
        tensors,
        json.loads(plan.files["config.json"]),
        {} if nested is None else {HF_QUANT_CONFIG: nested},
        weight_map=index["weight_map"] if index else None,
        total_size=index["metadata"]["total_size"] if index else None,
    )
    return Promise(modules, tuple(findings))


def faults_in(findings: Iterable[Finding], next_step: str) -> IntegrityError | None:
    """What is said where findings are errors: the first three; None where none is.

    Args:
        findings: Of any severity.
        next_step: What to do about them.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return None
    told = "; ".join(f"{f.where}: {f.what} [{f.rule}]" for f in errors[:3])
    return IntegrityError(f"The result has {len(errors)} faults: {told}.", next_step)


def _table(files: Mapping[str, bytes], path: str) -> dict[str, Any] | None:
    content = files.get(path)
    return json.loads(content) if content else None
