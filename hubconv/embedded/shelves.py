"""Collections of repositories, kept in one file of the Hub's folder."""

import re
import secrets
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hubconv.embedded.records import now, read_json, write_json
from hubconv.embedded.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Item:
    """One entry: what it is, and an id that is the entry's own."""

    key: str
    id: str
    type: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Shelf:
    """A collection."""

    slug: str
    title: str
    owner: str
    private: bool = False
    description: str = ""
    changed_at: str = ""
    items: tuple[Item, ...] = field(default=())


class Shelves:
    """All collections of a Hub."""

    def __init__(self, root: Path) -> None:
        self._path = root / "collections.json"
        self._lock = threading.Lock()
        kept = [_shelf(entry) for entry in read_json(self._path) or ()]
        self._shelves = {shelf.slug: shelf for shelf in kept}

    def all(self) -> list[Shelf]:
        """Every collection, the last changed first."""
        with self._lock:
            return sorted(self._shelves.values(), key=lambda each: each.changed_at, reverse=True)

    def find(self, slug: str) -> Shelf:
        """A collection.

        Raises:
            Refusal: There is none.
        """
        with self._lock:
            shelf = self._shelves.get(slug)
        if shelf is None:
            raise Refusal(404, "Collection not found")
        return shelf

    def create(self, owner: str, title: str, *, private: bool, description: str) -> Shelf:
        """Make a collection.

        Raises:
            Refusal: The owner has one of that title.
        """
        with self._lock:
            for shelf in self._shelves.values():
                if (shelf.owner, shelf.title) == (owner, title):
                    told = {"slug": shelf.slug}
                    raise Refusal(409, "This collection exists already.", fields=told)
            words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
            slug = f"{owner}/{words}-{secrets.token_hex(12)}"
            return self._keep(Shelf(slug, title, owner, private, description))

    def add(self, slug: str, item_id: str, item_type: str, note: str) -> Shelf:
        """Put something on a collection.

        Raises:
            Refusal: It is there already.
        """
        shelf = self.find(slug)
        with self._lock:
            if any((each.id, each.type) == (item_id, item_type) for each in shelf.items):
                raise Refusal(409, "This item is already in the collection.")
            item = Item(secrets.token_hex(12), item_id, item_type, note)
            return self._keep(replace(shelf, items=(*shelf.items, item)))

    def remove(self, slug: str, key: str) -> Shelf:
        """Take something off a collection.

        Raises:
            Refusal: It is not there.
        """
        shelf = self.find(slug)
        left = tuple(each for each in shelf.items if each.key != key)
        if left == shelf.items:
            raise Refusal(404, "Item not found")
        with self._lock:
            return self._keep(replace(shelf, items=left))

    def delete(self, slug: str) -> None:
        """Take a collection away."""
        self.find(slug)
        with self._lock:
            del self._shelves[slug]
            self._write()

    def _keep(self, shelf: Shelf) -> Shelf:
        self._shelves[shelf.slug] = replace(shelf, changed_at=now())
        self._write()
        return self._shelves[shelf.slug]

    def _write(self) -> None:
        listed: list[dict[str, Any]] = [asdict(shelf) for shelf in self._shelves.values()]
        write_json(self._path, listed)


def _shelf(entry: dict[str, Any]) -> Shelf:
    return Shelf(**{**entry, "items": tuple(Item(**item) for item in entry["items"])})
