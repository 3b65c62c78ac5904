"""Carbon's payloads: what a report says, and intervals as the contract writes them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import Condition
from libs.common.contracts.carbon import Interval, IntervalFlag
from libs.common.contracts.telemetry import Quality, Reading
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.bus import finding_messages, interval_messages, reports
from services.carbon.domain.booking import ENERGY_POINT, INTERVAL_POINT, POWER_POINT, BookedInterval
from services.carbon.domain.intervals import Grade
from services.carbon.domain.media import MEDIA, MediumPoint
from services.carbon.domain.registers import Finding, FindingKind

AT = datetime(2026, 3, 1, 16, tzinfo=UTC)


def received(points: dict[str, float | None], quality: dict[str, Quality] | None = None) -> Received:
    payload = Reading(
        device_id=DeviceId("m"), site_id=SiteId("s"), source_time=AT, received_at=AT + timedelta(seconds=2),
        driver="cjt188", points=points, quality=quality, energy_ratio=40.0,
    )  # fmt: skip
    return Received(
        topic=topics.READINGS, partition=0, offset=0, key="s", value=payload.to_json(), headers=(), appended_at=AT
    )


def test_registers_of_other_media_have_no_ratio_of_transformers() -> None:
    found, samples = reports([received({"water_volume": 12.5, ENERGY_POINT: 7.0})])
    assert [(one.point, one.shown, one.ratio) for one in found] == [
        (ENERGY_POINT, 7.0, 40.0),
        ("water_volume", 12.5, 1.0),
    ]
    assert samples == []


def test_bad_registers_are_left_out_and_doubtful_ones_marked() -> None:
    assert reports([received({"gas_volume": None}, {"gas_volume": Quality.INVALID})]) == ([], [])
    (only,), _ = reports([received({"gas_volume": 3.0}, {"gas_volume": Quality.SUSPECT})])
    assert only.uncertain
    assert only.received_at == AT + timedelta(seconds=2)


def test_power_stands_in_where_a_report_has_no_register_and_what_people_read_is_marked() -> None:
    (power, register, read), _ = reports(
        [
            received({POWER_POINT: 3.0}),
            received({POWER_POINT: 3.0, ENERGY_POINT: 7.0}),
            received({ENERGY_POINT: 7.0}, {ENERGY_POINT: Quality.MANUAL}),
        ]
    )
    assert (power.point, power.shown, power.ratio) == (POWER_POINT, 3.0, 1.0)
    assert (register.point, register.ratio, register.manual) == (ENERGY_POINT, 40.0, False)
    assert (read.manual, read.uncertain) == (True, True)


def test_what_was_used_within_a_meters_own_interval_is_told_beside_its_register_and_without_one() -> None:
    both, _ = reports([received({ENERGY_POINT: 7.0, INTERVAL_POINT: 0.25})])
    assert [(one.point, one.shown, one.ratio) for one in both] == [
        (ENERGY_POINT, 7.0, 40.0),
        (INTERVAL_POINT, 0.25, 40.0),
    ]
    (doubtful,), _ = reports([received({INTERVAL_POINT: 0.25}, {INTERVAL_POINT: Quality.SUSPECT})])
    assert (doubtful.point, doubtful.uncertain, doubtful.received_at) == (
        INTERVAL_POINT, True, AT + timedelta(seconds=2),
    )  # fmt: skip
    assert reports([received({INTERVAL_POINT: None}, {INTERVAL_POINT: Quality.INVALID})]) == ([], [])


def test_a_day_whose_intervals_are_not_its_register_is_told_in_both_languages() -> None:
    finding = Finding(FindingKind.SUM_DIFFERS, AT.timestamp(), 24.0, 23.0)
    (message,) = finding_messages(SiteId("site-1"), CircuitId("feed-1"), [finding], AT)
    told = Condition.from_json(message.value or b"")
    assert told.kind == "interval_sum_differs"
    assert "24 kWh" in told.detail
    assert "23 kWh" in (told.detail_zh or "")


def test_a_heat_meter_whose_heat_is_invalid_does_not_become_a_water_meter() -> None:
    told = received({"heat_energy": None, "water_volume": 3.0}, {"heat_energy": Quality.INVALID})
    assert reports([told]) == ([], [])


booked = st.builds(
    BookedInterval,
    circuit_id=st.just(CircuitId("feed-1")),
    site_id=st.just(SiteId("site-1")),
    start=st.integers(0, 10_000).map(lambda n: AT + timedelta(minutes=15 * n)),
    step_s=st.just(900),
    version=st.integers(1, 9),
    energy_kwh=st.floats(0.0, 1e9),
    grade=st.sampled_from([Grade.MEASURED, Grade.INTERPOLATED, Grade.ALLOCATED]),
    lower_bound=st.booleans(),
    uncertain=st.booleans(),
    computed_at=st.just(AT),
)


@given(booked, st.sampled_from([None, *MEDIA.values()]), st.booleans())
def test_intervals_are_written_as_the_contract_writes_them(
    one: BookedInterval, medium: MediumPoint | None, missing: bool
) -> None:
    if missing:
        one = BookedInterval(
            one.circuit_id, one.site_id, one.start, one.step_s, one.version, None, Grade.MISSING, False, False, AT
        )
    (message,) = interval_messages([one], medium)
    expected = Interval(
        circuit_id=one.circuit_id,
        site_id=one.site_id,
        start=one.start,
        end=one.start + timedelta(minutes=15),
        interval_flag=IntervalFlag(one.grade.flag),
        version=one.version,
        energy_kwh=one.energy_kwh if medium is None else None,
        medium=None if medium is None else medium.medium,
        quantity=None if medium is None else one.energy_kwh,
        unit=None if medium is None else medium.unit,
        lower_bound=one.lower_bound or None,
    )
    assert message.value is not None
    assert Interval.from_json(message.value) == expected
    assert list(orjson.loads(message.value)) == list(orjson.loads(expected.to_json()))
    assert message.key == "site-1"


@given(st.lists(booked, max_size=6))
def test_an_interval_is_written_the_same_whatever_stands_beside_it(several: list[BookedInterval]) -> None:
    following = [
        replace(one, circuit_id=CircuitId('"next"'), start=one.start + timedelta(seconds=one.step_s)) for one in several
    ]
    rows = [one for pair in zip(several, following, strict=True) for one in pair]
    assert interval_messages(rows) == [interval_messages([one])[0] for one in rows]


def test_intervals_of_two_media_of_one_circuit_are_two_events() -> None:
    one = BookedInterval(CircuitId("c"), SiteId("s"), AT, 900, 1, 1.0, Grade.MEASURED, False, False, AT)
    ids = {
        dict(message.headers)["ce_id"]
        for medium in (None, *MEDIA.values())
        for message in interval_messages([one], medium)
    }
    assert len(ids) == 1 + len(MEDIA)
    assert dict(interval_messages([one])[0].headers)["ce_id"] == b"c/2026-03-01T16:00:00+00:00/1"


@pytest.mark.parametrize("grade", list(Grade))
def test_every_grade_has_a_flag_of_the_contract(grade: Grade) -> None:
    assert IntervalFlag(grade.flag)
