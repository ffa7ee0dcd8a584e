"""Who may see a repository, and whether what a source keeps to itself may be seen there."""

from dataclasses import dataclass
from typing import Final

from huggingface_hub import ModelInfo

from hubconv.errors import NotAllowedError

PRIVATE: Final = "private"


def restriction_of(info: ModelInfo) -> str:
    """`private`, `gated`, or empty for a repository that everybody may read."""
    return PRIVATE if info.private else "gated" if info.gated else ""


@dataclass(frozen=True, slots=True)
class Guard:
    """Keeps what is private or gated from being seen in a repository that is neither.

    Attributes:
        repo: The repository that receives the result.
        restricted: `private` or `gated`, as the source is; empty where it may be shown.
    """

    repo: str
    restricted: str = PRIVATE

    def forbids(self, restriction: str) -> bool:
        """Whether a repository of this restriction would show what must not be seen.

        A gate that anybody can pass is enough for what is gated, not for what is private.
        """
        return bool(self.restricted) and restriction not in {PRIVATE, self.restricted}

    def check(self, info: ModelInfo) -> None:
        """Hold the rule against a repository as it is at this moment.

        Raises:
            NotAllowedError: It would show what must not be seen.
        """
        if self.forbids(restriction_of(info)):
            raise NotAllowedError(
                f"{self.repo} has become public, but the source is {self.restricted}.",
                "Make it private again, for its staging branch shows converted weights; then run "
                "the same command again.",
            )
