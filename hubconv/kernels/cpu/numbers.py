"""Single numbers: E4M3 and E2M1 in float32 arithmetic, without tables, so that loops vectorise."""

from typing import Any, Final

import numpy as np

from hubconv.kernels.cpu.jit import inlined

ONE: Final = 0x38  # E4M3 of 1
LOWEST_SEARCHED: Final = 0x08  # E4M3 of 2^-6
HIGHEST: Final = 0x7E  # E4M3 of 448

_E4M3_UNIT = np.float32(2.0**120)
_HALF_UNIT = np.float32(2.0**112)
_MAGIC = np.float32(2.0**23)
_SUBNORMAL = np.float32(2.0**9)
_LOWEST_NORMAL = np.float32(2.0**-6)
_E4M3_MAX = np.float32(448)
_LOWEST_MODELOPT = np.float32(2.0**-9)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TWO, _FIVE, _SIX = np.float32(2), np.float32(5), np.float32(6)
_NAN_BITS = np.uint32(0x7FC00000)
_MAGIC_HALF = np.float32(2.0**22)
_EXPONENT_BITS = np.uint32(0x7F800000)


@inlined
def least(number: Any, limit: Any) -> Any:
    """The smaller one; the limit where the number is NaN.

    `min` would follow Python in what it does with NaN, and keep loops from being vectorised.
    """
    return number if number < limit else limit


@inlined
def e4m3_value(code: Any) -> Any:
    """float32 from the low seven bits of an E4M3 number that is not NaN.

    Shifted into place they are a float32 2^-120 as large, subnormal numbers included.
    """
    return np.uint32((code & 0x7F) << 20).view(np.float32) * _E4M3_UNIT


@inlined
def signed_e4m3(code: Any) -> Any:
    """float32 from an E4M3 number; NaN where it is NaN."""
    magnitude = np.uint32(_NAN_BITS if code & 0x7F == 0x7F else (code & 0x7F) << 20)
    return np.uint32(magnitude | ((code & 0x80) << 24)).view(np.float32) * _E4M3_UNIT


@inlined
def half_value(bits: Any) -> Any:
    """float32 from a float16 number; NaN where it is NaN or infinite."""
    magnitude = np.uint32(_NAN_BITS if bits & 0x7C00 == 0x7C00 else (bits & 0x7FFF) << 13)
    return np.uint32(magnitude | ((bits & 0x8000) << 16)).view(np.float32) * _HALF_UNIT


@inlined
def e4m3_code(number: Any) -> Any:
    """Code of the E4M3 number nearest to a float32 that is not negative; ties to even, at most 448.

    Below 2^-6 the codes are whole steps of 2^-9; above, the upper bits of the float32 itself.
    """
    kept = least(number, _E4M3_MAX)
    low = np.int32(kept * _SUBNORMAL + _MAGIC - _MAGIC)
    bits = np.int32(np.float32(kept).view(np.uint32))
    high = ((bits + np.int32(0x7FFFF) + ((bits >> 20) & 1)) >> 20) - np.int32(120 << 3)
    return np.int32(low if kept < _LOWEST_NORMAL else high)


@inlined
def searched_base(top: Any) -> Any:
    """Code around which scales are searched, for a largest magnitude in units of the scale."""
    return e4m3_code(top / _SIX)


@inlined
def modelopt_scale(top: Any, global_scale: Any) -> Any:
    """Code of ModelOpt's block scale for a largest magnitude, both float32."""
    wanted = top / (global_scale * _SIX)
    wanted = _ONE if wanted == _ZERO else wanted
    return e4m3_code(wanted if wanted > _LOWEST_MODELOPT else _LOWEST_MODELOPT)


@inlined
def clamped(code: Any) -> Any:
    """A candidate's code, kept within the scales that every engine reads."""
    return min(max(code, LOWEST_SEARCHED), HIGHEST)


@inlined
def nearest(size: Any) -> Any:
    """E2M1 magnitude nearest to a float32 that is not negative; ties to even, at most 6.

    Adding and taking away 2^23 steps leaves whole steps: 0.5 below 2, 1 below 4, and 2 above.
    """
    kept = least(size, _SIX)
    floor = kept if kept > _ONE else _ONE
    power = np.uint32(np.float32(floor).view(np.uint32) & _EXPONENT_BITS).view(np.float32)
    magic = power * _MAGIC_HALF
    return (kept + magic) - magic


@inlined
def e2m1_code(magnitude: Any) -> Any:
    """Code of an E2M1 magnitude."""
    return np.int32(least(magnitude * _TWO, least(magnitude, _FIVE) + _TWO))
