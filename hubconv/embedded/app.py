"""One origin of the Hub as an ASGI application: log, faults, then the handler."""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hubconv.embedded.accounts import Account
from hubconv.embedded.blobs import BLOCK_BYTES
from hubconv.embedded.bodies import SEND_FILE
from hubconv.embedded.faults import Faults, Rule, Served, ServedLog
from hubconv.embedded.protocol import ClientGone, protocol_of
from hubconv.embedded.refusals import Refusal
from hubconv.embedded.state import State
from hubconv.embedded.wire import Call, Route, find_route, parse_query, refusal_answer

INTERNAL_HEADER = "x-embedded-internal"
_NAP_S = 0.02
_LOG = logging.getLogger("hubconv.embedded")


class App:
    """The ASGI application of one origin."""

    def __init__(
        self, state: State, routes: list[Route], *, origin: str, faults: Faults, served: ServedLog
    ) -> None:
        self._state = state
        self._routes = routes
        self._origin = origin
        self._faults = faults
        self._served = served
        self.pool = ThreadPoolExecutor(32, f"embedded-hub-{origin}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = _Exchange(scope, receive, send, self._origin)
        if exchange.headers.get(INTERNAL_HEADER) == self._state.sign(INTERNAL_HEADER):
            await self._answer(exchange, exchange.send)
            return
        exchange.served = self._served
        try:
            rule = self._faults.strike(exchange.method, exchange.path)
            if rule is None:
                exchange.offer_files()
                await self._answer(exchange, exchange.send)
            else:
                await self._misbehave(exchange, rule)
        finally:
            exchange.log()

    async def _answer(self, exchange: "_Exchange", send: Send) -> None:
        try:
            response = await self._respond(exchange)
        except Refusal as refusal:
            await exchange.drain()
            response = refusal_answer(refusal)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is a 500, and is logged
            _LOG.exception("%s %s", exchange.method, exchange.path)
            response = refusal_answer(Refusal(500, f"The embedded Hub failed: {error!r}"))
        with suppress(ClientGone):
            await response(exchange.scope, exchange.receive, send)

    async def _respond(self, exchange: "_Exchange") -> Response:
        route, params = find_route(self._routes, exchange.method, exchange.path)
        exchange.kind = route.kind
        query_lists = parse_query(exchange.query)
        call = Call(
            state=self._state,
            method=exchange.method,
            path=exchange.path,
            params=params,
            query={name: values[0] for name, values in query_lists.items()},
            query_lists=query_lists,
            headers=exchange.headers,
            account=exchange.account or self._whose(exchange),
            run=self._run,
        )
        if route.stream is not None:
            return await route.stream(call, exchange.blocks())
        if route.handler is None:
            raise Refusal(501, "Nothing answers here.")
        call.body = b"".join([block async for block in exchange.blocks()])
        response: Response = await self._run(route.handler, call)
        return response

    def _whose(self, exchange: "_Exchange") -> Account | None:
        if self._origin != "hub":
            return None
        return self._state.accounts.whose(exchange.headers.get("authorization"))

    async def _run(self, function: Callable[..., Any], *args: object) -> Any:  # noqa: ANN401
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    async def _misbehave(self, exchange: "_Exchange", rule: Rule) -> None:
        if rule.action in {"answer", "reset", "hang"}:
            if rule.after:
                await self._answer(exchange, _swallow)
            if rule.action == "answer":
                await exchange.drain()
                response = Response(rule.body, rule.status, rule.headers)
                await response(exchange.scope, exchange.receive, exchange.send)
                return
            if rule.action == "hang":
                await self._sleep(rule.seconds)
            exchange.reset_connection()
            return
        if rule.action == "delay":
            with suppress(Refusal):  # who asks is looked at when the request arrives
                exchange.account = self._whose(exchange)
            await self._sleep(rule.seconds)
            await self._answer(exchange, exchange.send)
        elif rule.action == "throttle":
            exchange.throttle(rule.bytes_per_s)
            await self._answer(exchange, exchange.send)
        elif rule.action == "truncate":
            await self._answer(exchange, _truncating(exchange, rule.at_byte))
        else:
            await self._answer(exchange, _corrupting(exchange.send, rule.at_byte))

    async def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._state.is_stopping:
            await asyncio.sleep(min(_NAP_S, max(until - time.monotonic(), 0)))


class _Exchange:
    """A request and its answer on the wire, counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, origin: str) -> None:
        self.scope = scope
        self.served: ServedLog | None = None
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("ascii", "replace")
        self.query: str = scope["query_string"].decode("ascii", "replace")
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        self.kind = "other"
        self.account: Account | None = None
        self._receive, self._send, self._origin = receive, send, origin
        self._has_more = True
        self._status = self._received = self._sent = self._bytes_per_s = 0
        self._expected: int | None = None

    def log(self) -> None:
        """Log the request once, before its last byte leaves: nobody shall count too early."""
        if self.served is None:
            return
        record = Served(
            method=self.method,
            path=self.path,
            query=self.query,
            kind=self.kind,
            status=self._status,
            received_bytes=self._received,
            sent_bytes=self._sent,
            origin=self._origin,
            user_agent=self.headers.get("user-agent", ""),
            range=self.headers.get("range", ""),
        )
        self.served.add(record)
        self.served = None

    def throttle(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._received += size
            self._has_more = bool(message.get("more_body", False))
            await self._wait_for_rate(size)
        else:
            self._has_more = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._expected = self._body_size(message)
            if self._expected == 0:
                self.log()
            await self._send(message)
            return
        body = message.get("body", b"")
        step = self._bytes_per_s // 10 + 1 if self._bytes_per_s else max(len(body), 1)
        for at in range(0, max(len(body), 1), step):
            piece = body[at : at + step]
            is_last = at + step >= len(body)
            more = message.get("more_body", False) or not is_last
            self._sent += len(piece)
            if not more or self._sent == self._expected:
                self.log()
            await self._send({"type": message["type"], "body": piece, "more_body": more})
            await self._wait_for_rate(len(piece))

    def offer_files(self) -> None:
        """Let answers send files through the kernel; not where a fault must see the bytes."""
        if protocol_of(self.scope) is not None:
            self.scope[SEND_FILE] = self._send_file

    async def _send_file(self, file: BinaryIO, first: int, size: int) -> None:
        protocol = protocol_of(self.scope)
        if protocol is None:
            raise ClientGone
        self._sent += size
        if self._sent == self._expected:
            self.log()
        await protocol.send_file(file, first, size)

    def _body_size(self, start: Message) -> int | None:
        if self.method == "HEAD":
            return 0
        sizes = (value for name, value in start["headers"] if name.lower() == b"content-length")
        return next((int(value) for value in sizes), None)

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body in blocks of about a mebibyte."""
        pieces: list[bytes] = []
        size = 0
        while self._has_more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if size:
            yield b"".join(pieces)

    async def drain(self) -> None:
        """Take in what the client still wants to say, so that it listens to the answer."""
        try:
            async for _ in self.blocks():
                pass
        except ClientGone:
            return

    def transport(self) -> asyncio.Transport | None:
        protocol = protocol_of(self.scope)
        return None if protocol is None else protocol.transport

    def reset_connection(self) -> None:
        """Let the client see a connection reset, not an orderly end."""
        transport = self.transport()
        if transport is None:
            return
        connection = transport.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()

    async def _wait_for_rate(self, size: int) -> None:
        if self._bytes_per_s:
            await asyncio.sleep(size / self._bytes_per_s)


async def _swallow(_message: Message) -> None:
    """Send nothing."""


def _truncating(exchange: _Exchange, at_byte: int) -> Send:
    left = at_byte
    is_closed = False

    async def send(message: Message) -> None:
        nonlocal left, is_closed
        if is_closed:
            return
        if message["type"] != "http.response.body" or len(message.get("body", b"")) < left:
            left -= len(message.get("body", b""))
            await exchange.send(message)
            return
        is_closed = True
        piece = message.get("body", b"")[:left]
        await exchange.send({"type": message["type"], "body": piece, "more_body": True})
        transport = exchange.transport()
        if transport is not None:
            transport.close()

    return send


def _corrupting(send_on: Send, at_byte: int) -> Send:
    position = 0

    async def send(message: Message) -> None:
        nonlocal position
        if message["type"] == "http.response.start":
            for name, value in message["headers"]:
                if name.lower() == b"content-range" and value.startswith(b"bytes "):
                    position = int(value[6:].split(b"-")[0])
        else:
            body = bytearray(message.get("body", b""))
            if position <= at_byte < position + len(body):
                body[at_byte - position] ^= 0xFF
            position += len(body)
            message = {**message, "body": bytes(body)}
        await send_on(message)

    return send
