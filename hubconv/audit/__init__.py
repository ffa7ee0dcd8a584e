"""Reading results back: `hubconv verify` and `hubconv compare`."""

from hubconv.audit.comparing import Comparison, compare
from hubconv.audit.comparing_told import comparison_json, render_comparison
from hubconv.audit.depth import USUAL, Depth
from hubconv.audit.told import audit_json, render_audit
from hubconv.audit.verifying import Audit, audit

__all__ = [
    "USUAL",
    "Audit",
    "Comparison",
    "Depth",
    "audit",
    "audit_json",
    "compare",
    "comparison_json",
    "render_audit",
    "render_comparison",
]
