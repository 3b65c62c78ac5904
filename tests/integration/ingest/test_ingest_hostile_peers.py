"""Every stream driver against a peer that breaks the rules: late, half, doubled, noisy, foreign, endless, and gone.

Whatever the peer does: an exchange ends in time, with the driver's own error or the right value and never with a wrong
one; the neighbour on the same line is read meanwhile; and the device is read again as soon as it behaves.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.registry import LineKind
from libs.common.profiles import ProfileCatalogue, parse_profile
from libs.common.testing.clock import FakeClock
from libs.common.testing.hostile import COMES_TRUE, LASTS, HostilePeer, Trick, Words
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile
from libs.fieldsim.modbus import answer as modbus_answer
from libs.fieldsim.stream.server import Face, StreamServer
from services.ingest.drivers.dtu import DtuHub
from services.ingest.drivers.factory import open_line, registration_of
from services.ingest.drivers.port import (
    Address,
    BadAnswer,
    DeviceRefused,
    DeviceSession,
    DeviceSilent,
    LineDown,
    LineDriver,
    TellingLine,
)
from services.ingest.settings import DtuSettings, PollingSettings
from tests.unit.ingest.ingest_fakes import MEANS, line

pytestmark = pytest.mark.integration

CATALOGUE = ProfileCatalogue.load()
TIMEOUT_S, QUIET_S = 0.1, 0.05
LATE_S = 0.11
"""After the time for an answer is up, and within the silence that is kept then."""
WITHIN_S = 60.0
"""For everything that one trick takes on a busy machine; a hang takes longer."""
ATTEMPTS = 3
LEAST_SENT, MOST_MEMORY = 4 << 20, 3 << 20
"""What the peer sends, and what driver, peer and test together may take more than before. [B]"""
OWN_ERRORS = (LineDown, DeviceSilent, DeviceRefused, BadAnswer)
REGISTRATION = b"DTU-0001"
ONE_REGISTER = """
schema: device-profile/1
vendor: Test
vendor_zh: 测试
model: Test
category: meter_3p
protocol: modbus
transports: [tcp, rtu]
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: primary
points:
  - {{name: voltage_a, area: holding, addr: {address}, type: uint16, scale: 0.1, unit: V}}
source: [made for this test]
"""


@dataclass(frozen=True)
class Spoken:
    """A protocol, with two devices of the simulated field that speak it."""

    profile: str
    places: tuple[str, str]
    """Of victim and neighbour."""
    point: str
    huge: bytes
    kind: LineKind = LineKind.RTU_OVER_TCP
    hidden: frozenset[Trick] = frozenset()
    """Tricks that hide the right answer in this protocol, though not in others."""
    unseen: frozenset[Trick] = frozenset()
    """Tricks that nobody can see through in this protocol."""


LONG_645 = bytes.fromhex("68 34 12 00 00 00 00 68 91 ff")
LONG_188 = bytes.fromhex("68 10 66 55 44 33 22 11 00 81 ff")
RTU = Spoken("eastron_sdm630", ("7", "8"), "voltage_a", bytes((7, 4, 0xFF)))
SPOKEN = {
    "Modbus TCP": Spoken(
        "eastron_sdm630", ("7", "8"), "voltage_a", b"\0\1\0\0\xff\xff\7\4\xff", LineKind.TCP,
        # A frame of Modbus TCP has no checksum: behind noise or an echo nothing can be told from it.
        hidden=frozenset({Trick.GARBAGE_FIRST, Trick.ECHO_FIRST}), unseen=frozenset({Trick.CORRUPT}),
    ),
    "Modbus RTU": RTU,
    "Modbus RTU through a terminal": Spoken(RTU.profile, RTU.places, RTU.point, RTU.huge, LineKind.DTU),
    "DL/T 645": Spoken("dlt645_2007_meter", ("1234", "1235"), "energy_active_import", LONG_645),
    "CJ/T 188": Spoken("cjt188_water_meter", ("112233445566", "112233445567"), "water_volume", LONG_188),
    "YD/T 1363.3": Spoken("yd1363_rectifier", ("3", "4"), "voltage_dc", b"~20034000" + b"0FFF"),
}  # fmt: skip


class Faces:
    """Two devices of the simulated field as the peer's words."""

    def __init__(self, victim: Face, neighbour: Face, huge: bytes) -> None:
        self.huge = huge
        self._faces = (victim, neighbour)

    def find(self, data: bytes) -> tuple[int, int] | None:
        return self._faces[0].find(data)

    def answer(self, question: bytes) -> bytes | None:
        return next((face.answer(question, 0.0) for face in self._faces if face.is_asked(question)), None)

    def is_for_victim(self, question: bytes) -> bool:
        return self._faces[0].is_asked(question)

    def foreign(self, answer: bytes) -> bytes:
        return self._faces[0].foreign(answer)

    def misfit(self, answer: bytes) -> bytes:
        return self._faces[0].misfit(answer)


