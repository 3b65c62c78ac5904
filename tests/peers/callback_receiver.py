"""Who gets callbacks: an HTTP server on a socket that checks signatures twice and fails as it is told.

Signatures are checked by the library that receivers of Standard Webhooks use, and by a few lines that know only HMAC.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

PATIENCE_S = 40.0


@dataclass(frozen=True)
class Say:
    """What a call is answered."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    fault: str | None = None
    """``hang``: nothing; ``hold``: nothing until the receiver's gate is opened; ``drop``: the connection is closed;
    ``drip``: a body without end; ``head``: a slow status line; ``huge``: megabytes; ``garbage``: no HTTP."""


@dataclass
class Call:
    """One call as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.event["data"]
        return found

    def is_signed_with(self, secret: str, *, fresh: bool = True) -> bool:
        """Return whether a signature is this secret's, as both ways of looking say.

        Args:
            secret: With its prefix.
            fresh: Whether the library, which reads the machine's clock, is asked too.
        """
        signatures = self.headers["webhook-signature"].split(" ")
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        by_hand = wanted in signatures
        if fresh:
            try:
                Webhook(secret).verify(self.body, self.headers)
                by_library = True
            except WebhookVerificationError:
                by_library = False
            assert by_library is by_hand
        return by_hand


Script = Callable[[Call], Say]


def obedient(_: Call) -> Say:
    return Say()


@dataclass
class Receiver:
    """Takes calls, and answers by its script."""

    script: Script = obedient
    calls: list[Call] = field(default_factory=list)
    accepted: list[Call] = field(default_factory=list)
    """Those that were answered 2xx."""
    port: int = 0
    scheme: str = "http"
    callers: list[str] = field(default_factory=list)
    """Addresses that connections came from."""
    connections: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks"

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something is so; looked at after each call."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._came.clear()
                await self._came.wait()

    async def has(self, calls: int) -> None:
        """Wait for so many calls."""
        await self.until(lambda: len(self.calls) >= calls)

    async def took(self, calls: int) -> None:
        """Wait for so many accepted calls."""
        await self.until(lambda: len(self.accepted) >= calls)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        self.callers.append(writer.get_extra_info("peername")[0])
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                call = await _read(reader)
                self.calls.append(call)
                say = self.script(call)
                if say.fault == "hold":
                    self._came.set()
                    await self.gate.wait()
                    say = replace(say, fault=None)
                if say.fault is None and 200 <= say.status < 300:
                    self.accepted.append(call)
                self._came.set()
                if not await _answer(writer, say):
                    return


async def _read(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    method, path, _ = head[0].split(" ")
    assert method in ("POST", "PUT")
    return Call(path, headers, body)


async def _answer(writer: asyncio.StreamWriter, say: Say) -> bool:
    """Answer; return whether the connection goes on."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in say.headers)
    ok = f"HTTP/1.1 {say.status} X\r\n{lines}"
    match say.fault:
        case None:
            writer.write(f"{ok}content-length: {len(say.body)}\r\n\r\n".encode() + say.body)
            await writer.drain()
            return True
        case "hang":
            await asyncio.Event().wait()
        case "drip":
            writer.write(f"{ok}content-length: 1000000\r\n\r\n".encode())
            await _slowly(writer, b"x" * 1_000_000)
        case "head":
            await _slowly(writer, f"{ok}content-length: 0\r\n\r\n".encode())
        case "huge":
            writer.write(f"{ok}content-length: {64 << 20}\r\n\r\n".encode())
            for _ in range(64):
                writer.write(b"y" * (1 << 20))
                await writer.drain()
        case "garbage":
            writer.write(b"\x00\xffno http\r\n\r\n")
            await writer.drain()
        case _:
            pass
    return False


async def _slowly(writer: asyncio.StreamWriter, text: bytes) -> None:
    for sign in text:
        writer.write(bytes([sign]))
        await writer.drain()
        await asyncio.sleep(0.1)


@asynccontextmanager
async def receiver(
    script: Script = obedient, *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Serve until the block ends."""
    found = Receiver(script, scheme="http" if tls is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await found.serve(reader, writer)
        except asyncio.CancelledError:
            return  # it is being stopped
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=tls)
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
