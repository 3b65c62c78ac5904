"""What a station tells becomes reports and events: order against time tags, gathering, quality, what does not fit."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue, parse_profile
from libs.common.testing.clock import FakeClock
from services.ingest.drivers.iec60870.asdu import WIDTHS_104, Asdu, Cause, Information, Widths
from services.ingest.drivers.iec60870.intake import GATHER_S, Intake
from services.ingest.drivers.iec60870.objects import Directory, Place, place_of
from services.ingest.drivers.iec60870.times import encode_time
from services.ingest.drivers.port import Address, DeviceEvent, RawReport
from services.ingest.spool import SpoolFull

PROFILE = ProfileCatalogue.load().get("iec60870_breaker_example")
UTC_ZONE = ZoneInfo("UTC")
STATE, LOCK, ALARM, VOLTAGE, ENERGY = 1, 2, 3, 0x4001, 0x6401
INTERROGATED = 20


@dataclass
class Heard:
    said: list[tuple[str, RawReport]] = field(default_factory=list)
    events: list[tuple[str, DeviceEvent]] = field(default_factory=list)
    rejected: list[tuple[RejectReason, str]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    full: bool = False

    async def report(self, device_id: str, report: RawReport) -> None:
        if self.full:
            raise SpoolFull("full")
        self.said.append((device_id, report))

    async def reports(self, told: Sequence[tuple[str, RawReport]]) -> None:
        for device_id, report in told:
            await self.report(device_id, report)

    async def event(self, device_id: str, event: DeviceEvent) -> None:
        self.events.append((device_id, event))

    async def reject(self, reason: RejectReason, raw: bytes, detail: str, *, device_id: str | None = None) -> None:
        self.rejected.append((reason, detail))

    def up(self) -> None: ...

    def failed(self, device_id: str, reason: str) -> None:
        self.failures.append((device_id, reason))


@dataclass
class Station:
    """A station with two devices of the same profile, the second one's objects 1000 further."""

    clock: FakeClock = field(default_factory=FakeClock)
    heard: Heard = field(default_factory=Heard)
    use_times: bool = True

    def __post_init__(self) -> None:
        devices = {"b-1": Address("b-1", "47", PROFILE), "b-2": Address("b-2", "47:100000", PROFILE)}
        self.intake = Intake(
            directory=Directory(devices, WIDTHS_104), sink=self.heard, clock=self.clock, zone=UTC_ZONE,
            use_times=self.use_times,
        )  # fmt: skip

    def now(self) -> datetime:
        return self.clock.now()

    async def says(self, type_id: int, cause: int, *said: tuple[int, bytes] | tuple[int, bytes, datetime]) -> None:
        objects = tuple(
            Information(one[0], one[1], encode_time(one[2], UTC_ZONE) if len(one) == 3 else b"") for one in said
        )
        await self.intake.take(Asdu(type_id, cause, 47, objects))

    async def state(self, cause: int, position: int, at: datetime | None = None) -> None:
        if at is None:
            await self.says(3, cause, (STATE, bytes([position])))
        else:
            await self.says(31, cause, (STATE, bytes([position]), at))

    def values(self, point: str) -> list[tuple[float | int | None, bool]]:
        return [(report.raw[point], report.archive) for _, report in self.heard.said if point in report.raw]


def volts(value: float, flags: int = 0) -> bytes:
    return struct.pack("<fB", value, flags)


async def test_interrogation_is_one_report_per_device() -> None:
    station = Station()
    for address in (VOLTAGE, VOLTAGE + 1, 100_000 + VOLTAGE):
        await station.says(13, INTERROGATED, (address, volts(230)))
    await station.says(3, INTERROGATED, (STATE, b"\2"))
    await station.says(15, 37, (ENERGY, bytes([0x40, 0xE2, 1, 0, 3])))
    assert station.heard.said == []
    assert station.intake.flush_in_s() == GATHER_S
    await station.intake.flush()
    assert {device: dict(report.raw) for device, report in station.heard.said} == {
        "b-1": {"voltage_a": 230, "voltage_b": 230, "breaker_state": 2, "energy_active_import": 123456},
        "b-2": {"voltage_a": 230},
    }
    assert {report.source_time for _, report in station.heard.said} == {station.now()}
    assert station.heard.events == []  # what was asked for has not happened just now


async def test_gathering_ends_however_much_comes() -> None:
    station = Station()
    for _ in range(15):
        await station.says(13, 1, (VOLTAGE, volts(230)))
        await station.clock.advance(0.09)
    assert len(station.heard.said) == 1


