"""Gaps: found hour by hour, filled out of the devices' memory, settled and told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.contracts.alarm import ConditionKind
from libs.common.db import Database
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.ingest.domain.gaps import GapKind, GapState
from services.ingest.domain.stored import LayoutKey, StoredReport
from services.ingest.drivers.port import DeviceRefused, DeviceSilent, RawReport
from services.ingest.settings import GapSettings, PollingSettings
from services.ingest.store import gaps as store
from services.ingest.store.gaps import Gap
from services.ingest.usecases.gaps import GapFinder
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.loss import Losses
from services.ingest.usecases.topology import Topology
from services.ingest.worker.backfill import Backfill
from services.ingest.worker.memory import Memory
from tests.integration.ingest.test_ingest_loss import slots
from tests.unit.ingest.ingest_fakes import device, site, topology

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SETTINGS = GapSettings(late_wait_s=1800)
FIELD = (
    site(id="s-1", valid_from=START - HOUR),
    *(
        device(id=f"m-{number}", site="s-1", profile="dlt645_2007_meter", valid_from=START - HOUR)
        for number in (1, 2, 3)
    ),
)


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    yield database
    await database.close()


class Heard:
    """Notes what was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []

    def begin(self, kind: str, subject: str, detail: str, **_: Any) -> None:
        assert kind == ConditionKind.DATA_GAP
        self.said.append(("begin", subject, detail))

    def end(self, kind: str, subject: str, detail: str, **_: Any) -> None:
        assert kind == ConditionKind.DATA_GAP
        self.said.append(("end", subject, detail))


class Scene:
    """A history with a finder on it."""

    def __init__(self, db: Database, known: Topology | None = None) -> None:
        self.db = db
        self.clock = FakeClock(START)
        self.heard = Heard()
        known = known or topology(*FIELD)
        losses = Losses(
            db=db, topology=known, catalogue=ProfileCatalogue.load(), settings=PollingSettings(), clock=self.clock
        )
        self.finder = GapFinder(
            db=db, losses=losses, topology=known, findings=self.heard, clock=self.clock, settings=SETTINGS
        )

    async def reports(self, device_id: str, times: list[datetime], *, seq: Callable[[int], int] | None = None) -> None:
        handler = HistoryHandler(self.clock)
        reports = [
            StoredReport(
                device_id=device_id,
                site_id="s-1",
                source_time=at,
                received_at=at,
                points={"voltage_a": 1.0},
                layout_key=LayoutKey("modbus"),
                extra=None if seq is None else {"seq": seq(number)},
            )
            for number, at in enumerate(times)
        ]
        async with self.db.effects() as conn:
            await handler.load(conn, frozenset({0}))
            if reports:
                await handler.store(conn, reports)

    async def look(self, at: datetime) -> list[Gap]:
        """Let time pass, look at all hours that are due, and return all gaps by device and time."""
        await self.clock.advance((at - self.clock.now()).total_seconds())
        while await self.finder.once():
            pass
        async with self.db.read() as conn:
            found = await store.fetch_page(
                conn, start=None, end=None, sites=None, device_id=None, state=None, before=None, limit=100
            )
        return sorted(found, key=lambda gap: (gap.device_id, gap.began_at))


@pytest.fixture
async def scene(db: Database) -> Scene:
    found = Scene(db)
    await found.finder.once()  # the first look: from this hour on
    return found


def all_but(device_id: str, hours: int, begin: int, end: int) -> list[datetime]:
    """Return the polls of some hours without those of some minutes."""
    times = slots(device_id, START, START + hours * HOUR)
    return [time for time in times if not START + begin * MINUTE <= time < START + end * MINUTE]


