"""Gaps: found hour by hour, filled out of the devices' memory, settled and told."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
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
from services.ingest.drivers.port import BadAnswer, DeviceRefused, DeviceSilent, RawReport
from services.ingest.settings import GapSettings, PollingSettings
from services.ingest.store import gaps as store
from services.ingest.store.gaps import Gap
from services.ingest.usecases.gaps import GapFinder
from services.ingest.usecases.history import HistoryHandler
from services.ingest.usecases.loss import Losses
from services.ingest.usecases.topology import Topology
from services.ingest.worker.backfill import LOOK_S, Backfill
from services.ingest.worker.memory import Memory
from tests.integration.ingest.conftest import RunningIngest
from tests.integration.ingest.test_ingest_loss import slots
from tests.unit.ingest.ingest_fakes import device, site, topology

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

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


async def put_gap(postgres_url: str, device_id: str, line_id: str, began_at: datetime, ended_at: datetime) -> None:
    """Let a device of a whole ingest have a gap whose filling is due."""
    database = Database(DatabaseSettings(url=postgres_url), schema="ingest", role="wattring_ingest")
    await database.open()
    gap = Gap(
        id="gap-1", device_id=device_id, site_id="site-1", line_id=line_id, kind=GapKind.SILENCE, began_at=began_at,
        ended_at=ended_at, missing=int((ended_at - began_at) / MINUTE), interval_s=60.0, state=GapState.WAITING,
        found_at=ended_at,
    )  # fmt: skip
    async with database.write() as conn:
        await store.put(conn, [gap])
    await database.close()


async def settled_gap(ingest: RunningIngest) -> Any:
    """Return what became of the only gap, None while it is not settled."""
    [gap] = (await ingest.get("/api/v1/completeness/gaps"))["items"]
    return gap if gap["settled_at"] else None


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

    def __init__(self, db: Database, known: Topology | None = None, settings: GapSettings = SETTINGS) -> None:
        self.db = db
        self.clock = FakeClock(START)
        self.heard = Heard()
        known = known or topology(*FIELD)
        losses = Losses(
            db=db, topology=known, catalogue=ProfileCatalogue.load(), settings=PollingSettings(), clock=self.clock
        )
        self.finder = GapFinder(
            db=db, losses=losses, topology=known, findings=self.heard, clock=self.clock, settings=settings
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


HOURS = 5
LATE = GapSettings(give_up_s=4 * 3600.0, filled_share=1.0)


def arrivals(chance: random.Random, times: list[datetime]) -> list[tuple[datetime, datetime]]:
    """Return reports as time and arrival, in disorder: runs missing, some late by hours, some twice, some besides."""
    missing: set[int] = set()
    while len(missing) < len(times) / 4:
        begin = chance.randrange(1, len(times))
        missing.update(range(begin, begin + chance.choice((1, 1, 2, 3, 4, 20, 90))))
    held = [time for number, time in enumerate(times) if number not in missing]
    late = [time for time in held[1:] if chance.random() < 0.05]
    run = chance.randrange(1, len(held) - 20)
    late += held[run : run + 20]
    found = [
        (time, time + (timedelta(minutes=chance.randrange(180)) if time in late else timedelta())) for time in held
    ]
    again = [(time, at + timedelta(minutes=chance.randrange(120))) for time, at in chance.sample(found, 30)]
    besides = [(time + timedelta(seconds=7), at + 20 * MINUTE) for time, at in found if time in late]
    found += again + besides
    chance.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_missing_is_what_was_expected_less_what_is_held(db: Database, seed: int) -> None:
    """In whatever order reports come, how often and how late."""
    chance = random.Random(seed)
    scene = Scene(db, settings=LATE)
    await scene.finder.once()
    end = START + HOURS * HOUR
    expected = {name: slots(name, START, end) for name in ("m-1", "m-2", "m-3")}
    coming = {name: arrivals(chance, times) for name, times in expected.items()}
    moment = START
    while moment < end + 4 * HOUR:
        moment += 20 * MINUTE
        for name, found in coming.items():
            now = [time for time, at in found if moment - 20 * MINUTE <= at < moment]
            for start in range(0, len(now), 25):
                await scene.reports(name, now[start : start + 25])
        await scene.look(moment)
    gaps = await scene.look(end + 10 * HOUR)
    for name, times in expected.items():
        held = {time for time, _ in coming[name]} & set(times)
        of_device = [gap for gap in gaps if gap.device_id == name and gap.began_at < max(held)]
        for gap in of_device:
            assert gap.ended_at is not None
            within = [time for time in times if gap.began_at < time < gap.ended_at]
            assert (gap.missing, gap.recovered) == (len(within), len(held & set(within)))
            assert gap.state is (GapState.FILLED if held >= set(within) else GapState.LOST)
        for earlier, later in itertools.pairwise(of_device):
            assert earlier.ended_at is not None
            assert earlier.ended_at <= later.began_at
        for before, after in itertools.pairwise(sorted(held)):
            if after - before > SETTINGS.after_intervals * MINUTE:
                assert any(g.began_at <= before and g.ended_at and after <= g.ended_at for g in of_device)


async def test_reports_too_many_in_an_hour_do_not_hide_those_that_are_missing(scene: Scene) -> None:
    times = all_but("m-1", 1, 20, 40)
    await scene.reports("m-1", times + [time + timedelta(seconds=7) for time in times[:20]])
    (gap,) = await scene.look(START + HOUR + 10 * MINUTE)
    assert gap.missing == 20


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
    """The lines of this process, with one of the given meters each."""

    def __init__(self, scene: Scene, **meters: Meter | None) -> None:
        self._scene = scene
        self.dies: Callable[[str], None] = lambda _: None
        """Called before and after a record is accepted."""
        self._meters = {name.replace("_", "-"): meter for name, meter in meters.items()}

    def polled_devices(self) -> dict[str, str]:
        return {device_id: f"line of {device_id}" for device_id in self._meters}

    def add(self, device_id: str, meter: Meter) -> None:
        self._meters[device_id] = meter

    def memory(self, device_id: str) -> Memory | None:
        meter = self._meters[device_id]
        if meter is None:
            return None

        async def deliver(raw: RawReport) -> None:
            assert raw.archive
            assert raw.source_time is not None
            self.dies("before")
            await self._scene.reports(device_id, [raw.source_time])
            self.dies("after")

        return Memory(meter, frozenset({"voltage_a"}), spare, deliver)


async def spare(job: Callable[[], Awaitable[Any]]) -> Any:
    return await job()


def backfill(scene: Scene, lines: Lines) -> Backfill:
    return Backfill(db=scene.db, lines=lines, clock=scene.clock, settings=SETTINGS)


async def test_memory_fills_the_gap_and_nothing_else(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    meter = Meter(scene.clock)
    assert await backfill(scene, Lines(scene, m_1=meter)).once() == 1
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason, gap.recovered) == (GapState.FILLED, "memory", 5)
    assert gap.ended_at is not None
    assert await backfill(scene, Lines(scene, m_1=meter)).once() == 0
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
    await keeper.once()
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason, gap.attempts, gap.recovered) == (GapState.WAITING, "device_silent", 1, 2)
    assert await keeper.once() == 0  # not yet
    meter.fails = None
    await scene.clock.advance(SETTINGS.retry_s)
    await keeper.once()
    assert meter.asked == [gap.began_at, START + 25 * MINUTE]
    (gap,) = await scene.look(START + HOUR + 20 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.FILLED, "memory")
    assert gap.recovered == 5


class Killed(Exception):
    """The process ends here."""


async def test_process_that_dies_at_a_record_leaves_none_out_and_doubles_none(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.worker.backfill.NOTE_EVERY", 2)
    deaths = [("m-1", "before", 1), ("m-2", "after", 1), ("m-3", "after", 4)]
    for device_id, _, _ in deaths:
        await scene.reports(device_id, all_but(device_id, 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    for device_id, where, record in deaths:
        lines = Lines(scene, **{device_id.replace("-", "_"): Meter(scene.clock)})
        moments = itertools.count()

        def dies(moment: str, where: str = where, record: int = record, moments: Iterator[int] = moments) -> None:
            if moment == where and next(moments) == record:
                raise Killed

        lines.dies = dies
        with pytest.raises(ExceptionGroup) as caught:
            await backfill(scene, lines).once()
        assert isinstance(caught.value.exceptions[0], Killed)
        assert await backfill(scene, lines).once() == 1  # another process
    for gap in await scene.look(START + HOUR + 11 * MINUTE):
        assert (gap.state, gap.reason, gap.recovered) == (GapState.FILLED, "memory", 5)
        async with scene.db.read() as conn:
            rows = await conn.fetch(
                """
                select source_time from readings r join devices d on d.no = r.device_no
                 where d.device_id = $1 and source_time > $2 and source_time < $3 order by source_time
                """,
                gap.device_id, gap.began_at, gap.ended_at,
            )  # fmt: skip
        assert [row["source_time"] for row in rows] == [START + minute * MINUTE for minute in (20, 25, 30, 35, 40)]


async def test_line_with_a_long_memory_keeps_no_other_waiting(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.reports("m-2", all_but("m-2", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    never = asyncio.Event()

    class Slow(Meter):
        async def read_archive(
            self, points: Collection[str], since: datetime, until: datetime
        ) -> AsyncIterator[RawReport]:
            await never.wait()
            async for record in super().read_archive(points, since, until):
                yield record

    lines = Lines(scene, m_1=Slow(scene.clock))
    keeper = backfill(scene, lines)
    running = asyncio.create_task(keeper.run(lambda: None), name="backfill")
    await scene.clock.advance(1)
    lines.add("m-2", Meter(scene.clock))

    async def state_of(device_id: str) -> GapState:
        await scene.clock.advance(LOOK_S)
        return next(gap.state for gap in await scene.look(scene.clock.now()) if gap.device_id == device_id)

    async with asyncio.timeout(60):
        while await state_of("m-2") is not GapState.FILLED:
            pass
        assert await state_of("m-1") is GapState.WAITING
        never.set()
        while await state_of("m-1") is not GapState.FILLED:
            pass
    running.cancel()
    await asyncio.wait([running])


async def test_what_cannot_be_filled_is_on_record(scene: Scene) -> None:
    refuses, forgot = Meter(scene.clock), Meter(scene.clock)
    refuses.fails = DeviceRefused("no such data")
    forgot.remembers_since = START + 2 * HOUR
    for device_id in ("m-1", "m-2"):
        await scene.reports(device_id, all_but(device_id, 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    await backfill(scene, Lines(scene, m_1=refuses, m_2=forgot)).once()
    gaps = await scene.look(START + HOUR + 11 * MINUTE)
    assert [(gap.state, gap.reason, gap.recovered) for gap in gaps] == [
        (GapState.LOST, "device_refused", 0), (GapState.LOST, "nothing_remembered", 0)
    ]  # fmt: skip
    lost = "20 reports are lost for good"
    assert sorted(scene.heard.said[-2:]) == [("end", "m-1", lost), ("end", "m-2", lost)]


async def test_answer_that_is_none_is_asked_for_again(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    meter = Meter(scene.clock)
    meter.fails = BadAnswer("half a frame")
    keeper = backfill(scene, Lines(scene, m_1=meter))
    await keeper.once()
    meter.fails = None
    await scene.clock.advance(SETTINGS.retry_s)
    await keeper.once()
    (gap,) = await scene.look(START + HOUR + 20 * MINUTE)
    assert (gap.state, gap.recovered, gap.attempts) == (GapState.FILLED, 5, 1)


async def test_device_without_a_memory_is_waited_for_a_while(scene: Scene) -> None:
    await scene.reports("m-1", all_but("m-1", 1, 20, 40))
    await scene.look(START + HOUR + 10 * MINUTE)
    keeper = backfill(scene, Lines(scene, m_1=None))
    await keeper.once()
    (gap,) = await scene.look(START + HOUR + 11 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.WAITING, "no_memory")
    assert await keeper.once() == 0
    (gap,) = await scene.look(START + HOUR + 50 * MINUTE)
    assert (gap.state, gap.reason) == (GapState.LOST, "no_memory")
