"""CDT stations that send round and round, over TCP and on a pseudo terminal, with noise and cut frames."""

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from libs.common.contracts.registry import LineKind
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput
from libs.common.profiles import ModbusControl, ProfileCatalogue
from services.ingest.domain.codecs.cdt import Event, encode
from services.ingest.drivers import cdt
from services.ingest.drivers.port import Address, DeviceRefused
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.peers.terminals import pair
from tests.unit.ingest.ingest_fakes import device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("cdt_meter_example")
BEIJING = ZoneInfo("Asia/Shanghai")


def word(function: int, *octets: int) -> bytes:
    return bytes([function, *octets])


def telemetry(function: int, first: int, second: int) -> bytes:
    return word(function, *first.to_bytes(2, "little"), *second.to_bytes(2, "little"))


@dataclass
class Sender:
    """What a station sends round and round; a test changes it."""

    source: int = 1
    volts: int = 1150
    states: int = 1
    counted: int = 12345
    once: list[bytes] = field(default_factory=list)
    """Sent before the next round."""
    rounds: int = 0

    def round(self) -> bytes:
        self.rounds += 1
        before = b"".join(self.once)
        self.once.clear()
        measured = [telemetry(0, self.volts, self.volts), telemetry(1, self.volts, 0x8000), telemetry(3, 400, 0x4001)]
        return before + b"".join(
            encode(kind, words, source=self.source)
            for kind, words in (
                (0x61, measured),
                (0xF4, [word(0xF0, *self.states.to_bytes(4, "little"))]),
                (0x85, [word(0xA0, *self.counted.to_bytes(3, "little"), 0)]),
            )
        )

    def event(self, number: int, closed: bool, at: datetime) -> bytes:
        """Return a frame of one event, three times as stations do."""
        local = at.astimezone(BEIJING)
        ms = local.microsecond // 1000
        words = [
            word(0x80, ms & 0xFF, ms >> 8, local.second, local.minute),
            word(0x81, local.hour, local.day, number & 0xFF, number >> 8 | (0x80 if closed else 0)),
        ]
        return encode(0x26, words * 3, source=self.source)


