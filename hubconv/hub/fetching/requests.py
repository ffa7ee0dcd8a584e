"""Requests for bytes from this process: headers, and files that are small."""

from collections.abc import Iterator
from contextlib import contextmanager

from hubconv.errors import TemporaryError
from hubconv.hub.client import REFUSED, HubClient
from hubconv.hub.compat import get_session, headers_towards, hf_raise_for_status, httpx


@contextmanager
def opened(client: HubClient, location: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer of a link, its body not yet read.

    Raises:
        TemporaryError: A signed link has grown old.
    """
    sent = {"accept-encoding": "identity", **headers, **headers_towards(client.api, location)}
    with get_session().stream("GET", location, headers=sent) as response:
        if response.status_code in REFUSED and not location.startswith(f"{client.api.endpoint}/"):
            raise TemporaryError(f"a download link was refused ({response.status_code})")
        hf_raise_for_status(response)
        yield response
