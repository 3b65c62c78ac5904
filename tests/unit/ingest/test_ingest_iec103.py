"""ASDUs of IEC 60870-5-103, said as 101: octets of the standard, times of day, whatever else comes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hat.drivers.iec60870.encodings import iec103
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidFile
from libs.common.profiles import Iec60870Control, ObjectType, ProfileCatalogue, iec103_address, parse_profile
from services.ingest.drivers.iec60870 import asdu as iec101
from services.ingest.drivers.iec60870.iec103 import WIDTHS
from services.ingest.drivers.iec60870.iec103_asdu import clock_time, command, decode, interrogation, values_of
from services.ingest.drivers.iec60870.times import decode_time

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
"""13:00 in the zone."""
MOVED = bytes([1, 0x81, 1, 7, 160, 161, 2, 0xE8, 0x03, 59, 12, 0])
"""A breaker of relay 7 is on since 12:59:01.000."""


def said(data: bytes, now: datetime = NOW) -> iec101.Asdu:
    message = decode(data)
    assert message is not None
    found = values_of(message, ZONE, now)
    assert found is not None
    return found


def test_message_is_a_double_point_with_the_long_time() -> None:
    found = said(MOVED)
    assert (found.type_id, found.cause, found.common_address, found.test) == (31, 3, 7, False)
    (told,) = found.objects
    assert (told.address, iec101.value_of(31, told.element).raw) == (iec103_address(160, 161), 2)
    assert decode_time(told.time, ZONE, NOW) == datetime(2026, 11, 21, 4, 59, 1, tzinfo=UTC)
    assert iec101.decode(iec101.encode(found, WIDTHS), WIDTHS) == found


@pytest.mark.parametrize(
    ("now", "hour", "then"),
    [
        (datetime(2026, 11, 20, 16, 0, 1, tzinfo=UTC), 23, datetime(2026, 11, 20, 15, 59, 1, tzinfo=UTC)),
        (datetime(2026, 11, 20, 15, 59, 59, tzinfo=UTC), 0, datetime(2026, 11, 20, 16, 59, 1, tzinfo=UTC)),
        (datetime(2026, 12, 31, 16, 0, 1, tzinfo=UTC), 23, datetime(2026, 12, 31, 15, 59, 1, tzinfo=UTC)),
    ],
    ids=["just past midnight", "their clock is ahead at midnight", "past new year"],
)
def test_time_of_day_is_the_nearest_one(now: datetime, hour: int, then: datetime) -> None:
    (told,) = said(MOVED[:10] + bytes([hour, 0]), now).objects
    assert decode_time(told.time, ZONE, now) == then


@pytest.mark.parametrize(
    ("measurand", "fraction", "quality"),
    [
        (b"\x00\x40", 0.5, None), (b"\x00\x80", -1.0, None), (b"\xf8\x7f", 1 - 2**-12, None),
        (b"\xf9\x7f", 1 - 2**-12, Quality.INVALID), (b"\x02\x00", 0.0, Quality.INVALID),
    ],
)  # fmt: skip
def test_measurand_is_a_normalised_value(measurand: bytes, fraction: float, quality: Quality | None) -> None:
    found = said(bytes([9, 2, 2, 7, 160, 148]) + b"\x00\x00" + measurand)
    assert [told.address for told in found.objects] == [iec103_address(160, 148, n) for n in (0, 1)]
    value = iec101.value_of(9, found.objects[1].element)
    assert (value.raw, value.quality) == (fraction, quality)


def test_questions_and_commands_are_those_of_the_standard() -> None:
    assert interrogation(7, 5) == bytes.fromhex("07 81 09 07 ff 00 05")
    assert command(7, iec103_address(160, 161), 2, 9) == bytes.fromhex("14 81 14 07 a0 a1 02 09")
    asked, _ = iec103.Encoder().decode_asdu(clock_time(7, bytes([0xE8, 3, 59, 12, 21, 11, 26])))
    time = asked.ios[0].elements[0].time
    assert (asked.type, time.hours, time.minutes, time.milliseconds) == (
        iec103.AsduType.TIME_SYNCHRONIZATION,
        12,
        59,
        1000,
    )


@pytest.mark.parametrize("cut", range(1, len(MOVED)))
def test_what_is_cut_is_no_asdu(cut: int) -> None:
    with pytest.raises(iec101.Undecodable):
        decode(MOVED[:-cut])


def test_disturbance_records_are_passed_over() -> None:
    assert decode(bytes([30, 0x81, 31, 1, 160, 0, 1, 2, 3])) is None


@given(st.binary(max_size=40))
def test_whatever_comes_is_passed_over_refused_or_fits_101(data: bytes) -> None:
    try:
        message = decode(data)
    except iec101.Undecodable:
        return
    found = None if message is None else values_of(message, ZONE, NOW)
    if found is not None and found.objects:
        assert iec101.decode(iec101.encode(found, WIDTHS), WIDTHS) == found


HEAD = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: breaker
protocol: iec60870-5-103
transports: [rs485]
address: station
confidence: low
source: [manual]
"""


def test_profile_has_information_in_place_of_objects() -> None:
    profile = ProfileCatalogue.load().get("iec103_feeder_example")
    points = {point.name: point for point in profile.iec60870_points()}
    assert points["breaker_state"].object_address == 160 << 8 | 161
    assert (points["current_b"].object_address, points["current_b"].type) == (
        2 << 16 | 160 << 8 | 148,
        ObjectType.NORMALISED,
    )
    close = profile.controls["breaker_close"]
    assert isinstance(close, Iec60870Control)
    assert (close.object_address, close.value, close.select, close.termination) == (160 << 8 | 161, 2, False, False)


@pytest.mark.parametrize(
    ("points", "field"),
    [
        ("{name: voltage_a, fun: 160, inf: 148, type: measurand, scale: 1, unit: V}", "points[0].index"),
        ('{name: breaker_state, fun: 160, inf: 1, type: state, index: 0, scale: 1, unit: "1"}', "points[0].index"),
        ('{name: breaker_state, fun: 256, inf: 1, type: state, scale: 1, unit: "1"}', "points[0].fun"),
        (
            '{name: breaker_state, fun: 1, inf: 1, type: state, scale: 1, unit: "1"}, '
            '{name: door_state, fun: 1, inf: 1, type: state, scale: 1, unit: "1"}',
            "points[1].inf",
        ),
    ],
)
def test_profile_that_cannot_be_is_refused(points: str, field: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_profile(f"{HEAD}points: [{points}]\n", name="m1", source="m1.yaml")
    assert field in [problem.field for problem in caught.value.problems]
