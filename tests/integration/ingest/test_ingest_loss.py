"""Expected against received, as it is counted while reports are stored."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.common.contracts.registry import Region, record_of
from libs.common.db import Database
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.ingest.domain.completeness import Duty, Loss
from services.ingest.domain.polling import next_slot, offset_s
from services.ingest.domain.stored import LayoutKey, StoredReport
from services.ingest.settings import PollingSettings
from services.ingest.store.coldfiles import LocalFiles
from services.ingest.store.counts import fetch_counts
from services.ingest.usecases.cooling import Cooling
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.loss import By, Losses, Scope
from services.ingest.usecases.topology import Topology
from tests.unit.ingest.ingest_fakes import device, site, topology

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = datetime(2026, 3, 1, tzinfo=UTC)
NOON = DAY + timedelta(hours=12)
HOUR = timedelta(hours=1)
EVERYTHING = Scope()


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


def slots(device_id: str, start: datetime, end: datetime, interval_s: float = 60.0) -> list[datetime]:
    """Return the times at which a device is polled."""
    place = offset_s(device_id, interval_s)
    found = []
    slot = next_slot(start.timestamp() - interval_s, interval_s, place)
    while slot < end.timestamp():
        if slot >= start.timestamp():
            found.append(datetime.fromtimestamp(slot, UTC))
        slot = next_slot(slot + interval_s / 2, interval_s, place)
    return found


async def store(db: Database, device_id: str, times: list[datetime], value: float = 1.0) -> None:
    handler = HistoryHandler(FakeClock(NOON))
    async with db.effects() as conn:
        await handler.load(conn, frozenset({0}))
        reports = [
            StoredReport(
                device_id=device_id,
                site_id="s-1",
                source_time=at,
                received_at=at,
                points={"voltage_a": value},
                layout_key=LayoutKey("modbus"),
            )
            for at in times
        ]
        await handler.store(conn, reports)


def losses(db: Database, clock: FakeClock, known: Topology) -> Losses:
    return Losses(
        db=db,
        topology=known,
        catalogue=ProfileCatalogue.load(),
        settings=PollingSettings(),
        clock=clock,
    )


FIELD = (
    Region(id="gd", name="Guangdong", code="440000", valid_from=DAY - HOUR, version=1, changed_by="test"),
    Region(id="gz", name="Guangzhou", code="440100", parent="gd", valid_from=DAY - HOUR, version=1, changed_by="test"),
    site(id="s-1", region="gz", valid_from=DAY - HOUR),
    site(id="s-2", region="gd", valid_from=DAY - HOUR),
    device(id="m-1", site="s-1", profile="chint_dtsu666", valid_from=DAY - HOUR),
    device(id="m-2", site="s-1", profile="chint_dtsu666", valid_from=DAY - HOUR),
    device(id="m-3", site="s-2", profile="dlt645_2007_meter", valid_from=DAY - HOUR),
)


async def test_loss_by_device_site_region_and_protocol(db: Database) -> None:
    await store(db, "m-1", slots("m-1", DAY, DAY + 2 * HOUR))
    await store(db, "m-2", slots("m-2", DAY, DAY + 2 * HOUR)[:90])  # half of the second hour is missing
    await store(db, "m-3", slots("m-3", DAY, DAY + HOUR))  # nothing in the second
    found = losses(db, FakeClock(NOON), topology(*FIELD))
    start, end = DAY, DAY + 2 * HOUR

    async def by(key: By, scope: Scope = EVERYTHING) -> dict[str, Loss]:
        total, groups = await found.summary(key, scope, start, end)
        summed = Loss()
        for group in groups.values():
            summed = summed.plus(group.loss)
        assert summed == total
        return {name: group.loss for name, group in groups.items()}

    assert await by(By.DEVICE) == {"m-1": Loss(120, 120), "m-2": Loss(120, 90), "m-3": Loss(120, 60)}
    assert await by(By.SITE) == {"s-1": Loss(240, 210), "s-2": Loss(120, 60)}
    assert await by(By.REGION) == {"gz": Loss(240, 210), "gd": Loss(120, 60)}
    assert await by(By.PROTOCOL) == {"modbus": Loss(240, 210), "dlt645": Loss(120, 60)}
    assert await by(By.SITE, Scope(region="gz")) == {"s-1": Loss(240, 210)}
    assert await by(By.DEVICE, Scope(region="gd", sites=frozenset({"s-2"}))) == {"m-3": Loss(120, 60)}

    hours, more = await found.hourly(EVERYTHING, start, end, limit=2)
    assert more
    assert [(one.device_id, one.hour, one.loss.expected, one.received) for one in hours] == [
        ("m-1", DAY, 60, 60),
        ("m-1", DAY + HOUR, 60, 60),
        ("m-2", DAY, 60, 60),
        ("m-2", DAY + HOUR, 60, 30),
    ]
    rest, more = await found.hourly(Scope(after="m-2"), start, end, limit=2)
    assert ([one.device_id for one in rest], more) == (["m-3", "m-3"], False)


async def test_what_has_not_passed_yet_is_not_missing(db: Database) -> None:
    clock = FakeClock(DAY + timedelta(minutes=30))
    await store(db, "m-1", slots("m-1", DAY, clock.now()))
    total, _ = await losses(db, clock, topology(*FIELD)).summary(By.DEVICE, Scope(device="m-1"), DAY, DAY + 24 * HOUR)
    assert total == Loss(30, 30)


async def test_duplicates_and_moved_reports_are_not_counted(db: Database) -> None:
    times = slots("m-1", DAY, DAY + HOUR)
    for _ in range(2):
        await store(db, "m-1", times)
    await store(db, "m-1", times[:5], value=2.0)  # other content under a time that is taken
    async with db.read() as conn:
        counts = await fetch_counts(conn, DAY.date())
    assert counts["m-1"].tolist() == [60] + [0] * 23


async def test_move_to_files_counts_anew_what_was_counted_twice(db: Database, tmp_path: Path) -> None:
    clock = FakeClock(DAY + timedelta(days=20))
    cooling = Cooling(db=db, files=LocalFiles(tmp_path), clock=clock)

    async def progress(done: int) -> None:
        """Nobody asks."""

    times = slots("m-1", DAY, DAY + HOUR)
    for _ in range(2):  # the second time nobody knows that it is there already
        await store(db, "m-1", times[:40])
        await cooling.cool(DAY.date(), progress)
    await store(db, "m-1", times[30:])
    async with db.read() as conn:
        assert (await fetch_counts(conn, DAY.date(), ["m-1"]))["m-1"][0] == 70
    await cooling.cool(DAY.date(), progress)
    async with db.read() as conn:
        assert (await fetch_counts(conn, DAY.date(), ["m-1"]))["m-1"].tolist() == [60] + [0] * 23


async def test_change_of_the_period_is_expected_from_when_it_holds(db: Database) -> None:
    changed = device(id="m-1", site="s-1", profile="chint_dtsu666", valid_from=DAY - HOUR, valid_to=DAY + HOUR)
    later = changed.model_copy(update={"valid_from": DAY + HOUR, "valid_to": None, "version": 2, "period_s": 300.0})
    known = Topology()
    known.put(record_of([changed, later]))
    found = losses(db, FakeClock(NOON), known)
    total, _ = await found.summary(By.DEVICE, EVERYTHING, DAY, DAY + 2 * HOUR)
    assert total.expected == 60 + 12


def test_duties_that_ask_the_same_are_one() -> None:
    first = Duty("m-1", "s-1", 0.0, 10.0, 60.0, "modbus")
    assert first.goes_on_in(Duty("m-1", "s-1", 10.0, 20.0, 60.0, "modbus"))
    assert not first.goes_on_in(Duty("m-1", "s-1", 11.0, 20.0, 60.0, "modbus"))
    assert not first.goes_on_in(Duty("m-1", "s-1", 10.0, 20.0, 30.0, "modbus"))
