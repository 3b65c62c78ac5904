"""A small HTTP/1.1 server whose answers may fail to come: late, cut, or as a reset connection.

A web framework always answers; a supervision centre under test must be able not to. The protocol itself (chunked
bodies, keep-alive, HTTP/1.0 clients) is h11's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import h11

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 << 20
READ_BYTES = 65536
IDLE_S = 75.0
"""A connection on which nothing comes for this long is closed. [s]"""
WRITE_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    """Without the query."""
    query: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or what is left of one."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """It is sent this much later. [s]"""
    drop: bool = False
    """The connection is reset instead of the answer."""


Handler = Callable[[Request], Awaitable[Reply]]


class HttpServer:
    """Listens and calls a handler for each request.

    Args:
        handler: What answers.
        host: Where to listen.
        port: 0: a free one, see ``port`` after ``start``.
    """

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one.

        Raises:
            OSError: The port is taken.
        """
        self._server = await asyncio.start_server(self._talk, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every conversation."""
        if self._server is None:
            return
        self._server.close()
        for talk in tuple(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this in a task of its own
        self._talks.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, h11.RemoteProtocolError) as exc:
            logger.debug("conversation ended", extra={"reason": str(exc)})
        except asyncio.CancelledError:
            # We stop. Passed on, Python 3.11's streams would report every open conversation as a failed callback.
            writer.transport.abort()
        finally:
            self._talks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=READ_BYTES)
        host, port, *_ = writer.get_extra_info("peername")
        while connection.our_state is not h11.MUST_CLOSE:
            request = await _read(connection, reader, writer, f"{host}:{port}")
            if request is None:
                return
            reply = (
                Reply(413, b"the body is too large\n")
                if len(request.body) > MAX_BODY_BYTES
                else await self._handler(request)
            )
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            if reply.drop:
                writer.transport.abort()
                return
            await _write(connection, writer, reply)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str
) -> Request | None:
    """Return the next request, none when the peer has closed."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            async with asyncio.timeout(IDLE_S):
                connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            if len(body) <= MAX_BODY_BYTES:  # what goes beyond is counted as too large and not kept
                body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            path, _, query = head.target.decode("latin-1").partition("?")
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return Request(head.method.decode("latin-1"), path, query, headers, bytes(body), peer)
        else:
            return None


async def _write(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    headers = [
        ("content-type", reply.content_type),
        ("content-length", str(len(reply.body))),
        *reply.headers.items(),
    ]
    head = h11.Response(status_code=reply.status, headers=headers)
    writer.write(connection.send(head) or b"")
    writer.write(connection.send(h11.Data(data=reply.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    async with asyncio.timeout(WRITE_S):
        await writer.drain()
