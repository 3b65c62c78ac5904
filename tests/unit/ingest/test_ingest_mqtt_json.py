"""JSON over MQTT: what a profile finds in a message, and that nothing else ever becomes a number or a time."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import RejectReason
from libs.common.jsonpath import parse_path
from libs.common.profiles import MessageTime, MqttPoint, MqttReport, ProfileCatalogue, TimeFormat
from services.ingest.domain.mqtt_json import Told, Unreadable, parse_json, read_number, read_reports, read_time
from services.ingest.domain.mqtt_topics import TopicTemplate, address_in, is_address

EXAMPLE = ProfileCatalogue.load().get("example_mqtt_meter")
POINTS = {name: point for name, point in EXAMPLE.points.items() if isinstance(point, MqttPoint)}
LIVE, HISTORY = EXAMPLE.reports
NOW = datetime(2026, 11, 21, 4, 5, 6, 789000, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)


def point(name: str = "voltage_a", path: str = "v", **facts: Any) -> MqttPoint:
    return MqttPoint(name=name, unit="V", path=parse_path(path), **facts)


def read(document: Any, form: MqttReport = LIVE, in_topic: str | None = "m-1") -> list[Told | Unreadable]:
    return read_reports(document, form, POINTS, in_topic)


def test_a_report() -> None:
    (told,) = read({"t": NOW_MS, "n": 7, "v": {"ua": 230.5, "p": 1200, "breaker": "closed", "else": 1}})
    assert told == Told(
        "m-1", {"voltage_a": 230.5, "active_power_total": 1200, "breaker_state": 1}, source_time=NOW, seq=7
    )


def test_many_reports_in_one_message_with_one_that_cannot_be_read() -> None:
    items = [{"t": NOW_MS - 1000 * n, "n": n, "v": {"ua": n}} for n in range(3)]
    items[1]["t"] = "yesterday"
    first, second, third = read({"items": items}, HISTORY)
    assert isinstance(second, Unreadable)
    assert second.reason is RejectReason.UNREADABLE_TIME
    assert isinstance(first, Told)
    assert isinstance(third, Told)
    assert (third.source_time, third.seq, third.raw) == (NOW - timedelta(seconds=2), 2, {"voltage_a": 2})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"v": {"ua": 1}}, RejectReason.MISSING_FIELD),
        ({"t": None, "v": {"ua": 1}}, RejectReason.MISSING_FIELD),
        ({"t": True, "v": {"ua": 1}}, RejectReason.UNREADABLE_TIME),
        ({"t": "2026-11-21", "v": {"ua": 1}}, RejectReason.UNREADABLE_TIME),
        ({"t": 1e300, "v": {"ua": 1}}, RejectReason.UNREADABLE_TIME),
        ({"t": NOW_MS}, RejectReason.MISSING_FIELD),
        ({"t": NOW_MS, "v": {"other": 1}}, RejectReason.MISSING_FIELD),
        ([], RejectReason.MISSING_FIELD),
        (7, RejectReason.MISSING_FIELD),
    ],
)
def test_what_is_refused(document: Any, reason: RejectReason) -> None:
    (found,) = read(document)
    assert isinstance(found, Unreadable)
    assert found.reason is reason


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"v": NaN}', RejectReason.NOT_A_NUMBER),
        (b'{"v": [-Infinity]}', RejectReason.NOT_A_NUMBER),
        (b'{"v": 1e999}', RejectReason.NOT_A_NUMBER),
        (b"", RejectReason.UNDECODABLE),
        (b"\xff", RejectReason.UNDECODABLE),
        (b"[" * 5000, RejectReason.UNDECODABLE),
        (b'{"a": 1} x', RejectReason.UNDECODABLE),
    ],
)
def test_payloads_that_are_no_json(payload: bytes, reason: RejectReason) -> None:
    found = parse_json(payload)
    assert isinstance(found, Unreadable)
    assert found.reason is reason


def test_too_many_reports_in_one_message() -> None:
    (found,) = read({"items": [{}] * 2001}, HISTORY)
    assert isinstance(found, Unreadable)
    assert found.reason is RejectReason.TOO_LARGE


def test_device_in_the_message_and_a_profile_without_time() -> None:
    form = MqttReport(topic="gateway/up", device=parse_path("sn"), items=parse_path("$.list"))
    document = {"list": [{"sn": 17, "v": {"ua": 1}}, {"sn": True, "v": {"ua": 1}}, {"v": {"ua": 1}}]}
    first, second, third = read(document, form, None)
    assert first == Told("17", {"voltage_a": 1})
    assert isinstance(second, Unreadable)
    assert isinstance(third, Unreadable)


@pytest.mark.parametrize(
    ("value", "facts", "number"),
    [
        (5, {}, 5),
        (-0.5, {}, -0.5),
        (True, {}, 1),
        (None, {}, None),
        ("5", {}, None),
        ("5", {"as_text": True}, 5),
        (" -5.25e1 ", {"as_text": True}, -52.5),
        ("1e999", {"as_text": True}, None),
        ("NaN", {"as_text": True}, None),
        ("0x10", {"as_text": True}, None),
        ("1_000", {"as_text": True}, None),
        ("٣", {"as_text": True}, None),
        ("ON", {"words": {"ON": 1, "OFF": 0}}, 1),
        ("on", {"words": {"ON": 1, "OFF": 0}}, None),
        ([1], {}, None),
        ({"value": 1}, {}, None),
    ],
)
def test_numbers(value: Any, facts: dict[str, Any], number: float | None) -> None:
    assert read_number(value, point(**facts)) == number


def time_of(value: Any, format_: TimeFormat, zone: str | None = None) -> datetime | None:
    return read_time(value, MessageTime(path=parse_path("t"), format=format_, zone=zone))


@pytest.mark.parametrize(
    ("value", "format_", "zone"),
    [
        (NOW.timestamp(), TimeFormat.UNIX_S, None),
        (NOW_MS, TimeFormat.UNIX_MS, None),
        (str(NOW_MS), TimeFormat.UNIX_MS, None),
        ("2026-11-21T04:05:06.789Z", TimeFormat.RFC3339, None),
        ("2026-11-21T12:05:06.789+08:00", TimeFormat.RFC3339, None),
        ("2026-11-21 12:05:06.789", TimeFormat.LOCAL, "Asia/Shanghai"),
        ("20261121120506.789", TimeFormat.LOCAL, "Asia/Shanghai"),
    ],
)
def test_times(value: Any, format_: TimeFormat, zone: str | None) -> None:
    assert time_of(value, format_, zone) == NOW


@pytest.mark.parametrize(
    ("value", "format_", "zone"),
    [
        ("2026-11-21T04:05:06", TimeFormat.RFC3339, None),
        ("2026-11-21T04:05:06Z", TimeFormat.LOCAL, "Asia/Shanghai"),
        ("2026-02-30 00:00:00", TimeFormat.LOCAL, "Asia/Shanghai"),
        ("2026-10-25 02:30:00", TimeFormat.LOCAL, "Europe/Berlin"),  # twice
        ("2026-03-29 02:30:00", TimeFormat.LOCAL, "Europe/Berlin"),  # never
        ("0001-01-01 00:00:00", TimeFormat.LOCAL, "Asia/Shanghai"),
        ("0001-01-01T00:00:00+14:00", TimeFormat.RFC3339, None),
        ("1.5", TimeFormat.UNIX_S, None),
        (math.nan, TimeFormat.UNIX_S, None),
        (1e18, TimeFormat.UNIX_S, None),
        ([NOW_MS], TimeFormat.UNIX_MS, None),
    ],
)
def test_times_are_never_guessed(value: Any, format_: TimeFormat, zone: str | None) -> None:
    assert time_of(value, format_, zone) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["t", "n", "v", "ua", "p", "breaker", "items", "x"]), inner, max_size=4)
    ),
    max_leaves=15,
)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)


@given(document=JSON, form=st.sampled_from([LIVE, HISTORY]))
def test_any_document_is_read_or_refused(document: Any, form: MqttReport) -> None:
    for found in read(orjson.loads(orjson.dumps(document)), form):
        if isinstance(found, Told):
            assert found.raw or found.texts
            assert found.source_time is not None
            assert all(value is None or math.isfinite(value) for value in found.raw.values())
        else:
            assert found.detail


@given(payload=st.binary(max_size=60))
def test_any_bytes_are_a_document_or_refused(payload: bytes) -> None:
    parse_json(payload)


@given(
    numbers=st.dictionaries(st.sampled_from(["ua", "ub", "p", "ep"]), NUMBERS, min_size=1),
    at=st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    seq=st.integers(0, 2**62),
)
def test_what_a_device_says_arrives_as_it_said_it(numbers: dict[str, float], at: datetime, seq: int) -> None:
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    payload = orjson.dumps({"t": round(at.timestamp() * 1000), "n": seq, "v": numbers})
    (told,) = read(parse_json(payload))
    assert isinstance(told, Told)
    names = {"ua": "voltage_a", "ub": "voltage_b", "p": "active_power_total", "ep": "energy_active_import"}
    assert told.raw == {names[name]: value for name, value in numbers.items()}
    assert (told.source_time, told.seq) == (at, seq)


# topics


@pytest.mark.parametrize(
    ("template", "topic", "address"),
    [
        ("meters/{device}/up", "meters/m-1/up", "m-1"),
        ("meters/{device}/up", "meters//up", None),
        ("meters/{device}/up", "meters/a/b/up", None),
        ("meter-{device}", "meter-7", "7"),
        ("a/+/{device}/#", "a//m/x/y", "m"),
        ("a/+/{device}/#", "a/b/m", "m"),
        ("+/{device}", "$SYS/m", None),
        ("+/{device}", "/m", "m"),
        ("{device}/SENSOR", "tele.x/SENSOR", "tele.x"),
        ("a.c/{device}", "abc/m", None),
    ],
)
def test_address_in_a_topic(template: str, topic: str, address: str | None) -> None:
    match = TopicTemplate.of(template).match(topic)
    assert (None if match is None else address_in(match)) == address


def test_what_is_subscribed_to() -> None:
    template = TopicTemplate.of("a/meter-{device}/+/#")
    assert (template.filter, template.filter_of("7")) == ("a/+/+/#", "a/meter-7/+/#")
    assert TopicTemplate.of("gateway/#").match("gateway") is not None
    assert TopicTemplate.of("#").match("$SYS/x") is None


@given(address=st.text(min_size=1, max_size=20))
def test_what_is_sent_to_a_device_names_it(address: str) -> None:
    template = TopicTemplate.of("x/{device}/up")
    match = template.match(template.filter_of(address))
    if is_address(address):
        assert match is not None
        assert address_in(match) == address
