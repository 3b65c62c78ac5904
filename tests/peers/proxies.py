"""Proxies that a connection goes through: HTTP CONNECT and SOCKS 5 with an account, or whatever a script says.

They are small and strict, and note who asked for what. ``socks_by_ssh`` is one that this project did not write: the
SOCKS server of asyncssh, behind a connection to its own SSH server.
"""

import asyncio
import base64
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import asyncssh


@dataclass
class Proxy:
    """Takes connections and passes them on."""

    scheme: str
    account: tuple[str, str] | None = None
    blunder: bytes | None = None
    """Said in place of any answer, then the connection is closed."""
    silent: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """``host:port`` of everything that was asked for."""
    callers: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.callers.append(writer.get_extra_info("peername")[0])
        if self.silent:
            await asyncio.Event().wait()
        if self.blunder is not None:
            await reader.read(1)
            writer.write(self.blunder)
            await writer.drain()
            return
        place = await (self._http(reader, writer) if self.scheme == "http" else self._socks(reader, writer))
        if place is None:
            return
        far_reader, far_writer = await asyncio.open_connection(*place)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, version = head[0].split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        assert headers["host"] == target
        self.asked.append(target)
        if self.account is not None:
            wanted = "Basic " + base64.b64encode(":".join(self.account).encode()).decode()
            if headers.get("proxy-authorization") != wanted:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
                return None
        writer.write(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
        host, _, port = target.rpartition(":")
        return host.strip("[]"), int(port)

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        version, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        assert version == 5
        wanted = 0 if self.account is None else 2
        if wanted not in methods:
            writer.write(b"\x05\xff")
            await writer.drain()
            return None
        writer.write(bytes([5, wanted]))
        if self.account is not None:
            assert (await reader.readexactly(1)) == b"\x01"
            given = [await reader.readexactly((await reader.readexactly(1))[0]) for _ in range(2)]
            right = given == [part.encode() for part in self.account]
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            await writer.drain()
            if not right:
                return None
        assert (await reader.readexactly(3)) == b"\x05\x01\x00"
        kind = (await reader.readexactly(1))[0]
        host = str(ipaddress.ip_address(await reader.readexactly({1: 4, 4: 16}[kind])))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{host}:{port}")
        writer.write(b"\x05\x00\x00\x03\x04test\x00\x00")  # bound to a name, which few servers say
        return host, port


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def proxy(
    scheme: str, *, account: tuple[str, str] | None = None, blunder: bytes | None = None, silent: bool = False
) -> AsyncIterator[Proxy]:
    """Serve until the block ends."""
    found = Proxy(scheme, account, blunder, silent)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await found.serve(reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


@asynccontextmanager
async def postgres_by_tcp(url: str) -> AsyncIterator[tuple[str, int]]:
    """Give host and port of a database's server, which may be one that listens on a Unix socket only."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if not folder:
        yield str(parts.hostname), parts.port or 5432
        return
    passing: set[asyncio.Task[None]] = set()

    async def both_ways(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        finally:
            far_writer.transport.abort()
            writer.transport.abort()

    def took(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing.add(asyncio.create_task(both_ways(reader, writer)))

    server = await asyncio.start_server(took, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in passing:
            task.cancel()
        if passing:
            await asyncio.wait(passing)


class _Server(asyncssh.SSHServer):
    """Lets anybody in, and anywhere."""

    def begin_auth(self, username: str) -> bool:
        return False

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


@asynccontextmanager
async def socks_by_ssh() -> AsyncIterator[str]:
    """Serve SOCKS 5 by asyncssh; gives its URL."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=_Server, server_host_keys=[key])
    port = server.sockets[0].getsockname()[1]
    try:
        async with asyncssh.connect("127.0.0.1", port, known_hosts=None, config=None, username="test") as connection:
            listener = await connection.forward_socks("127.0.0.1", 0)
            try:
                yield f"socks5://127.0.0.1:{listener.get_port()}"
            finally:
                listener.close()
                await listener.wait_closed()
    finally:
        server.close()
        await server.wait_closed()
