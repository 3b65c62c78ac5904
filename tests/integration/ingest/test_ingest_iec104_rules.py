"""Peers that break the rules of 104, or keep them to the letter: raw sockets, frame by frame."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from libs.common.contracts.registry import LineKind
from libs.common.profiles import ProfileCatalogue
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec60870_breaker_example")
BREAKER = device(id="b-1", kind="breaker", profile=PROFILE.name, address="47")
STARTDT, STARTDT_CON, TESTFR, TESTFR_CON = 0x07, 0x0B, 0x43, 0x83
WRAP = 0x8000
INTERROGATION = bytes.fromhex("6401 0600 2f00 000000 14")
COUNTERS = bytes.fromhex("6501 0600 2f00 000000 05")
CONFIRMED = bytes.fromhex("6401 0700 2f00 000000 14")
ENDED = bytes.fromhex("6401 0a00 2f00 000000 14")


def voltage(value: int) -> bytes:
    """A spontaneous short float, object 0x4001 of station 47."""
    return bytes.fromhex("0d01 0300 2f00 014000") + struct.pack("<fB", value, 0)


@dataclass
class Frames:
    """One connection of the peer's side: frames in, frames out, no rule kept but those that a test keeps."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ns: int = 0
    nr: int = 0
    acknowledged: int = 0
    """Highest N(R) that the other side has sent."""

    async def next(self) -> tuple[int, bytes]:
        """Return the next frame: its first control octet, and the ASDU of an I frame."""
        async with asyncio.timeout(40):
            start, length = await self.reader.readexactly(2)
            body = await self.reader.readexactly(length)
        assert start == 0x68
        if body[0] & 1 == 0:
            assert int.from_bytes(body[:2], "little") >> 1 == self.nr, "N(S) of the master out of step"
            self.nr = (self.nr + 1) % WRAP
        if body[0] & 3 != 3:
            self.acknowledged = int.from_bytes(body[2:4], "little") >> 1
        return body[0] & 3 if body[0] & 3 != 3 else body[0], body[4:]

    def u(self, function: int) -> None:
        self.writer.write(bytes([0x68, 4, function, 0, 0, 0]))

    def s(self) -> None:
        self.writer.write(bytes([0x68, 4, 1, 0]) + (self.nr << 1).to_bytes(2, "little"))

    def i(self, asdu: bytes) -> bytes:
        frame = (
            bytes([0x68, 4 + len(asdu)]) + (self.ns << 1).to_bytes(2, "little") + (self.nr << 1).to_bytes(2, "little")
        )
        self.ns = (self.ns + 1) % WRAP
        return frame + asdu

    def send(self, *asdus: bytes) -> None:
        self.writer.write(b"".join(self.i(asdu) for asdu in asdus))

    async def start(self) -> None:
        """Answer STARTDT."""
        kind, _ = await self.next()
        assert kind == STARTDT
        self.u(STARTDT_CON)

    async def interrogated(self) -> None:
        """Answer STARTDT and the first interrogation."""
        await self.start()
        while (await self.next())[1] != INTERROGATION:
            pass
        self.send(CONFIRMED, voltage(100), ENDED)


Script = Callable[[Frames], Awaitable[None]]


@dataclass
class Peer:
    port: int = 0
    connections: list[Frames] = field(default_factory=list)
    ended: list[asyncio.Event] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


