"""Many simulated breakers over Modbus TCP, as cheap as they can be, each with a connection of its own.

Two hundred share a port and are told apart by their unit id; a line of the registry holds one of them. What they are
is an object in this process: whoever runs them can look at the contacts, lock, trip and silence them.
"""

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml

PROFILE = "suite_breaker"
PER_PORT = 200
HEAD = struct.Struct(">HHHBB")
READ, WRITE = 3, 6
COMMAND_REGISTER = 16
TIMER_REGISTER = 17
"""Seconds after which it closes by itself; 0 stops that. Register 3 shows what is set."""
ILLEGAL_FUNCTION = 1
BACKLOG = 4096


@dataclass(slots=True)
class Breaker:
    """What one is."""

    closed: bool = True
    reachable: bool = True
    """Whether it hears and answers."""
    locked: bool = False
    trip_reason: int = 0
    switched: int = 0
    """How often its contacts moved."""
    timer_s: int = 0
    """After how long it closes by itself, as set; 0 never. [s]"""
    _timer: asyncio.TimerHandle | None = None

    def write(self, value: int) -> None:
        """Do what is asked, unless somebody has locked it or it has tripped."""
        wanted = value == 1
        if self.locked or (wanted and self.trip_reason) or wanted == self.closed:
            return
        self.closed = wanted
        self.switched += 1

    def set_timer(self, seconds: int) -> None:
        """Close after so many seconds, whoever is there then; 0 stops that. [s]"""
        if self._timer is not None:
            self._timer.cancel()
        self.timer_s = seconds
        self._timer = None if seconds == 0 else asyncio.get_running_loop().call_later(seconds, self.write, 1)