async def test_value_that_changes_while_it_is_gathered_is_told_twice() -> None:
    station = Station()
    await station.says(13, INTERROGATED, (VOLTAGE, volts(230)))
    await station.says(13, Cause.SPONTANEOUS, (VOLTAGE, volts(190)))
    await station.intake.flush()
    assert [value for value, _ in station.values("voltage_a")] == [230, 190]
    times = [report.source_time for _, report in station.heard.said]
    assert times[0] is not None
    assert times[1] is not None
    assert times[0] < times[1]  # two instants, or the second one would be late


async def test_change_with_a_time_is_an_event_and_a_value_of_that_time() -> None:
    station = Station()
    at = station.now() - timedelta(milliseconds=120)
    await station.state(Cause.SPONTANEOUS, 1, at)
    ((device, event),) = station.heard.events
    assert (device, event.code, event.phase, event.value, event.source_time) == (
        "b-1", "breaker_state", Phase.ONCE, 0.0, at,
    )  # fmt: skip
    ((_, report),) = station.heard.said
    assert (report.source_time, report.device_time, report.archive) == (at, None, False)


async def test_alarm_begins_and_ends_and_is_told_once_for_one_movement() -> None:
    station = Station()
    at = station.now()
    for position in (1, 1, 0):
        await station.says(30, Cause.SPONTANEOUS, (ALARM, bytes([position]), at + timedelta(seconds=1 - position)))
    await station.says(1, Cause.SPONTANEOUS, (ALARM, b"\x81"))  # invalid: says nothing
    await station.says(3, Cause.SPONTANEOUS, (STATE, b"\0"))  # on its way
    assert [(event.code, event.phase, event.severity) for _, event in station.heard.events] == [
        ("pretrip_alarm", Phase.BEGIN, 2),
        ("pretrip_alarm", Phase.END, 2),
    ]


@pytest.mark.parametrize("behind_s", [-20.0, -1.0, 0.0, 3.0, 200.0], ids=lambda s: f"{s:g} s behind")
async def test_wrong_clock_within_reason_does_not_turn_the_order(behind_s: float) -> None:
    station = Station()
    behind = timedelta(seconds=behind_s)
    await station.state(INTERROGATED, 2)
    await station.intake.flush()
    for position in (1, 2, 1):
        await station.clock.advance(5)
        await station.state(Cause.SPONTANEOUS, position, station.now() - behind)
        await station.clock.advance(1)
        await station.state(INTERROGATED, position)
        await station.intake.flush()
    assert station.values("breaker_state") == [(p, False) for p in (2, 1, 1, 2, 2, 1, 1)]
    times = [report.source_time for _, report in station.heard.said]
    assert all(time is not None and time <= station.now() for time in times)
    assert times == sorted(set(times), key=lambda time: time or station.now())


async def test_change_that_the_interrogation_has_overtaken_is_history() -> None:
    station = Station()
    station.intake.clock_is_set(47)
    await station.clock.advance(60)
    # The line was away for a minute: it opened, it closed, and the station had kept both.
    await station.state(INTERROGATED, 2)
    await station.intake.flush()
    opened = station.now() - timedelta(seconds=50)
    await station.state(Cause.SPONTANEOUS, 1, opened)
    await station.state(Cause.SPONTANEOUS, 2, station.now() - timedelta(seconds=40))
    assert station.values("breaker_state") == [(2, False), (1, True), (2, True)]
    assert station.heard.said[1][1].source_time == opened
    assert len(station.heard.events) == 2  # events are told whenever they come
    known = station.intake.known(47, STATE)
    assert known is not None
    assert known.value.raw == 2


async def test_kept_changes_that_come_before_the_interrogation_are_in_order() -> None:
    station = Station()
    for age, position in ((90, 1), (80, 2)):
        await station.state(Cause.SPONTANEOUS, position, station.now() - timedelta(seconds=age))
    await station.state(INTERROGATED, 2)
    await station.intake.flush()
    assert station.values("breaker_state") == [(1, False), (2, False), (2, False)]


async def test_time_of_an_interrogated_value_says_only_since_when() -> None:
    station = Station()
    yesterday = station.now() - timedelta(days=1)
    await station.state(INTERROGATED, 2, yesterday)
    await station.intake.flush()
    ((_, report),) = station.heard.said
    assert (report.source_time, report.device_time) == (station.now(), None)


async def test_time_tags_that_are_not_to_be_believed_are_kept_beside() -> None:
    station = Station(use_times=False)
    at = station.now() - timedelta(seconds=30)
    await station.state(Cause.SPONTANEOUS, 1, at)
    ((_, report),) = station.heard.said
    assert (report.source_time, report.device_time) == (station.now(), at)


