"""What was born as FP4: blocks of E2M1 numbers under a power of two, rounded without tables.

MXFP4 and its FP8 repacks consist of them. Such a block is exact under a scale of its own, and which
of the nine candidates the search would take is known beforehand.
"""

from typing import Any, Final

import numpy as np

from hubconv.kernels.cpu import numbers
from hubconv.kernels.cpu.jit import inlined

_LOW_BITS: Final = 0x0303030303030303
_TO_POWER: Final = 5
"""A sixth of a power of two is 4/3 of another; E4M3 makes that 11/8, and 16/8 is five codes on."""


@inlined
def may_be(codes: Any) -> Any:
    """Whether 16 E4M3 codes, as two words, may be such numbers: 1 and 1.5 of powers of two."""
    return ((codes[0] | codes[1]) & _LOW_BITS) == 0


@inlined
def is_inner(plain: Any) -> Any:
    """Whether neither the code of a plain block scale nor what becomes of it would be clamped."""
    return (plain >= numbers.LOWEST_SEARCHED) & (plain <= numbers.HIGHEST - _TO_POWER)


@inlined
def scale_of(plain: Any, top: Any) -> Any:
    """Code of the first candidate under which such a block is exact: always a power of two.

    Args:
        plain: Code of the plain block scale, the sixth of the largest number.
        top: The largest magnitude code. That number becomes 6 where it is 1.5 of a power of two,
            else 4.
    """
    return plain if top & 4 else plain + _TO_POWER


@inlined
def square_of(quarters: Any, code: Any, rule: Any) -> Any:
    """Square of a block, float64, from the sum of its squares in quarters of its scale's."""
    half = np.float64(numbers.e4m3_value(np.int32(code))) * np.float64(rule.global_scale) * 0.5
    return np.float64(quarters) * (half * half)