class BreakerField:
    """The breakers, and the ports in front of them."""

    def __init__(self, count: int, loses_answer: Callable[[], bool] = lambda: False) -> None:
        """Prepare ``count`` breakers; ``loses_answer`` is asked before every answer, the request being done by then."""
        self.breakers = [Breaker() for _ in range(count)]
        self.loses_answer = loses_answer
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        for first in range(0, len(self.breakers), PER_PORT):
            behind = self.breakers[first : first + PER_PORT]
            server = await loop.create_server(partial(_Connection, self, behind), "127.0.0.1", 0, backlog=BACKLOG)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listen no more; connections end with those who hold them."""
        for server in self._servers:
            server.close()


class _Connection(asyncio.Protocol):
    """One connection to the breakers of a port."""

    def __init__(self, field: BreakerField, behind: list[Breaker]) -> None:
        self._field = field
        self._behind = behind
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 12:
            transaction, _, length, unit, function = HEAD.unpack_from(self._rest)
            first, second = struct.unpack_from(">HH", self._rest, 8)
            self._rest = self._rest[6 + length :]
            if not 1 <= unit <= len(self._behind) or not self._behind[unit - 1].reachable:
                continue
            body = self._answer(self._behind[unit - 1], function, first, second)
            if self._transport is not None and not self._transport.is_closing() and not self._field.loses_answer():
                self._transport.write(HEAD.pack(transaction, 0, len(body) + 1, unit, body[0]) + body[1:])

    def _answer(self, breaker: Breaker, function: int, first: int, second: int) -> bytes:
        if function == READ:
            registers = [int(breaker.closed), int(breaker.locked), breaker.trip_reason, breaker.timer_s]
            shown = [registers[n] if n < len(registers) else 0 for n in range(first, first + second)]
            return bytes([READ, 2 * second]) + struct.pack(f">{second}H", *shown)
        if function == WRITE and first == COMMAND_REGISTER:
            breaker.write(second)
            return struct.pack(">BHH", WRITE, first, second)
        if function == WRITE and first == TIMER_REGISTER:
            breaker.set_timer(second)
            return struct.pack(">BHH", WRITE, first, second)
        return bytes([function | 0x80, ILLEGAL_FUNCTION])


def write_profile(folder: Path, *, verify_within_s: float = 5.0, timer: bool = False) -> None:
    """Write the profile of these breakers into a folder of profiles.

    Args:
        folder: Where to.
        verify_within_s: How long a breaker may take. [s]
        timer: Whether the profile knows of the timer by which they close by themselves.
    """

    def point(name: str, address: int) -> dict[str, Any]:
        return {"name": name, "area": "holding", "addr": address, "type": "uint16", "scale": 1, "unit": "1"}

    def control(name: str, value: int) -> dict[str, Any]:
        return {
            "name": name, "function": "write_single_register", "area": "holding", "addr": COMMAND_REGISTER,
            "value": value, "settle_s": 0, "verify_within_s": verify_within_s,
        }  # fmt: skip

    profile = {
        "schema": "device-profile/1", "vendor": "Wattring", "vendor_zh": "Wattring",
        "model": "breaker of the suite's own field",
        "category": "breaker", "protocol": "modbus", "transports": ["tcp"], "unit_id_default": 1, "address_base": 0,
        "byte_order": "big", "word_order": "big", "max_registers_per_read": 16, "confidence": "high",
        "side": "direct",
        "points": [point("breaker_state", 0), point("breaker_local_lock", 1), point("breaker_trip_reason", 2)],
        "controls": [control("breaker_open", 0), control("breaker_close", 1)],
        "source": ["libs/suite/breakers.py"],
    }  # fmt: skip
    if timer:
        shown = "x_suite_close_after"
        profile["points"].append({**point(shown, 3), "unit": "s"})  # type: ignore[attr-defined]
        profile["controls"][0]["timer"] = {"control": "close_after"}  # type: ignore[index]
        profile["controls"].append(  # type: ignore[attr-defined]
            {"name": "close_after", "function": "write_single_register", "area": "holding", "addr": TIMER_REGISTER,
             "type": "uint16", "read_back": {"points": [shown]}, "min": 0, "max": 65535}
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{PROFILE}.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")


def registry_of(field: BreakerField, *, per_site: int = 20) -> dict[str, Any]:
    """Return a registry document: unit ``n`` is load ``aau-n`` behind breaker ``brk-n`` on line ``l-n``."""
    count = len(field.breakers)
    lines = [
        {"id": f"l-{n}", "name": f"Line {n}", "kind": "tcp", "endpoint": f"127.0.0.1:{field.ports[n // PER_PORT]}"}
        for n in range(count)
    ]
    wiring = [{"profile": PROFILE, "line": f"l-{n}", "address": n % PER_PORT + 1} for n in range(count)]
    return document_of(lines, wiring, per_site=per_site)


def document_of(
    lines: Sequence[Mapping[str, Any]], wiring: Sequence[Mapping[str, Any]], *, per_site: int
) -> dict[str, Any]:
    """Return a registry document of radio units behind breakers.

    Args:
        lines: As the registry has them.
        wiring: Of breaker ``brk-n``, behind which load ``aau-n`` is: its profile, line and address, and what else.
        per_site: So many of them make a site.
    """
    count = len(wiring)
    return {
        "schema": "registry/1",
        "valid_from": "2026-01-01T00:00:00+08:00",
        "sites": [
            {"id": f"s-{n}", "code": f"S{n}", "name": f"Site {n}", "kind": "base_station"}
            for n in range((count + per_site - 1) // per_site)
        ],
        "lines": list(lines),
        "devices": [
            {"id": f"brk-{n}", "name": f"Breaker {n}", "kind": "breaker", "site": f"s-{n // per_site}", **wired}
            for n, wired in enumerate(wiring)
        ],
        "loads": [
            {"id": load_id(n), "name": f"AAU {n}", "kind": "aau", "site": f"s-{n // per_site}", "sector": 1,
             "coverage_layer": False, "breaker": {"device": f"brk-{n}"}}
            for n in range(count)
        ],
    }  # fmt: skip


def load_id(number: int) -> str:
    """Return the load of a breaker."""
    return f"aau-{number}"