class Mbap(Faces):
    """The same two Modbus units behind a gateway that speaks Modbus TCP."""

    def find(self, data: bytes) -> tuple[int, int] | None:
        end = 6 + int.from_bytes(data[4:6], "big") if len(data) >= 6 else len(data) + 1
        return (0, end) if len(data) >= end else None

    def answer(self, question: bytes) -> bytes | None:
        pdu = modbus_answer(self._faces[0].device, question[7:], 0.0)
        return question[:4] + (len(pdu) + 1).to_bytes(2, "big") + question[6:7] + pdu

    def is_for_victim(self, question: bytes) -> bool:
        return question[6] == 7

    def foreign(self, answer: bytes) -> bytes:
        return answer[:6] + bytes((answer[6] + 1,)) + answer[7:]

    def misfit(self, answer: bytes) -> bytes:
        return bytes((answer[0], answer[1] ^ 0x55)) + answer[2:]


def words_of(spoken: Spoken) -> Words:
    here: dict[str, Any] = {"site": "s", "line": "line", "loads": ["load"], "profile": spoken.profile}
    if spoken.profile == "yd1363_rectifier":
        here["counts"] = {"module": 2}
    place = "unit" if spoken.profile == RTU.profile else "address"
    file = FieldFile.model_validate(
        {
            "schema": "field/1",
            "loads": [{"id": "load", "constant_kw": 1.5, "gain": 0.0}],
            "lines": [{"id": "line", "framing": "stream"}],
            "devices": [
                {"id": name, place: int(at) if place == "unit" else at, **here}
                for name, at in zip(("victim", "neighbour"), spoken.places, strict=True)
            ],
        }
    )
    server = cast(StreamServer, Field(file, clock=FakeClock()).servers["line"])
    make = Mbap if spoken.kind is LineKind.TCP else Faces
    return make(server.faces[0], server.faces[1], spoken.huge)


class _Nobody:
    """Hears of terminals."""

    def connected(self, line_id: str) -> None: ...

    def refused(self, place: str, packet: bytes, reason: str) -> None: ...


@dataclass
class Playing:
    """A peer, and the line to it."""

    peer: HostilePeer
    driver: LineDriver
    victim: DeviceSession
    neighbour: DeviceSession
    point: str

    async def ask(self, session: DeviceSession) -> float | int | Exception | None:
        """Return the point's value, or the driver's own error; anything else is a failure."""
        try:
            return (await session.read_points([self.point])).raw[self.point]
        except OWN_ERRORS as exc:
            return exc

    async def until_read(self, session: DeviceSession) -> float | int | None:
        """Return the value of a device once it can be read; a terminal dials in again first."""
        while isinstance(found := await self.ask(session), Exception):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def playing(spoken: Spoken) -> AsyncIterator[Playing]:
    """Run a peer and a line to it."""
    settings: dict[str, Any] = {"timeout_s": TIMEOUT_S}
    if spoken.kind is not LineKind.TCP:
        settings["quiet_s"] = QUIET_S
    peer, means = HostilePeer(words_of(spoken), late_s=LATE_S), MEANS
    async with AsyncExitStack() as stack:
        if spoken.kind is LineKind.DTU:
            the_line = line(kind=LineKind.DTU, endpoint=REGISTRATION.decode(), settings=settings)
            hub = DtuHub(clock=SystemClock(), settings=DtuSettings(port=0, host="127.0.0.1"), watch=_Nobody())
            hub.learn(the_line.id, registration_of(the_line))
            await hub.listen()
            stack.push_async_callback(hub.close)
            means = replace(MEANS, hub=hub)
            await stack.enter_async_context(peer.dialling(hub.port or 0, REGISTRATION))
        else:
            await stack.enter_async_context(peer.listening())
            the_line = line(kind=spoken.kind, endpoint=f"127.0.0.1:{peer.port}", settings=settings)
        driver = open_line(the_line, SystemClock(), PollingSettings(), means)
        assert not isinstance(driver, TellingLine)
        stack.push_async_callback(driver.close)
        profile = CATALOGUE.get(spoken.profile)
        victim, neighbour = (driver.session(Address(place, place, profile)) for place in spoken.places)
        yield Playing(peer, driver, victim, neighbour, spoken.point)


