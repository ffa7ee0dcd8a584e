"""Trusted publishers: the identity of a CI job traded for a token that soon ends.

Id tokens are JSON web tokens as GitHub makes them, but signed with a key that the issuer shares
with this Hub (HS256): the real Hub fetches public keys from its issuers instead.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hubconv.embedded.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Publisher:
    """A CI job that a repository or an account trusts.

    Attributes:
        resource: `org/name`, or an account's name.
        key: What its issuer signs with.
        claims: All must be in its id token, exactly.
        makes_refs: Its token may make and delete branches and tags.
    """

    resource: str
    key: str
    claims: Mapping[str, str] = field(default_factory=dict)
    makes_refs: bool = True


class Publishers:
    """Whom this Hub trusts, and the tokens that it gave them."""

    def __init__(self) -> None:
        self._known: list[Publisher] = []
        self._lock = threading.Lock()
        self.issued: list[str] = []

    def trust(self, publisher: Publisher) -> None:
        """Trust one more."""
        with self._lock:
            self._known.append(publisher)

    def forget(self, resource: str) -> None:
        """Trust nobody for a resource any more; tokens that were given stay good."""
        with self._lock:
            self._known = [each for each in self._known if each.resource != resource]

    def whose(self, id_token: str, resource: str, audience: str) -> Publisher:
        """The publisher that an id token speaks for.

        Raises:
            Refusal: None, and why is not told.
        """
        with self._lock:
            known = [each for each in self._known if each.resource == resource]
        for publisher in known:
            claims = _claims(id_token, publisher.key)
            wanted = {**publisher.claims, "aud": audience}
            if all(claims.get(name) == value for name, value in wanted.items()):
                return publisher
        raise refused("invalid_grant", "No trusted publisher matches this token.")


def id_token(claims: Mapping[str, Any], key: str) -> str:
    """An id token as an issuer would make it, for those who play one.

    Args:
        claims: What it says.
        key: What the issuer signs with.
    """
    head = _spelled(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = _spelled(json.dumps(dict(claims)).encode())
    return f"{head}.{body}.{_signed(f'{head}.{body}', key)}"


def _claims(token: str, key: str) -> Mapping[str, Any]:
    """What an id token says; nothing where it is false or old."""
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature, _signed(text, key)):
        return {}
    body = text.rpartition(".")[2]
    claims: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims if float(claims.get("exp", 0)) > time.time() else {}


def _signed(text: str, key: str) -> str:
    return _spelled(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest())


def _spelled(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def refused(error: str, why: str) -> Refusal:
    """A refusal as OAuth words it."""
    return Refusal(400, why, fields={"error": error, "error_description": why})
