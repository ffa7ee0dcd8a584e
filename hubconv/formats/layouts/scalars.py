"""The little-endian float32 scalars of the layouts."""

import math
import struct

from hubconv.errors import IntegrityError
from hubconv.formats.layouts.base import Content, KeptScale


def scalar_bytes(content: Content, value: float) -> bytes:
    """Four bytes of a global scale or an input scale, as it is stored.

    Raises:
        IntegrityError: The value is not a positive, finite float32: every loader would multiply or
            divide by it.
    """
    try:
        stored = struct.pack("<f", value)
    except OverflowError:
        stored = struct.pack("<f", math.inf)
    (as_read,) = struct.unpack("<f", stored)
    if not (math.isfinite(as_read) and as_read > 0):
        raise IntegrityError(f"{value!r} cannot be a {content.replace('_', ' ')}.")
    return stored


def input_scale_of(module: str, dtype: str, shape: tuple[int, ...]) -> KeptScale:
    """The activation scale of a kept FP8 weight: F32 in every layout, only its shape differs."""
    recode = "" if dtype == "F32" else "widen_to_f32"
    return KeptScale(f"{module}.input_scale", "F32", shape, recode)
