"""Numbers that are none, and times and texts that break whoever keeps them: what becomes of them in every decoder.

Whatever a device says, the report that leaves is one that the topic's contract takes: one that it refuses would be
lost to alarm, carbon and export, though ingest had acknowledged it.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import example, given

from libs.common.bus import topics
from libs.common.contracts.base import EARLIEST, LATEST
from libs.common.contracts.telemetry import Quality, Reading, Rejected, RejectReason
from libs.common.ids import DeviceId, SiteId
from libs.common.points import is_point_name
from libs.common.profiles import DeviceProfile, MqttPoint, ProfileCatalogue, RegisterType, parse_profile
from libs.common.testing.clock import FakeClock
from services.ingest.bus import reading_message, rejected_message
from services.ingest.domain.acceptance import DeviceMemory, Limits, Refused, Verdict, judge
from services.ingest.domain.aep import Push, parse_push
from services.ingest.domain.codecs import bcd, yd1363
from services.ingest.domain.loose import number_of, time_of
from services.ingest.domain.mqtt_json import read_number
from services.ingest.domain.normalise import Normaliser, Ratios
from services.ingest.domain.registers import ByteOrder, decode, encode
from services.ingest.domain.report import Rejection, Report
from services.ingest.domain.sparkplug import DataType, Metric, Payload, signed
from services.ingest.domain.submission import Submission, read_submission, report_of
from services.ingest.drivers.iec60870.asdu import value_of
from services.ingest.drivers.sparkplug_codec import decode as decode_sparkplug
from services.ingest.drivers.sparkplug_codec import encode as encode_sparkplug
from services.ingest.usecases.status import StatusBoard, StatusRow
from tests.unit.ingest.ingest_fakes import device

NOW = datetime(2026, 11, 21, 5, tzinfo=UTC)
CATALOGUE = ProfileCatalogue.load()
NAMES = sorted(profile.name for profile in CATALOGUE)
NAN, INF, DENORMAL = math.nan, math.inf, 5e-324
ODD = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(2**64), 2**64),
    st.sampled_from([NAN, INF, -INF, DENORMAL, -0.0, 1.7e308, 2**16 - 1, 2**32 - 1, 2**64 - 1, -(2**63)]),
)


def is_taken(report: Report) -> Reading:
    """Return the report as every reader of the topic gets it; the contract refuses NaN and what is infinite."""
    reading = Reading.from_json(reading_message(report, topics.READINGS).value or b"")
    for name, value in report.points.items():
        flag = reading.quality_of(name)
        assert reading.points[name] == value, name
        assert (value is None) == (flag is not None and flag.is_bad), name
    return reading


def report_with(
    points: Mapping[str, float | None], *, quality: Mapping[str, Quality] | None = None,
    raw: Mapping[str, float] | None = None, source_time: datetime = NOW, device_time: datetime | None = None,
) -> Report:  # fmt: skip
    return Report(
        device_id=DeviceId("m-1"), site_id=SiteId("site-1"), source_time=source_time, received_at=NOW, driver="test",
        points=points, quality=quality or {}, raw=raw or {}, device_time=device_time,
    )  # fmt: skip


@given(
    st.sampled_from(NAMES),
    st.lists(ODD, min_size=1, max_size=60),
    st.sampled_from([Ratios(), Ratios(ct=400.0, pt=100.0), Ratios(ct=1e9, pt=1e9)]),
    st.lists(st.sampled_from([None, *Quality]), min_size=1, max_size=7),
)
@example("eastron_sdm630", [1.7e308], Ratios(ct=400.0), [None])
@example("iec60870_meter_example", [NAN, INF], Ratios(), [None])
@example("example_mqtt_meter", [1.5], Ratios(), [Quality.SUSPECT])
def test_whatever_a_device_says_its_report_is_one_that_the_topic_takes(
    name: str, numbers: list[float | int | None], ratios: Ratios, flags: list[Quality | None]
) -> None:
    profile = CATALOGUE.get(name)
    names = [point.name for point in profile.points.values() if not point.is_text and point.copy_of is None]
    raw = {point: numbers[n % len(numbers)] for n, point in enumerate(names)}
    told = {point: flag for n, point in enumerate(names) if (flag := flags[n % len(flags)]) is not None}
    measured = Normaliser(profile).measure(raw, ratios, told)
    assert measured.points.keys() >= raw.keys()
    is_taken(report_with(measured.points, quality=measured.quality, raw=measured.raw))
    for point, number in raw.items():
        if number is None or not math.isfinite(number):
            assert measured.points[point] is None
            assert measured.quality[point].is_bad
            assert point not in measured.raw


def a_profile(point: str) -> DeviceProfile:
    """A meter with one point."""
    text = f"""
