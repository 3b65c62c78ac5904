"""A line whose devices speak by themselves, on a clock that stands still: what they say, lost connections, orders."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from libs.common.bus import topics
from libs.common.contracts.base import Phase
from libs.common.contracts.device import DeviceEvent as PublishedEvent
from libs.common.contracts.device import DeviceStatus
from libs.common.contracts.telemetry import Quality, Reading, Rejected, RejectReason
from libs.common.errors import PlatformError
from libs.common.profiles import DeviceProfile, ProfileCatalogue
from libs.common.testing.clock import FakeClock, settle
from services.ingest.domain.acceptance import Limits
from services.ingest.domain.switching import switch_of
from services.ingest.drivers.port import (
    Address,
    DeviceEvent,
    DeviceRefused,
    DeviceSilent,
    LineDown,
    NotLetIn,
    RawReport,
)
from services.ingest.settings import PollingSettings, SwitchingSettings
from services.ingest.spool import Spool, SpoolFull
from services.ingest.store.status import status_message
from services.ingest.usecases.acceptor import Acceptor
from services.ingest.usecases.boards import LastSeen
from services.ingest.usecases.reach import Target
from services.ingest.usecases.status import StatusBoard, StatusRow
from services.ingest.usecases.switching import Switched, Switcher
from services.ingest.worker import reach, telling
from services.ingest.worker.lines import LineManager
from services.ingest.worker.telling import TellingRunner
from tests.unit.ingest.ingest_fakes import MEANS, FakeBus, FakeTellingLine, device, line

PROFILE: DeviceProfile = ProfileCatalogue.load().get("lx47le_125")
SETTINGS = PollingSettings(interval_s=10.0, reconnect_cap_s=8.0)


@dataclass
class Watch:
    said: list[str] = field(default_factory=list)

    def spool_full(self, detail: str) -> None: ...

    def spool_accepts(self) -> None: ...

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None:
        self.said.append(f"clock of {device_id} {skew_s:+.0f} s")

    def clock_right(self, device_id: str, site_id: str) -> None: ...

    def line_down(self, line_id: str, site_id: str, detail: str) -> None:
        self.said.append(f"down: {detail}")

    def line_up(self, line_id: str, site_id: str) -> None:
        self.said.append("up")


@dataclass
class FakeStatusStore:
    rows: dict[str, StatusRow] = field(default_factory=dict)

    async def load(self, device_ids: Any) -> dict[str, StatusRow]:
        return {device_id: self.rows[device_id] for device_id in device_ids if device_id in self.rows}

    async def publish(self, rows: Any) -> None:
        self.rows.update({row.device_id: row for row in rows})


@dataclass
class Field:
    clock: FakeClock
    runner: TellingRunner
    driver: FakeTellingLine
    status: StatusBoard
    store: FakeStatusStore
    watch: Watch
    bus: FakeBus
    spool: Spool

    def raw(self, **points: float) -> RawReport:
        return RawReport(points, self.clock.now())

    def published(self, topic: str) -> list[bytes]:
        return [message.value or b"" for message in self.bus.published if message.topic == topic]

    def readings(self, topic: str = topics.READINGS) -> list[Reading]:
        return [Reading.from_json(value) for value in self.published(topic)]


@asynccontextmanager
async def field_of(tmp_path: Path, *device_ids: str, spool_bytes: int = 1 << 20) -> AsyncIterator[Field]:
    clock, bus, watch, store = FakeClock(), FakeBus(), Watch(), FakeStatusStore()
    driver = FakeTellingLine(*device_ids, clock=clock)
    status = StatusBoard(store, clock, offline_after_missed=3)
    async with Spool(tmp_path, max_bytes=spool_bytes, wall=lambda: clock.now().timestamp()) as spool:
        acceptor = Acceptor(bus=bus, spool=spool, clock=clock, limits=Limits(), watch=watch)
        acceptor.on_live(status.heard)
        runner = TellingRunner(
            line=line(), driver=driver, acceptor=acceptor, status=status, findings=watch, clock=clock, settings=SETTINGS
        )
        runner.update({device_id: (device(id=device_id), PROFILE) for device_id in device_ids})
        task = asyncio.create_task(runner.run(), name="line")
        await settle()
        try:
            yield Field(clock, runner, driver, status, store, watch, bus, spool)
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert driver.closed == 1


# what devices say


async def test_report_keeps_the_devices_time_number_and_quality(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        told_at = field_.clock.now() - timedelta(seconds=3)
        raw = RawReport(
            {"breaker_state": 240, "voltage_a": 231},
            field_.clock.now(),
            source_time=told_at,
            seq=7,
            message_id="m7",
            quality={"breaker_state": Quality.INVALID, "voltage_a": Quality.SUBSTITUTED},
        )
        await field_.driver.says().report("m-1", raw)
        (reading,) = field_.readings()
        assert (reading.source_time, reading.seq, reading.message_id) == (told_at, 7, "m7")
        assert reading.points["breaker_state"] is None  # a bad value keeps no number
        assert reading.points["voltage_a"] == 231
        assert reading.quality == {"breaker_state": Quality.INVALID, "voltage_a": Quality.SUBSTITUTED}
        assert (reading.line_id, reading.driver, reading.profile) == ("line-1", "fake", "lx47le_125")


async def test_reports_that_have_waited_go_to_the_bus_in_one_step_and_in_order(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1", "m-2") as field_:
        now = field_.clock.now()
        told = [
            (device_id, RawReport({"voltage_a": 230 + second}, now, source_time=now - timedelta(seconds=9 - second)))
            for second in range(3)
            for device_id in ("m-1", "m-2", "stranger")
        ]
        steps = field_.bus.steps
        await field_.driver.says().reports(told)
        assert field_.bus.steps == steps + 1
        found = [(str(reading.device_id), reading.points["voltage_a"]) for reading in field_.readings()]
        assert found == [(device_id, 230.0 + second) for second in range(3) for device_id in ("m-1", "m-2")]


async def test_what_is_asked_of_a_devices_memory_goes_to_backfill(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        old = RawReport({"voltage_a": 230}, field_.clock.now(), source_time=field_.clock.now(), archive=True)
        await field_.driver.says().report("m-1", old)
        assert (len(field_.readings()), len(field_.readings(topics.BACKFILL))) == (0, 1)


async def test_wrong_clock_of_a_device_is_told_and_not_used(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        now = field_.clock.now()
        ahead = RawReport({"voltage_a": 230}, now, source_time=now + timedelta(minutes=10))
        await field_.driver.says().report("m-1", ahead)
        (reading,) = field_.readings()
        assert (reading.source_time, reading.quality) == (now, {"voltage_a": Quality.CLOCK_SKEW})
        assert field_.watch.said == ["clock of m-1 +600 s"]


async def test_event_is_published_for_alarm_and_waits_on_disk_while_the_bus_is_away(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        at = field_.clock.now() - timedelta(seconds=1)
        event = DeviceEvent("over_current", Phase.BEGIN, "过流", at, severity=2, point="current_a", value=91.5)
        await field_.driver.says().event("m-1", event)
        (value,) = field_.published(topics.DEVICE_EVENTS)
        published = PublishedEvent.from_json(value)
        assert (published.device_id, published.site_id, published.code) == ("m-1", "site-1", "over_current")
        assert (published.phase, published.source_time, published.severity) == (Phase.BEGIN, at, 2)
        assert (published.driver, published.received_at) == ("fake", field_.clock.now())
        field_.bus.away = True
        await field_.driver.says().event("m-1", event)
        assert field_.spool.records == 1


async def test_event_from_the_future_takes_our_time(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        now = field_.clock.now()
        await field_.driver.says().event("m-1", DeviceEvent("x", Phase.ONCE, "", now + timedelta(hours=1)))
        (value,) = field_.published(topics.DEVICE_EVENTS)
        assert PublishedEvent.from_json(value).source_time == now
        assert field_.watch.said == ["clock of m-1 +3600 s"]


async def test_what_cannot_be_understood_is_on_record(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.driver.says().reject(RejectReason.UNDECODABLE, b"\x68\x01", "too short", device_id="m-1")
        (rejected,) = [Rejected.from_json(value) for value in field_.published(topics.REJECTED)]
        assert (rejected.reason, rejected.source, rejected.device_id) == ("undecodable", "line-1", "m-1")


async def test_texts_are_told_when_they_change(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.driver.says().report(
            "m-1", RawReport({"voltage_a": 230}, field_.clock.now(), texts={"firmware_version": "1.2"})
        )
        await field_.status.scan()
        first = field_.store.rows["m-1"]
        assert first.texts == {"firmware_version": "1.2"}
        status = DeviceStatus.from_json(status_message(first).value or b"")
        assert status.texts == {"firmware_version": "1.2"}
        assert await field_.status.scan() == 0
        await field_.driver.says().report("m-1", RawReport({}, field_.clock.now(), texts={"firmware_version": "1.3"}))
        assert await field_.status.scan() == 1


async def test_full_spool_is_the_drivers_to_know(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1", spool_bytes=1) as field_:
        field_.bus.away = True
        with pytest.raises(SpoolFull):
            await field_.driver.says().report("m-1", field_.raw(voltage_a=230))


async def test_device_that_stays_silent_is_offline_for_the_reason_that_the_driver_gave(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.driver.says().report("m-1", field_.raw(voltage_a=230))
        field_.driver.says().failed("m-1", "platform_event")
        await field_.clock.advance(31)
        await field_.status.scan()
        assert (field_.store.rows["m-1"].connectivity, field_.store.rows["m-1"].reason) == ("offline", "platform_event")


# the connection


async def test_lost_line_is_tried_with_pauses_told_once_and_told_again_when_it_holds(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.clock.advance(20)
        assert field_.watch.said == ["up"]
        field_.driver.refuses = LineDown("nobody there")
        field_.driver.lost.set()
        await field_.clock.advance(60)
        assert 6 <= len(field_.driver.runs) <= 20
        assert set(field_.watch.said[1:]) == {"down: nobody there"}
        field_.driver.refuses = None
        await field_.clock.advance(9)
        assert field_.watch.said[-1] == "down: nobody there"  # connected, but it has to hold
        await field_.clock.advance(10)
        assert field_.watch.said[-1] == "up"


async def test_line_that_connects_and_breaks_at_once_is_down_and_does_not_hammer(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        for _ in range(60):
            field_.driver.lost.set()
            await field_.clock.advance(1)
        assert len(field_.driver.runs) <= 20
        assert set(field_.watch.said) == {"down: connection lost"}


async def test_peer_that_does_not_want_us_is_asked_slowly(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        field_.driver.refuses = DeviceRefused("bad certificate")
        field_.driver.lost.set()
        await field_.clock.advance(900)
        assert 3 <= len(field_.driver.runs) <= 6
        assert "down: bad certificate" in field_.watch.said


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (NotLetIn("bad user name or password"), "auth_failed"),
        (DeviceRefused("bad certificate"), "line_down"),
        (LineDown("nobody there"), "line_down"),
    ],
)
async def test_a_refused_password_is_told_from_a_line_that_is_down(
    tmp_path: Path, refusal: PlatformError, reason: str
) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.driver.says().report("m-1", field_.raw(voltage_a=230))
        field_.driver.refuses = refusal
        field_.driver.lost.set()
        await field_.clock.advance(900)
        await field_.status.scan()
        assert (field_.store.rows["m-1"].connectivity, field_.store.rows["m-1"].reason) == ("offline", reason)


async def test_new_address_makes_the_connection_anew_and_a_new_ratio_does_not(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.clock.advance(10)
        field_.runner.update({"m-1": (device(id="m-1", ct_ratio=40.0), PROFILE)})
        await field_.clock.advance(10)
        assert len(field_.driver.runs) == 1
        await field_.driver.says().report("m-1", field_.raw(voltage_a=230))
        assert field_.readings()[0].ct_ratio == 40.0
        for number in range(2, 6):  # an import: many changes in a short time
            field_.driver.devices[f"m-{number}"] = field_.driver.devices["m-1"]
            known = {f"m-{n}": (device(id=f"m-{n}"), PROFILE) for n in range(1, number + 1)}
            field_.runner.update(known)
            await field_.clock.advance(0.5)
        await field_.clock.advance(10)
        assert [len(addresses) for addresses in field_.driver.runs] == [1, 2, 5]
        field_.runner.update({"m-2": known["m-2"]})
        await field_.clock.advance(10)
        assert set(field_.driver.runs[-1]) == field_.runner.device_ids == {"m-2"}


async def test_report_of_a_device_that_has_left_the_line_is_dropped(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        await field_.driver.says().report("gone", field_.raw(voltage_a=230))
        await field_.driver.says().event("gone", DeviceEvent("x", Phase.ONCE, "", field_.clock.now()))
        assert field_.bus.published == []


# orders


async def test_order_for_a_lost_line_connects_it_without_waiting_for_the_pause(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        field_.driver.refuses = DeviceRefused("not now")
        field_.driver.lost.set()
        await field_.clock.advance(10)
        before = len(field_.driver.runs)
        session = field_.runner.session(Address("m-1", "1", PROFILE))
        order = asyncio.create_task(field_.runner.first(lambda: session.read_points(["breaker_state"])))
        await field_.clock.advance(2)
        with pytest.raises(LineDown):
            await order
        assert len(field_.driver.runs) == before + 1
        field_.driver.refuses = None
        order = asyncio.create_task(field_.runner.first(lambda: session.read_points(["breaker_state"])))
        await field_.clock.advance(2)
        assert (await order).raw == {"breaker_state": 240}


async def test_slow_order_does_not_hold_up_the_next_one(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        slow = asyncio.create_task(field_.runner.first(asyncio.Event().wait))

        async def quick() -> str:
            return "done"

        assert await field_.runner.first(quick) == "done"
        assert not slow.done()
        slow.cancel()
        await asyncio.wait([slow])


async def test_a_look_does_not_stand_in_line_behind_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "JOBS_AT_ONCE", 2)
    async with field_of(tmp_path, "m-1") as field_:
        orders = [asyncio.create_task(field_.runner.first(asyncio.Event().wait)) for _ in range(4)]
        await settle()

        async def looked() -> str:
            return "closed"

        assert await field_.runner.look(looked) == "closed"
        assert (await field_.runner.read_now("m-1", ["breaker_state"])) is not None
        assert not any(order.done() for order in orders)
        looks = [asyncio.create_task(field_.runner.look(asyncio.Event().wait)) for _ in range(3)]
        await settle()
    ended = await asyncio.gather(*orders, *looks, return_exceptions=True)
    begun, waited = DeviceSilent, LineDown
    assert [type(one) for one in ended] == [begun, begun, waited, waited, begun, begun, waited]


async def test_order_that_was_being_done_when_the_line_is_given_up_has_an_unknown_outcome(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        running = asyncio.create_task(field_.runner.first(asyncio.Event().wait))
        await settle()
        field_.driver.refuses = LineDown("nobody there")
        field_.driver.lost.set()
        await settle()
        waiting = asyncio.create_task(field_.runner.first(asyncio.Event().wait))
        await settle()
    with pytest.raises(DeviceSilent, match="given up"):
        await running
    with pytest.raises(LineDown, match="given up"):
        await waiting


async def test_points_are_read_back_in_canonical_units(tmp_path: Path) -> None:
    async with field_of(tmp_path, "m-1") as field_:
        read = await field_.runner.read_now("m-1", ["breaker_state", "no_such_point"])
        assert read is not None
        assert read[0] == {"breaker_state": 1}
        assert await field_.runner.read_now("m-1", ["no_such_point"]) is None
        assert await field_.runner.read_now("elsewhere", ["breaker_state"]) is None


class HeldLines:
    """Stands in for ``LineManager``: holds the one line, or none."""

    def __init__(self, runner: TellingRunner | None) -> None:
        self._runner = runner

    def runner(self, line_id: str) -> TellingRunner | None:
        return self._runner

    def runner_of(self, device_id: str) -> TellingRunner | None:
        return self._runner


class NoPower:
    async def latest(self, device_id: str) -> None:
        return None


def switcher_of(lines: HeldLines, clock: FakeClock) -> Switcher:
    ways = reach.LineReach(lines=cast(LineManager, lines), clock=clock, settings=SETTINGS, means=MEANS)
    settings = SwitchingSettings(settle_s=0, meter_wait_s=0)
    return Switcher(reach=ways, seen=LastSeen(clock), power=NoPower(), clock=clock, settings=settings)


async def finished(switching: Coroutine[Any, Any, Switched], clock: FakeClock) -> Switched:
    task = asyncio.create_task(switching)
    for _ in range(60):
        if task.done():
            break
        await clock.advance(1)
    return task.result()


async def test_breaker_on_a_line_that_tells_is_switched_and_proven_as_on_a_polled_one(tmp_path: Path) -> None:
    switch = switch_of(PROFILE, None)
    assert switch is not None
    async with field_of(tmp_path, "m-1") as field_:
        switcher = switcher_of(HeldLines(field_.runner), field_.clock)
        target = Target("m-1", "site-1", line(), "1", PROFILE)
        opened = await finished(
            switcher.open(target, switch, channel=None, meter=None, may_write=lambda: None), field_.clock
        )
        assert (opened.stage, opened.evidence.feedback_value) == ("verified", 0)
        closed = await finished(switcher.close(target, switch, channel=None, meter=None), field_.clock)
        assert (closed.stage, closed.evidence.feedback_value) == ("verified", 1)
        assert field_.driver.devices["m-1"].writes == ["breaker_open", "breaker_close"]


async def test_load_is_woken_over_a_connection_of_its_own_that_takes_no_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    driver = FakeTellingLine("m-1", clock=clock)
    driver.devices["m-1"].raw["breaker_state"] = 15
    asked: list[bool] = []

    def open_line(*_: Any, beside: bool, **__: Any) -> FakeTellingLine:
        asked.append(beside)
        return driver

    monkeypatch.setattr(reach, "open_line", open_line)
    switcher = switcher_of(HeldLines(None), clock)
    switch = switch_of(PROFILE, None)
    assert switch is not None
    target = Target("m-1", "site-1", line(), "1", PROFILE)
    refused = await finished(switcher.open(target, switch, channel=None, meter=None, may_write=lambda: None), clock)
    assert (refused.stage, refused.reason) == ("failed", "line_down")  # an OFF needs the line
    closed = await finished(switcher.close(target, switch, channel=None, meter=None), clock)
    assert closed.stage == "verified"
    assert all(asked)
    assert driver.closed == len(asked) > 0
    async with telling.connected(driver, Address("m-1", "1", PROFILE)):
        with pytest.raises(SpoolFull):
            await driver.says().report("m-1", RawReport({"voltage_a": 230}, clock.now()))
    driver.refuses = LineDown("nobody there")
    stopped = await finished(switcher.close(target, switch, channel=None, meter=None), clock)
    assert (stopped.stage, stopped.reason) == ("failed", "line_down")
