"""Xet tokens for child processes, for as long as a transfer takes.

hf_xet asks for a new xet token by itself, with the headers it was given at the start. A token that
a CI job traded its identity for may have ended by then, in the middle of a shard. So the child
asks here, on loopback, with a word that is good for nothing else; what it is given is asked for
with the token of the moment, which no child ever holds.
"""

import hmac
import json
import logging
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from hubconv.errors import TemporaryError
from hubconv.hub.client import HubClient
from hubconv.hub.compat import XetFileData, headers_of, refresh_xet_connection_info
from hubconv.hub.credentials import Identity

_LOG: Final = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_REFUSED: Final = 403
_FAILED: Final = 503
_OK: Final = 200


class Desk:
    """Gives out xet tokens on loopback, in a thread that goes with the process.

    Args:
        client: How to reach the Hub.
    """

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self._word = secrets.token_urlsafe(32)
        self._routes: list[str] = []
        self._lock = threading.Lock()
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, told = desk.answer(self.path, self.headers.get("authorization") or "")
                body = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: who asked is no news."""

        try:
            self._server = ThreadingHTTPServer((HOST, 0), Handler)
        except OSError as error:
            raise TemporaryError(
                f"No port on {HOST} could be opened to renew upload tokens by: {error.strerror}."
            ) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="desk", daemon=True).start()

    def lends(self, route: str) -> dict[str, Any]:
        """What a child is told instead of the Hub's route for xet tokens and the Hub's token.

        Args:
            route: The Hub's.
        """
        with self._lock:
            if route not in self._routes:
                self._routes.append(route)
            number = self._routes.index(route)
        return {
            "token_refresh_url": f"http://{HOST}:{self._server.server_port}/{number}",
            "token_refresh_headers": {"authorization": f"Bearer {self._word}"},
        }

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """A new xet token, or why there is none.

        Args:
            path: Which route, by number.
            authorization: Header of who asks.
        """
        number = path.removeprefix("/")
        known = hmac.compare_digest(authorization.encode(), f"Bearer {self._word}".encode())
        if not known or not number.isdecimal() or int(number) >= len(self._routes):
            return _REFUSED, {"error": "This is for hubconv's own processes."}
        data = XetFileData(file_hash="", refresh_route=self._routes[int(number)])
        try:
            found = self._client.call(
                "Renewing a xet token",
                lambda: refresh_xet_connection_info(
                    file_data=data, headers=headers_of(self._client.api)
                ),
            )
        except Exception as error:  # noqa: BLE001 - the transfer fails by it, and is told of
            _LOG.warning("A xet token could not be renewed: %s", error)
            return _FAILED, {"error": "No xet token could be had."}
        _LOG.info("A xet token was renewed for a transfer.")
        return _OK, {
            "casUrl": found.endpoint,
            "accessToken": found.access_token,
            "exp": found.expiration_unix_epoch,
        }


_DESKS: Final[dict[Identity, Desk]] = {}
_DESKS_LOCK: Final = threading.Lock()


def renewable(client: HubClient, connection: dict[str, Any]) -> dict[str, Any]:
    """What hf_xet is told of a connection, such that its tokens do not end with today's.

    A token that was given lasts as long as its owner wants: hf_xet goes to the Hub itself.

    Args:
        client: How to reach the Hub.
        connection: With the Hub's own route for new tokens.
    """
    if client.identity is None:
        return connection
    with _DESKS_LOCK:
        desk = _DESKS.get(client.identity)
        if desk is None:
            # It outlives the run that opens it, and is not stopped with it.
            desk = Desk(HubClient(client.api, identity=client.identity))
            _DESKS[client.identity] = desk
    return {**connection, **desk.lends(str(connection["token_refresh_url"]))}