schema: device-profile/1
vendor: Test
vendor_zh: 测试
model: Test
category: meter_3p
protocol: modbus
transports: [tcp]
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: secondary
ratio: {{applied_by_meter: false, ct_register: null, pt_register: null, apply_to: [voltage, current, power, energy]}}
points:
  - {point}
source: [made for this test]
"""
    return parse_profile(text, name="test", source="test.yaml")


def measured_of(point: str, number: float | int | None, ratios: Ratios | None = None) -> tuple[object, object]:
    """Return the value and the flag of a profile's only point."""
    profile = a_profile(point)
    (name,) = profile.points
    found = Normaliser(profile).measure({name: number}, ratios or Ratios())
    return found.points[name], found.quality.get(name)


class TestNormalise:
    DOUBLE = "{name: active_power_total, area: holding, addr: 0, type: float64, scale: 1, unit: kW}"

    def test_value_beyond_all_numbers_once_it_is_scaled_is_invalid(self) -> None:
        assert measured_of(self.DOUBLE, 1.7e308, Ratios(ct=400.0)) == (None, Quality.INVALID)

    @pytest.mark.parametrize("number", [NAN, INF, -INF, None])
    def test_no_number_is_invalid_and_never_0(self, number: float | None) -> None:
        assert measured_of(self.DOUBLE, number) == (None, Quality.INVALID)

    def test_denormal_is_the_number_that_it_is(self) -> None:
        assert measured_of(self.DOUBLE, DENORMAL) == (DENORMAL, None)

    def test_implausible_number_is_kept_and_suspect(self) -> None:
        assert measured_of("{name: voltage_a, area: holding, addr: 0, type: float32, scale: 1, unit: V}", 1e30) == (
            1e30, Quality.SUSPECT,
        )  # fmt: skip

    def test_state_between_two_states_is_none_of_them(self) -> None:
        state = "{name: breaker_state, area: holding, addr: 0, type: int16, scale: 1, unit: '1', map: {0: 0, 1: 1}}"
        assert [measured_of(state, number) for number in (1.0, 1.5, 2.0)] == [
            (1, None), (None, Quality.INVALID), (None, Quality.INVALID),
        ]  # fmt: skip