async def play(spoken: Spoken, trick: Trick) -> None:
    """Play one trick, and say what came of it if that is not what should."""
    try:
        async with asyncio.timeout(WITHIN_S), playing(spoken) as game:
            right, next_door = await game.until_read(game.victim), await game.until_read(game.neighbour)
            assert right is not None
            game.peer.trick = trick
            found = []
            for _ in range(1 if trick in LASTS else ATTEMPTS):
                found.append(await game.ask(game.victim))
                assert await game.until_read(game.neighbour) == next_door
            assert all(isinstance(one, Exception) or one == right for one in found), f"a wrong value: {found}"
            if trick in COMES_TRUE and trick not in spoken.hidden:
                assert await game.until_read(game.victim) == right
            elif trick is not Trick.LATE:  # on a machine that is busy it may come in time after all
                assert all(isinstance(one, Exception) for one in found), f"a value out of nothing: {found}"
            game.peer.trick = None
            assert await game.until_read(game.victim) == right
            assert await game.until_read(game.neighbour) == next_door
    except Exception as exc:
        exc.add_note(f"trick: {trick}")
        raise


@pytest.mark.parametrize("name", SPOKEN)
async def test_peer_that_breaks_the_rules_costs_no_neighbour_and_gives_no_wrong_value(name: str) -> None:
    """All tricks at once, each on a line of its own: most of the time they wait for the time of an answer to be up."""
    spoken = SPOKEN[name]
    async with asyncio.TaskGroup() as group:
        for trick in Trick:
            if trick not in spoken.unseen:
                group.create_task(play(spoken, trick), name=trick)


@pytest.mark.parametrize("name", ["Modbus TCP", "Modbus RTU", "Modbus RTU through a terminal"])
async def test_peer_that_talks_without_end_does_not_fill_the_memory(name: str) -> None:
    """One protocol for each sort of connection: what a line keeps does not depend on what it looks for."""
    async with asyncio.timeout(WITHIN_S), playing(SPOKEN[name]) as game:
        for trick in (Trick.ENDLESS, Trick.BEGINNINGS):
            game.peer.trick = None
            await game.until_read(game.victim)
            game.peer.trick = trick
            await game.ask(game.victim)  # what is loaded with the first one is no matter of its length
            gc.disable()  # else it depends on what ran before how many connections' circles the peak holds
            tracemalloc.start()
            try:
                while game.peer.sent_bytes < LEAST_SENT:
                    assert isinstance(await game.ask(game.victim), Exception)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                gc.enable()
            game.peer.sent_bytes = 0
            assert peak < MOST_MEMORY


class Echo:
    """A converter that gives back what it gets, and nothing else."""

    huge = b""

    def find(self, data: bytes) -> tuple[int, int] | None:
        return (0, len(data)) if data else None

    def answer(self, question: bytes) -> bytes:
        return question

    def is_for_victim(self, question: bytes) -> bool:
        return False

    def foreign(self, answer: bytes) -> bytes:
        return answer

    def misfit(self, answer: bytes) -> bytes:
        return answer


@pytest.mark.parametrize(("kind", "address"), [(LineKind.TCP, 0x0200), (LineKind.RTU_OVER_TCP, 0x0310)])
async def test_echo_that_looks_like_an_answer_is_none(kind: LineKind, address: int) -> None:
    """A read of one register from there is by its form an answer with one register, over TCP and as RTU."""
    profile = parse_profile(ONE_REGISTER.format(address=address), name="test", source="test.yaml")
    async with HostilePeer(Echo(), late_s=LATE_S).listening() as peer:
        the_line = line(kind=kind, endpoint=f"127.0.0.1:{peer.port}", settings={"timeout_s": TIMEOUT_S})
        driver = open_line(the_line, SystemClock(), PollingSettings(), MEANS)
        try:
            with pytest.raises(OWN_ERRORS):
                await driver.session(Address("m-1", "1", profile)).read_points(["voltage_a"])
        finally:
            await driver.close()
        assert peer.questions
