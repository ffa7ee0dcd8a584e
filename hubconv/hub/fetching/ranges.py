"""HTTP ranges over several connections at once, handed on in order. Runs in a transfer's process.

Python's own client, for it reads straight into the memory that is handed on: a fifth of the
processor time of a client that parses every block.
"""

import base64
import http.client
import ssl
import threading
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

REPEATS: Final = 2
"""A connection that breaks is replaced so often within a piece before the parent is told."""

REDIRECTS: Final = 3
_PARTIAL: Final = 206
_REFUSED: Final = (401, 403)
_MOVED: Final = (301, 302, 303, 307, 308)
_HANDED_ON: Final = ("retry-after", "ratelimit", "ratelimit-policy", "x-error-code")

Put = Callable[[bytes | bytearray | memoryview], None]


class AnswerError(Exception):
    """Raised when a server answers with something else than the bytes asked for.

    Args:
        text: What is wrong.
        status: Its status; 0 where the status is not the fault.
        headers: Those that say how long to wait.
        is_link: A signed link was refused, not a token.
    """

    def __init__(
        self, text: str, status: int = 0, headers: Mapping[str, str] | None = None, *,
        is_link: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})
        self.is_link = is_link


def through_http(order: Mapping[str, Any], put: Put) -> None:
    """Runs of a file by ranged requests, in order."""
    where = _Where(order)
    waiting: deque[_Piece] = deque()
    connections = int(order["connections"])
    todo: deque[_Piece] = deque()
    ready = threading.Semaphore(0)

    def work() -> None:
        line = _Connection(where)
        while True:
            ready.acquire()
            todo.popleft().fetch(line)

    for _ in range(connections):
        # Daemons: the process may end while they wait for a server.
        threading.Thread(target=work, daemon=True).start()
    for begin, end in _cut(order["runs"], int(order["piece_bytes"])):
        if len(waiting) > connections:
            waiting.popleft().hand_on(put)
        piece = _Piece(begin, end)
        waiting.append(piece)
        todo.append(piece)
        ready.release()
    while waiting:
        waiting.popleft().hand_on(put)