@asynccontextmanager
async def playing(*scripts: Script) -> AsyncIterator[Peer]:
    """Listen and play the scripts, one connection each; the last one again and again."""
    peer = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, ended = Frames(reader, writer), asyncio.Event()
        script = scripts[min(len(peer.connections), len(scripts) - 1)]
        peer.connections.append(frames)
        peer.ended.append(ended)
        try:
            await script(frames)
            await reader.read(-1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except BaseException as exc:
            peer.failures.append(exc)
            raise
        finally:
            ended.set()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        async with asyncio.timeout(40):
            for ended in peer.ended:
                await ended.wait()
        assert not peer.failures, peer.failures


@asynccontextmanager
async def against(tmp_path: Path, *scripts: Script, **settings: float) -> AsyncIterator[tuple[TellingField, Peer]]:
    async with playing(*scripts) as peer:
        the_line = line(
            kind=LineKind.IEC104, endpoint=f"127.0.0.1:{peer.port}",
            settings={
                "t0_s": 3, "t1_s": 1.5, "t2_s": 1, "set_clock": False, "confirm_s": 1, "terminate_s": 1, **settings,
            },
        )  # fmt: skip
        async with telling_field(tmp_path, the_line, {"b-1": (BREAKER, PROFILE)}) as field_:
            yield field_, peer


async def good(frames: Frames) -> None:
    """Answer everything, and say 230 V."""
    await frames.interrogated()
    frames.send(voltage(230))
    while True:
        kind, _ = await frames.next()
        if kind == TESTFR:
            frames.u(TESTFR_CON)
        else:
            frames.s()


async def comes_back(field_: TellingField, peer: Peer) -> None:
    """Wait until the first connection was given up and the second one works."""
    await eventually(lambda: field_.last("voltage_a") == 230, "the second connection")
    assert len(peer.connections) >= 2
    async with asyncio.timeout(40):
        await peer.ended[0].wait()


async def test_peer_that_does_not_start(tmp_path: Path) -> None:
    async def mute(frames: Frames) -> None:
        await frames.next()

    async with against(tmp_path, mute, good) as (field_, peer):
        await comes_back(field_, peer)


async def test_peer_that_speaks_another_protocol(tmp_path: Path) -> None:
    async def web(frames: Frames) -> None:
        frames.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with against(tmp_path, web, good) as (field_, peer):
        await comes_back(field_, peer)


async def test_peer_that_does_not_answer_tests(tmp_path: Path) -> None:
    asked: list[int] = []

    async def deaf(frames: Frames) -> None:
        await frames.interrogated()
        frames.s()
        while True:
            kind, _ = await frames.next()
            asked.append(kind)

    async with against(tmp_path, deaf, good, t3_s=0.5) as (field_, peer):
        await comes_back(field_, peer)
        assert TESTFR in asked


async def test_peer_that_acknowledges_nothing(tmp_path: Path) -> None:
    async def greedy(frames: Frames) -> None:
        await frames.start()
        while True:
            await frames.next()

    async with against(tmp_path, greedy, good) as (field_, peer):
        await comes_back(field_, peer)


async def test_jump_in_the_numbers_is_a_lost_frame_and_ends_the_connection(tmp_path: Path) -> None:
    async def jumping(frames: Frames) -> None:
        await frames.interrogated()
        frames.send(voltage(101))
        frames.ns += 1
        frames.send(voltage(666))
        await frames.reader.read(-1)

    async with against(tmp_path, jumping, good) as (field_, peer):
        await comes_back(field_, peer)
        told = [reading.points.get("voltage_a") for reading in field_.readings()]
        assert 666 not in told


async def test_acknowledgement_of_what_was_never_sent_ends_the_connection(tmp_path: Path) -> None:
    async def boasting(frames: Frames) -> None:
        await frames.interrogated()
        frames.nr += 7
        frames.s()
        await frames.reader.read(-1)

    async with against(tmp_path, boasting, good) as (field_, peer):
        await comes_back(field_, peer)


async def test_frames_may_come_in_any_pieces(tmp_path: Path) -> None:
    async def crumbling(frames: Frames) -> None:
        await frames.interrogated()
        for octet in frames.i(voltage(1)) + frames.i(voltage(2)):
            frames.writer.write(bytes([octet]))
            await frames.writer.drain()
            await asyncio.sleep(0)
        frames.send(voltage(3), voltage(4), voltage(5))
        rest = frames.i(voltage(6)) + frames.i(voltage(7))
        frames.writer.write(rest[:20])
        await frames.writer.drain()
        frames.writer.write(rest[20:])
        await good_after(frames)

    async def good_after(frames: Frames) -> None:
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, crumbling) as (field_, peer):
        await eventually(lambda: field_.last("voltage_a") == 7, "all of it")
        told = [reading.points["voltage_a"] for reading in field_.readings() if "voltage_a" in reading.points]
        assert told == [100, 1, 2, 3, 4, 5, 6, 7]
        assert len(peer.connections) == 1


async def test_numbers_wrap_and_every_eighth_frame_is_acknowledged(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def flood(frames: Frames) -> None:
        await frames.interrogated()
        for count in range(WRAP + 100):
            frames.send(voltage(count % 2))
            if (frames.ns - frames.acknowledged) % WRAP >= 12:  # k of the station
                await frames.next()
                assert (frames.ns - frames.acknowledged) % WRAP <= 12
        done.set()
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, flood, t1_s=15, t2_s=10) as (_, peer):
        async with asyncio.timeout(60):
            await done.wait()
        assert len(peer.connections) == 1
        assert peer.connections[0].ns < 200  # it has wrapped


