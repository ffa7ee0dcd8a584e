"""The embedded Hub itself: two origins in two threads, started and stopped in order."""

import asyncio
import contextlib
import socket
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.responses import Response

from hubconv.embedded import (
    DEMO_ORG,
    DEMO_TOKEN,
    DEMO_USER,
    api_collections,
    api_commits,
    api_jobs,
    api_oauth,
    api_pulls,
    api_repos,
    api_trees,
    cas,
    downloads,
    lfs,
)
from hubconv.embedded.accounts import Account
from hubconv.embedded.app import App
from hubconv.embedded.faults import Faults, ServedLog, rule_from_json
from hubconv.embedded.jobs import JobBook
from hubconv.embedded.line import Line, Passed, Rate
from hubconv.embedded.protocol import Protocol
from hubconv.embedded.publishers import Publishers
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.state import Knobs, Mode, State, open_state
from hubconv.embedded.wire import Call, Route, json_answer

_ROUTES = [
    *api_repos.ROUTES,
    *api_trees.ROUTES,
    *api_commits.ROUTES,
    *api_pulls.ROUTES,
    *api_oauth.ROUTES,
    *api_jobs.ROUTES,
    *api_collections.ROUTES,
    *lfs.ROUTES,
    *downloads.ROUTES,
]
_CDN_ROUTES = [*downloads.CDN_ROUTES, *lfs.CDN_ROUTES, *cas.CDN_ROUTES]
_START_S = 30.0
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class EmbeddedHub:
    """A Hub on loopback with a folder behind it.

    Use it as a context manager, or call `start` and `stop`. A Hub that is opened on the folder of
    an earlier one goes on where that one ended.

    Attributes:
        endpoint: What `HF_ENDPOINT` must be, once started.
        cdn: The second origin, where large files and the xet store are.
        faults: What it shall do wrong.
        requests: What it was asked.
    """

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        mode: Mode = "xet",
        host: str = "127.0.0.1",
        knobs: Knobs | None = None,
        allow_fault_http: bool = False,
        rate: Rate | None = None,
    ) -> None:
        """Open the folder; nothing listens yet.

        Args:
            root: Folder of the Hub; made if it is not there.
            port: Port of the Hub; 0 picks a free one. The CDN origin always picks a free one.
            mode: `xet` keeps large files in a xet store, `lfs` as whole files, as older Hubs do.
            host: Address to listen on.
            knobs: Page sizes, part sizes, lifetimes.
            allow_fault_http: Let anybody who reaches it set faults by POST /_embedded/faults.
            rate: Put a line of fixed rate in front of both origins: all that clients send and get
                passes it, and no link leads around it.

        Raises:
            ValueError: Faults over HTTP were asked for on an address others can reach.
        """
        self.faults = Faults()
        self.requests = ServedLog()
        self._state = open_state(Path(root), mode, knobs or Knobs())
        if allow_fault_http and host not in _LOOPBACK:
            raise ValueError(f"faults over HTTP are for loopback only, not for {host}")
        self._host, self._port = host, port
        self._allow_fault_http = allow_fault_http
        self._rate = rate
        self._line: Line | None = None
        self._origins: list[_Origin] = []
        self.add_user(DEMO_USER, DEMO_TOKEN, orgs=(DEMO_ORG,))

    @property
    def endpoint(self) -> str:
        """The Hub's URL."""
        return self._state.endpoint

    @property
    def cdn(self) -> str:
        """The URL of the second origin."""
        return self._state.cdn

    @property
    def passed(self) -> Passed:
        """What the line has carried; nothing where there is none."""
        return Passed(0, 0) if self._line is None else self._line.passed()

    @property
    def root(self) -> Path:
        """The Hub's folder."""
        return self._state.root

    def add_user(
        self,
        name: str,
        token: str,
        orgs: Iterable[str] = (),
        role: str = "write",
        scopes: Iterable[str] = (),
        *,
        makes_refs: bool = True,
    ) -> Account:
        """Put a token in force; `role` is `write`, `read`, or `fineGrained` with `scopes`.

        Without `makes_refs` it may commit, to pull requests too, but not make branches or tags.
        """
        return self._state.accounts.add(name, token, orgs, role, scopes, makes_refs=makes_refs)

    def revoke(self, token: str) -> None:
        """Put a token out of force."""
        self._state.accounts.revoke(token)

    @property
    def jobs(self) -> JobBook:
        """Orders for jobs, and how the next ones go."""
        return self._state.jobs

    @property
    def publishers(self) -> Publishers:
        """CI jobs that this Hub trusts."""
        return self._state.publishers

    def grant(self, repo_id: str, user: str, *, repo_type: str = "model") -> None:
        """Let a user through the gate of a gated repository."""
        repo = self._state.catalog.find(repo_type, repo_id)
        repo.save_card(granted=tuple(sorted({*repo.card.granted, user})))

    def forget_large_file(self, repo_id: str, sha256: str, *, repo_type: str = "model") -> None:
        """Lose an uploaded large file, as the Hub does with those that nobody commits."""
        self._state.catalog.find(repo_type, repo_id).drop_large(sha256)

    def start(self) -> Self:
        """Listen on both origins and serve from two threads."""
        self._state.is_stopping = False
        self._state.unpackers = ThreadPoolExecutor(16, "embedded-hub-unpack")
        self._state.readers = ThreadPoolExecutor(16, "embedded-hub-read")
        routes = [*_ROUTES, *self._fault_routes(), *self._line_routes()]
        port = self._port if self._rate is None else 0
        for name, table, wanted in (("hub", routes, port), ("cdn", _CDN_ROUTES, 0)):
            app = App(self._state, table, origin=name, faults=self.faults, served=self.requests)
            self._origins.append(_Origin(app, self._host, wanted))
        shown = "127.0.0.1" if self._host in {"0.0.0.0", "::"} else self._host  # noqa: S104
        ports = self._lay_line(shown)
        self._state.endpoint, self._state.cdn = (f"http://{shown}:{port}" for port in ports)
        # What the Hub reads from its own store does not pass the line.
        self._state.inner_cdn = f"http://{shown}:{self._origins[1].port}"
        for origin in self._origins:
            origin.start()
        return self

    def _lay_line(self, shown: str) -> tuple[int, ...]:
        """The ports that clients are told of: the line's where there is one."""
        inner = tuple(origin.port for origin in self._origins)
        if self._rate is None:
            return inner
        leads = list(zip((self._port, 0), inner, strict=True))
        try:
            self._line = Line(self._rate, self._host, shown, leads)
        except OSError:
            while self._origins:
                self._origins.pop().abandon()
            raise
        return self._line.ports

    def stop(self) -> None:
        """Stop serving: no new requests, then the threads, then the sockets."""
        self._state.is_stopping = True
        if self._line is not None:
            self._line.stop()
            self._line = None
        for origin in self._origins:
            origin.ask_to_stop()
        while self._origins:
            self._origins.pop(0).stop()
        for pool in (self._state.unpackers, self._state.readers):
            pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _fault_routes(self) -> list[Route]:
        if not self._allow_fault_http:
            return []
        path = "/_embedded/faults"
        return [
            Route("POST", path, "faults", self._add_faults),
            Route("DELETE", path, "faults", self._clear_faults),
        ]

    def _line_routes(self) -> list[Route]:
        return [] if self._rate is None else [Route("GET", "/_embedded/line", "line", self._count)]

    def _count(self, _call: Call) -> Response:
        return json_answer(asdict(self.passed))

    def _add_faults(self, call: Call) -> Response:
        wish = call.json()
        try:
            for item in wish.get("rules", [wish]):
                self.faults.add(rule_from_json(item))
        except (TypeError, ValueError) as error:
            raise Refusal(400, str(error)) from error
        return json_answer({})

    def _clear_faults(self, _call: Call) -> Response:
        self.faults.clear()
        return json_answer({})


