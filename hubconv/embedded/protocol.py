"""HTTP/1.1 on the connections of the embedded Hub."""

import asyncio
import socket
from typing import BinaryIO, cast

import h11
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from hubconv.embedded.line import send_unpaced

_PROTOCOLS: "dict[tuple[object, object], Protocol]" = {}


class ClientGone(Exception):  # noqa: N818
    """The client hung up before its body was complete."""


class Protocol(H11Protocol):
    """HTTP/1.1 that remembers its connections, so that a fault can reset them.

    It also sends files without reading them, which costs the Hub less than bytes it has read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection, and let small answers leave at once."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send_unpaced(connection)
        _PROTOCOLS[self.server, self.client] = self

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _PROTOCOLS.pop((self.server, self.client), None)
        super().connection_lost(exc)

    async def send_file(self, file: BinaryIO, first: int, size: int) -> None:
        """Let the kernel send bytes of a file, as a part of the body that is under way.

        Raises:
            ClientGone: The connection is closed, or the file is shorter.
        """
        # h11 counts what it is told of; it never looks at the bytes themselves.
        self.conn.send_with_data_passthrough(h11.Data(data=cast("bytes", range(size))))
        transport = self.transport
        if transport.is_closing():
            raise ClientGone
        try:
            loop = asyncio.get_running_loop()
            sent = await loop.sendfile(transport, file, first, size, fallback=False)
        except (OSError, asyncio.SendfileNotAvailableError) as error:
            transport.abort()
            raise ClientGone from error
        if sent < size:
            transport.abort()
            raise ClientGone


def protocol_of(scope: Scope) -> Protocol | None:
    """The connection that a request came by; None once it is closed."""
    return _PROTOCOLS.get((scope.get("server"), scope.get("client")))
