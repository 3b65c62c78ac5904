"""Days of the history in Parquet files: nothing lost, nothing doubled, and read like any other day."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from libs.common.contracts.telemetry import Quality
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.ingest.domain.series import downsampled
from services.ingest.domain.stored import LayoutKey, RowFlag, StoredReport
from services.ingest.settings import HistorySettings
from services.ingest.store import days, history
from services.ingest.store.coldfiles import ColdFiles, ColdUnavailable, LocalFiles
from services.ingest.store.commands import PgCommandStore
from services.ingest.usecases.cooling import Cooling, NotTheSame
from services.ingest.usecases.downloads import COLUMNS, Downloads, check_size
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.readings import Readings
from services.ingest.worker.upkeep import HistoryUpkeep
from tests.integration.ingest.cold_mover import STEPS
from tests.unit.ingest.test_ingest_series import series_of, slow_buckets

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
NOW = FIRST + timedelta(days=30)
DAY = timedelta(days=1)
DEVICES = ("m-1", "m-2", "m-3")
END = FIRST + 3 * DAY

Expected = dict[str, dict[datetime, Mapping[str, float | None]]]


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "cold")


def report(device: str, at: datetime, points: Mapping[str, float | None], **fields: object) -> StoredReport:
    found = StoredReport(
        device_id=device,
        site_id="s-1",
        source_time=at,
        received_at=at + timedelta(milliseconds=250),
        points=points,
        layout_key=LayoutKey("modbus", "acme", "1", 20.0),
    )
    return replace(found, **fields)  # type: ignore[arg-type]


def some_reports(seed: int, count: int = 120) -> list[StoredReport]:
    """Return reports over three days, all of different times, in the order in which they might come."""
    chance = random.Random(seed)
    seconds = chance.sample(range(3 * 86400), count)
    found = []
    for second in seconds:
        points: dict[str, float | None] = {
            "voltage_a": round(chance.uniform(190, 260), 1),
            "energy_active_import": round(chance.uniform(0, 2e6), 2),
        }
        if chance.random() < 0.3:
            points["power_factor_total"] = chance.uniform(-1, 1)
        if chance.random() < 0.1:
            points["energy_active_export"] = chance.uniform(0, 1e12)
        found.append(report(chance.choice(DEVICES), FIRST + timedelta(seconds=second), points))
    return found


async def store(db: Database, reports: Sequence[StoredReport]) -> None:
    handler = HistoryHandler(FakeClock(NOW))
    async with db.effects() as conn:
        await handler.load(conn, frozenset({0}))
        await handler.store(conn, reports)


async def nothing(done: int, total: int | None = None, note: str | None = None) -> None:
    """Nobody asks how far it is."""


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def files_in(folder: Path, *, but: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.match(but)]


async def cool(db: Database, files: ColdFiles, day: datetime = FIRST) -> Mapping[str, object]:
    return await Cooling(db=db, files=files, clock=FakeClock(NOW)).cool(day.date(), nothing)


async def read(db: Database, files: ColdFiles, *, limit: int = 1000) -> Expected:
    """Return everything that the range gives, page by page."""
    readings, found = Readings(db, files), Expected()
    for device in DEVICES:
        found[device] = {}
        after: datetime | None = None
        while True:
            page = await readings.range(device, points=None, start=FIRST, end=END, after=after, limit=limit)
            times = [one.source_time for one in page]
            assert times == sorted(set(times))
            assert not found[device].keys() & set(times)
            found[device].update((one.source_time, one.points) for one in page)
            if len(page) < limit:
                break
            after = times[-1]
    return found


async def hot_days(db: Database) -> list[date]:
    async with db.read() as conn:
        return [day for day in await history.fetch_partition_days(conn) if day < NOW.date()]


@pytest.mark.parametrize("seed", range(4))
async def test_range_and_buckets_are_the_same_hot_cold_and_both(db: Database, files: LocalFiles, seed: int) -> None:
    chance = random.Random(seed)
    reports = some_reports(seed)
    early, late = reports[:80], reports[80:]
    await store(db, early)
    hot = await read(db, files)
    assert {device: set(found) for device, found in hot.items()} == {
        device: {one.source_time for one in early if one.device_id == device} for device in DEVICES
    }
    moved = [FIRST + number * DAY for number in chance.sample(range(3), 2)]
    for day in moved:
        assert (await cool(db, files, day))["outcome"] == "moved"
    assert await hot_days(db) == [day.date() for day in (FIRST, FIRST + DAY, FIRST + 2 * DAY) if day not in moved]
    assert await read(db, files) == hot
    assert await read(db, files, limit=3) == hot

    await store(db, late)
    both = await read(db, files)
    assert sum(map(len, both.values())) == len(reports)
    for limit in (1, 2, 7):
        assert await read(db, files, limit=limit) == both
    await buckets_are_right(db, files, both)
    for day in moved:
        await cool(db, files, day)
    assert await read(db, files) == both
    await buckets_are_right(db, files, both)


async def buckets_are_right(db: Database, files: ColdFiles, expected: Expected) -> None:
    for device in DEVICES:
        for length_s in (900, 86400):
            found = await Readings(db, files).buckets(
                device, points=None, start=FIRST, end=END, bucket_s=length_s, limit=1000
            )
            reports = expected[device]
            names = tuple(sorted({name for points in reports.values() for name in points}))
            assert [(one.start, one.reports) for one in found] == [one[:2] for one in slow_buckets(reports, length_s)]
            for bucket, reference in zip(found, downsampled(series_of(reports, names), length_s), strict=True):
                assert bucket.points.keys() == reference.points.keys()
                for name, one in bucket.points.items():
                    other = reference.points[name]
                    assert (one.count, one.minimum, one.maximum, one.last) == (
                        other.count, other.minimum, other.maximum, other.last,
                    )  # fmt: skip
                    assert one.mean == pytest.approx(other.mean)


async def test_file_is_sorted_rounded_and_open_to_others(db: Database, files: LocalFiles, tmp_path: Path) -> None:
    reports = some_reports(1)
    await store(db, reports)
    for number in range(3):
        await cool(db, files, FIRST + number * DAY)
    paths = parquet_files(tmp_path)
    assert [str(path.relative_to(tmp_path / "cold")) for path in paths] == [
        f"readings/day=2026-03-0{number}/part-00000.parquet" for number in (1, 2, 3)
    ]
    found = pl.scan_parquet(tmp_path / "cold" / "readings", hive_partitioning=True).collect()
    assert len(found) == len(reports)
    assert found.equals(found.sort("day", "device_id", "source_time"))
    assert found.schema["voltage_a"] == pl.Float32()
    assert found.schema["energy_active_import"] == pl.Float64()
    totals = found["energy_active_import"].sum()
    assert totals == pytest.approx(sum(one.points["energy_active_import"] or 0 for one in reports))


async def test_flags_extras_and_moved_reports_survive(db: Database, files: LocalFiles) -> None:
    flagged = report(
        "m-1", FIRST, {"voltage_a": None, "current_a": 3.0}, quality={"voltage_a": Quality.INVALID},
        extra={"seq": 5, "raw": {"voltage_a": 65535.0}}, flags=RowFlag.BACKFILL,
    )  # fmt: skip
    stuck = [report("m-2", FIRST, {"voltage_a": 230.0 + i}) for i in range(3)]
    await store(db, [flagged, *stuck])
    readings = Readings(db, files)

    async def all_of(device: str) -> list[object]:
        return [*await readings.range(device, points=None, start=FIRST, end=END, after=None, limit=10)]

    before = [await all_of(device) for device in ("m-1", "m-2")]
    await cool(db, files)
    assert [await all_of(device) for device in ("m-1", "m-2")] == before
    (one,) = await readings.range("m-1", points=["voltage_a"], start=FIRST, end=END, after=None, limit=10)
    assert (one.points, one.quality, one.late) == ({"voltage_a": None}, {"voltage_a": Quality.INVALID}, True)


async def test_late_data_for_a_cold_day_rewrite_its_file(db: Database, files: LocalFiles, tmp_path: Path) -> None:
    await store(db, [report("m-1", FIRST + timedelta(hours=1), {"voltage_a": 230.0})])
    await cool(db, files)
    late = report("m-1", FIRST, {"voltage_a": 229.0})
    await store(db, [late, report("m-1", FIRST + timedelta(hours=1), {"voltage_a": 230.0})])
    assert await hot_days(db) == [FIRST.date()]
    assert [points["voltage_a"] for points in (await read(db, files))["m-1"].values()] == [229.0, 230.0]
    assert (await cool(db, files))["outcome"] == "moved"
    assert await hot_days(db) == []
    assert [points["voltage_a"] for points in (await read(db, files))["m-1"].values()] == [229.0, 230.0]
    (path,) = parquet_files(tmp_path)
    assert len(pl.read_parquet(path)) == 2
    assert (await cool(db, files))["outcome"] == "nothing to move"


async def test_writer_that_knew_the_day_finds_its_partition_gone(db: Database, files: LocalFiles) -> None:
    clock = FakeClock(FIRST + timedelta(hours=1))
    handler = HistoryHandler(clock)

    async def handle(at: datetime) -> None:
        async with db.effects() as conn:
            await handler.store(conn, [report("m-1", at, {"voltage_a": 230.0})])

    async with db.effects() as conn:
        await handler.load(conn, frozenset({0}))
    await handle(FIRST)
    await cool(db, files)
    clock.set_wall(NOW)
    await handle(FIRST + timedelta(seconds=1))
    assert len((await read(db, files))["m-1"]) == 2


@pytest.mark.sql
async def test_other_devices_files_of_the_day_are_left_alone(db: Database, files: LocalFiles, tmp_path: Path) -> None:
    async with db.write() as conn:  # a device with a number beyond the first file
        await conn.execute("insert into devices (no, device_id) overriding system value values (1024, 'm-3')")
    await store(db, [report("m-1", FIRST, {"voltage_a": 1.0}), report("m-3", FIRST, {"voltage_a": 3.0})])
    assert (await cool(db, files))["files"] == 2
    first, other = parquet_files(tmp_path)
    kept = other.stat().st_mtime_ns
    await store(db, [report("m-1", FIRST + timedelta(hours=1), {"voltage_a": 2.0})])
    assert (await cool(db, files))["files"] == 1
    assert (first.name, other.name, other.stat().st_mtime_ns) == ("part-00000.parquet", "part-00002.parquet", kept)
    assert [len(found) for found in (await read(db, files)).values()] == [2, 0, 1]


async def test_large_part_is_written_in_pieces(
    db: Database, files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.usecases.cooling.REPORTS_AT_A_TIME", 10)
    await store(db, some_reports(7))
    before = await read(db, files)
    await cool(db, files)
    await store(db, late := [report("m-2", FIRST + timedelta(microseconds=1), {"frequency": 50.0})])
    await cool(db, files)
    before["m-2"][late[0].source_time] = {"frequency": 50.0}
    assert await read(db, files) == before


class Interfering(LocalFiles):
    """Does something each time after a file has been written."""

    def __init__(self, root: Path, then: Callable[[str], None]) -> None:
        super().__init__(root)
        self._then = then

    def put(self, name: str, write: Callable[[Path], None]):  # type: ignore[no-untyped-def]
        written = super().put(name, write)
        self._then(name)
        return written


async def test_report_that_comes_while_the_day_is_moved_is_not_lost(db: Database, tmp_path: Path) -> None:
    await store(db, [report("m-1", FIRST, {"voltage_a": 1.0})])
    loop, times = asyncio.get_running_loop(), iter(range(1, 10))

    def then(name: str) -> None:
        number = next(times)
        if number <= 2:
            late = [report("m-1", FIRST + timedelta(seconds=number), {"voltage_a": 1.0 + number})]
            asyncio.run_coroutine_threadsafe(store(db, late), loop).result(timeout=30)

    files = Interfering(tmp_path / "cold", then)
    assert (await cool(db, files))["reports"] == 3
    assert [points["voltage_a"] for points in (await read(db, files))["m-1"].values()] == [1.0, 2.0, 3.0]
    assert await hot_days(db) == []


async def test_day_that_is_written_to_all_the_time_stays_where_it_is(db: Database, tmp_path: Path) -> None:
    await store(db, [report("m-1", FIRST, {"voltage_a": 1.0})])
    loop, times = asyncio.get_running_loop(), iter(range(1, 100))

    def then(name: str) -> None:
        late = [report("m-1", FIRST + timedelta(seconds=next(times)), {"voltage_a": 2.0})]
        asyncio.run_coroutine_threadsafe(store(db, late), loop).result(timeout=30)

    files = Interfering(tmp_path / "cold", then)
    assert "left for later" in str((await cool(db, files))["outcome"])
    assert await hot_days(db) == [FIRST.date()]
    assert len((await read(db, files))["m-1"]) == 4


async def test_file_that_does_not_hold_what_it_should_drops_nothing(db: Database, tmp_path: Path) -> None:
    await store(db, [report("m-1", FIRST + timedelta(seconds=i), {"voltage_a": float(i)}) for i in range(3)])

    def spoil(name: str) -> None:
        path = tmp_path / "cold" / name
        pl.read_parquet(path).with_columns(pl.col("voltage_a") + 1).write_parquet(path)

    def cut(name: str) -> None:
        path = tmp_path / "cold" / name
        pl.read_parquet(path).head(2).write_parquet(path)

    for damage in (spoil, cut):
        with pytest.raises(NotTheSame):
            await cool(db, Interfering(tmp_path / "cold", damage))
        assert await hot_days(db) == [FIRST.date()]
    async with db.read() as conn:
        assert await days.fetch_files_of_day(conn, FIRST.date()) == {}
    assert (await cool(db, LocalFiles(tmp_path / "cold")))["outcome"] == "moved"


async def test_file_that_is_gone_is_an_error_and_not_a_gap(db: Database, files: LocalFiles, tmp_path: Path) -> None:
    await store(db, [report("m-1", FIRST, {"voltage_a": 1.0})])
    await cool(db, files)
    with pytest.raises(ColdUnavailable, match="COLD__URL"):
        await Readings(db).range("m-1", points=None, start=FIRST, end=END, after=None, limit=10)
    (path,) = parquet_files(tmp_path)
    path.unlink()
    with pytest.raises(ColdUnavailable, match="part-00000"):
        await read(db, files)


@pytest.mark.sql
async def test_downloads_are_what_the_range_gives_hot_and_cold(
    db: Database, files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.usecases.downloads.PAGE_REPORTS", 7)
    flagged = report("m-1", FIRST, {"voltage_a": None, "current_a": 3.5}, quality={"voltage_a": Quality.INVALID})
    reports = some_reports(11, 60)
    await store(db, [flagged, *reports[:40]])
    await cool(db, files)
    await store(db, reports[40:])
    expected = await read(db, files)
    downloads = Downloads(Readings(db, files))
    columns = await downloads.columns(DEVICES, None)
    assert columns[6:] == sorted({name for one in [flagged, *reports] for name in one.points})

    lines = b"".join([piece async for piece in downloads.csv(DEVICES, columns=columns, start=FIRST, end=END)])
    table = pl.read_csv(lines, try_parse_dates=True, infer_schema_length=None)
    path = tmp_path / "download.parquet"
    await downloads.parquet(path, DEVICES, columns=columns, start=FIRST, end=END)
    for found in (table, pl.read_parquet(path)):
        assert found.columns == columns
        rows = {(row["device_id"], row["source_time"]): row for row in found.to_dicts()}
        assert list(rows) == [(device, time) for device in DEVICES for time in sorted(expected[device])]
        for (device, time), row in rows.items():
            values = {name: row[name] for name in columns[6:] if row[name] is not None}
            assert values == {name: value for name, value in expected[device][time].items() if value is not None}
        assert rows["m-1", FIRST]["quality"] == '{"voltage_a":"invalid"}'
    some = [*COLUMNS, "voltage_a"]
    head, *rest = [piece async for piece in downloads.csv(["m-9"], columns=some, start=FIRST, end=END)]
    assert (head, rest) == (b"device_id,source_time,received_at,late,moved,quality,voltage_a\n", [])


async def test_download_that_is_too_large_or_of_no_point_is_refused(db: Database) -> None:
    check_size(["m-1"], FIRST, FIRST + 4000 * DAY)
    with pytest.raises(InvalidInput, match="4000 days"):
        check_size(["m-1", "m-2"], FIRST, FIRST + 2001 * DAY)
    with pytest.raises(InvalidInput, match="device_id"):
        await Downloads(Readings(db)).columns(["m-1"], ["voltage_a", "device_id"])


async def test_bucket_that_is_longer_than_a_page_is_one(
    db: Database, files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.usecases.readings.ROWS_AT_A_TIME", 7)
    reports = some_reports(13, 60)
    await store(db, reports[:40])
    await cool(db, files)
    await store(db, reports[40:])
    await buckets_are_right(db, files, await read(db, files))


@pytest.mark.sql
async def test_upkeep_queues_quiet_old_days_once_and_drops_files_by_policy(
    db: Database, files: LocalFiles, tmp_path: Path
) -> None:
    clock = FakeClock(NOW)
    settings = HistorySettings(hot_days=10, settle_s=600, days_ahead=1)
    upkeep = HistoryUpkeep(db, PgCommandStore(db), clock, settings, files)

    async def queued() -> list[str]:
        async with db.read() as conn:
            rows = await conn.fetch("select payload ->> 'day' as day from jobs order by 1")
        return [row["day"] for row in rows]

    await store(db, [report("m-1", at, {"voltage_a": 1.0}) for at in (FIRST, FIRST + DAY, NOW - 2 * DAY)])
    await upkeep.once()
    assert await queued() == []  # it was written to a moment ago
    await clock.advance(601)
    await upkeep.once()
    await upkeep.once()
    assert await queued() == ["2026-03-01", "2026-03-02"]  # and not the one of two days ago

    for day in (FIRST, FIRST + DAY):
        await cool(db, files, day)
    strict = HistorySettings(hot_days=10, retention_days=29, days_ahead=1)
    await HistoryUpkeep(db, PgCommandStore(db), clock, strict, files).once()
    assert [path.parent.name for path in parquet_files(tmp_path)] == ["day=2026-03-02"]
    assert files_in(tmp_path, but="*.parquet") == []
    assert [len(found) for found in (await read(db, files)).values()] == [1, 0, 0]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", ["a new day", "late data for a cold day"])
async def test_killed_at_any_step_nothing_is_lost_and_nothing_doubled(
    db: Database, files: LocalFiles, postgres_url: str, tmp_path: Path, step: str, before: str
) -> None:
    reports = [one for one in some_reports(3) if one.source_time < FIRST + DAY]
    await store(db, reports[:20])
    if before == "late data for a cold day":
        await cool(db, files)
        conflict = report("m-1", reports[0].source_time, {"voltage_a": 1.0})
        await store(db, [replace(conflict, device_id=reports[0].device_id), *reports[10:30]])
    expected = await read(db, files)
    if before == "late data for a cold day":  # a report under a time that is taken stands behind the other
        at = reports[0].source_time + timedelta(microseconds=1)
        assert expected[reports[0].device_id][at] == {"voltage_a": 1.0}
    program = str(Path(__file__).with_name("cold_mover.py"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, postgres_url, str(tmp_path / "cold"), FIRST.date().isoformat(), step,
        cwd=Path(__file__).parents[3], env={"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert await process.wait() == -9
    if step != "committed":
        assert await hot_days(db) == [FIRST.date()]
        assert await read(db, files) == expected
    await cool(db, files)
    assert await hot_days(db) == []
    after = await read(db, files)
    assert after == expected
    assert files_in(tmp_path, but="*.parquet") == []
