"""Lines whose stations speak by themselves against peers that break the rules.

Whatever a connection brings, it is given up with the driver's own error or goes on; no value is made of noise; and the
line is connected again and heard as soon as the other side behaves.
"""

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.registry import LineKind
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.hostile import FLOOD, LASTS, NOISE, HostilePeer, Trick
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.integration.ingest.test_ingest_cdt_line import Sender
from tests.integration.ingest.test_ingest_iec104_rules import Frames, good
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

CATALOGUE = ProfileCatalogue.load()
STATION = CATALOGUE.get("iec60870_breaker_example")
WITHIN_S = 90.0
OCTETS = {"cause_octets": 1, "common_address_octets": 1, "object_address_octets": 2}
TIMEOUT_S = 0.1


# 101, unbalanced: two stations on one line, one of which is not what it should be


def fixed(control: int, address: int) -> bytes:
    return bytes((0x10, control, address, (control + address) & 0xFF, 0x16))


def variable(control: int, address: int, asdu: bytes) -> bytes:
    body = bytes((control, address)) + asdu
    return bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))


def voltage(station: int, value: float) -> bytes:
    """A spontaneous short float, object 0x4001, with the narrow fields of 101."""
    return bytes((13, 1, 3, station, 0x01, 0x40)) + struct.pack("<fB", value, 0)


class Stations:
    """Stations 1 and 2, whose voltages are 10,001 and 20,001, then one more, and so on; ``Words`` of a hostile peer."""

    huge = b"\x68\xff\xff\x68"

    def __init__(self) -> None:
        self.told = {1: 10_000.0, 2: 20_000.0}

    def find(self, data: bytes) -> tuple[int, int] | None:
        for start, first in enumerate(data):
            size = {0x10: 5, 0x68: data[start + 1] + 6 if len(data) > start + 1 else 0}.get(first, 0)
            if size and start + size <= len(data) and data[start + size - 1] == 0x16:
                return start, start + size
        return None

    def answer(self, question: bytes) -> bytes | None:
        control, station = (question[1], question[2]) if question[0] == 0x10 else (question[4], question[5])
        if station not in self.told or not control & 0x40:
            return None
        match control & 0x0F:
            case 0 | 3:
                return fixed(0x00, station)
            case 9:
                return fixed(0x0B, station)
            case _:
                self.told[station] += 1
                return variable(0x08, station, voltage(station, self.told[station]))

    def is_for_victim(self, question: bytes) -> bool:
        return (question[2] if question[0] == 0x10 else question[5]) == 1

    def foreign(self, answer: bytes) -> bytes:
        return variable(0x08, 9, voltage(9, 90_000.0))

    def misfit(self, answer: bytes) -> bytes:
        return variable(0x48, 1, voltage(1, 90_000.0))


async def play(folder: Path, trick: Trick) -> None:
    stations = Stations()
    devices = {
        f"m-{n}": (device(id=f"m-{n}", kind="meter_3p", profile=STATION.name, address=str(n)), STATION) for n in (1, 2)
    }
    try:
        async with asyncio.timeout(WITHIN_S), HostilePeer(stations, late_s=TIMEOUT_S * 1.1).listening() as peer:
            the_line = line(
                kind=LineKind.IEC101, endpoint=f"127.0.0.1:{peer.port}",
                settings={"timeout_s": TIMEOUT_S, "quiet_s": 0.03, "poll_s": 0.02, **OCTETS},
            )  # fmt: skip
            async with telling_field(folder, the_line, devices) as field:
                await eventually(lambda: field.last("voltage_a", "m-1"), "the victim")
                peer.trick = trick
                asked = peer.questions
                await eventually(lambda: peer.questions > asked + 3, "questions to it")
                if trick not in LASTS:
                    next_door = field.last("voltage_a", "m-2") or 0
                    await eventually(lambda: (field.last("voltage_a", "m-2") or 0) > next_door, "its neighbour")
                peer.trick = None
                before = stations.told[1]
                await eventually(lambda: (field.last("voltage_a", "m-1") or 0) > before, "the victim again")
                told = [
                    (reading.device_id, value)
                    for reading in field.readings()
                    if (value := reading.points.get("voltage_a")) is not None
                ]
                for name, value in told:
                    assert value == int(value), "a value that nobody told"
                    assert 1 <= value - 10_000 * int(name[2:]) < 10_000, "a value of somebody else"
    except Exception as exc:
        exc.add_note(f"trick: {trick}")
        raise


async def test_station_that_breaks_the_rules_costs_no_neighbour_and_gives_no_wrong_value(tmp_path: Path) -> None:
    """101, unbalanced; all tricks at once, each on a line of its own."""
    async with asyncio.TaskGroup() as group:
        for number, trick in enumerate(Trick):
            group.create_task(play(tmp_path / str(number), trick), name=trick)