@asynccontextmanager
async def sending(*senders: Sender) -> AsyncIterator[str]:
    """Listen as a converter and send to whoever connects."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"".join(sender.round() for sender in senders))
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        if not await reader.read(1):
                            break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()


@asynccontextmanager
async def held(
    tmp_path: Path, endpoint: str, addresses: Sequence[str] = ("1",), **settings: float
) -> AsyncIterator[TellingField]:
    devices = {
        f"m-{address}": (device(id=f"m-{address}", kind="meter_3p", profile=PROFILE.name, address=address), PROFILE)
        for address in addresses
    }
    the_line = line(kind=LineKind.CDT, endpoint=endpoint, settings={"report_s": 0.2, **settings})
    async with telling_field(tmp_path, the_line, devices) as found:
        yield found


async def test_what_is_sent_round_and_round_becomes_reports(tmp_path: Path) -> None:
    sender = Sender()
    async with sending(sender) as endpoint, held(tmp_path, endpoint) as field_:
        await eventually(lambda: field_.last("energy_active_import"), "a round")
        reading = field_.readings()[-1]
        assert reading.points["voltage_a"] == pytest.approx(230)
        assert reading.points["energy_active_import"] == pytest.approx(1234.5)
        assert (reading.points["current_a"], reading.quality_of("current_a")) == (None, Quality.INVALID)
        assert reading.points["active_power_total"] == 100
        assert reading.driver == "cdt"
        sender.states = 0
        await eventually(lambda: field_.last("breaker_state") == 0, "the change")


async def test_unchanged_values_wait_and_a_change_does_not(tmp_path: Path) -> None:
    sender = Sender()
    async with sending(sender) as endpoint, held(tmp_path, endpoint, report_s=3600) as field_:
        await eventually(lambda: field_.last("breaker_state"), "the first round")
        await eventually(lambda: sender.rounds > 20, "many rounds")
        before = len(field_.readings())
        assert before <= 3  # the first frames may come one by one
        sender.states = 2
        await eventually(lambda: field_.last("breaker_state") == 0, "the change")
        assert len(field_.readings()) == before + 1


async def test_event_is_told_once_with_its_time(tmp_path: Path) -> None:
    sender = Sender()
    at = (datetime.now(UTC) - timedelta(seconds=5)).replace(microsecond=123_000)
    async with sending(sender) as endpoint, held(tmp_path, endpoint) as field_:
        await eventually(lambda: field_.readings(), "a round")
        sender.once += [sender.event(0, False, at), sender.event(1, True, at)]
        await eventually(lambda: len(field_.events()) == 2, "both events")
        await eventually(lambda: sender.rounds > 5, "more rounds")
        moved, opened = field_.events()
        assert (moved.code, moved.value, moved.source_time) == ("breaker_state", 0, at)
        assert (opened.code, opened.phase, opened.severity) == ("door_open", "begin", 4)


async def test_noise_and_broken_words_cost_only_themselves(tmp_path: Path) -> None:
    sender = Sender()
    broken = bytearray(encode(0x61, [telemetry(0, 1, 1)]))
    broken[14] ^= 0xFF
    cut = encode(0x61, [telemetry(0, 2, 2)] * 9)[:30]
    async with sending(sender) as endpoint, held(tmp_path, endpoint) as field_:
        sender.once += [b"\xeb\x90\xeb", bytes(broken), cut, os.urandom(7)]
        await eventually(lambda: field_.rejected(), "the broken word is on record")
        assert field_.rejected()[0].detail == "1 of 1 words with a wrong check, source 1"
        assert {reading.points["voltage_a"] for reading in field_.readings() if "voltage_a" in reading.points} == {230}


async def test_stations_on_one_line_are_told_apart_by_their_source(tmp_path: Path) -> None:
    async with sending(Sender(1), Sender(2, volts=1000)) as endpoint, held(tmp_path, endpoint, ("1", "2")) as field_:
        await eventually(lambda: field_.last("voltage_a", "m-2"), "the second one")
        assert (field_.last("voltage_a", "m-1"), field_.last("voltage_a", "m-2")) == (230, 200)


async def test_line_without_frames_is_opened_anew(tmp_path: Path) -> None:
    accepted = 0

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.write(bytes(100))
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with held(tmp_path, f"127.0.0.1:{port}", silent_s=0.3):
        await eventually(lambda: accepted >= 3, "new connections")
    server.close()


async def test_state_is_read_by_waiting_for_the_next_round_and_nothing_is_sent(tmp_path: Path) -> None:
    sender = Sender(states=0)
    async with sending(sender) as endpoint, held(tmp_path, endpoint) as field_:
        await eventually(lambda: field_.readings(), "a round")
        read = await field_.runner.read_now("m-1", ["breaker_state", "voltage_a"])
        assert read is not None
        assert read[0] == {"breaker_state": 0, "voltage_a": pytest.approx(230)}
        session = field_.runner.session(Address("m-1", "1", PROFILE))
        control = ProfileCatalogue.load().get("lx47le_125").controls["breaker_open"]
        assert isinstance(control, ModbusControl)
        with pytest.raises(DeviceRefused, match="listened to"):
            await session.write(control, None)


async def test_serial_line(tmp_path: Path) -> None:
    sender = Sender()
    async with pair(tmp_path) as (ours, theirs):
        async with held(tmp_path / "spool", ours, baud=115200) as field_:
            end = os.open(theirs, os.O_RDWR | os.O_NOCTTY)
            tty.setraw(end)
            try:
                while field_.last("voltage_a") is None:
                    os.write(end, sender.round())
                    await asyncio.sleep(0.02)
            finally:
                os.close(end)
            assert field_.last("voltage_a") == pytest.approx(230)


def test_event_of_the_last_day_of_a_month_is_dated_in_that_month() -> None:
    event = Event(number=0, closed=True, day=31, hour=23, minute=59, second=58, millisecond=7)
    first = datetime(2026, 2, 1, 0, 0, 5, tzinfo=BEIJING)
    assert cdt._time_of(event, first, BEIJING) == datetime(2026, 1, 31, 23, 59, 58, 7000, tzinfo=BEIJING)
    with pytest.raises(ValueError, match="no such time"):
        cdt._time_of(event, datetime(2026, 7, 1, tzinfo=BEIJING), BEIJING)


@pytest.mark.parametrize("text", [None, "", "256", "-1", "all"])
def test_address_is_a_source(text: str | None) -> None:
    with pytest.raises(InvalidInput, match="source address"):
        cdt._source(Address("d", text, PROFILE))
