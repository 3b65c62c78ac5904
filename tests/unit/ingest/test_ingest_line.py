"""One line on a clock that stands still: slots, dead neighbours, commands in front, lines that go down."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.bus import topics
from libs.common.contracts.device import Connectivity
from libs.common.contracts.telemetry import Rejected
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.common.testing.clock import FakeClock, settle
from services.ingest.domain.acceptance import Limits
from services.ingest.domain.report import Report
from services.ingest.drivers.port import DeviceSilent, LineDown, RawReport
from services.ingest.settings import PollingSettings
from services.ingest.spool import Spool
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.status import StatusBoard, StatusRow
from services.ingest.worker.line import LineRunner
from services.ingest.worker.rush import RUSH, Rush
from tests.unit.ingest.ingest_fakes import FakeBus, FakeDevice, FakeDriver, device, line

PROFILE: DeviceProfile = ProfileCatalogue.load().get("lx47le_125")
SETTINGS = PollingSettings(interval_s=10.0, breaker_failures=2, breaker_waits_s=(30.0, 60.0), retries=1)


@dataclass
class Watch:
    lines: list[tuple[str, str]] = field(default_factory=list)

    def spool_full(self, detail: str) -> None: ...

    def spool_accepts(self) -> None: ...

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None: ...

    def clock_right(self, device_id: str, site_id: str) -> None: ...

    def line_down(self, line_id: str, site_id: str, detail: str) -> None:
        self.lines.append(("down", line_id))

    def line_up(self, line_id: str, site_id: str) -> None:
        self.lines.append(("up", line_id))


@dataclass
class FakeStatusStore:
    rows: dict[str, StatusRow] = field(default_factory=dict)
    told: list[tuple[str, str, str | None]] = field(default_factory=list)

    async def load(self, device_ids: Any) -> dict[str, StatusRow]:
        return {device_id: self.rows[device_id] for device_id in device_ids if device_id in self.rows}

    async def publish(self, rows: Any) -> None:
        for row in rows:
            self.rows[row.device_id] = row
            self.told.append((row.device_id, row.connectivity.value, row.reason))


@dataclass
class Field:
    clock: FakeClock
    runner: LineRunner
    driver: FakeDriver
    status: StatusBoard
    store: FakeStatusStore
    reports: list[Report]
    watch: Watch
    bus: FakeBus

    def received(self, device_id: str) -> int:
        return sum(report.device_id == device_id for report in self.reports)


@asynccontextmanager
async def field_of(tmp_path: Path, *device_ids: str, orders: int = 0) -> AsyncIterator[Field]:
    clock = FakeClock()
    rush = Rush(clock)
    devices = {device_id: FakeDevice(clock, breaker_state=240, voltage_a=230) for device_id in device_ids}
    driver = FakeDriver(devices)
    store = FakeStatusStore()
    status = StatusBoard(store, clock, offline_after_missed=3)
    async with Spool(tmp_path, max_bytes=1 << 20, wall=lambda: clock.now().timestamp()) as spool:
        watch, bus = Watch(), FakeBus()
        acceptor = Acceptor(bus=bus, spool=spool, clock=clock, limits=Limits(), watch=watch)
        reports: list[Report] = []
        acceptor.on_live(reports.append)
        acceptor.on_live(status.heard)
        runner = LineRunner(
            line=line(), driver=driver, acceptor=acceptor, status=status, findings=watch, clock=clock,
            settings=SETTINGS, rush=rush,
        )  # fmt: skip
        runner.update({device_id: (device(id=device_id), PROFILE) for device_id in device_ids})
        task = asyncio.create_task(runner.run(), name="line")
        try:
            with ExitStack() as under_way:
                for _ in range(orders):
                    under_way.enter_context(rush.order())
                yield Field(clock, runner, driver, status, store, reports, watch, bus)
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert driver.closed == 1


async def test_device_is_read_once_per_interval(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.clock.advance(5)
        first = field_.received("m-1")
        assert first == 1  # soon after it was added
        await field_.clock.advance(100)
        assert field_.received("m-1") - first == 10
        times = [report.source_time.timestamp() for report in field_.reports[1:]]
        assert {round(later - earlier, 3) for earlier, later in itertools.pairwise(times)} == {10.0}


async def test_poll_lets_a_rush_of_orders_by_once_and_keeps_its_slots(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1", orders=RUSH) as field_:
        await field_.clock.advance(105)
        gaps = [later - earlier for earlier, later in itertools.pairwise(r.received_at for r in field_.reports)]
        assert len(gaps) >= 9  # one in each interval of 10 s, each half an interval late
        assert all(gap < timedelta(seconds=15) for gap in gaps)


async def test_report_says_where_it_comes_from(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.clock.advance(5)
        (report,) = field_.reports
        assert (report.site_id, report.line_id, report.profile, report.ct_ratio) == (
            "site-1",
            "line-1",
            "lx47le_125",
            1,
        )
        assert report.source_time == report.received_at
        assert report.points["breaker_state"] == 1


async def test_dead_device_leaves_the_cycle_and_its_neighbour_is_read_as_before(tmp_path: Path) -> None:
    async with field_of(tmp_path, "dead", "alive") as field_:
        dead = field_.driver.devices["dead"]
        dead.silent = True
        await field_.clock.advance(605)
        assert field_.received("alive") >= 60
        # Two polls of two attempts each until it has left, then probes after 30 s and every 60 s.
        assert dead.reads <= 4 + 1 + 600 // 60
        assert field_.received("dead") == 0


async def test_dead_device_that_answers_again_is_back_in_the_cycle(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        field_.driver.devices["m-1"].silent = True
        await field_.clock.advance(50)
        field_.driver.devices["m-1"].silent = False
        await field_.clock.advance(60)
        before = field_.received("m-1")
        assert before >= 1
        await field_.clock.advance(50)
        assert field_.received("m-1") - before == 5


async def test_line_that_is_down_is_tried_with_pauses_and_blames_no_device(tmp_path: Path) -> None:
    async with field_of(tmp_path, "a", "b") as field_:
        for found in field_.driver.devices.values():
            found.line_down = True
        await field_.clock.advance(300)
        tried = sum(found.reads for found in field_.driver.devices.values())
        assert tried < 60  # without pauses: 60 polls and as many retries
        for found in field_.driver.devices.values():
            found.line_down = False
        await field_.clock.advance(45)
        before = field_.received("a")
        assert before >= 1
        assert field_.watch.lines[0] == ("down", "line-1")
        assert field_.watch.lines[-1] == ("up", "line-1")
        await field_.clock.advance(20)
        assert field_.received("a") - before == 2


async def test_bytes_that_are_no_answer_are_on_record_once_a_minute(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        field_.driver.devices["m-1"].garbage = b"\x01\x02"
        await field_.clock.advance(25)
        rejected = [Rejected.from_json(m.value or b"") for m in field_.bus.published if m.topic == topics.REJECTED]
        assert [(r.reason, r.device_id, r.raw_base64) for r in rejected] == [("undecodable", "m-1", "AQI=")]


async def test_command_goes_before_the_polls_and_its_error_is_the_callers(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:

        async def job() -> str:
            return "done"

        async def failing() -> None:
            raise LineDown("no way")

        assert await field_.runner.first(job) == "done"
        with pytest.raises(LineDown):
            await field_.runner.first(failing)
        await field_.clock.advance(5)
        assert field_.received("m-1") == 1


async def test_command_to_a_line_that_is_given_up_fails_and_does_not_hang(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:

        async def never() -> None:
            await asyncio.Event().wait()

        running = asyncio.create_task(field_.runner.first(never), name="running")
        waiting = asyncio.create_task(field_.runner.first(never), name="waiting")
        await settle()
    for task in (running, waiting):
        with pytest.raises(Exception, match="given up"):
            await task


async def test_device_that_was_taken_away_is_not_read_any_more(tmp_path: Path) -> None:
    async with field_of(tmp_path, "a", "b") as field_:
        await field_.clock.advance(15)
        field_.runner.update({"a": (device(id="a"), PROFILE)})
        before = field_.driver.devices["b"].reads
        await field_.clock.advance(50)
        assert field_.driver.devices["b"].reads == before
        assert field_.runner.device_ids == {"a"}


async def test_connectivity_follows_the_age_of_the_data(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.status.scan()
        assert field_.store.told == [("m-1", "never_seen", None)]
        await field_.clock.advance(5)
        await field_.status.scan()
        await field_.status.scan()
        assert field_.store.told[1:] == [("m-1", "online", None)]
        field_.driver.devices["m-1"].silent = True
        await field_.clock.advance(29)
        await field_.status.scan()
        assert len(field_.store.told) == 2
        await field_.clock.advance(10)
        await field_.status.scan()
        assert field_.store.told[2:] == [("m-1", "offline", "timeout")]


async def test_who_takes_over_a_line_does_not_call_its_devices_offline_at_once(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        long_ago = field_.clock.now()
        field_.driver.devices["m-1"].silent = True
        await field_.clock.advance(0)
        field_.store.rows["m-1"] = StatusRow(
            "m-1", "site-1", Connectivity.ONLINE, long_ago, long_ago, None, "line-1", long_ago
        )
        await field_.status.scan()
        assert field_.status.connectivity("m-1") is Connectivity.ONLINE
        await field_.clock.advance(31)
        assert field_.status.connectivity("m-1") is Connectivity.OFFLINE


async def test_spare_time_is_what_no_poll_and_no_order_wants(tmp_path: Path) -> None:
    """Long work in small steps, while the polls keep their slots and orders go first."""
    async with field_of(tmp_path, "m-1", "m-2") as field_:
        clock = field_.clock
        await clock.advance(60)
        done: list[float] = []
        polls = [(report.device_id, report.received_at) for report in field_.reports]

        async def step() -> None:
            await clock.sleep(0.8)
            done.append(clock.monotonic())

        async def many() -> None:
            for _ in range(100):
                await field_.runner.spare(step)

        async with asyncio.TaskGroup() as group:
            group.create_task(many())
            await clock.advance(120)
            ordered: list[int] = []

            async def order() -> None:
                ordered.append(len(done))

            before = len(done)
            group.create_task(field_.runner.first(order))
            await clock.advance(1)
            assert ordered[0] <= before + 1  # at most the step that was under way went before it
            await clock.advance(300)
        assert len(done) == 100
        slots = dict(polls[-2:])
        for report in field_.reports[len(polls) :]:
            late_s = (report.received_at - slots[report.device_id]).total_seconds() % 10.0
            assert min(late_s, 10.0 - late_s) < 1e-3, "a poll was late"


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(0.01, 4.0), st.booleans()), min_size=1, max_size=40), st.integers(1, 4))
def test_no_step_of_spare_work_goes_before_a_poll_that_is_due(steps: list[tuple[float, bool]], devices: int) -> None:
    asyncio.run(_no_step_before_a_poll(steps, [f"m-{number}" for number in range(devices)]))


async def _no_step_before_a_poll(steps: list[tuple[float, bool]], names: list[str]) -> None:
    """Whatever steps take and whether they succeed, the order on the line is: what is due, then what has time."""
    with tempfile.TemporaryDirectory() as folder:
        async with field_of(Path(folder), *names) as field_:
            clock = field_.clock
            await clock.advance(30)
            polls = {name: field_.received(name) for name in names}
            began: list[float] = []

            async def work() -> None:
                for takes_s, succeeds in steps:

                    async def step(takes_s: float = takes_s, succeeds: bool = succeeds) -> None:
                        began.append(clock.monotonic())
                        due = [found.due for found in field_.runner._polled.values()]
                        assert min(due) > clock.monotonic(), "a poll was due and had to wait for another step"
                        await clock.sleep(takes_s)
                        if not succeeds:
                            raise DeviceSilent("no answer")

                    with suppress(DeviceSilent):
                        await field_.runner.spare(step)

            working = asyncio.create_task(work())
            await clock.advance(600)
            assert {name: field_.received(name) - before for name, before in polls.items()} == dict.fromkeys(names, 60)
            assert began
            working.cancel()
            await asyncio.wait([working])
            assert working.cancelled() or working.exception() is None


async def test_spare_work_of_a_line_that_is_given_up_fails(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:

        async def never() -> None:
            pytest.fail("it was done")

        field_.runner._spare_takes_s = 1e9
        waiting = asyncio.create_task(field_.runner.spare(never))
        await settle()
    with pytest.raises(LineDown):
        await waiting


async def test_line_without_time_to_spare_leaves_it_undone(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        field_.runner._spare_takes_s = 11.0  # longer than there is between two polls
        waiting = asyncio.create_task(field_.runner.spare(asyncio.Event().wait))
        await field_.clock.advance(100)
        assert not waiting.done()
        assert field_.received("m-1") >= 9
        waiting.cancel()
        await asyncio.wait([waiting])


class Remembering(FakeDevice):
    """A device with a memory of one record."""

    async def read_archive(self, points: Collection[str], since: datetime, until: datetime) -> AsyncIterator[RawReport]:
        assert "voltage_a" in points
        yield RawReport({"voltage_a": 230}, self.clock.now(), source_time=since, archive=True)


async def test_what_a_device_remembers_goes_to_backfill_and_is_not_live(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1", "m-2") as field_:
        await field_.clock.advance(5)
        remembering = Remembering(field_.clock, breaker_state=240, voltage_a=230)
        field_.driver.devices["m-2"] = remembering
        field_.runner.update({name: (device(id=name), PROFILE) for name in ("m-1",)})
        field_.runner.update({name: (device(id=name), PROFILE) for name in ("m-1", "m-2")})
        assert field_.runner.memory("m-1") is None
        assert field_.runner.memory("m-9") is None
        memory = field_.runner.memory("m-2")
        assert memory is not None
        live, since = field_.received("m-2"), field_.clock.now() - timedelta(hours=3)
        records = memory.session.read_archive(memory.points, since, field_.clock.now())
        raw = await memory.spare(lambda: anext(records))
        await memory.deliver(raw)
        assert field_.received("m-2") == live
        (message,) = [message for message in field_.bus.published if message.topic == topics.BACKFILL]
        assert orjson.loads(message.value or b"")["source_time"] == since.isoformat().replace("+00:00", "Z")
        assert [record async for record in records] == []