async def test_asdu_that_is_none_is_on_record_and_the_connection_stays(tmp_path: Path) -> None:
    async def garbling(frames: Frames) -> None:
        await frames.interrogated()
        frames.send(bytes.fromhex("ff01 0300 2f00 014000 00"), voltage(1)[:-2], b"\x0d", voltage(230))
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, garbling) as (field_, peer):
        await eventually(lambda: field_.last("voltage_a") == 230, "what came after it")
        details = [rejected.detail for rejected in field_.rejected()]
        assert details == [
            "type 255 is not supported",
            "type 13 with 1 objects takes 14 octets, found 12",
        ]  # one each minute for each type
        assert len(peer.connections) == 1


async def test_station_that_refuses_the_interrogation(tmp_path: Path) -> None:
    async def refusing(frames: Frames) -> None:
        await frames.start()
        while (await frames.next())[1] != INTERROGATION:
            pass
        frames.send(bytes.fromhex("6401 6e00 2f00 000000 14"), voltage(230))  # unknown common address, negative
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, refusing) as (field_, peer):
        await eventually(lambda: field_.last("voltage_a") == 230, "what it tells by itself")
        assert len(peer.connections) == 1


OPEN_SELECT = bytes.fromhex("2e01 0600 2f00 016000 81")
OPEN_OPERATE = bytes.fromhex("2e01 0600 2f00 016000 01")


async def order(field_: TellingField, name: str) -> str:
    session = field_.runner.session(Address("b-1", "47", PROFILE))
    return await field_.runner.first(lambda: session.write(PROFILE.controls[name], None))


async def test_late_confirmation_of_another_command_is_not_taken_for_this_one(tmp_path: Path) -> None:
    async def confusing(frames: Frames) -> None:
        await frames.interrogated()
        while (await frames.next())[1] != OPEN_SELECT:
            frames.s()
        frames.send(
            bytes.fromhex("2e01 0700 2f00 016000 02"),  # of a CLOSE, long ago
            bytes.fromhex("2e01 0a00 2f00 016000 02"),
            bytes.fromhex("2e01 0700 2f00 016000 81"),
        )
        while (await frames.next())[1] != OPEN_OPERATE:
            pass
        frames.send(bytes.fromhex("2e01 4700 2f00 016000 01"))  # no
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, confusing) as (field_, _):
        await eventually(lambda: field_.last("voltage_a"), "interrogation")
        with pytest.raises(DeviceRefused, match="operate: negative confirmation"):
            await order(field_, "breaker_open")


async def test_command_that_is_confirmed_and_never_ends_has_an_unknown_outcome(tmp_path: Path) -> None:
    async def endless(frames: Frames) -> None:
        await frames.interrogated()
        while True:
            _, asdu = await frames.next()
            if asdu in (OPEN_SELECT, OPEN_OPERATE):
                frames.send(asdu[:2] + b"\x07" + asdu[3:])
            else:
                frames.s()

    async with against(tmp_path, endless) as (field_, _):
        await eventually(lambda: field_.last("voltage_a"), "interrogation")
        with pytest.raises(DeviceSilent, match="end of the command"):
            await order(field_, "breaker_open")


async def test_command_that_could_not_be_sent_is_not_sent_later(tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def stuck(frames: Frames) -> None:
        # Acknowledges nothing after the interrogation: with k = 1 the next frame is in the way of all others.
        await frames.interrogated()
        while True:
            sent.append((await frames.next())[1])

    async with against(tmp_path, stuck, good, k=1, t1_s=30, t2_s=10, confirm_s=0.5) as (field_, peer):
        await eventually(lambda: field_.last("voltage_a"), "interrogation")
        with pytest.raises(DeviceSilent, match="not acknowledged"):
            await order(field_, "breaker_open")
        await comes_back(field_, peer)
        assert [asdu for asdu in sent if asdu] == [COUNTERS]  # the one frame that was allowed


async def test_station_that_starts_anew_is_interrogated_again(tmp_path: Path) -> None:
    async def restarting(frames: Frames) -> None:
        await frames.interrogated()
        frames.s()
        frames.send(bytes.fromhex("4601 0400 2f00 000000 00"))
        while (await frames.next())[1] != INTERROGATION:
            frames.s()
        frames.send(CONFIRMED, voltage(231), ENDED)
        while True:
            await frames.next()
            frames.s()

    async with against(tmp_path, restarting, interrogation_s=3600) as (field_, peer):
        await eventually(lambda: field_.last("voltage_a") == 231, "interrogated again")
        assert len(peer.connections) == 1
