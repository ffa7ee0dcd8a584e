"""Collections: shelves on which an owner of the Hub shows repositories together."""

import re
from typing import Final

from huggingface_hub import Collection

from hubconv.errors import UsageError
from hubconv.hub.client import HubClient

_SLUG: Final = re.compile(r"[\w.\-]+/[\w.\-]*-[0-9a-f]{24}", re.ASCII)
"""How the Hub names a collection in its address: owner, words of the title, an id."""


def add_to_collection(client: HubClient, repo: str, collection: str, *, private: bool) -> str:
    """Put a repository on a collection, once however often it is done; the collection's address.

    Args:
        client: How to reach the Hub.
        repo: `org/name`.
        collection: `owner/slug` of an existing one; or a title, with its owner before a `/` or
            without, of one that is made where there is none of that name.
        private: Make a new one private.
    """
    found = _named(client, repo, collection, private=private)
    if any(item.item_type == "model" and item.item_id == repo for item in found.items):
        return found.url
    slug = found.slug
    return client.call(
        f"Adding {repo} to the collection {slug}",
        lambda: client.api.add_collection_item(slug, repo, "model", exists_ok=True),
    ).url


def _named(client: HubClient, repo: str, collection: str, *, private: bool) -> Collection:
    api = client.api
    if _SLUG.fullmatch(collection):
        return _read(client, collection)
    owner, title = _owner_and_title(repo, collection)
    listed = client.call(
        f"Listing collections of {owner}", lambda: list(api.list_collections(owner=owner))
    )
    for each in listed:
        if each.title.casefold() == title.casefold():
            return _read(client, each.slug)  # a list shows a few items of each alone
    return client.call(
        f"Making the collection {title} of {owner}",
        lambda: api.create_collection(title, namespace=owner, private=private, exists_ok=True),
    )


def _read(client: HubClient, slug: str) -> Collection:
    return client.call(f"Reading the collection {slug}", lambda: client.api.get_collection(slug))


def _owner_and_title(repo: str, collection: str) -> tuple[str, str]:
    owner, slash, title = collection.partition("/")
    if not slash:
        owner, title = repo.partition("/")[0], collection
    owner, title = owner.strip(), title.strip()
    if not owner or not title:
        raise UsageError(
            f"{collection!r} names no collection.",
            "Write a title, owner/title, or what stands in the collection's address.",
        )
    return owner, title
