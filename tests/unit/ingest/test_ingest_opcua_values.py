"""OPC UA values: status codes, variants, and which values at which times are one report."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from libs.common.profiles import OpcUaPoint
from services.ingest.domain.opcua_values import (
    Sample,
    change_groups,
    is_bad,
    number_of,
    quality_of,
    reading_time,
    text_of,
)

T = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)


def at(second: float) -> datetime:
    return T + timedelta(seconds=second)


def sample(point: str, raw: float, source: float | None = 0, **facts: Any) -> Sample:
    return Sample(
        **{
            "point": point, "raw": raw, "received_at": at(50),
            "source_time": None if source is None else at(source), **facts,
        }
    )  # fmt: skip


def point(**facts: Any) -> OpcUaPoint:
    return OpcUaPoint(name="voltage_a", unit="V", node="i=1", **facts)


@pytest.mark.parametrize(
    ("status", "quality"),
    [
        (0x00000000, None),
        (0x00300000, None),
        (0x00960000, Quality.MANUAL),
        (0x00960400, Quality.MANUAL),
        (0x40000000, Quality.SUSPECT),
        (0x40930000, Quality.SUSPECT),
        (0x40900000, Quality.STALE),
        (0x40910000, Quality.SUBSTITUTED),
        (0x80000000, Quality.INVALID),
        (0x808C0000, Quality.INVALID),
        (0x80310000, Quality.STALE),
        (0xFFFFFFFF, Quality.INVALID),
    ],
)
def test_quality_of_a_status(status: int, quality: Quality | None) -> None:
    assert quality_of(status) is quality
    assert is_bad(status) == (status >= 0x80000000)


@pytest.mark.parametrize(
    ("value", "facts", "number"),
    [
        (1.5, {}, 1.5),
        (True, {}, 1),
        ([1, 2], {"index": 1}, 2),
        ([1, 2], {"index": 2}, None),
        ([1, 2], {}, None),
        (1, {"index": 0}, None),
        ("ON", {"words": {"ON": 1}}, 1),
        ("off", {"words": {"ON": 1}}, None),
        ("5", {}, None),
        (None, {}, None),
        (b"x", {}, None),
        (datetime(2026, 1, 1, tzinfo=UTC), {}, None),
    ],
)
def test_numbers(value: Any, facts: dict[str, Any], number: float | None) -> None:
    assert number_of(value, point(**facts)) == number


def test_texts() -> None:
    assert (text_of("v1"), text_of(12), text_of(None), text_of([1]), text_of("")) == ("v1", "12", None, None, None)


def groups(
    samples: list[Sample], last: datetime | None = None, window_s: float = 1.0
) -> list[tuple[datetime, dict[str, Any]]]:
    return [(group.at, group.raw) for group in change_groups(samples, last, window_s)]


def test_gauges_that_change_together_are_one_report() -> None:
    found = groups([sample("ua", 1, 0.0), sample("ub", 2, 0.4), sample("uc", 3, 2.0)])
    assert found == [(at(0.4), {"ua": 1, "ub": 2}), (at(2.0), {"uc": 3})]


def test_two_values_of_one_point_are_two_reports_in_their_order() -> None:
    assert groups([sample("ua", 2, 0.3), sample("ua", 1, 0.1)]) == [(at(0.1), {"ua": 1}), (at(0.3), {"ua": 2})]


def test_a_state_keeps_its_time_to_the_moment() -> None:
    found = groups([sample("ua", 1, 0.0), sample("breaker", 0, 0.2, is_state=True), sample("ub", 2, 0.4)])
    assert found == [(at(0.2), {"breaker": 0}), (at(0.4), {"ua": 1, "ub": 2})]


def test_a_change_that_was_overtaken_by_a_reading_is_told_when_it_came() -> None:
    (group,) = change_groups([sample("ua", 1, -5)], at(0), 1.0)
    assert (group.at, group.device_time) == (at(50), at(-5))
    (group,) = change_groups([sample("ua", 1, -5)], at(200), 1.0)
    assert (group.at, group.device_time) == (at(-5), None)  # older than everything: late, and said so
    (group,) = change_groups([sample("ua", 1, None)], None, 1.0)
    assert (group.at, group.device_time) == (at(50), None)


def test_time_of_a_reading() -> None:
    live, static = [sample("ua", 1, 45), sample("s", 1, -9000)], [sample("s", 1, -9000)]
    assert reading_time(live, None) == at(45)
    assert reading_time(live, at(45)) is None  # nothing has changed since: it holds when it is read
    assert reading_time(static, None) is None
    assert reading_time([sample("s", 1, None)], None) is None
    assert reading_time([], None) is None


SAMPLES = st.lists(
    st.builds(
        sample,
        st.sampled_from(["a", "b", "c", "s"]),
        st.integers(0, 9),
        st.none() | st.floats(0, 10),
    ).map(lambda found: found if found.point != "s" else Sample(
        found.point, found.raw, found.received_at, None, found.source_time, is_state=True
    )),
    max_size=20,
)  # fmt: skip


@given(samples=SAMPLES, last=st.none() | st.floats(-10, 20), window_s=st.floats(0, 3))
def test_nothing_is_lost_and_no_gauge_is_moved_further_than_the_window(
    samples: list[Sample], last: float | None, window_s: float
) -> None:
    found = change_groups(samples, None if last is None else at(last), window_s)
    assert sum(len(group.raw) for group in found) == len(samples)
    assert [group.at for group in found] == sorted(group.at for group in found)
    for one in samples:
        told = [group for group in found if group.raw.get(one.point, object()) == one.raw]
        assert told
        if last is None and one.source_time is not None:
            nearest = min(abs((group.at - one.source_time).total_seconds()) for group in told)
            assert nearest <= (0 if one.is_state else window_s)
