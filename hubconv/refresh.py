"""`hubconv card`: the card and its pictures made again from hubconv.json, without any weight."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hubconv.card import PICTURES
from hubconv.ends import MANIFEST, Published, Target, TargetOptions
from hubconv.errors import IntegrityError, SourceError
from hubconv.manifest import read_manifest
from hubconv.opening import Scratch, caches_in, open_target
from hubconv.steps.manifest import Told, read_told
from hubconv.steps.publish import card_files, pictures_of

TITLE = "Make the card again"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What became of a card.

    Attributes:
        target: `org/name`, or a folder's path.
        published: Where it stands; None where nothing had to change.
        changed: Files that are new or other than before.
    """

    target: str
    published: Published | None
    changed: tuple[str, ...]


def refresh(
    target: str, *, template: str = "", create_pr: bool = False, work_dir: str = ""
) -> Refreshed:
    """Make the card of a publish again, with the sections that a person wrote into it.

    Args:
        target: TARGET word.
        template: Path of a card template in place of hubconv's own; empty for that.
        create_pr: Commit to a pull request instead of main.
        work_dir: Folder for temporary files.

    Raises:
        SourceError: hubconv has published nothing there, or a version that kept too little.
        IntegrityError: hubconv.json is damaged.
        NotAllowedError: No right to write there.
        ConflictError: The target received something else meanwhile.
    """
    with _opened(target, create_pr=create_pr, work_dir=work_dir) as there:
        told = _told(there)
        if not create_pr:  # whoever may not write may still propose
            there.check("")
        pictures = pictures_of(told)
        present = there.files()
        # Without matplotlib, pictures that came with this hubconv.json still show its numbers.
        standing = frozenset(path for path in PICTURES if path in present and not pictures)
        made = card_files(told, there, template, pictures=pictures, standing=standing)
        there.check_card(made["README.md"].decode())
        view = there.view()
        changed = {
            path: data
            for path, data in made.items()
            if path not in present or view.read(path, 0, present[path].size) != data
        }
        if not changed:
            return Refreshed(there.ref, None, ())
        return Refreshed(there.ref, there.amend(changed, TITLE), tuple(sorted(changed)))


def _told(target: Target) -> Told:
    present = target.files()
    if MANIFEST not in present:
        what = (
            "holds no hubconv.json" if present else "does not exist, or this account cannot see it"
        )
        raise SourceError(
            f"{target.ref} {what}: there is nothing to make a card from.",
            "hubconv card is for what hubconv has published; to publish say hubconv SOURCE TARGET.",
        )
    manifest = read_manifest(target.view())
    if manifest is None:
        raise IntegrityError(
            f"hubconv.json of {target.ref} cannot be read.",
            "Take it back from an earlier commit, or convert again.",
        )
    return read_told(manifest, target.ref)


@contextmanager
def _opened(target: str, *, create_pr: bool, work_dir: str) -> Iterator[Target]:
    with Scratch(work_dir) as scratch, caches_in(scratch):
        yield open_target(target, TargetOptions(create_pr=create_pr), scratch)
