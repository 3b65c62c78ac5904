"""Many Modbus TCP meters in one process, as cheap as they can be: every register block is a slice of one picture.

python -m libs.suite.bench_slaves     prints two ports: one that answers, one that takes requests and stays silent
"""

import asyncio
import contextlib
import struct
from typing import cast

import uvloop

READ_FUNCTIONS = frozenset({3, 4})
PICTURE = struct.pack(">f", 230.0) * 40_000
"""Floats of 230 throughout: plausible as a voltage, whatever else they are read as."""
HEAD = struct.Struct(">HHHBB")


class Slave(asyncio.Protocol):
    """One connection; answers reads of any unit."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._rest += data
        while len(self._rest) >= 12:
            transaction, _, length, unit, function = HEAD.unpack_from(self._rest)
            first, count = struct.unpack_from(">HH", self._rest, 8)
            self._rest = self._rest[6 + length :]
            if self._silent or self._transport is None or function not in READ_FUNCTIONS:
                continue
            start = 2 * (first - first % 2)
            body = PICTURE[start : start + 2 * count]
            self._transport.write(HEAD.pack(transaction, 0, len(body) + 3, unit, function) + bytes([len(body)]) + body)


async def serve() -> None:
    """Listen on two ports until cancelled."""
    loop = asyncio.get_running_loop()
    ports = []
    for silent in (False, True):
        server = await loop.create_server(lambda silent=silent: Slave(silent=silent), "127.0.0.1", 0, backlog=4096)  # type: ignore[misc]
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)  # noqa: T201  # whoever started us reads them
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())
