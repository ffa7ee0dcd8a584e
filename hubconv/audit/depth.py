"""How deep a look into a result goes."""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["fast", "rows", "weights", "full"]

USUAL_WEIGHTS: Final = 8
USUAL_ROWS: Final = 128


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of a result is read.

    Attributes:
        kind: fast reads headers and configuration, no weights; rows decodes some rows of some
            weights; weights decodes whole weights; full reads every byte.
        weights: How many are decoded, where not all are.
        seed: Decides which.
    """

    kind: Kind = "rows"
    weights: int = USUAL_WEIGHTS
    seed: int = 0

    @property
    def words(self) -> str:
        """What was decoded, for a person."""
        return {
            "fast": "headers and configuration only",
            "rows": f"{USUAL_ROWS} rows of {self.weights} weights, seed {self.seed}",
            "weights": f"{self.weights} weights, seed {self.seed}",
            "full": "every weight",
        }[self.kind]


USUAL: Final = Depth()
