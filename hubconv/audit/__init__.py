"""Reading results back: `hubconv verify` and `hubconv compare`."""

from hubconv.audit.audit import Audit, audit
from hubconv.audit.depth import USUAL, Depth
from hubconv.audit.told import audit_json, render_audit

__all__ = ["USUAL", "Audit", "Depth", "audit", "audit_json", "render_audit"]