class TestDecoders:
    """All-ones, NaN, infinities, denormals, signs and texts, as each protocol writes them."""

    @pytest.mark.parametrize("order", ByteOrder)
    @pytest.mark.parametrize(
        ("type_", "registers", "expected"),
        [
            (RegisterType.FLOAT32, (0x7FC0, 0), None),
            (RegisterType.FLOAT32, (0xFFFF, 0xFFFF), None),
            (RegisterType.FLOAT32, (0x7F80, 0), None),
            (RegisterType.FLOAT32, (0, 1), 1.401298464324817e-45),
            (RegisterType.FLOAT64, (0x7FF0, 0, 0, 0), None),
            (RegisterType.INT16, (0xFFFF,), -1),
            (RegisterType.UINT16, (0xFFFF,), 0xFFFF),
            (RegisterType.INT32, (0x8000, 0), -(2**31)),
            (RegisterType.UINT64, (0xFFFF,) * 4, 2**64 - 1),
        ],
    )
    def test_registers(
        self, type_: RegisterType, registers: tuple[int, ...], expected: float, order: ByteOrder
    ) -> None:
        straight = b"".join(word.to_bytes(2, "big") for word in registers)
        words = [straight[at : at + 2] for at in range(0, len(straight), 2)]
        words = words if order in (ByteOrder.ABCD, ByteOrder.BADC) else words[::-1]
        little = order in (ByteOrder.BADC, ByteOrder.DCBA)
        assert decode([int.from_bytes(word, "little" if little else "big") for word in words], type_, order) == expected
        if expected is not None:
            assert decode(encode(expected, type_, order), type_, order) == expected

    @pytest.mark.parametrize("number", [NAN, INF, -INF])
    @pytest.mark.parametrize("type_id", [13, 14, 36])
    def test_iec60870_floats(self, type_id: int, number: float) -> None:
        assert value_of(type_id, struct.pack("<fB", number, 0)).quality is Quality.INVALID

    def test_iec60870_quality_of_a_float_that_is_one(self) -> None:
        assert value_of(13, struct.pack("<fB", 1e-45, 0)).quality is None

    @pytest.mark.parametrize("data", [struct.pack("<f", NAN), struct.pack("<f", INF), b"\xff" * 4, b"    ", b"", b"\0"])
    def test_yd1363_floats(self, data: bytes) -> None:
        assert yd1363.float32(data) is None

    @pytest.mark.parametrize("data", [b"\xff\xff", b"\xff" * 4, b"\x0a", b"\xa0\x01", b""])
    def test_decimal_digits_of_dlt645_and_cjt188(self, data: bytes) -> None:
        assert bcd.number(data) is None

    def test_sign_of_decimal_digits(self) -> None:
        assert [bcd.number(b"\x34\x92", signed=signed) for signed in (True, False)] == [-1234, 9234]

    @pytest.mark.parametrize("value", ["NaN", "inf", "-Infinity", "1e999", "", " ", "0x10", "1,5", "一", None, [], {}])
    def test_texts_that_are_no_numbers(self, value: object) -> None:
        point = CATALOGUE.get("example_mqtt_meter").points["voltage_a"]
        assert isinstance(point, MqttPoint)
        assert number_of(value) is None
        assert read_number(value, point) is None

    @pytest.mark.parametrize(("value", "expected"), [("-12.5", -12.5), (" 7 ", 7), (True, 1), ("1e-3", 0.001)])
    def test_texts_that_are_numbers(self, value: object, expected: float) -> None:
        assert number_of(value) == expected

    @given(st.floats(), st.sampled_from([DataType.FLOAT, DataType.DOUBLE]))
    def test_sparkplug_floats_come_as_they_are_and_are_judged_behind_it(self, number: float, type_: DataType) -> None:
        sent = (
            struct.unpack("<f", struct.pack("<f", 0.0))[0] if type_ is DataType.FLOAT and abs(number) > 3e38 else number
        )
        metric = Metric(name="U", datatype=type_, value=sent)
        (found,) = decode_sparkplug(encode_sparkplug(Payload([metric]))).metrics
        assert isinstance(found.value, float)
        assert math.isnan(found.value) == math.isnan(sent)

    def test_sparkplug_signs(self) -> None:
        assert [signed(value, DataType.INT16) for value in (0xFFFF, 0x8000, 0xFFFFFFFF, 1)] == [-1, -32768, -1, 1]


def submitted(**changes: object) -> Submission | Refused:
    payload = {"device_id": "m-1", "source_time": "2026-11-21T05:00:00Z", "points": {"voltage_a": 230.0}, **changes}
    return read_submission(orjson.loads(orjson.dumps(payload)))


class TestPushed:
    """Reports as JSON."""

    def test_number_that_overflows_in_our_unit_is_refused_by_name(self) -> None:
        found = submitted(points={"energy_active_import": 1e307}, units={"energy_active_import": "GWh"})
        assert isinstance(found, Refused)
        assert found.reason is RejectReason.NOT_A_NUMBER
        assert "energy_active_import" in found.detail

    @pytest.mark.parametrize("name", ["x_a_" + "b" * 61, "x_a_b\n", "x_a_b\0", "x_é_b", "X_A_B", ""])
    def test_name_that_the_topic_does_not_carry_is_no_point(self, name: str) -> None:
        assert not is_point_name(name)
        found = submitted(points={name: 1.0})
        assert isinstance(found, Refused)
        assert found.reason is RejectReason.UNKNOWN_POINT

    def test_longest_name_is_one(self) -> None:
        assert is_point_name("x_a_" + "b" * 60)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "points": st.dictionaries(
                    st.sampled_from(["voltage_a", "energy_active_import", "x_v_a"]) | st.text(max_size=5),
                    ODD,
                    max_size=4,
                ),
                "units": st.dictionaries(
                    st.sampled_from(["energy_active_import"]), st.sampled_from(["GWh", "Wh", "V"])
                ),
                "seq": ODD | st.text(max_size=3),
                "ct_ratio": ODD,
                "pt_ratio": ODD,
                "energy_ratio": ODD,
                "message_id": st.text(max_size=5),
            },
        )
    )
    @example({"ct_ratio": 1e300, "pt_ratio": 1e300})
    @example({"ct_ratio": 1e-300, "pt_ratio": 1e-300})
    @example({"seq": 2**64 - 1})
    def test_what_is_taken_is_one_that_the_topic_takes(self, changes: dict[str, object]) -> None:
        try:
            found = submitted(**changes)
        except TypeError:  # a number that cannot be written as JSON
            return
        if isinstance(found, Submission):
            profile = CATALOGUE.get("chint_dtsu666")
            made = report_of(found, device(id="m-1", profile=profile.name), profile, NOW, "push")
            reading = is_taken(made)
            assert reading.seq is None or -(2**63) < reading.seq < 2**63


