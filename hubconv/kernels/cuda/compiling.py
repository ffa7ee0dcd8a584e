"""Triton as a compiler: its kernels here to cubins, with neither torch nor a device."""

# mypy: disable-error-code="import-not-found, import-untyped"

import re
from typing import Any, Final

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hubconv.kernels.cuda import blocks, respelling
from hubconv.kernels.cuda.compiled import Binary
from hubconv.kernels.cuda.variants import LANES, SIZES, TILES, Variant

WARP: Final = 32
ALIGNED: Final = (["tt.divisibility", 16],)  # device memory begins at such addresses

_POINTERS: Final = {
    "amax": {"data": "*i64", "scales": "*fp32", "tops": "*i32"},
    "encode": {
        "data": "*i64",
        "scales": "*fp32",
        "codes": "*i64",
        "block_scales": "*u8",
        "figures": "*fp64",
    },
    "respell": {
        "data": "*i64",
        "scales": "*fp32",
        "pairs": "*i64",
        "exponents": "*u8",
        "wrongs": "*i32",
    },
}
_SCALARS: Final = {"encode": {"unit": "fp32", "reciprocal": "fp32"}}
_FUNCTIONS: Final = {"amax": blocks.amax, "encode": blocks.encode, "respell": respelling.mxfp4}


def compiled(variant: Variant, capability: tuple[int, int]) -> Binary:
    """Compile a kernel for a compute capability."""
    function = _FUNCTIONS[variant.kernel]
    names: list[str] = function.arg_names
    pointers = _POINTERS[variant.kernel]
    types = {**pointers, **_SCALARS.get(variant.kernel, {}), **dict.fromkeys(SIZES, "i32")}
    constants = _constants(variant)
    source = ASTSource(
        fn=function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): list(ALIGNED) for name in pointers},
    )
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], WARP)
    # Every operation is rounded by itself, as on the CPU.
    options = {"num_warps": LANES // WARP, "enable_fp_fusion": False}
    made = triton.compile(source, target=target, options=options)
    return Binary(
        name=made.metadata.name,
        threads=made.metadata.num_warps * WARP,
        shared_bytes=made.metadata.shared,
        spare_pointers=_spare_pointers(made, len(types)),
        code=made.asm["cubin"],
    )


def _constants(variant: Variant) -> dict[str, Any]:
    """Values of the parameters that are known when a kernel is compiled."""
    constants: dict[str, Any] = {}
    if variant.kernel != "respell":
        constants |= {"form": variant.form, "mixed": variant.mixed}
    if variant.kernel == "encode":
        constants |= {"rule": variant.rule, "extreme": variant.extreme}
    return constants | {"lanes": LANES, "tiles": TILES}


def _spare_pointers(made: Any, ours: int) -> int:  # noqa: ANN401 - Triton's own object
    """Parameters that Triton has added for scratch memory, which these kernels do without.

    Raises:
        ValueError: They need some after all.
    """
    for kind in ("global_scratch_size", "profile_scratch_size"):
        if getattr(made.metadata, kind, 0):
            raise ValueError(f"{kind} is not 0")
    entry = re.search(r"\.entry [^)]*\)", made.asm["ptx"])
    return entry[0].count(".param") - ours if entry else 0
