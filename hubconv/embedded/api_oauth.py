"""The trade of an id token for a token of this Hub."""

import secrets
import time

from starlette.responses import Response

from hubconv.embedded.accounts import Account
from hubconv.embedded.publishers import refused
from hubconv.embedded.wire import Call, Route, json_answer

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - the name of a kind
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - likewise
SYSTEM_USER = "[OIDC]"
"""What a repository's publisher does is put down to this account."""


def trade(call: Call) -> Response:
    """Give a short-lived token for the identity of a CI job."""
    wish = call.json()
    if wish.get("grant_type") != GRANT or wish.get("subject_token_type") != ID_TOKEN:
        raise refused("invalid_request", "This Hub knows the exchange of id tokens only.")
    resource = str(wish.get("resource") or "")
    if not resource or resource.count("/") > 1:
        raise refused("invalid_request", "The resource is not a repository or an account.")
    state = call.state
    publisher = state.publishers.whose(str(wish.get("subject_token")), resource, state.endpoint)
    life = state.knobs.publisher_token_s
    is_repo = "/" in resource
    kind = "jwt" if is_repo else "oauth"
    token = f"hf_{kind}_{secrets.token_hex(8)}.{secrets.token_hex(12)}.{secrets.token_hex(12)}"
    account = Account(
        SYSTEM_USER if is_repo else resource,
        token,
        orgs=(resource.split("/", 1)[0],) if is_repo else (),
        role="write" if is_repo else "read",
        makes_refs=publisher.makes_refs,
        only=resource if is_repo else "",
        sees_private=is_repo,
        ends_at=time.time() + life,
    )
    state.accounts.put(account)
    state.publishers.issued.append(token)
    return json_answer({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": life,
        "issued_token_type": ACCESS_TOKEN,
    })


ROUTES = [Route("POST", "/oauth/token", "oauth_token", trade)]
