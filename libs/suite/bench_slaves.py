"""Many Modbus TCP meters in one process, as cheap as they can be: every register block is a slice of one picture.

    python -m libs.suite.bench_slaves

prints five ports: one that answers at once, one that answers after 20 ms, one that takes requests and stays silent, one
that refuses connections, and one to which connecting never ends, as to a machine that is not there.
"""

import asyncio
import contextlib
import socket
import struct
from functools import partial
from typing import cast

import uvloop

READ_FUNCTIONS = frozenset({3, 4})
PICTURE = struct.pack(">f", 230.0) * 40_000
"""Floats of 230 throughout: plausible as a voltage, whatever else they are read as."""
HEAD = struct.Struct(">HHHBB")
SLOW_S = 0.02
FILLERS = 4
"""Connections that nobody takes fill a queue of length zero: further ones get no answer from Linux."""


class Slave(asyncio.Protocol):
    """One connection; answers reads of any unit."""

    def __init__(self, *, delay_s: float | None) -> None:
        """Prepare; ``delay_s`` None never answers."""
        self._delay_s = delay_s
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
            if self._delay_s is None or self._transport is None or function not in READ_FUNCTIONS:
                continue
            start = 2 * (first - first % 2)
            body = PICTURE[start : start + 2 * count]
            answer = HEAD.pack(transaction, 0, len(body) + 3, unit, function) + bytes([len(body)]) + body
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._send, answer)
            else:
                self._send(answer)

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


def refusing() -> socket.socket:
    """Return a socket that keeps its port and refuses every connection."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def unreachable() -> list[socket.socket]:
    """Return a socket to which connecting never ends, and what it takes for that."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = [socket.socket() for _ in range(FILLERS)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    return [full, *fillers]


async def serve() -> None:
    """Listen until cancelled."""
    loop = asyncio.get_running_loop()
    ports = []
    for delay_s in (0.0, SLOW_S, None):
        server = await loop.create_server(partial(Slave, delay_s=delay_s), "127.0.0.1", 0, backlog=4096)
        ports.append(server.sockets[0].getsockname()[1])
    others = [refusing(), *unreachable()]
    print(*ports, others[0].getsockname()[1], others[1].getsockname()[1], flush=True)  # noqa: T201  # for whoever started us
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve())