async def test_gap_within_an_hour_is_found_and_a_missed_poll_is_none(scene: Scene) -> None:
    times = all_but("m-1", 1, 20, 40)
    await scene.reports("m-1", times[:5] + times[6:])  # and one by itself
    await scene.reports("m-2", slots("m-2", START, START + HOUR))
    assert await scene.look(START + HOUR + timedelta(seconds=SETTINGS.settle_s - 1)) == []
    (gap,) = await scene.look(START + HOUR + timedelta(seconds=SETTINGS.settle_s))
    assert (gap.device_id, gap.kind, gap.state, gap.missing) == ("m-1", GapKind.SILENCE, GapState.WAITING, 20)
    assert [gap.began_at, gap.ended_at] == [
        max(time for time in times if time < START + 20 * MINUTE),
        min(time for time in times if time >= START + 40 * MINUTE),
    ]
    assert scene.heard.said == [
        ("begin", "m-1", f"20 reports are missing between {gap.began_at.isoformat()} and {gap.ended_at.isoformat()}")  # type: ignore[union-attr]
    ]


async def test_gap_over_hours_is_one_and_open_until_it_ends(scene: Scene) -> None:
    times = all_but("m-1", 4, 50, 190)
    await scene.reports("m-1", [time for time in times if time < START + HOUR])
    for hours in (1, 2, 3):
        (gap,) = await scene.look(START + hours * HOUR + 10 * MINUTE)
        assert (gap.state, gap.ended_at) == (GapState.OPEN, None)
    assert gap.missing == 130
    await scene.reports("m-1", [time for time in times if time >= START + HOUR])
    (gap,) = await scene.look(START + 4 * HOUR + 10 * MINUTE)
    assert (gap.state, gap.missing) == (GapState.WAITING, 140)
    assert [phase for phase, _, _ in scene.heard.said] == ["begin"]


async def test_gap_over_the_full_hour_is_found_though_neither_hour_has_a_long_one(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 2, 58, 62))
    (gap,) = await scene.look(START + 2 * HOUR + 10 * MINUTE)
    assert gap.missing == 4


async def test_device_that_never_reported_has_no_gap_and_one_that_is_taken_out_has_lost_it(db: Database) -> None:
    gone = device(
        id="m-1", site="s-1", profile="dlt645_2007_meter", valid_from=START - HOUR,
        decommissioned_at=START + HOUR + 30 * MINUTE,
    )  # fmt: skip
    scene = Scene(db, topology(*FIELD[:1], gone, *FIELD[2:]))
    await scene.finder.once()
    await scene.reports("m-1", slots("m-1", START, START + 30 * MINUTE))
    (gap,) = await scene.look(START + HOUR + 10 * MINUTE)
    assert gap.state is GapState.OPEN
    (gap,) = await scene.look(START + 3 * HOUR + 10 * MINUTE)
    assert (gap.state, gap.reason, gap.ended_at) == (GapState.LOST, "not_in_use", START + 2 * HOUR)
    assert [phase for phase, _, _ in scene.heard.said] == ["begin", "end"]


async def test_late_reports_fill_a_gap_by_themselves(scene: Scene) -> None:
    times = slots("m-1", START, START + HOUR)
    await scene.reports("m-1", times[:20] + times[40:])
    (gap,) = await scene.look(START + HOUR + 10 * MINUTE)
    await scene.reports("m-1", times[20:40])
    (gap,) = await scene.look(START + HOUR + 12 * MINUTE)
    assert (gap.state, gap.reason, gap.recovered) == (GapState.FILLED, "late", 20)
    assert scene.heard.said[-1] == ("end", "m-1", "all reports that were missing have come")


async def test_numbers_of_the_device_tell_what_the_clock_does_not(scene: Scene) -> None:
    times = slots("m-1", START, START + HOUR)
    await scene.reports("m-1", times, seq=lambda number: number if number < 30 else number + 3)
    (gap,) = await scene.look(START + HOUR + 10 * MINUTE)
    assert (gap.kind, gap.missing, gap.began_at, gap.ended_at) == (GapKind.SEQUENCE, 3, times[29], times[30])
    (gap,) = await scene.look(START + HOUR + 50 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.LOST, "not_reached")


