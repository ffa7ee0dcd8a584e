"""Global scales of the wrong convention: told from their size, where no source can tell."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hubconv.audit.packed import Packed
from hubconv.audit.reading import Place, place_of
from hubconv.formats.contract import Finding
from hubconv.formats.nvfp4 import E2M1_MAX, E4M3_MAX

LARGEST: Final = E2M1_MAX * E4M3_MAX
"""What a global scale of one can stand for: no model has weights as large as this."""


def reciprocal_findings(
    weights: Iterable[Packed], scalars: Mapping[Place, float]
) -> Iterator[Finding]:
    """Weights whose global scale would make them thousands large.

    Where most of them do it is an error: the tool that wrote them took the other convention. A few
    may be what they are.
    """
    seen, found = 0, []
    for weight in weights:
        stored = scalars.get(place_of(weight.scalar))
        if stored is None or not stored > 0:
            continue
        seen += 1
        if weight.multiplier(stored) > 1:
            found.append((weight, stored))
    for weight, stored in found:
        reach = weight.multiplier(stored) * LARGEST
        does = "divides" if weight.is_divisor else "multiplies"
        what = f"It {does} and is {stored:.6g}: values up to {reach:.3g} are weights of no model."
        yield Finding(
            "scale.reciprocal",
            weight.scalar.name,
            what,
            severity="error" if 2 * len(found) > seen else "warning",
        )
