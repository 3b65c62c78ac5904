"""The readings history on a real PostgreSQL: once, whatever comes twice; both, where two differ."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import Quality
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.ingest.bus import heartbeat_message
from services.ingest.domain.latest import OlderPoint
from services.ingest.store import history as store
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.readings import Readings

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


def reading(device: str = "m-1", at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    return {
        "device_id": device,
        "site_id": "s-1",
        "source_time": at.isoformat(),
        "received_at": at.isoformat(),
        "driver": "modbus",
        "profile": "chint_dtsu666",
        "points": {"voltage_a": 230.1, "energy_active_import": 999999.99},
        **fields,
    }


def received(payload: dict[str, Any], topic: str = topics.READINGS) -> Received:
    return Received(topic, 0, 0, payload.get("site_id"), orjson.dumps(payload), (), NOON)


async def handle(
    db: Database, handler: HistoryHandler, *payloads: dict[str, Any], topic: str = topics.READINGS
) -> None:
    handler.drop(frozenset({0}))
    async with db.effects() as conn:
        await handler.load(conn, frozenset({0}))
    async with db.effects() as conn:
        await handler.handle(conn, [received(payload, topic) for payload in payloads])
    handler.committed()


async def stored(db: Database, device: str = "m-1") -> list[tuple[datetime, dict[str, float | None]]]:
    found = await Readings(db).range(
        device, points=None, start=NOON - timedelta(days=2), end=NOON + timedelta(days=2), after=None, limit=100
    )
    return [(reading.source_time, dict(reading.points)) for reading in found]


async def test_counter_keeps_its_last_digit_and_gauge_its_look(db: Database) -> None:
    await handle(db, HistoryHandler(FakeClock(NOON)), reading())
    assert await stored(db) == [(NOON, {"voltage_a": 230.1, "energy_active_import": 999999.99})]


async def test_report_that_comes_twice_is_stored_once(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    await handle(db, handler, reading(), reading())
    await handle(db, handler, reading())
    assert len(await stored(db)) == 1


async def test_two_reports_under_one_time_are_both_kept_and_the_second_is_flagged(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    other = reading(points={"voltage_a": 231.0, "energy_active_import": 5.0})
    other["received_at"] = (NOON + timedelta(seconds=3)).isoformat()
    await handle(db, handler, reading(), other)
    await handle(db, handler, other)  # the bus delivers it again
    found = await Readings(db).range(
        "m-1", points=None, start=NOON, end=NOON + timedelta(hours=1), after=None, limit=10
    )
    assert [(r.source_time, r.points["voltage_a"], r.moved) for r in found] == [
        (NOON, 230.1, False),
        (NOON + timedelta(seconds=3), 231.0, True),
    ]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "later"])
async def test_second_report_under_one_time_is_known_when_its_sender_sends_it_again(
    db: Database, together: bool
) -> None:
    """Found by the soak: ingest was killed before it answered, and the second delivery had another arrival."""
    handler = HistoryHandler(FakeClock(NOON))

    def other(after_s: float, voltage_v: float = 231.0) -> dict[str, Any]:
        arrival = (NOON + timedelta(seconds=after_s)).isoformat()
        return reading(points={"voltage_a": voltage_v, "energy_active_import": 5.0}, received_at=arrival)

    deliveries = [other(3), other(9), other(12, voltage_v=232.0), other(2)]
    await handle(db, handler, reading())
    if together:
        await handle(db, handler, *deliveries)
    else:
        for delivery in deliveries:
            await handle(db, handler, delivery)
    assert sorted(points["voltage_a"] or 0 for _, points in await stored(db)) == [230.1, 231.0, 232.0]


async def test_stuck_clock_loses_nothing(db: Database) -> None:
    reports = []
    for i in range(5):
        report = reading(points={"voltage_a": 230.0 + i})
        reports.append(report)  # all of one time and one arrival
    await handle(db, HistoryHandler(FakeClock(NOON)), *reports)
    assert sorted(points["voltage_a"] or 0 for _, points in await stored(db)) == [230.0, 231.0, 232.0, 233.0, 234.0]


async def test_report_with_a_new_point_is_no_other_report(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    await handle(db, handler, reading())
    await handle(db, handler, reading(at=NOON + timedelta(minutes=1), points={"voltage_a": 1.0, "frequency": 50.0}))
    await handle(db, handler, reading())  # the layout has grown since
    assert [points for _, points in await stored(db)] == [
        {"voltage_a": 230.1, "energy_active_import": 999999.99},
        {"voltage_a": 1.0, "frequency": 50.0},
    ]


async def test_latest_is_by_the_time_of_the_device_and_not_by_arrival(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    await handle(db, handler, reading(at=NOON + timedelta(minutes=5), points={"voltage_a": 235.0}))
    await handle(db, handler, reading(at=NOON, points={"voltage_a": 230.0}), topic=topics.BACKFILL)
    latest = await Readings(db).latest(sites=["s-1"], devices=None, after=None, limit=10)
    assert [(r.device_id, r.points) for r in latest] == [("m-1", {"voltage_a": 235.0})]


async def test_daily_registers_do_not_vanish_from_latest(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    fast = {"voltage_a": 230.0, "energy_active_import": 100.0}
    slow = {"temperature_device": 31.5, "ct_ratio": 40.0}
    minute = timedelta(minutes=1)
    await handle(db, handler, reading(points={**fast, **slow}, quality={"temperature_device": "suspect"}))
    await handle(db, handler, reading(at=NOON + minute, points=fast))
    await handle(db, handler, reading(at=NOON + 2 * minute, points={**fast, "voltage_a": 231.0}))
    (found,) = await Readings(db).latest(sites=["s-1"], devices=None, after=None, limit=10)
    assert (found.source_time, found.points) == (NOON + 2 * minute, {**fast, "voltage_a": 231.0})
    assert found.older == {
        "temperature_device": OlderPoint(31.5, NOON, Quality.SUSPECT),
        "ct_ratio": OlderPoint(40.0, NOON),
    }


async def test_latest_of_a_device_that_sends_point_by_point_is_all_of_them(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    values = [("voltage_a", 230.0), ("voltage_b", 231.0), ("voltage_a", 232.0), ("voltage_c", 233.0)]
    reports = [reading(at=NOON + timedelta(seconds=i), points={name: value}) for i, (name, value) in enumerate(values)]
    await handle(db, handler, *reports[:2])  # in one batch
    for report in reports[2:]:
        await handle(db, handler, report)
    for _ in range(2):  # the second time they are delivered again, all late
        (found,) = await Readings(db).latest(sites=None, devices=["m-1"], after=None, limit=10)
        assert (found.source_time, found.points) == (NOON + timedelta(seconds=3), {"voltage_c": 233.0})
        assert {name: (point.value, point.source_time - NOON) for name, point in found.older.items()} == {
            "voltage_a": (232.0, timedelta(seconds=2)),
            "voltage_b": (231.0, timedelta(seconds=1)),
        }
        await handle(db, handler, *reports, topic=topics.BACKFILL)


async def test_late_report_brings_a_point_that_latest_lacks_and_none_that_is_younger(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    await handle(db, handler, reading(points={"voltage_a": 230.0}))
    late = reading(at=NOON - timedelta(hours=1), points={"voltage_a": 1.0, "ct_ratio": 40.0})
    await handle(db, handler, late, topic=topics.BACKFILL)
    (found,) = await Readings(db).latest(sites=None, devices=["m-1"], after=None, limit=10)
    assert (found.points, found.older) == (
        {"voltage_a": 230.0},
        {"ct_ratio": OlderPoint(40.0, NOON - timedelta(hours=1))},
    )


async def test_float_registers_are_rounded_to_what_meters_show_and_others_are_not(db: Database) -> None:
    handler = HistoryHandler(FakeClock(NOON), lambda profile, version: {"voltage_a": 2} if profile == "acme" else {})
    points = {"voltage_a": 230.1234567, "energy_active_import": 0.123456789}
    await handle(db, handler, reading(profile="acme", points=points), reading("m-2", profile="other", points=points))
    assert await stored(db) == [(NOON, {"voltage_a": 230.12, "energy_active_import": 0.123456789})]
    assert await stored(db, "m-2") == [(NOON, {"voltage_a": 230.12346, "energy_active_import": 0.123456789})]


async def test_null_and_its_flag_come_back(db: Database) -> None:
    await handle(
        db,
        HistoryHandler(FakeClock(NOON)),
        reading(points={"voltage_a": None, "current_a": 1.5}, quality={"voltage_a": "invalid"}),
    )
    (found,) = await Readings(db).range(
        "m-1", points=None, start=NOON, end=NOON + timedelta(hours=1), after=None, limit=10
    )
    assert dict(found.points) == {"voltage_a": None, "current_a": 1.5}
    assert dict(found.quality) == {"voltage_a": "invalid"}


async def test_heartbeat_is_no_report(db: Database) -> None:
    beat = heartbeat_message("0", 3, NOON, 1)
    handler = HistoryHandler(FakeClock(NOON))
    async with db.effects() as conn:
        await handler.load(conn, frozenset({3}))
        await handler.handle(conn, [Received(beat.topic, 3, 0, beat.key, beat.value, beat.headers, NOON)])
    assert await stored(db) == []


async def test_what_is_no_reading_is_poison(db: Database) -> None:
    broken = reading()
    del broken["points"]
    with pytest.raises(PoisonMessage, match="points"):
        await handle(db, HistoryHandler(FakeClock(NOON)), broken)


async def test_people_can_decode_a_report_with_sql(db: Database) -> None:
    await handle(
        db,
        HistoryHandler(FakeClock(NOON)),
        reading(
            points={
                "voltage_a": -12.5,
                "voltage_b": 3276.7,
                "voltage_c": 60000.25,
                "energy_active_import": 123456.78,
                "energy_active_export": 1e10 / 3,
                "energy_reactive_import": -0.01,
                "current_a": None,
            },
            quality={"current_a": "invalid"},
        ),
    )
    async with db.read() as conn:
        rows = await conn.fetch("select * from report_points('m-1', $1, $2)", NOON, NOON + timedelta(minutes=1))
    assert {row["point"]: (row["value"], row["quality"]) for row in rows} == {
        "voltage_a": (-12.5, None),
        "voltage_b": (3276.7, None),
        "voltage_c": (60000.25, None),
        "energy_active_import": (123456.78, None),
        "energy_active_export": (1e10 / 3, None),
        "energy_reactive_import": (-0.01, None),
        "current_a": (None, "invalid"),
    }


async def test_buckets_have_min_max_mean_and_last(db: Database) -> None:
    reports = [
        reading(at=NOON + timedelta(minutes=i), points={"voltage_a": 230.0 + i % 7, "energy_active_import": 100.0 + i})
        for i in range(60)
    ]
    await handle(db, HistoryHandler(FakeClock(NOON)), *reports)
    buckets = await Readings(db).buckets(
        "m-1", points=["energy_active_import"], start=NOON, end=NOON + timedelta(hours=2), bucket_s=900, limit=10
    )
    assert [bucket.reports for bucket in buckets] == [15, 15, 15, 15]
    first = buckets[0].points["energy_active_import"]
    assert (first.minimum, first.maximum, first.mean, first.last) == (100.0, 114.0, 107.0, 114.0)


async def test_days_are_partitions_that_are_made_and_dropped(db: Database) -> None:
    day = datetime(2025, 1, 5, tzinfo=UTC)
    async with db.write() as conn:
        assert await store.ensure_partition(conn, day)
    async with db.write() as conn:
        assert not await store.ensure_partition(conn, day)
        await store.drop_partition(conn, day.date())
    async with db.read() as conn:
        assert day.date() not in await store.fetch_partition_days(conn)