class Meter:
    """A meter that remembers one value in five minutes; answers as the test says."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.fails: Exception | None = None
        self.fails_after = 0
        self.remembers_since = START - HOUR
        self.asked: list[datetime] = []

    async def read_archive(self, points: Collection[str], since: datetime, until: datetime) -> AsyncIterator[RawReport]:
        self.asked.append(since)
        at = START - HOUR
        given = 0
        while at < until:
            if at >= max(since, self.remembers_since):
                if self.fails is not None and given == self.fails_after:
                    raise self.fails
                given += 1
                yield RawReport({"voltage_a": 1.0}, self.clock.now(), source_time=at, archive=True)
            at += 5 * MINUTE


class Lines:
    """The lines of this process: one, with the meters that are given."""

    def __init__(self, scene: Scene, **meters: Meter | None) -> None:
        self._scene = scene
        self._meters = {name.replace("_", "-"): meter for name, meter in meters.items()}

    def polled_devices(self) -> list[str]:
        return list(self._meters)

    def line_of(self, device_id: str) -> str | None:
        return "line-1" if device_id in self._meters else None

    def memory(self, device_id: str) -> Memory | None:
        meter = self._meters[device_id]
        if meter is None:
            return None

        async def deliver(raw: RawReport) -> None:
            assert raw.archive
            assert raw.source_time is not None
            await self._scene.reports(device_id, [raw.source_time])

        return Memory(meter, frozenset({"voltage_a"}), spare, deliver)


async def spare(job: Callable[[], Awaitable[Any]]) -> Any:
    return await job()


def backfill(scene: Scene, lines: Lines) -> Backfill:
    return Backfill(db=scene.db, lines=lines, clock=scene.clock, settings=SETTINGS)


def no_beat() -> None:
    """Nobody watches."""


async def test_memory_fills_the_gap_and_nothing_else(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    meter = Meter(scene.clock)
    assert await backfill(scene, Lines(scene, m_1=meter)).once(no_beat) == 1
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason, gap.recovered) == (GapState.FILLED, "memory", 5)
    assert gap.ended_at is not None
    assert await backfill(scene, Lines(scene, m_1=meter)).once(no_beat) == 0
    async with scene.db.read() as conn:
        times = await conn.fetch("select source_time from readings order by 1")
    inside = [row["source_time"] for row in times if gap.began_at < row["source_time"] < gap.ended_at]
    assert inside == [START + minute * MINUTE for minute in (20, 25, 30, 35, 40)]


async def test_meter_that_stops_answering_is_asked_again_from_where_it_was(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    meter = Meter(scene.clock)
    meter.fails, meter.fails_after = DeviceSilent("no answer"), 2
    keeper = backfill(scene, Lines(scene, m_1=meter))
    await keeper.once(no_beat)
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason, gap.attempts, gap.recovered) == (GapState.WAITING, "device_silent", 1, 2)
    assert await keeper.once(no_beat) == 0  # not yet
    meter.fails = None
    await scene.clock.advance(SETTINGS.retry_s)
    await keeper.once(no_beat)
    assert meter.asked == [gap.began_at, START + 25 * MINUTE]
    (gap,) = await scene.look(START + HOUR + 20 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.FILLED, "memory")
    assert gap.recovered == 5


@pytest.mark.parametrize(
    ("fails", "remembers_since", "reason"),
    [
        pytest.param(DeviceRefused("no such data"), START - HOUR, "device_refused", id="refuses"),
        pytest.param(None, START + 2 * HOUR, "nothing_remembered", id="remembers nothing of it"),
    ],
)
async def test_what_cannot_be_filled_is_on_record(
    scene: Scene, fails: Exception | None, remembers_since: datetime, reason: str
) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    meter = Meter(scene.clock)
    meter.fails, meter.remembers_since = fails, remembers_since
    await backfill(scene, Lines(scene, m_1=meter)).once(no_beat)
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason, gap.recovered) == (GapState.LOST, reason, 0)
    assert scene.heard.said[-1] == ("end", "m-1", "20 reports are lost for good")


async def test_device_without_a_memory_is_waited_for_a_while(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    keeper = backfill(scene, Lines(scene, m_1=None))
    await keeper.once(no_beat)
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.WAITING, "no_memory")
    assert await keeper.once(no_beat) == 0
    (gap,) = await scene.look(START + HOUR + 50 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.LOST, "no_memory")
