"""IEC 60870-5-103 on pseudo terminals, with relays by hat-drivers (link and coding) at the other end of the pair."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hat.drivers.iec60870 import link
from hat.drivers.iec60870.encodings import iec103

from libs.common.clock import SystemClock
from libs.common.clocksync import ClockState
from libs.common.contracts.base import Phase
from libs.common.contracts.registry import LineKind
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from services.ingest.domain.switching import Switch, switch_of
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.iec60870 import master
from services.ingest.drivers.port import Address, DeviceSilent
from services.ingest.settings import PollingSettings
from tests.integration.ingest.telling_field import TellingField, eventually, telling_field
from tests.peers.terminals import pair
from tests.unit.ingest.ingest_fakes import MEANS, device, line

pytestmark = pytest.mark.integration

PROFILE = ProfileCatalogue.load().get("iec103_feeder_example")
SWITCH = cast(Switch, switch_of(PROFILE, None))
ZONE = ZoneInfo("Asia/Shanghai")
FUNCTION, BREAKER, ALARM, ROW = 160, 161, 47, 148
Cause, Type = iec103.Cause, iec103.AsduType


@dataclass
class Relay:
    """One protection relay with a breaker and a row of measurands."""

    address: int = 1
    closed: bool = True
    refuses: bool = False
    row: list[float] = field(default_factory=lambda: [0.5, 0.25, -0.25, 230 / 276, 0.75, 0.75, 0.125])
    commands: list[int] = field(default_factory=list)
    clocks: list[Any] = field(default_factory=list)
    asked: int = 0
    connection: Any = None
    encoder: Any = field(default_factory=iec103.Encoder)

    async def serve(self, connection: link.Connection) -> None:
        self.connection = connection
        await self.tell(self.identification(Cause.RESET_COMMUNICATION_UNIT))
        while True:
            asdu, _ = self.encoder.decode_asdu(await connection.receive())
            for told in self.answers(asdu, asdu.ios[0].address, asdu.ios[0].elements[0]):
                await self.tell(told)

    def answers(self, asdu: Any, address: Any, element: Any) -> list[Any]:
        match asdu.type:
            case Type.GENERAL_INTERROGATION:
                self.asked += 1
                end = iec103.IoElement_GENERAL_INTERROGATION_TERMINATION(element.scan_number)
                return [
                    self.state(Cause.GENERAL_INTERROGATION),
                    self.asdu(
                        Type.GENERAL_INTERROGATION_TERMINATION, Cause.TERMINATION_OF_GENERAL_INTERROGATION, 255, 0, end
                    ),
                    self.measurands(),
                ]
            case Type.TIME_SYNCHRONIZATION:
                self.clocks.append(element.time)
                return [self.asdu(asdu.type, Cause.TIME_SYNCHRONIZATION, 255, 0, element)]
            case Type.GENERAL_COMMAND if self.refuses:
                return [self.state(Cause.GENERAL_COMMAND_NACK, element.return_identifier)]
            case Type.GENERAL_COMMAND:
                assert (address.function_type, address.information_number) == (FUNCTION, BREAKER)
                self.commands.append(element.value.value)
                self.closed = element.value is iec103.DoubleValue.ON
                acknowledged = self.state(Cause.GENERAL_COMMAND, element.return_identifier)
                return [acknowledged, self.state(Cause.REMOTE_OPERATION)]
        return []

    def state(self, cause: Any, supplement: int = 0, at: datetime | None = None) -> Any:
        value = iec103.DoubleValue.ON if self.closed else iec103.DoubleValue.OFF
        return self.message(BREAKER, value, cause, supplement, at)

    def message(self, number: int, value: Any, cause: Any, supplement: int = 0, at: datetime | None = None) -> Any:
        told = iec103.DoubleWithTimeValue(value, time_of_day(at or datetime.now(UTC)), supplement)
        element = iec103.IoElement_TIME_TAGGED_MESSAGE(told)
        return self.asdu(Type.TIME_TAGGED_MESSAGE, cause, FUNCTION, number, element)

    def measurands(self, **faults: bool) -> Any:
        marks = {"overflow": False, "invalid": False, **faults}
        row = [iec103.IoElement_MEASURANDS_2(iec103.MeasurandValue(value=value, **marks)) for value in self.row]
        return self.asdu(Type.MEASURANDS_2, Cause.CYCLIC, FUNCTION, ROW, *row)

    def identification(self, cause: Any) -> Any:
        element = iec103.IoElement_IDENTIFICATION(2, b"RELAY-XY", b"v1.2")
        return self.asdu(Type.IDENTIFICATION, cause, FUNCTION, 3, element)

    def asdu(self, kind: Any, cause: Any, function: int, number: int, *elements: Any) -> Any:
        io = iec103.IO(iec103.IoAddress(function, number), list(elements))
        return iec103.ASDU(kind, cause, self.address, [io])

    async def tell(self, asdu: Any) -> None:
        await self.connection.send(self.encoder.encode_asdu(asdu))


def time_of_day(at: datetime) -> Any:
    local = at.astimezone(ZONE)
    return iec103.Time(
        size=iec103.TimeSize.FOUR, milliseconds=local.second * 1000 + local.microsecond // 1000, invalid=False,
        substituted=None, minutes=local.minute, summer_time=False, hours=local.hour, day_of_week=None,
        day_of_month=None, months=None, years=None,
    )  # fmt: skip


@asynccontextmanager
async def relays(port: str, *found: Relay) -> AsyncIterator[None]:
    slave = await link.create_slave_link(port, link.AddressSize.ONE, baudrate=115200)

    async def serve(relay: Relay) -> None:
        while True:
            try:
                await relay.serve(await slave.open_connection(relay.address))
            except ConnectionError:
                return

    tasks = [asyncio.create_task(serve(relay), name="relay") for relay in found]
    try:
        yield
    finally:
        await slave.async_close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()


@asynccontextmanager
async def held(
    tmp_path: Path, port: str, *addresses: int, **settings: float | str | bool
) -> AsyncIterator[TellingField]:
    devices = {
        f"b-{address}": (device(id=f"b-{address}", profile=PROFILE.name, address=str(address)), PROFILE)
        for address in addresses
    }
    the_line = line(
        kind=LineKind.IEC103, endpoint=port,
        settings={
            "baud": 115200, "timeout_s": 0.5, "poll_s": 0.02, "confirm_s": 10, "interrogation_s": 3600, **settings,
        },
    )  # fmt: skip
    async with telling_field(tmp_path, the_line, devices) as found:
        yield found


@asynccontextmanager
async def one(tmp_path: Path, relay: Relay, **settings: float | str | bool) -> AsyncIterator[TellingField]:
    """Hold a line with one relay, until it has told everything."""
    async with pair(tmp_path) as (ours, theirs), relays(theirs, relay):
        async with held(tmp_path / "spool", ours, relay.address, **settings) as found:
            await eventually(lambda: found.last("breaker_state") is not None, "the interrogation")
            await eventually(lambda: found.last("voltage_a") is not None, "the measurands")
            yield found


async def test_relays_are_interrogated_and_tell_measurands_in_turn(tmp_path: Path) -> None:
    first, second = Relay(1), Relay(2, closed=False)
    async with pair(tmp_path) as (ours, theirs), relays(theirs, first, second):
        async with held(tmp_path / "spool", ours, 1, 2, 9) as found:  # nobody is at 9
            await eventually(lambda: found.last("current_a", "b-2") is not None, "the second one")
            assert (found.last("breaker_state", "b-1"), found.last("breaker_state", "b-2")) == (1, 0)
            assert found.last("voltage_a", "b-1") == pytest.approx(230, abs=0.1)
            assert (found.last("current_a", "b-1"), found.last("current_c", "b-1")) == (120, -60)
            assert found.last("active_power_total", "b-1") == pytest.approx(20.7)
            assert found.events() == []
            first.row[0] = 0.25
            await first.tell(first.measurands())
            await eventually(lambda: found.last("current_a", "b-1") == 60, "the next turn")
            assert found.rejected() == []


async def test_measurands_that_overflow_or_are_wrong_are_none(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        for fault in ("overflow", "invalid"):
            await relay.tell(relay.measurands(**{fault: True}))
            await eventually(lambda: found.last("current_a") is None, fault)
            assert (found.readings()[-1].quality or {})["current_a"] is Quality.INVALID
            await relay.tell(relay.measurands())
            await eventually(lambda: found.last("current_a") == 120, "right again")


async def test_messages_are_events_with_the_relays_time(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        at = datetime.now(UTC)
        relay.closed = False
        await relay.tell(relay.state(Cause.SPONTANEOUS, at=at))
        await eventually(lambda: found.events(), "the movement")
        (moved,) = found.events()
        assert (moved.code, moved.phase, moved.value) == ("breaker_state", Phase.ONCE, 0)
        assert abs(moved.source_time - at) < timedelta(milliseconds=2)
        for value in (iec103.DoubleValue.ON, iec103.DoubleValue.OFF):
            await relay.tell(relay.message(ALARM, value, Cause.SPONTANEOUS))
        await eventually(lambda: len(found.events()) == 3, "the alarm")
        assert [event.phase for event in found.events()[1:]] == [Phase.BEGIN, Phase.END]
        tested = relay.message(ALARM, iec103.DoubleValue.ON, Cause.TEST_MODE)
        faulted = iec103.DoubleWithRelativeTimeValue(iec103.DoubleValue.ON, 40, 7, time_of_day(at), 0)
        element = iec103.IoElement_TIME_TAGGED_MESSAGE_WITH_RELATIVE_TIME(faulted)
        await relay.tell(tested)  # is none of the process
        await relay.tell(
            relay.asdu(Type.TIME_TAGGED_MESSAGE_WITH_RELATIVE_TIME, Cause.SPONTANEOUS, FUNCTION, ALARM, element)
        )
        await eventually(lambda: len(found.events()) == 4, "with the time since the fault")
        assert (found.events()[3].phase, found.events()[3].code) == (Phase.BEGIN, "group_alarm")


async def test_breaker_is_switched_and_proven_and_a_refusal_is_one(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        target = found.target(device(id="b-1", address="1"), PROFILE)
        opened = await found.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (opened.stage, opened.evidence.feedback_value, opened.evidence.answer) == ("verified", 0, "confirmed")
        closed = await found.switcher.close(target, SWITCH, channel=None, meter=None)
        assert (closed.stage, relay.commands) == ("verified", [1, 2])
        relay.refuses = True
        refused = await found.switcher.open(target, SWITCH, channel=None, meter=None, may_write=lambda: None)
        assert (refused.stage, refused.reason, relay.commands) == ("failed", "device_refused", [1, 2])


async def test_answer_to_another_command_is_none(tmp_path: Path) -> None:
    class Late(Relay):
        def answers(self, asdu: Any, address: Any, element: Any) -> list[Any]:
            told: list[Any] = super().answers(asdu, address, element)
            if asdu.type is Type.GENERAL_COMMAND:
                self.closed = not self.closed  # nothing has moved
                return [self.state(Cause.GENERAL_COMMAND, element.return_identifier - 1)]
            return told

    relay = Late()
    async with one(tmp_path, relay, confirm_s=0.3) as found:
        session = found.runner.session(Address("b-1", "1", PROFILE))
        with pytest.raises(DeviceSilent, match="operate"):
            await found.runner.first(lambda: session.write(PROFILE.controls["breaker_open"], None))
        assert relay.commands == [1]


async def test_clock_is_set_in_the_relays_zone_and_only_by_a_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master, "clock_state", lambda: ClockState(synchronised=True, max_error_s=0.01))
    relay = Relay()
    async with one(tmp_path, relay):
        told = relay.clocks[0]
        local = datetime.now(ZONE)
        minutes = (local.hour * 60 + local.minute - told.hours * 60 - told.minutes) % 1440
        assert minutes <= 1
        assert (told.years, told.months) == (local.year % 100, local.month)
    monkeypatch.setattr(master, "clock_state", lambda: ClockState(synchronised=False, max_error_s=16.0))
    other, folder = Relay(), tmp_path / "2"
    folder.mkdir()
    async with one(folder, other):
        assert other.clocks == []


async def test_relay_that_has_started_anew_is_asked_again(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        relay.closed = False
        await relay.tell(relay.identification(Cause.START_RESTART))
        await eventually(lambda: relay.asked >= 2, "the next interrogation")
        await eventually(lambda: found.last("breaker_state") == 0, "its state")


async def test_what_is_no_asdu_is_put_on_record_and_what_is_not_ours_passed_over(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        await relay.connection.send(bytes([23, 0x81, 31, 1, FUNCTION, 0]))  # list of disturbances
        await relay.connection.send(bytes([1, 0x81, 1, 1, FUNCTION, BREAKER, 2]))  # a message that is cut
        await eventually(lambda: found.rejected(), "the record")
        (wrong,) = found.rejected()
        assert wrong.reason == RejectReason.UNDECODABLE
        assert "type 1 takes 12 octets, found 7" in (wrong.detail or "")


async def test_measurands_are_read_by_waiting_for_their_turn(tmp_path: Path) -> None:
    relay = Relay()
    async with one(tmp_path, relay) as found:
        reading = asyncio.create_task(found.runner.read_now("b-1", ["voltage_a", "breaker_state"]))
        asked = relay.asked
        await eventually(lambda: relay.asked > asked, "its interrogation")
        read = await reading
        assert read is not None
        assert read[0] == {"voltage_a": pytest.approx(230, abs=0.1), "breaker_state": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"link": "balanced"}, "link"), ({"zone": "Mars"}, "zone"), ({"baud": 3}, "settings.baud")],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    wrong = line(kind=LineKind.IEC103, endpoint="/dev/null", settings=settings)
    with pytest.raises(InvalidInput, match=message):
        open_line(wrong, SystemClock(), PollingSettings(), MEANS)
