"""What follows a publish, or a run that finds one: hashes, and a place in a collection."""

from dataclasses import replace
from hashlib import sha256

from hubconv.card import PICTURES
from hubconv.ends import CARD, MANIFEST, Published
from hubconv.errors import HubconvError, IntegrityError
from hubconv.manifest import read_manifest
from hubconv.pipeline.request import Outcome
from hubconv.pipeline.run import Run


def finished(run: Run, outcome: Outcome) -> Outcome:
    """The outcome, with what was asked for besides.

    Args:
        run: The run.
        outcome: How it ended.

    Raises:
        IntegrityError: Hashes are wanted of a publish that names none.
    """
    if run.request.digests:
        outcome = replace(outcome, digests=_digests(run, outcome.published))
    if run.request.collection:
        outcome = replace(outcome, collection=_collected(run, outcome.published))
    return outcome


def _digests(run: Run, published: Published) -> dict[str, str]:
    """Of what is shown, not of what this run has made: another one may have been faster."""
    number = published.pull_request
    view = run.target.view(f"refs/pr/{number}" if number else published.commit)
    manifest = read_manifest(view)
    if manifest is None:
        raise IntegrityError(f"{published.ref} shows no hubconv.json that names its files.")
    digests = {path: str(told["sha256"]) for path, told in manifest["files"].items()}
    files = view.files()
    for path in (CARD, MANIFEST, *PICTURES):
        if path in files:
            digests[path] = sha256(view.read(path, 0, files[path].size)).hexdigest()
    return dict(sorted(digests.items()))


def _collected(run: Run, published: Published) -> str:
    """The collection's address; a failure is told, as what is published stays published."""
    name = run.request.collection
    if published.pull_request:
        run.progress.warn(
            f"{published.ref} joins the collection {name} once its pull request is merged: run the "
            "same command again then."
        )
        return ""
    try:
        return run.target.collect(name)
    except HubconvError as error:
        run.progress.warn(f"{published.ref} is published, but not in the collection: {error}")
        return ""
