"""A CI provider for tests: it tells a job who it is, as GitHub's endpoint for id tokens does."""

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from hubconv.embedded.publishers import id_token

CLAIMS = {"repository": "acme/nightly", "ref": "refs/heads/main"}


class Issuer:
    """Listens on loopback while its `with` block runs.

    `key` is what it signs with, `word` what a job must show, `status` what it answers by.
    """

    def __init__(self, claims=CLAIMS):
        self.key = secrets.token_hex(16)
        self.word = f"request-word-{secrets.token_hex(8)}"
        self.status = 200
        self.told = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                given = self.headers.get("authorization") == f"Bearer {issuer.word}"
                status = issuer.status if given else 401
                audience = parse_qs(urlsplit(self.path).query).get("audience", [""])[0]
                said = {**claims, "aud": audience, "exp": time.time() + 300}
                token = id_token(said, issuer.key)
                if status == 200:
                    issuer.told.append(token)
                body = json.dumps({"value": token} if status == 200 else {}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def env(self):
        """What GitHub gives a job that may ask, and no token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{self._server.server_port}/?v=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.word,
            "HF_TOKEN": None,
        }

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
