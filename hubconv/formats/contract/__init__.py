"""What loaders demand of an NVFP4 checkpoint, restated as rules that run on headers alone.

`check` finds every breach. The matchers answer one question each: does this loader, with this
configuration, take this module for quantized?
"""

from hubconv.formats.contract.audit import (
    check,
    check_names,
    check_scales,
    loaders_entry,
)
from hubconv.formats.contract.ct_rules import (
    ct_library_match,
    ct_library_scheme,
    sglang_ct_scheme,
    vllm_ct_scheme,
)
from hubconv.formats.contract.finding import Finding, MixedPartsError, NoSchemeError
from hubconv.formats.contract.modelopt_rules import (
    mixed_algo,
    sglang_modelopt_excluded,
    trtllm_excluded,
    vllm_modelopt_excluded,
)
from hubconv.formats.contract.modules import Module, modules_of
from hubconv.formats.contract.tensor_rules import expected_findings

__all__ = [
    "Finding",
    "MixedPartsError",
    "Module",
    "NoSchemeError",
    "check",
    "check_names",
    "check_scales",
    "ct_library_match",
    "ct_library_scheme",
    "expected_findings",
    "loaders_entry",
    "mixed_algo",
    "modules_of",
    "sglang_ct_scheme",
    "sglang_modelopt_excluded",
    "trtllm_excluded",
    "vllm_ct_scheme",
    "vllm_modelopt_excluded",
]