class TestTimes:
    """Clocks that show no year of ours."""

    @pytest.mark.parametrize("year", [1, 21, 1899, 2200, 9999])
    def test_reading_beside_a_wrecked_clock_is_taken_and_the_clock_told_wrong(self, year: int) -> None:
        shown = datetime(year, 6, 1, tzinfo=UTC)
        verdict = judge(report_with({"water_volume": 1.0}, device_time=shown), None, Limits())
        assert isinstance(verdict, Verdict)
        assert verdict.skew_s is not None
        reading = is_taken(verdict.report)
        assert (reading.source_time, reading.device_time) == (NOW, None)

    @given(st.datetimes(timezones=st.just(UTC)), st.none() | st.datetimes(timezones=st.just(UTC)))
    def test_whatever_time_a_device_tells_its_report_is_one_that_the_topic_takes(
        self, source_time: datetime, device_time: datetime | None
    ) -> None:
        last = DeviceMemory(NOW - timedelta(minutes=1), NOW - timedelta(minutes=1))
        report = report_with({"voltage_a": 230.0}, source_time=source_time, device_time=device_time)
        verdict = judge(report, last, Limits())
        if isinstance(verdict, Verdict):
            is_taken(verdict.report)

    @given(st.one_of(st.floats(), st.integers(), st.text(max_size=20)), st.sampled_from(["ms", "s"]))
    @example(253402300799000, "ms")
    @example("253402300799", "s")
    @example(1e308, "s")
    def test_number_becomes_a_time_of_ours_or_none(self, value: object, unit: str) -> None:
        found = time_of(value, unit)
        assert found is None or EARLIEST <= found < LATEST

    def test_event_of_the_year_9999_is_refused_and_not_a_failure(self) -> None:
        push = {"messageType": "eventReport", "deviceId": "d-1", "serviceId": "trip", "timestamp": 253402300799000}
        found = parse_push(orjson.dumps(push))
        assert isinstance(found, Refused)
        assert found.reason is RejectReason.UNREADABLE_TIME


class KeptStatus:
    """Keeps what is told of devices in memory; implements ``StatusStore``."""

    def __init__(self) -> None:
        self.rows: list[StatusRow] = []

    async def load(self, device_ids: Sequence[str]) -> Mapping[str, StatusRow]:
        return {}

    async def publish(self, rows: Sequence[StatusRow]) -> None:
        self.rows += rows


class TestTexts:
    """A NUL is a character of JSON, and none of PostgreSQL."""

    async def test_text_point_loses_what_no_database_keeps(self) -> None:
        store = KeptStatus()
        board = StatusBoard(store, FakeClock(), offline_after_missed=3)
        board.watch("m-1", site_id="site-1", line_id=None, interval_s=60)
        board.texts("m-1", {"device_model": " A\0B\x1b\n"})
        await board.scan()
        (row,) = store.rows
        assert row.texts == {"device_model": "AB"}

    def test_reason_of_a_rejection_can_be_kept(self) -> None:
        rejection = Rejection(
            reason=RejectReason.UNKNOWN_POINT, source="line-1", received_at=NOW, raw=b"\0", detail="a\0b" * 1000,
            detail_zh="\0",
        )  # fmt: skip
        found = Rejected.from_json(rejected_message(rejection).value or b"")
        assert "\0" not in (found.detail or "") + (found.detail_zh or "")
        assert len(found.detail or "") == 2000

    def test_ids_of_a_push_hold_no_control_characters(self) -> None:
        push = parse_push(
            orjson.dumps(
                {"messageType": "dataReport", "deviceId": "d-1", "serviceId": "a\0b", "timestamp": 1795237200000,
                 "payload": {"x": 1}}
            )
        )  # fmt: skip
        assert isinstance(push, Push)
        assert push.service == "ab"
