"""Reports in JSON: read strictly, with units, and told why when they are not taken."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality, RejectReason
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.submission import Submission, parse_submission
from services.ingest.usecases.submissions import split_batch

GOOD: dict[str, Any] = {"device_id": "m-1", "source_time": "2026-03-01T20:00:00+08:00", "points": {"voltage_a": 230.1}}


def taken(**changes: Any) -> Submission:
    found = parse_submission(orjson.dumps({**GOOD, **changes}))
    assert isinstance(found, Submission), found
    return found


def test_report_is_read_and_its_time_is_utc() -> None:
    found = taken(seq=7, message_id="x")
    assert (found.device_id, found.source_time, dict(found.points), found.seq, found.message_id) == (
        "m-1",
        datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
        {"voltage_a": 230.1},
        7,
        "x",
    )


@pytest.mark.parametrize(
    ("point", "value", "unit", "stored"),
    [
        ("voltage_a", 10.5, "kV", 10500.0),
        ("active_power_total", 1500.0, "W", 1.5),
        ("energy_active_import", 2.0, "MWh", 2000.0),
        ("heat_energy", 1.0, "GJ", 277.77777777777777),
        ("reactive_power_total", 1200.0, "Var", 1.2),
        ("temperature", 300.0, "K", 26.85),
    ],
)
def test_unit_is_converted_once_here(point: str, value: float, unit: str, stored: float) -> None:
    assert taken(points={point: value}, units={point: unit}).points[point] == pytest.approx(stored, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source_time": "2026-03-01 20:00:00"}, RejectReason.UNREADABLE_TIME),
        ({"source_time": 1772366400}, RejectReason.UNREADABLE_TIME),
        ({"source_time": "yesterday"}, RejectReason.UNREADABLE_TIME),
        ({"source_time": "0001-01-01T00:00:00+14:00"}, RejectReason.UNREADABLE_TIME),
        ({"source_time": "9999-12-31T23:59:59-14:00"}, RejectReason.UNREADABLE_TIME),
        ({"points": {"voltage_a": "230.1"}}, RejectReason.NOT_A_NUMBER),
        ({"points": {"voltage_a": True}}, RejectReason.NOT_A_NUMBER),
        ({"points": {"spannung": 230.1}}, RejectReason.UNKNOWN_POINT),
        ({"points": {}}, RejectReason.UNDECODABLE),
        ({"points": None}, RejectReason.MISSING_FIELD),
        ({"device_id": None}, RejectReason.MISSING_FIELD),
        ({"device_id": 7}, RejectReason.UNDECODABLE),
        ({"device_id": "a\x00b"}, RejectReason.UNDECODABLE),
        ({"device_id": "../m-1"}, RejectReason.UNDECODABLE),
        ({"device_id": "m" * 65}, RejectReason.UNDECODABLE),
        ({"message_id": "a\x00b"}, RejectReason.UNDECODABLE),
        ({"message_id": 7}, RejectReason.UNDECODABLE),
        ({"units": {"voltage_a": "A"}}, RejectReason.WRONG_UNIT),
        ({"units": {"voltage_a": "furlong"}}, RejectReason.WRONG_UNIT),
        ({"quality": {"voltage_a": "so-so"}}, RejectReason.UNDECODABLE),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(changes: dict[str, Any], reason: RejectReason) -> None:
    found = parse_submission(orjson.dumps({**GOOD, **changes}))
    assert isinstance(found, Refused)
    assert found.reason is reason
    assert all(ord(letter) >= 32 for letter in found.detail + found.detail_zh)


def test_what_was_found_is_shown_short() -> None:
    found = parse_submission(orjson.dumps({**GOOD, "source_time": "x" * 100_000}))
    assert isinstance(found, Refused)
    assert len(found.detail) < 300


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400])
def test_nan_in_json_is_no_number(text: str) -> None:
    raw = orjson.dumps(GOOD).replace(b"230.1", text.encode())
    found = parse_submission(raw)
    assert isinstance(found, Refused)
    assert found.reason is RejectReason.NOT_A_NUMBER


def test_null_is_no_value_and_flagged_and_implausible_is_suspect() -> None:
    found = taken(points={"voltage_a": None, "voltage_b": 5000.0, "x_acme_odd": 1e9})
    assert found.points["voltage_a"] is None
    assert found.quality == {"voltage_a": Quality.INVALID, "voltage_b": Quality.SUSPECT}


def test_ratios_that_came_along_are_kept_unless_they_are_nonsense() -> None:
    assert taken(ct_ratio=20, pt_ratio=0, energy_ratio="x").ratios == {"ct_ratio": 20.0}


class TestBatch:
    def test_array_is_its_items_and_anything_else_stays_whole(self) -> None:
        assert split_batch(b' [{"a": 1}, 2]') == [b'{"a":1}', b"2"]
        assert split_batch(b"[]") == []
        for whole in (b'{"a": 1}', b"[1,", b"", b"\xff", b"[" * 100_000, b"[1" + b"0" * 5000 + b"]"):
            assert split_batch(whole) == [whole]

    @pytest.mark.parametrize(
        "item", ["NaN", "-Infinity", '{"points": {"voltage_a": Infinity}}', r'{"device_id": "\ud800"}']
    )
    def test_one_item_that_is_no_json_spoils_no_other(self, item: str) -> None:
        good = orjson.dumps(GOOD)
        first, bad, last = split_batch(b"[" + good + b"," + item.encode() + b"," + good + b"]")
        assert isinstance(parse_submission(first), Submission)
        assert isinstance(parse_submission(last), Submission)
        assert isinstance(parse_submission(bad), Refused)


@given(st.binary(max_size=200))
def test_no_bytes_raise_an_error(raw: bytes) -> None:
    assert isinstance(parse_submission(raw), Submission | Refused)
    assert all(isinstance(parse_submission(one), Submission | Refused) for one in split_batch(b"[" + raw))


plain_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
)
json_values = st.recursive(
    plain_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "units", "quality", "seq", "ct_ratio"]), json_values))
def test_no_json_raises_an_error_and_what_is_taken_is_numbers(changes: dict[str, Any]) -> None:
    found = parse_submission(orjson.dumps({**GOOD, **changes}))
    if isinstance(found, Submission):
        assert all(value is None or isinstance(value, float) for value in found.points.values())