# Connections that bring something else than the protocol


Side = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _silence(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close."""


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def is_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _silence(reader)


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    listening = asyncio.create_task(_silence(reader), name="listening")
    try:
        for _ in itertools.count():
            if listening.done():
                break
            writer.write(FLOOD)
            await writer.drain()
            await asyncio.sleep(0.005)
    finally:
        listening.cancel()
        await asyncio.wait([listening])


def says(data: bytes) -> Side:
    async def side(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await _silence(reader)

    return side


SIDES: Mapping[str, Side] = {
    "closes at once": closes_at_once,
    "resets": resets,
    "is mute": is_mute,
    "floods": floods,
    "noise": says(NOISE),
    "ones": says(b"\xff" * 4096),
    "speaks HTTP": says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "half a frame": says(b"\x68\x0e\x00"),
    "a huge frame": says(b"\x68\xff\xff\x68" + b"\0" * 100),
    "half a round": says(b"\xeb\x90" * 3 + b"\x71\x61\xff"),
}


@dataclass(frozen=True)
class Spoken:
    """A protocol whose connection a station fills by itself."""

    kind: LineKind
    profile: str
    address: str
    settings: Mapping[str, Any]
    good: Side
    """Tells 230 V, and 100 V before it on 104."""


async def station_104(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await good(Frames(reader, writer))


async def station_101(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A balanced station that confirms everything and tells one voltage."""
    stations, buffer, begun = Stations(), b"", False
    while data := await reader.read(4096):
        buffer += data
        while (span := stations.find(buffer)) is not None:
            frame, buffer = buffer[span[0] : span[1]], buffer[span[1] :]
            control = frame[1] if frame[0] == 0x10 else frame[4]
            if control & 0x40:
                writer.write(fixed(0x00, 1))
            if not begun:
                begun = True
                writer.write(fixed(0x40, 1) + variable(0x73, 1, voltage(1, 230.0)))


async def station_cdt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sender = Sender()
    listening = asyncio.create_task(_silence(reader), name="listening")
    try:
        while not listening.done():
            writer.write(sender.round())
            await writer.drain()
            await asyncio.sleep(0.05)
    finally:
        listening.cancel()
        await asyncio.wait([listening])


SPOKEN = {
    "104": Spoken(
        LineKind.IEC104, "iec60870_breaker_example", "47",
        {"t0_s": 2, "t1_s": 0.5, "t2_s": 0.3, "t3_s": 0.5, "confirm_s": 1, "terminate_s": 1, "set_clock": False},
        station_104,
    ),
    "101 balanced": Spoken(
        LineKind.IEC101, STATION.name, "1", {"link": "balanced", "timeout_s": 0.2, **OCTETS}, station_101
    ),
    "CDT": Spoken(LineKind.CDT, "cdt_meter_example", "1", {"report_s": 0.2, "silent_s": 0.5}, station_cdt),
}  # fmt: skip


@asynccontextmanager
async def listening(first: Side, then: Side) -> AsyncIterator[tuple[int, list[int]]]:
    """Listen: the first connection is one side's, all others the other's; yield the port and a list of connections."""
    connections: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await (first if len(connections) == 1 else then)(reader, writer)
        finally:
            writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer), name="station")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tuple(tasks))


async def come_back(folder: Path, spoken: Spoken, name: str) -> None:
    profile = CATALOGUE.get(spoken.profile)
    devices = {"m-1": (device(id="m-1", profile=profile.name, address=spoken.address), profile)}
    try:
        async with asyncio.timeout(WITHIN_S), listening(SIDES[name], spoken.good) as (port, connections):
            the_line = line(kind=spoken.kind, endpoint=f"127.0.0.1:{port}", settings=dict(spoken.settings))
            async with telling_field(folder, the_line, devices) as field:
                await told_rightly(field, connections)
    except Exception as exc:
        exc.add_note(f"connection: {name}")
        raise


async def told_rightly(field: TellingField, connections: list[int]) -> None:
    await eventually(lambda: field.last("voltage_a"), "a voltage from the second connection")
    assert len(connections) >= 2
    for reading in field.readings():
        assert reading.points.get("voltage_a", 100) in (pytest.approx(230), 100), "a value out of noise"


@pytest.mark.parametrize("name", SPOKEN)
async def test_connection_that_brings_something_else_is_given_up_and_the_next_one_is_heard(
    tmp_path: Path, name: str
) -> None:
    async with asyncio.TaskGroup() as group:
        for number, side in enumerate(SIDES):
            group.create_task(come_back(tmp_path / str(number), SPOKEN[name], side), name=side)