def _cut(runs: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for begin, end in runs:
        for first in range(begin, end, size):
            yield first, min(first + size, end)


class _Piece:
    """A range on its way: filled by one thread, handed on by another as it grows."""

    def __init__(self, begin: int, end: int) -> None:
        self._begin, self._end = begin, end
        self._data = memoryview(b"")
        self._have = 0
        self._error: Exception | None = None
        self._grown = threading.Condition()

    def fetch(self, line: "_Connection") -> None:
        self._data = memoryview(bytearray(self._end - self._begin))
        error: Exception | None = None
        for _ in range(REPEATS + 1):
            try:
                for have in line.get(self._begin + self._have, self._data[self._have :]):
                    self._tell(have)
            except Exception as broken:  # noqa: BLE001 - told by the thread that hands on
                error = broken
                line.drop()
                if isinstance(broken, AnswerError):
                    break
            else:
                return
        self._tell(0, error)

    def _tell(self, have: int, error: Exception | None = None) -> None:
        with self._grown:
            self._have += have
            self._error = error
            self._grown.notify()

    def hand_on(self, put: Put) -> None:
        done = 0
        while done < self._end - self._begin:
            with self._grown:
                while self._have == done and self._error is None:
                    self._grown.wait()
                have, error = self._have, self._error
            if have == done and error is not None:
                raise error
            put(self._data[done:have])
            done = have


class _Where:
    """Where a file is: shared by the connections to it."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.url: str = order["url"]
        self.headers: dict[str, str] = order["headers"]
        self.size: int = order["size"]
        self.is_link: bool = order["is_link"]
        # A silent connection is replaced before the parent takes the whole line for dead.
        self.timeout_s = float(order["stall_s"]) / 2
        self.proxies = urllib.request.getproxies()
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def tls(self) -> ssl.SSLContext:
        """The trust in certificates that all other requests have too."""
        with self._lock:
            if self._tls is None:
                import httpx2

                self._tls = httpx2.create_ssl_context()
            return self._tls


class _Connection:
    """One kept connection that ranges are asked for over."""

    def __init__(self, where: _Where) -> None:
        self._where = where
        self._url = urllib.parse.urlsplit(where.url)
        self._headers = {"Accept-Encoding": "identity", **where.headers}
        self._http: http.client.HTTPConnection | None = None

    def drop(self) -> None:
        """Close it; the next request opens another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def get(self, begin: int, room: memoryview) -> Iterator[int]:
        """Fill the room with the bytes from `begin` on; how many came, again and again."""
        if not room:
            return
        answer = self._answer(begin, begin + len(room))
        have = 0
        while have < len(room):
            came = answer.readinto(room[have:])
            if not came:
                raise ConnectionError(f"an answer was cut short after {have} bytes")
            have += came
            yield came
        answer.read(1)  # its end, so that the connection can be used again

    def _answer(self, begin: int, end: int) -> http.client.HTTPResponse:
        for _ in range(REDIRECTS):
            answer = self._ask(begin, end)
            if answer.status not in _MOVED:
                break
            self._follow(answer.headers.get("location", ""))
        if answer.status != _PARTIAL:
            raise self._refusal(answer)
        shown = answer.headers.get("content-range", "")
        if shown not in {
            f"bytes {begin}-{end - 1}/{self._where.size}",
            f"bytes {begin}-{end - 1}/*",
        }:
            raise AnswerError(f"bytes {begin}-{end - 1} were asked for and {shown!r} came")
        return answer

    def _refusal(self, answer: http.client.HTTPResponse) -> AnswerError:
        if answer.status < http.HTTPStatus.BAD_REQUEST:
            return AnswerError(f"the server answered {answer.status} where a range was asked for")
        headers = {name: answer.headers[name] for name in _HANDED_ON if name in answer.headers}
        is_link = self._where.is_link and answer.status in _REFUSED
        return AnswerError(f"the server answered {answer.status}", answer.status, headers,
                           is_link=is_link)  # fmt: skip

    def _ask(self, begin: int, end: int) -> http.client.HTTPResponse:
        if self._http is None:
            self._http = self._open()
        target = urllib.parse.urlunsplit(("", "", self._url.path or "/", self._url.query, ""))
        if self._proxy() and self._url.scheme == "http":
            target = urllib.parse.urlunsplit(self._url)
        headers = {**self._headers, "Range": f"bytes={begin}-{end - 1}"}
        self._http.request("GET", target, headers=headers)
        return self._http.getresponse()

    def _follow(self, location: str) -> None:
        """Go where the server sends us; a token is for the first host alone."""
        before = self._url
        self._url = urllib.parse.urlsplit(urllib.parse.urljoin(before.geturl(), location))
        if self._url.netloc != before.netloc or self._url.scheme != before.scheme:
            self._headers = {"Accept-Encoding": "identity"}
        self.drop()

    def _proxy(self) -> str:
        host = self._url.hostname or ""
        if urllib.request.proxy_bypass(host):
            return ""
        return self._where.proxies.get(self._url.scheme) or self._where.proxies.get("all", "")

    def _open(self) -> http.client.HTTPConnection:
        proxy = urllib.parse.urlsplit(self._proxy())
        host, port = self._url.hostname or "", self._url.port
        timeout = self._where.timeout_s
        if self._url.scheme == "http":
            if proxy.hostname:
                host, port = proxy.hostname, proxy.port
            return http.client.HTTPConnection(host, port, timeout=timeout)
        tls = self._where.tls()
        if not proxy.hostname:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
        tunnel = http.client.HTTPSConnection(
            proxy.hostname, proxy.port, timeout=timeout, context=tls
        )
        tunnel.set_tunnel(host, port, headers=_login(proxy))
        return tunnel


def _login(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    words = (urllib.parse.unquote(word or "") for word in (proxy.username, proxy.password))
    told = base64.b64encode(":".join(words).encode()).decode()
    return {"Proxy-Authorization": f"Basic {told}"}
