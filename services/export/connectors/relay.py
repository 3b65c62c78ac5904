"""One connection handed to a library that only opens its own, or only takes a socket.

The libraries for MQTT, PostgreSQL and SFTP know neither our proxies nor the check of addresses. So the connection is
opened by the dialler, with TLS where it is wanted, and the library speaks plainly into a Unix socket: one in a folder
of our own (mode 0700), which takes one connection and ends with it, or one end of a pair.
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore

CHUNK_BYTES = 64 << 10
_ENDED = (OSError, httpcore.NetworkError, httpcore.TimeoutException)


@asynccontextmanager
async def relay(stream: httpcore.AsyncNetworkStream, name: str) -> AsyncIterator[Path]:
    """Give the path of a socket behind which the stream is; both are closed when the block ends.

    Args:
        stream: The open connection.
        name: Of the socket, which some libraries dictate.
    """
    passing: list[asyncio.Task[None]] = []

    def took(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if passing:
            writer.transport.abort()
        else:
            passing.append(asyncio.create_task(_pass(reader, writer, stream), name="relay"))

    try:
        with tempfile.TemporaryDirectory(prefix="wattring-relay-") as folder:
            path = Path(folder) / name
            server = await asyncio.start_unix_server(took, path)
            try:
                yield path
            finally:
                server.close()
    finally:
        for task in passing:
            task.cancel()
        if passing:
            await asyncio.wait(passing)
        await stream.aclose()


@asynccontextmanager
async def joined(stream: httpcore.AsyncNetworkStream) -> AsyncIterator[socket.socket]:
    """Give a connected socket behind which the stream is; both are closed when the block ends.

    The socket belongs to whoever takes it, such as a library that closes what it was given.
    """
    theirs, passing = await handed(stream)
    try:
        yield theirs
    finally:
        passing.cancel()
        await asyncio.wait([passing])
        theirs.close()


async def handed(stream: httpcore.AsyncNetworkStream) -> tuple[socket.socket, asyncio.Task[None]]:
    """Return a connected socket behind which the stream is, and what passes everything between the two.

    The socket belongs to the caller. When it or the stream is closed, or the task is cancelled, the task ends and the
    stream is closed.
    """
    theirs, ours = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    try:
        reader, writer = await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        theirs.close()
        await stream.aclose()
        raise
    passing = asyncio.create_task(_hold(reader, writer, stream), name="relay")
    await asyncio.sleep(0)  # a task that is cancelled before it has begun would close nothing
    return theirs, passing


async def _hold(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: httpcore.AsyncNetworkStream
) -> None:
    try:
        await _pass(reader, writer, stream)
    finally:
        await stream.aclose()


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: httpcore.AsyncNetworkStream
) -> None:
    both = [asyncio.create_task(_out(reader, stream)), asyncio.create_task(_in(stream, writer))]
    try:
        # The end of either way is the end: neither protocol goes on with half a connection.
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await stream.aclose()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    finally:
        writer.transport.abort()
        for task in both:
            task.cancel()
        await asyncio.wait(both)


async def _out(reader: asyncio.StreamReader, stream: httpcore.AsyncNetworkStream) -> None:
    with contextlib.suppress(*_ENDED):
        while chunk := await reader.read(CHUNK_BYTES):
            await stream.write(chunk)


async def _in(stream: httpcore.AsyncNetworkStream, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(*_ENDED):
        while chunk := await stream.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
