"""From alarm events to messages that receivers have taken, on a real database and with a real receiver."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, Condition, EndReason
from libs.common.contracts.base import Phase
from libs.common.db import Database
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.common.secretstore import SecretStore
from libs.common.testing.clock import FakeClock
from services.alarm.channels.config import CONFIG, ChannelConfig
from services.alarm.channels.port import Channel, Credentials, NotDelivered, Outgoing
from services.alarm.channels.webhook import WebhookChannel
from services.alarm.domain.places import Place
from services.alarm.routebody import RouteBody
from services.alarm.store import alarms as alarms_store
from services.alarm.store import channels as channels_store
from services.alarm.store import notifications as store
from services.alarm.store import routes as routes_store
from services.alarm.store.channels import ChannelRow
from services.alarm.store.notifications import NotificationFilter, NotificationRow
from services.alarm.store.routes import RouteRow
from services.alarm.worker.composing import Composer
from services.alarm.worker.grouping import EVENTS_AT_ONCE, GroupingHandler
from services.alarm.worker.sending import Sender, SendingLimits
from tests.integration.alarm.alarm_world import START, Registry, database
from tests.peers.receivers import HttpReceiver, http_receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

SIGNAL = "0s16001001"


class Told:
    """The consumer and the teller, driven by hand."""

    def __init__(self, db: Database, receiver: HttpReceiver, client: GuardedClient, folder: Path) -> None:
        self.db = db
        self.receiver = receiver
        self.clock = FakeClock(START)
        self.registry = Registry()
        self.registry.add("m-1")
        self._client = client
        self._secrets = SecretStore(folder)
        self._offsets = itertools.count()
        self.handler = GroupingHandler(directory=self.registry, clock=self.clock)
        self.composer = Composer(db=db, clock=self.clock, directory=self.registry)
        self.sender = self.new_sender()

    def new_sender(self, robot: Channel | None = None, **limits: Any) -> Sender:
        webhook = WebhookChannel(self._client, self.clock)
        return Sender(
            db=self.db,
            clock=self.clock,
            channels={"webhook": webhook, "feishu": robot or webhook},
            secrets=self._secrets,
            limits=SendingLimits(**limits),
        )

    async def channel(
        self, channel_id: str = "duty", *, rate: int = 60, enabled: bool = True, secret: str | None = None
    ) -> None:
        url = f"{self.receiver.url}/{channel_id}"
        config = CONFIG.validate_python({"kind": "feishu" if channel_id == "robot" else "webhook", "url": url})
        row = ChannelRow(channel_id, channel_id, config, secret, "zh", enabled, rate, None, "user:test", START)
        async with self.db.write() as conn:
            await channels_store.put_channel(conn, row)

    async def route(self, route_id: str = "all", **body: Any) -> None:
        wanted = RouteBody.model_validate({"name": route_id, "channels": ["duty"], **body})
        async with self.db.write() as conn:
            await routes_store.put_route(conn, RouteRow(route_id, wanted, "user:test", START))

    def event(self, alarm_id: str, sequence: int = 1, phase: Phase = Phase.BEGIN, **changes: Any) -> AlarmEvent:
        ended = {"ended_at": self.clock.now(), "end_reason": EndReason.RECOVERED} if phase is Phase.END else {}
        return AlarmEvent.model_validate(
            {
                "alarm_id": alarm_id,
                "site_id": "site-1",
                "sequence": sequence,
                "phase": phase,
                "level": 2,
                "signal": SIGNAL,
                "began_at": START,
                "device_id": "m-1",
                "signal_name": "Power failure",
                "signal_name_zh": "停电告警",
                **ended,
                **changes,
            }
        )

    async def take(self, *events: AlarmEvent, stored: bool = True) -> None:
        """Publish events as the service does: the alarms are stored before anybody hears of them."""
        async with self.db.effects() as conn:
            if stored:
                await alarms_store.put_events(conn, events, [0] * len(events))
            await self.handler.handle(conn, [self.received(event) for event in events])
        self.handler.committed()

    def received(self, event: AlarmEvent) -> Received:
        now = self.clock.now()
        headers = envelope.headers(
            event_type=topics.ALARM_EVENTS, source="alarm", event_id=envelope.new_event_id(), time=now
        )
        return Received(topics.ALARM_EVENTS, 0, next(self._offsets), event.site_id, event.to_json(), headers, now)

    async def after(self, seconds: float) -> None:
        """Let time pass, and tell."""
        await self.clock.advance(seconds)
        await self.tell()

    async def tell(self) -> None:
        while await self.composer.flush():
            pass
        await self.send()

    async def send(self) -> None:
        """Send all that may be sent now."""
        async with asyncio.TaskGroup() as tasks:
            await self.sender.begin(tasks, lambda: True)

    def heard(self, channel_id: str = "duty") -> list[tuple[str, list[str]]]:
        bodies = [json.loads(call.body) for call in self.receiver.calls if call.path == f"/{channel_id}"]
        return [(body["kind"], [_shown(one) for one in body["alarms"]]) for body in bodies]

    async def rows(self, **wanted: Any) -> list[NotificationRow]:
        async with self.db.read() as conn:
            found = await store.fetch_notifications(conn, NotificationFilter(**wanted), after=None, limit=1000)
        return found[::-1]

    async def conditions(self) -> list[Condition]:
        async with self.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        return [Condition.from_json(row["value"]) for row in rows]

    async def count(self, table: str) -> int:
        async with self.db.read() as conn:
            number: int = await conn.fetchval(f"select count(*) from {table}")
        return number


class Hangs:
    """A receiver that takes a message and answers when it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.calls = 0

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        self.calls += 1
        self.asked.set()
        await self.go.wait()


