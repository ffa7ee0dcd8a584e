"""What a run tells of itself in the journal: with its first shards, and at its end."""

from huggingface_hub import CommitOperationAdd

from hubconv.ends import Source
from hubconv.hub.journals import run_path
from hubconv.journal import NO_RUN, Ending, RunNote


class RunTelling:
    """One run, and what the journal knows of it.

    Args:
        plan_id: The plan.
        run: The run; of NO_RUN nothing is told.
    """

    def __init__(self, plan_id: str, run: RunNote) -> None:
        self._path = run_path(plan_id, run.run_id)
        self._run, self._told = run, NO_RUN

    def end(self, ending: Ending) -> bool:
        """Note how it ends; False where that was noted before, or nothing is told."""
        if not self._run.run_id or self._run.ended:
            return False
        self._run = self._run.end(ending)
        return True

    def news(self) -> list[CommitOperationAdd]:
        """What the journal does not know yet."""
        if self._told == self._run:
            return []
        return [CommitOperationAdd(self._path, self._run.to_json())]

    def is_told(self) -> None:
        """The journal knows all of it now."""
        self._told = self._run

    def is_shown_by(self, view: Source) -> bool:
        """Whether the journal holds it as it is now."""
        entry, data = view.files().get(self._path), self._run.to_json()
        return entry is not None and view.read(self._path, 0, entry.size) == data