class _Origin:
    """One listening socket and the thread that serves it."""

    def __init__(self, app: App, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self._app = app
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            backlog=512,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._serve, name=f"embedded-hub-{self.port}", daemon=True
        )
        self._is_ready = threading.Event()

    def start(self) -> None:
        """Serve until told to stop."""
        self._thread.start()
        if not self._is_ready.wait(_START_S):
            raise RuntimeError(f"The embedded Hub did not start on port {self.port}.")

    def ask_to_stop(self) -> None:
        """Take no new requests, and end soon."""
        self._server.should_exit = True

    def stop(self) -> None:
        """End the thread and close the socket."""
        self.ask_to_stop()
        self._thread.join()
        self._socket.close()
        self._app.pool.shutdown(wait=False, cancel_futures=True)

    def abandon(self) -> None:
        """Close a socket that was never served."""
        self._socket.close()
        self._app.pool.shutdown(wait=False)

    def _serve(self) -> None:
        async def run() -> None:
            serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            self._is_ready.set()
            await serving

        with warnings.catch_warnings(), contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run())


def serve(
    root: Path,
    port: int = 0,
    mode: Mode = "xet",
    host: str = "127.0.0.1",
    *,
    rate: Rate | None = None,
    on_ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve a Hub until interrupted.

    Args:
        root: Folder of the Hub.
        port: Port to listen on; 0 picks a free one.
        mode: `xet` or `lfs`.
        host: Address to listen on.
        rate: Serve behind a line of this rate.
        on_ready: Called with the endpoint once it listens.
        stop: Ends serving when set; otherwise only KeyboardInterrupt does.
    """
    ending = stop or threading.Event()
    with EmbeddedHub(root, port=port, mode=mode, host=host, rate=rate) as hub:
        if on_ready is not None:
            on_ready(hub.endpoint)
        with contextlib.suppress(KeyboardInterrupt):
            while not ending.wait(0.5):
                pass


__all__ = ["EmbeddedHub", "Knobs", "Mode", "State", "serve"]