class Repeats:
    """A receiver that repeats what it was sent."""

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        raise NotDelivered(f"no such robot: {credentials.require('token')}", message_zh="机器人不存在")


class TakesWhileTheDatabaseIsAway:
    """A receiver that takes a message at the moment at which the database goes away."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.taken: list[str] = []

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        self.taken.append(message.notification_id)
        await self._db.close()


def _shown(alarm: dict[str, Any]) -> str:
    return str(alarm["alarm_id"]) + (" ended" if alarm["ended_at"] else "")


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as found:
        yield found


@pytest.fixture
async def told(postgres_url: str, receiver: HttpReceiver, tmp_path: Path) -> AsyncIterator[Told]:
    async with (
        database(postgres_url) as db,
        GuardedClient(AddressGuard(["127.0.0.1"]), verify=False) as client,
    ):
        found = Told(db, receiver, client, tmp_path)
        await found.channel()
        yield found


async def test_a_begin_is_told_after_the_wait_and_its_end_to_the_same(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"), told.event("a-2", device_id=None))
    await told.after(29)
    assert told.heard() == []
    await told.after(1)
    assert told.heard() == [("news", ["a-1", "a-2"])]
    assert "停电告警" in json.loads(told.receiver.calls[0].body)["text"]
    await told.take(told.event("a-1", 2, Phase.END))
    await told.after(300)
    assert told.heard()[1:] == [("news", ["a-1 ended"])]
    (first, _) = await told.rows(alarm_id="a-1")
    assert (first.state, first.attempts, first.error) == ("sent", 1, None)
    await told.take(told.event("a-2", 2, Phase.END))
    await told.after(300)
    assert await told.count("notification_members") == await told.count("notification_groups") == 0


async def test_a_load_that_should_be_awake_and_is_not_reaches_whoever_takes_the_worst(told: Told) -> None:
    """What control and the watchdog call ``wake_up_overdue`` has no device: the route goes by level and signal."""
    await told.route(match={"levels": [1], "signals": ["wattring.condition.wake_up_*"]}, group_wait_s=0.0)
    overdue: dict[str, Any] = {
        "level": 1, "signal": "wattring.condition.wake_up_overdue", "device_id": None, "subject": "aau-1",
    }  # fmt: skip
    await told.take(told.event("a-1", **overdue), told.event("other"))
    await told.after(1)
    assert told.heard() == [("news", ["a-1"])]
    await told.take(told.event("a-1", 2, Phase.END, **overdue))
    await told.after(300)
    assert told.heard()[1:] == [("news", ["a-1 ended"])]


async def test_what_ends_within_the_wait_or_is_inhibited_is_told_to_nobody(told: Told) -> None:
    await told.route()
    await told.take(told.event("short"), told.event("short", 2, Phase.END))
    await told.take(told.event("short-2"))
    await told.take(told.event("short-2", 2, Phase.END))
    await told.take(told.event("quiet", inhibited_by="window:w-1"), told.event("old", historical=True))
    await told.after(3600)
    assert told.heard() == []
    await told.take(told.event("quiet", 2, Phase.UPDATE))
    await told.after(30)
    assert told.heard() == [("news", ["quiet"])]


async def test_an_alarm_that_something_explains_before_it_is_told_waits_for_that_to_end(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"))
    await told.take(told.event("a-1", 2, Phase.UPDATE, inhibited_by="alarm:feed"))
    await told.after(600)
    assert told.heard() == []
    await told.take(told.event("a-1", 3, Phase.UPDATE))
    await told.after(300)
    assert told.heard() == [("news", ["a-1"])]


async def test_events_that_come_again_tell_nothing_again(told: Told) -> None:
    await told.route()
    begin = told.event("a-1")
    await told.take(begin)
    await told.after(30)
    await told.take(begin, stored=False)
    end = told.event("a-1", 2, Phase.END)
    await told.take(end)
    await told.after(300)
    await told.take(begin, end, stored=False)
    await told.after(3600)
    assert told.heard() == [("news", ["a-1"]), ("news", ["a-1 ended"])]


async def test_nobody_is_reminded_or_called_once_somebody_has_acknowledged(told: Told) -> None:
    await told.channel("boss")
    await told.route(escalation=[{"after_s": 600, "channels": ["boss"]}], repeat_interval_s=3600)
    await told.take(told.event("a-1"), told.event("a-2"))
    await told.after(30)
    async with told.db.write() as conn:
        await alarms_store.acknowledge(conn, "a-2", actor="user:wang", at=told.clock.now())
    await told.after(600)
    assert told.heard("boss") == [("escalation", ["a-1"])]
    await told.after(3000)
    assert told.heard()[1:] == [("reminder", ["a-1"])]
    await told.take(told.event("a-1", 2, Phase.END), told.event("a-2", 2, Phase.END))
    await told.after(300)
    assert told.heard()[2:] == [("news", ["a-1 ended", "a-2 ended"])]
    assert told.heard("boss")[1:] == [("news", ["a-1 ended"])]


async def test_a_route_that_is_gone_tells_nothing_new_and_still_tells_the_ends(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"))
    await told.after(30)
    await told.take(told.event("a-2"))
    async with told.db.write() as conn:
        await routes_store.delete_route(conn, "all")
    await told.take(told.event("a-1", 2, Phase.END), told.event("a-2", 2, Phase.END))
    await told.after(3600)
    assert told.heard() == [("news", ["a-1"]), ("news", ["a-1 ended"])]


async def test_a_receiver_that_is_away_is_tried_again_later_under_the_same_id_and_then_in_order(told: Told) -> None:
    await told.route(group_by=["signal"])
    told.receiver.status = 503
    await told.take(told.event("a-1"))
    await told.take(told.event("b-1", signal="0s16002001"))
    await told.after(30)
    await told.after(4)
    assert len(told.receiver.calls) == 1  # the second waits behind the first, and that for its time
    (first, second) = await told.rows()
    assert (first.state, first.attempts) == ("pending", 1)
    assert first.error == "the receiver answered with status 503"
    assert first.error_zh == "接收方返回状态码 503"
    assert second.attempts == 0
    told.receiver.status = 200
    await told.after(1)
    ids = [call.headers["webhook-id"] for call in told.receiver.calls]
    assert ids == [first.notification_id, first.notification_id, second.notification_id]
    assert {row.state for row in await told.rows()} == {"sent"}


async def test_what_cannot_be_sent_is_given_up_visibly_and_the_channel_becomes_a_finding_until_it_works(
    told: Told,
) -> None:
    await told.route()
    told.sender = told.new_sender(max_attempts=3)
    told.receiver.status = 500
    await told.take(told.event("a-1"))
    for _ in range(4):
        await told.after(30)
    (row,) = await told.rows(state="failed")
    assert (row.attempts, row.next_attempt_at) == (3, None)
    (begin,) = await told.conditions()
    assert (begin.kind, begin.subject, begin.phase) == ("notification_failed", "duty", Phase.BEGIN)
    await told.take(told.event("a-2"))
    for _ in range(14):
        await told.after(30)
    assert len(await told.rows(state="failed")) == 2
    assert len(await told.conditions()) == 1  # one finding for a channel, however much fails
    told.receiver.status = 200
    async with told.db.write() as conn:
        await store.try_again(conn, row.notification_id, told.clock.now())
    await told.tell()
    assert [one.phase for one in await told.conditions()] == [Phase.BEGIN, Phase.END]
    assert (await told.rows(state="sent"))[0].notification_id == row.notification_id


async def test_a_channel_that_is_off_gets_nothing_and_that_is_visible(told: Told) -> None:
    await told.route()
    await told.channel(enabled=False)
    await told.take(told.event("a-1"))
    await told.after(30)
    (row,) = await told.rows()
    assert (row.state, row.error_zh) == ("failed", "通知渠道已停用或删除")
    assert told.receiver.calls == []
    assert await told.conditions() == []


async def test_a_crash_between_sending_and_noting_sends_again_and_loses_nothing(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"))
    await told.clock.advance(30)
    await told.composer.flush()
    async with told.db.write() as conn:  # an attempt began, and the process died before it ended
        (row,) = await told.rows()
        await store.note_attempt(conn, row.notification_id)
    told.sender = told.new_sender()
    await told.tell()
    assert told.heard() == [("news", ["a-1"])]
    assert (await told.rows())[0].attempts == 2


async def test_a_message_that_ends_the_process_each_time_is_given_up(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"))
    await told.clock.advance(30)
    await told.composer.flush()
    async with told.db.write() as conn:
        (row,) = await told.rows()
        for _ in range(SendingLimits().max_attempts):
            await store.note_attempt(conn, row.notification_id)
    await told.tell()
    assert told.receiver.calls == []
    assert [one.notification_id for one in await told.rows(state="failed")] == [row.notification_id]
    assert [one.subject for one in await told.conditions()] == ["duty"]


async def test_a_channel_never_sends_more_than_its_receiver_takes_in_a_minute(told: Told) -> None:
    await told.channel(rate=3)
    await told.route(group_by=["signal"])
    for number in range(3):
        await told.take(told.event(f"a-{number}", signal=f"0s1600{number}001"))
    await told.after(30)
    await told.take(*(told.event(f"b-{number}", signal=f"0s1700{number}001") for number in range(9)))
    await told.after(31)
    assert [kind for kind, _ in told.heard()] == ["news"] * 3
    await told.after(30)
    assert [(kind, len(alarms)) for kind, alarms in told.heard()[3:]] == [("summary", 9)]


async def test_a_channel_that_hangs_holds_up_nobody(told: Told) -> None:
    await told.channel("robot")
    await told.route(channels=["robot", "duty"])
    hangs = Hangs()
    told.sender = told.new_sender(hangs)
    await told.take(told.event("a-1"))
    await told.clock.advance(30)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        await told.composer.flush()
        await told.sender.begin(tasks, lambda: True)
        await hangs.asked.wait()
        await told.take(told.event("a-2"))
        await told.clock.advance(300)
        await told.composer.flush()
        while len(told.heard()) < 2:
            await told.sender.begin(tasks, lambda: True)
            await asyncio.sleep(0)
        assert hangs.calls == 1
        hangs.go.set()
    assert hangs.calls == 2
    assert told.heard() == [("news", ["a-1"]), ("news", ["a-2"])]


async def test_what_was_taken_while_the_database_was_away_is_not_sent_again(told: Told) -> None:
    await told.channel("robot")
    await told.route(channels=["robot"])
    robot = TakesWhileTheDatabaseIsAway(told.db)
    told.sender = told.new_sender(robot)
    await told.take(told.event("a-1"))
    await told.after(30)
    await told.db.open()
    assert [row.state for row in await told.rows()] == ["pending"]
    await told.send()
    (row,) = await told.rows()
    assert (row.state, robot.taken) == ("sent", [row.notification_id])


async def test_nothing_is_begun_once_another_process_may_hold_the_lease(told: Told) -> None:
    await told.route()
    await told.take(told.event("a-1"))
    await told.clock.advance(30)
    await told.composer.flush()
    async with asyncio.TaskGroup() as tasks:
        await told.sender.begin(tasks, lambda: False)
    assert told.receiver.calls == []
    await told.send()
    assert told.heard() == [("news", ["a-1"])]


async def test_a_secret_that_the_receiver_repeats_is_not_kept(told: Told, tmp_path: Path) -> None:
    secret = tmp_path / "robot.duty"
    secret.write_text("token=hush-hush-1\n")
    secret.chmod(0o600)
    await told.channel("robot", secret="robot.duty")
    await told.route(channels=["robot"])
    told.sender = told.new_sender(Repeats())
    await told.take(told.event("a-1"))
    await told.after(30)
    (row,) = await told.rows()
    assert row.error == "no such robot: ***"


async def test_what_quiet_hours_hold_does_not_hold_what_is_bad_enough(told: Told) -> None:
    await told.route(quiet_hours=[{"from": "11:00", "to": "13:00"}], group_by=["site"])  # it is 12:00
    await told.take(told.event("a-3", level=3))
    await told.after(30)
    await told.take(told.event("a-1", level=1))
    await told.after(30)
    assert told.heard() == [("news", ["a-1"])]
    await told.after(3600)
    assert told.heard()[1:] == [("news", ["a-3"])]


async def test_an_alarm_that_becomes_worse_is_told_once_though_groups_are_by_level(told: Told) -> None:
    await told.route(group_by=["level"])
    await told.take(told.event("a-1", level=3))
    await told.after(30)
    await told.take(told.event("a-1", 2, Phase.UPDATE, level=1))
    await told.after(600)
    await told.take(told.event("a-1", 3, Phase.END, level=1))
    await told.after(600)
    assert told.heard() == [("news", ["a-1"]), ("news", ["a-1"]), ("news", ["a-1 ended"])]


async def test_what_comes_one_by_one_beyond_the_rate_becomes_one_message_too(told: Told) -> None:
    await told.channel(rate=3)
    await told.route(group_by=["signal"], group_wait_s=0)
    for number in range(12):
        await told.take(told.event(f"a-{number}", signal=f"0s1600{number:02}01"))
        await told.after(5)
    await told.after(30)
    assert [(kind, len(alarms)) for kind, alarms in told.heard()] == [*([("news", 1)] * 3), ("summary", 9)]


async def test_a_province_without_power_is_told_in_less_than_one_message_for_a_hundred_alarms(told: Told) -> None:
    """50,000 begins within a minute at 2,000 sites, told by site: of all that a route can ask for the most messages."""
    await told.channel(rate=20)
    await told.route(group_by=["site"])
    for number in range(2000):
        site = f"s-{number}"
        told.registry.at[site] = Place(site, site, regions=(f"r-{number % 100}", "province"))
    began = [
        told.event(f"a-{number}", site_id=f"s-{number % 2000}", device_id=None, began_at=_at(number))
        for number in range(50_000)
    ]
    for first in range(0, len(began), EVENTS_AT_ONCE):
        await told.take(*began[first : first + EVENTS_AT_ONCE], stored=False)
        await told.after(0.6)
    for _ in range(32):
        await told.after(10)
    rows = await told.rows()
    assert sum(row.alarm_count for row in rows) == 50_000
    assert await told.count("notification_alarms") == 50_000
    assert len(rows) < 100, "messages"
    assert {row.state for row in rows} == {"sent"}


def _at(number: int) -> datetime:
    return START + timedelta(milliseconds=number)
