"""Acceptance while the bus comes and goes: nothing lost, live first, late on its own topic, a full spool refuses."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from libs.common.bus import topics
from libs.common.bus.port import BusUnavailable, Received
from libs.common.contracts.telemetry import Heartbeat, Reading, Rejected, RejectReason
from libs.common.ids import DeviceId, SiteId
from libs.common.testing.clock import FakeClock
from services.ingest.bus import is_heartbeat
from services.ingest.domain.acceptance import Limits
from services.ingest.domain.report import Rejection, Report
from services.ingest.spool import Spool, SpoolFull
from services.ingest.usecases.acceptor import Acceptor, Outcome
from tests.unit.ingest.ingest_fakes import FakeBus


@dataclass
class Watch:
    said: list[str] = field(default_factory=list)

    def spool_full(self, detail: str) -> None:
        self.said.append("full")

    def spool_accepts(self) -> None:
        if self.said and self.said[-1] == "full":
            self.said.append("accepts")

    def clock_wrong(self, device_id: str, site_id: str, skew_s: float) -> None:
        self.said.append(f"{device_id} {skew_s:+.0f} s")

    def clock_right(self, device_id: str, site_id: str) -> None:
        if self.said and self.said[-1].startswith(device_id):
            self.said.append("clock right")


@dataclass
class Door:
    acceptor: Acceptor
    bus: FakeBus
    spool: Spool
    clock: FakeClock
    watch: Watch

    def report(self, device: str = "m-1", voltage: float = 230.0, age_s: float = 0.0) -> Report:
        now = self.clock.now()
        return Report(
            device_id=DeviceId(device),
            site_id=SiteId("s-1"),
            source_time=now - timedelta(seconds=age_s),
            received_at=now,
            driver="modbus",
            points={"voltage_a": voltage},
        )

    def voltages(self, topic: str) -> list[float]:
        return [
            orjson.loads(message.value or b"")["points"]["voltage_a"]
            for message in self.bus.published
            if message.topic == topic and not is_heartbeat(message.headers)
        ]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    clock, bus, watch = FakeClock(), FakeBus(), Watch()
    async with Spool(tmp_path, max_bytes=20_000, wall=lambda: clock.now().timestamp()) as spool:
        yield Door(
            Acceptor(bus=bus, spool=spool, clock=clock, limits=Limits(), watch=watch, spool_max_age_s=3600),
            bus, spool, clock, watch,
        )  # fmt: skip


async def test_report_is_on_the_bus_when_it_is_accepted_and_is_a_reading(door: Door) -> None:
    (answer,) = await door.acceptor.accept([door.report()])
    assert answer.outcome is Outcome.ACCEPTED
    (message,) = door.bus.published
    assert (message.topic, message.key) == (topics.READINGS, "s-1")
    assert Reading.from_json(message.value or b"").points == {"voltage_a": 230.0}


async def test_bus_that_is_away_is_no_reason_to_refuse_and_is_not_waited_for_again(door: Door) -> None:
    door.bus.away = True
    for i in range(3):
        await door.acceptor.accept([door.report(voltage=230.0 + i)])
        await door.clock.advance(1)
    assert (door.spool.records, door.acceptor.bus_away) == (3, True)
    with pytest.raises(BusUnavailable):
        await door.acceptor.drain_once()
    assert door.spool.records == 3
    door.bus.away = False
    assert await door.acceptor.drain_once() == 3
    assert door.voltages(topics.READINGS) == [230.0, 231.0, 232.0]
    assert (door.spool.records, door.acceptor.bus_away) == (0, False)


async def test_report_that_waited_too_long_is_late(door: Door) -> None:
    door.bus.away = True
    await door.acceptor.accept([door.report()])
    await door.clock.advance(61)
    door.bus.away = False
    await door.acceptor.drain_once()
    assert (door.voltages(topics.READINGS), door.voltages(topics.BACKFILL)) == ([], [230.0])


async def test_live_report_does_not_wait_behind_the_spool_and_makes_what_is_in_it_late(door: Door) -> None:
    door.bus.away = True
    await door.acceptor.accept([door.report(voltage=1.0)])
    await door.acceptor.accept([door.report("m-2", voltage=2.0)])
    await door.clock.advance(5)
    door.bus.away = False
    door.acceptor._bus_away = False  # the drainer has found the bus again and is about to drain
    await door.acceptor.accept([door.report(voltage=3.0)])
    assert door.voltages(topics.READINGS) == [3.0]
    await door.acceptor.drain_once()
    assert door.voltages(topics.READINGS) == [3.0, 2.0]  # young, and the last of its device
    assert door.voltages(topics.BACKFILL) == [1.0]


async def test_what_was_spooled_before_a_crash_is_published_after_it(door: Door, tmp_path: Path) -> None:
    folder, bus = tmp_path / "crashing", FakeBus()
    bus.away = True
    async with Spool(folder, max_bytes=20_000, wall=lambda: door.clock.now().timestamp()) as spool:
        acceptor = Acceptor(bus=bus, spool=spool, clock=door.clock, limits=Limits(), watch=door.watch)
        await acceptor.accept([door.report()])
    bus.away = False
    async with Spool(folder, max_bytes=20_000, wall=lambda: door.clock.now().timestamp()) as again:
        acceptor = Acceptor(bus=bus, spool=again, clock=door.clock, limits=Limits(), watch=door.watch)
        assert await acceptor.drain_once() == 1
    assert bus.topics() == [topics.READINGS]


async def accept_until_full(door: Door) -> None:
    for i in range(1000):
        await door.acceptor.accept([door.report(voltage=float(i))])
        await door.clock.advance(0.1)


async def test_full_spool_refuses_says_so_and_takes_again_when_there_is_room(door: Door) -> None:
    door.bus.away = True
    with pytest.raises(SpoolFull):
        await accept_until_full(door)
    assert door.watch.said == ["full"]
    taken = door.spool.records
    door.bus.away = False
    while await door.acceptor.drain_once():
        pass
    assert door.watch.said == ["full", "accepts"]
    assert len(door.voltages(topics.READINGS)) + len(door.voltages(topics.BACKFILL)) == taken


async def test_refused_report_is_not_remembered_and_can_be_sent_again(door: Door) -> None:
    door.bus.away = True
    report = door.report()
    with pytest.raises(SpoolFull):
        await door.acceptor.accept([report, *(door.report(f"m-{i}") for i in range(100))])
    door.bus.away = False
    await door.acceptor.drain_once()
    (answer,) = await door.acceptor.accept([report])
    assert answer.outcome is Outcome.ACCEPTED


async def test_report_too_old_for_the_spool_is_dropped(door: Door) -> None:
    door.bus.away = True
    await door.acceptor.accept([door.report()])
    await door.clock.advance(3601)
    door.bus.away = False
    assert await door.acceptor.drain_once() == 1
    assert door.bus.published == []


async def test_bad_report_is_on_record_with_its_bytes_beside_the_good_ones(door: Door) -> None:
    answers = await door.acceptor.accept([door.report(age_s=-90_000), door.report("m-2")])
    assert [answer.outcome for answer in answers] == [Outcome.REJECTED, Outcome.ACCEPTED]
    rejected = Rejected.from_json(door.bus.published[0].value or b"")
    assert (door.bus.published[0].topic, rejected.reason) == (topics.REJECTED, RejectReason.FUTURE_TIME)


async def test_rejection_keeps_the_first_bytes_of_what_is_too_long(door: Door) -> None:
    raw = b"\xff" * 100_000
    await door.acceptor.reject(
        [Rejection(reason=RejectReason.UNDECODABLE, source="x", received_at=door.clock.now(), raw=raw, detail="no")]
    )
    rejected = Rejected.from_json(door.bus.published[0].value or b"")
    assert (rejected.truncated, len(rejected.raw_base64)) == (True, 87384)  # 64 KiB in base64


async def test_report_that_the_bus_will_never_take_is_rejected_and_the_others_go_on(door: Door) -> None:
    door.bus.refuses = b"777"
    await door.acceptor.accept([door.report(voltage=777.0), door.report("m-2", voltage=5.0)])
    assert door.voltages(topics.READINGS) == [5.0]
    assert [m.topic for m in door.bus.published if m.topic == topics.REJECTED] == [topics.REJECTED]


async def test_late_report_goes_to_the_backfill_and_a_repeated_one_nowhere(door: Door) -> None:
    heard: list[Report] = []
    door.acceptor.on_live(heard.append)
    newest = door.report()
    older = door.report(age_s=30)
    answers = await door.acceptor.accept([newest, older, newest])
    assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.LATE, Outcome.DUPLICATE]
    (again,) = await door.acceptor.accept([newest])
    assert again.outcome is Outcome.DUPLICATE
    assert [report.source_time for report in heard] == [newest.source_time]


async def test_device_clock_that_is_wrong_is_told_and_that_it_is_right_again(door: Door) -> None:
    await door.acceptor.accept([door.report(age_s=-400)])
    await door.clock.advance(60)
    await door.acceptor.accept([door.report()])
    assert door.watch.said == ["m-1 +400 s"]  # a report that the device did not date says nothing of its clock
    await door.acceptor.accept([door.report(age_s=-1)])
    assert door.watch.said == ["m-1 +400 s", "clock right"]


async def test_last_times_from_the_database_tell_late_from_live_after_a_restart(door: Door) -> None:
    door.acceptor.remember({DeviceId("m-1"): door.clock.now()})
    (answer,) = await door.acceptor.accept([door.report(age_s=10)])
    assert answer.outcome is Outcome.LATE


async def test_heartbeat_goes_into_every_partition_and_an_old_one_is_not_told(door: Door) -> None:
    await door.acceptor.heartbeat("0", 4, 1)
    assert [message.partition for message in door.bus.published] == [0, 1, 2, 3]
    beat = Heartbeat.from_json(door.bus.published[0].value or b"")
    assert (beat.instance, beat.partition, beat.received_at) == ("0", 0, door.clock.now())
    first = door.bus.published[0]
    assert is_heartbeat(Received(first.topic, 0, 0, first.key, first.value, first.headers, door.clock.now()).headers)
    door.bus.published.clear()
    door.bus.away = True
    await door.acceptor.heartbeat("0", 4, 2)
    await door.clock.advance(61)
    door.bus.away = False
    assert await door.acceptor.drain_once() == 4
    assert door.bus.published == []
