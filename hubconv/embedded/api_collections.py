"""Collections over HTTP: make, list, show, add, take off."""

from typing import Any

from starlette.responses import Response

from hubconv.embedded.accounts import Account, demand_login, demand_write, may_see
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.shelves import Item, Shelf
from hubconv.embedded.wire import Call, Route, json_answer, page_of

LISTED_ITEMS = 4
"""How many items of each collection a list of collections shows."""


def create(call: Call) -> Response:
    """Make a collection."""
    wish = call.json()
    title = str(wish.get("title") or "").strip()
    if not title:
        raise Refusal(400, '"title" must not be empty')
    owner = str(wish.get("namespace") or demand_login(call.account).name)
    demand_write(call.account, owner)
    shelf = call.state.shelves.create(
        owner,
        title,
        private=bool(wish.get("private")),
        description=str(wish.get("description") or ""),
    )
    return json_answer(_members(shelf))


def list_all(call: Call) -> Response:
    """List the collections that the caller may know of."""
    owner, item = call.query.get("owner"), call.query.get("item")
    found = [
        _without_position(_members(shelf, LISTED_ITEMS))
        for shelf in call.state.shelves.all()
        if _may_see(call.account, shelf)
        and (owner is None or shelf.owner == owner)
        and (item is None or item in {f"{each.type}s/{each.id}" for each in shelf.items})
    ]
    page, headers = page_of(call, found, call.state.knobs.page_size)
    return json_answer(page, headers=headers)


def show(call: Call) -> Response:
    """Show one collection with all its items."""
    return json_answer(_members(_seen(call)))


def add_item(call: Call) -> Response:
    """Put a repository on a collection."""
    shelf = _own(call)
    wish = call.json()
    item = wish.get("item") or {}
    kind, item_id = str(item.get("type") or ""), str(item.get("id") or "")
    repo = call.state.catalog.find(kind, item_id)
    if not may_see(call.account, repo.card):
        raise Refusal(404, "Repository not found", code="RepoNotFound")
    note = str(wish.get("note") or "")
    return json_answer(_members(call.state.shelves.add(shelf.slug, repo.id, kind, note)))


def remove_item(call: Call) -> Response:
    """Take an item off a collection."""
    return json_answer(_members(call.state.shelves.remove(_own(call).slug, call.params["item"])))


def delete(call: Call) -> Response:
    """Take a collection away."""
    call.state.shelves.delete(_own(call).slug)
    return json_answer({})


def _seen(call: Call) -> Shelf:
    shelf = call.state.shelves.find(f"{call.params['ns']}/{call.params['slug']}")
    if not _may_see(call.account, shelf):
        raise Refusal(404, "Collection not found")
    return shelf


def _own(call: Call) -> Shelf:
    shelf = _seen(call)
    demand_write(call.account, shelf.owner)
    return shelf


def _may_see(account: Account | None, shelf: Shelf) -> bool:
    return not shelf.private or (account is not None and account.belongs_to(shelf.owner))


def _members(shelf: Shelf, most: int | None = None) -> dict[str, Any]:
    return {
        "slug": shelf.slug,
        "title": shelf.title,
        "description": shelf.description,
        "owner": {"name": shelf.owner, "type": "user"},
        "items": [_item(at, item) for at, item in enumerate(shelf.items[:most])],
        "lastUpdated": shelf.changed_at,
        "position": 0,
        "private": shelf.private,
        "theme": "blue",
        "upvotes": 0,
    }


def _item(position: int, item: Item) -> dict[str, Any]:
    members: dict[str, Any] = {
        "_id": item.key,
        "id": item.id,
        "type": item.type,
        "position": position,
    }
    return members | {"note": {"text": item.note, "html": item.note}} if item.note else members


def _without_position(entry: dict[str, Any]) -> dict[str, Any]:
    """The client numbers the entries of a list itself."""
    return {key: value for key, value in entry.items() if key != "position"}


_ALL, _ONE = "/api/collections", "/api/collections/{ns}/{slug}"
ROUTES = [
    Route("POST", _ALL, "collection", create),
    Route("GET", _ALL, "collection", list_all),
    Route("GET", _ONE, "collection", show),
    Route("DELETE", _ONE, "collection", delete),
    Route("POST", f"{_ONE}/items", "collection", add_item),
    Route("DELETE", f"{_ONE}/items/{{item}}", "collection", remove_item),
]