async def test_quality_bits_are_qualities() -> None:
    station = Station()
    for flags in (0x80, 0x40, 0x20, 0x10, 0x01, 0xC0, 0):
        await station.says(13, 1, (VOLTAGE, volts(230, flags)))
        await station.intake.flush()
    assert [report.quality.get("voltage_a") for _, report in station.heard.said] == [
        Quality.INVALID, Quality.STALE, Quality.SUBSTITUTED, Quality.FROZEN, Quality.INVALID, Quality.INVALID, None,
    ]  # fmt: skip


async def test_what_does_not_fit_is_on_record_once_a_minute() -> None:
    station = Station()
    for _ in range(3):
        await station.says(11, 3, (VOLTAGE, bytes([1, 0, 0])))  # scaled, where the profile has a float
    assert station.heard.rejected == [
        (
            RejectReason.UNDECODABLE,
            "station 47, type 11, object 16385: object 16385 is scaled here, float in the device's profile",
        )
    ]
    assert station.heard.failures[0] == ("b-1", "protocol_mismatch")
    impossible = Information(STATE, b"\1", bytes([0, 0, 0, 0, 1, 13, 26]))
    await station.intake.take(Asdu(31, 3, 47, (impossible,)))
    assert station.heard.rejected[-1][0] is RejectReason.UNREADABLE_TIME
    await station.clock.advance(61)
    await station.says(11, 3, (VOLTAGE, bytes([1, 0, 0])))
    assert len(station.heard.rejected) == 3
    assert station.heard.said == []


async def test_strange_objects_and_test_frames_are_passed_over() -> None:
    station = Station()
    await station.says(13, 1, (9999, volts(1)))
    await station.intake.take(Asdu(13, 1, 47, (Information(VOLTAGE, volts(1)),), test=True))
    await station.intake.take(Asdu(13, 1, 48, (Information(VOLTAGE, volts(1)),)))
    await station.intake.flush()
    assert (station.heard.said, station.heard.rejected) == ([], [])


async def test_full_spool_stops_nothing() -> None:
    station = Station()
    station.heard.full = True
    await station.state(Cause.SPONTANEOUS, 1, station.now())
    station.heard.full = False
    await station.state(Cause.SPONTANEOUS, 2, station.now())
    assert station.values("breaker_state") == [(2, False)]


def test_address_is_a_station_and_an_offset() -> None:
    assert place_of(Address("d", "47", PROFILE), WIDTHS_104) == Place(47, 0)
    assert place_of(Address("d", "1:1000", PROFILE), WIDTHS_104) == Place(1, 1000)
    for text in (None, "", "0", "65535", "x", "1:", "1:x", "-1", "1:16777215"):
        with pytest.raises(InvalidInput, match="common address"):
            place_of(Address("d", text, PROFILE), WIDTHS_104)
    with pytest.raises(InvalidInput):
        place_of(Address("d", "255", PROFILE), Widths(1, 1, 2))


def test_object_that_two_devices_claim_belongs_to_the_first() -> None:
    devices = {"b-1": Address("b-1", "47", PROFILE), "b-2": Address("b-2", "47", PROFILE)}
    directory = Directory(devices, WIDTHS_104)
    assert {owned.device_id for owned in directory.owners(47, STATE)} == {"b-1"}


async def test_bits_of_one_object_are_several_points() -> None:
    bits = parse_profile(
        "schema: device-profile/1\nvendor: V\nvendor_zh: 厂\nmodel: M\ncategory: other\nprotocol: iec60870-5\n"
        "transports: [tcp]\naddress: a\nconfidence: low\nsource: [s]\npoints:\n"
        '  - {name: door_state, ioa: 7, type: bitstring, scale: 1, unit: "1", mask: 1, map: {"0": 0, "1": 1}}\n'
        '  - {name: smoke_state, ioa: 7, type: bitstring, scale: 1, unit: "1", mask: 4, map: {"0": 0, "4": 1}}\n',
        name="bits", source="bits",
    )  # fmt: skip
    heard, clock = Heard(), FakeClock()
    directory = Directory({"d": Address("d", "1", bits)}, WIDTHS_104)
    intake = Intake(directory=directory, sink=heard, clock=clock, zone=UTC_ZONE, use_times=True)
    await intake.take(Asdu(7, 1, 1, (Information(7, bytes([5, 0, 0, 0, 0])),)))
    await intake.flush()
    assert heard.said[0][1].raw == {"door_state": 5, "smoke_state": 5}
