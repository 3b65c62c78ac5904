"""Feeds on a real database against real receivers: each row once, batches in order, double-send, statements, checks."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.telemetry import Quality, Reading
from libs.common.db import Database
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import DeviceId, SiteId
from libs.common.outgoing import AddressGuard
from libs.common.settings import DatabaseSettings
from libs.common.testing.clock import FakeClock
from services.export.api.feed_views import WrittenStatementView
from services.export.domain.callbacks import Verdict
from services.export.domain.feeds import (
    Destination,
    DestinationKind,
    DestinationState,
    Egress,
    Feed,
    Format,
    Selection,
    Source,
)
from services.export.domain.rows import DAY_ZONE, Tally, decimal_text, tally_of
from services.export.feeds import batches, destinations
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from services.export.usecases.feeds import DestinationWish, FeedAdministration, FeedWish
from services.export.worker.callback_owners import CallbackOwners
from services.export.worker.feed_cutter import FeedCutter
from services.export.worker.feed_telling import FeedTelling
from tests.integration.export.callback_world import Places
from tests.peers.callback_receiver import Call, Receiver, Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

BEGAN = datetime(2026, 3, 8, 6, 0, tzinfo=UTC)
DAY = date(2026, 3, 8)
OWNER = Caller(Actor("user:li", None), None, sees_all=False)
PARTY = Caller(Actor("key:esco", None), None, sees_all=False)
STRANGER = Caller(Actor("key:x", None), None, sees_all=False)


def lines_of(call: Call) -> list[str]:
    """What a receiver does who checks."""
    return [
        "\t".join((row["site_id"], row["device_id"], row["point"], row["source_time"], decimal_text(row["value"]),
                   row["quality"]))
        for row in json.loads(call.body)["rows"]
    ]  # fmt: skip


def number_of(call: Call) -> int:
    return int(call.headers["wattring-batch"])


@dataclass
class World:
    """Everything of one test."""

    db: Database
    clock: FakeClock
    cutter: FeedCutter
    administration: FeedAdministration
    guard: AddressGuard
    secrets: Secrets
    tellers: list[FeedTelling] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    offset: int = 0

    async def feed(
        self, *, caller: Caller = OWNER, max_rows: int = 4, max_wait_s: float = 10.0, **chosen: object
    ) -> Feed:
        wish = FeedWish("test", Selection(**chosen), max_rows, max_wait_s, 3600.0)  # type: ignore[arg-type]
        return await self.administration.create(wish, caller)

    def wish(
        self, url: str, *, party: str | None = None, timeout_s: float = 30.0, **address: object
    ) -> DestinationWish:
        return DestinationWish(
            name="party", kind=DestinationKind.HTTP, address={"url": url, **address}, egress=Egress(), format=Format(),
            timeout_s=timeout_s, min_interval_s=0.0, party=party, secrets=None,
        )  # fmt: skip

    async def destination(self, feed: Feed, url: str, **more: object) -> Destination:
        return await self.administration.add(feed.id, self.wish(url, **more), OWNER, from_batch=None)  # type: ignore[arg-type]

    async def say(
        self, values: Mapping[str, float | None], *, site: str = "s-1", device: str = "m-1",
        at: datetime | None = None, topic: str = topics.READINGS, quality: Mapping[str, Quality] | None = None,
        appended_at: datetime | None = None,
    ) -> None:  # fmt: skip
        """Hand one reading to the consumer's handler, in a transaction."""
        self.offset += 1
        when = at or BEGAN + timedelta(seconds=self.offset)
        reading = Reading(
            device_id=DeviceId(device), site_id=SiteId(site), source_time=when, received_at=when, driver="modbus",
            points=values, quality=quality,
        )  # fmt: skip
        message = envelope.message(topic, site, reading, source="test", time=when)
        received = Received(
            topic, 0, self.offset, site, message.value, message.headers, appended_at or self.clock.now()
        )
        async with self.db.effects() as conn:
            await self.cutter.handle(conn, [received])
        self.cutter.committed()

    def start(self, owner: str = "export-a") -> None:
        teller = FeedTelling(
            db=self.db, clock=self.clock, guard=self.guard, secrets=self.secrets, owner=owner, lease_s=30.0,
            poll_s=0.05, max_bytes=1 << 30, committed=lambda: None,
        )  # fmt: skip
        self.tellers.append(teller)
        self.tasks[owner] = asyncio.create_task(teller.run(lambda: None), name=f"telling {owner}")

    async def stop(self, owner: str = "export-a") -> None:
        task = self.tasks.pop(owner)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])

    def wake(self) -> None:
        for teller in self.tellers:
            teller.wake()

    async def advance(self, by_s: float) -> None:
        await self.clock.advance(by_s)
        self.wake()

    async def now(self, destination: Destination) -> Destination:
        async with self.db.read() as conn:
            found = await destinations.fetch(conn, destination.id)
        assert found is not None
        return found

    async def at(self, destination: Destination, number: int) -> None:
        """Wait until a destination is to be told this one next."""
        async with asyncio.timeout(40):
            while (await self.now(destination)).next_number != number:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def failed(self, destination: Destination, failures: int) -> Destination:
        async with asyncio.timeout(40):
            while (found := await self.now(destination)).failures < failures:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="export")
    await db.open()
    clock = FakeClock(datetime.now(UTC))
    secrets = Secrets.open(None, tmp_path)
    guard = AddressGuard(["127.0.0.1"], setting="WATTRING_EXPORT__FEEDS__ALLOWED")
    found: World

    def wake() -> None:
        found.wake()

    found = World(
        db=db, clock=clock, cutter=FeedCutter(clock, Places(), wake=wake), guard=guard, secrets=secrets,
        administration=FeedAdministration(
            db=db, clock=clock, secrets=secrets, guard=guard, max_feeds=5, max_destinations=3, changed=wake
        ),
    )  # fmt: skip
    try:
        yield found
    finally:
        for owner in list(found.tasks):
            await found.stop(owner)
        await db.close()


@pytest.fixture
async def party() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


async def test_rows_are_cut_into_full_batches_and_the_rest_after_its_wait(world: World, party: Receiver) -> None:
    feed = await world.feed(max_rows=4)
    destination = await world.destination(feed, party.url)
    world.start()
    await world.say({"voltage_a": 220.5, "voltage_b": 1.0, "voltage_c": None}, quality={"voltage_c": Quality.STALE})
    await world.say({f"p{n}": float(n) for n in range(6)})
    await world.at(destination, 3)
    await world.advance(11.0)
    await world.at(destination, 4)
    assert [number_of(call) for call in party.calls] == [1, 2, 3]
    assert [len(lines_of(call)) for call in party.calls] == [4, 4, 1]
    for call in party.calls:
        assert tally_of(lines_of(call)).hash == call.headers["wattring-hash"]
    assert lines_of(party.calls[0])[2].endswith("\t\tstale")
    async with world.db.read() as conn:
        progress = await batches.fetch_progress(conn, feed.id)
    assert progress == batches.Progress(3, 0, None)


async def test_a_feed_has_what_it_has_chosen_and_its_owner_may_see(world: World) -> None:
    limited = replace(OWNER, sites=("s-1",))
    everything = await world.feed(max_rows=1)
    chosen = await world.feed(caller=limited, max_rows=1, sites=("s-1", "s-2"), points=("voltage_*",), devices=("m-1",))
    live = await world.feed(max_rows=1, sources=frozenset({Source.LIVE}))
    await world.say({"voltage_a": 1.0, "frequency": 50.0})
    await world.say({"voltage_a": 2.0}, site="s-2")
    await world.say({"voltage_a": 3.0}, device="m-2")
    await world.say({"voltage_a": 4.0}, topic=topics.BACKFILL)
    await world.say({"voltage_a": 5.0}, appended_at=world.clock.now() - timedelta(hours=1))

    async def values(feed: Feed) -> list[str]:
        async with world.db.read() as conn:
            progress = await batches.fetch_progress(conn, feed.id)
            assert progress is not None
            found = [await batches.fetch_batch(conn, feed.id, n) for n in range(1, progress.last_number + 1)]
        return [line.split("\t")[4] for batch in found if batch is not None for line in batch.lines]

    assert await values(everything) == ["50", "1", "2", "3", "4"]
    assert await values(chosen) == ["1", "4"]
    assert await values(live) == ["50", "1", "2", "3"]


async def test_a_batch_is_told_until_it_is_taken_and_the_next_waits_for_it(world: World, party: Receiver) -> None:
    party.script = lambda call: Say(503) if len(party.calls) <= 2 else Say()
    feed = await world.feed(max_rows=1)
    destination = await world.destination(feed, party.url)
    await world.say({"p": 1.0})
    await world.say({"p": 2.0})
    world.start()
    found = await world.failed(destination, 1)
    assert (found.error, found.next_number) == ("it answered 503", 1)
    await world.advance(3.0)
    await world.failed(destination, 2)
    await world.advance(6.0)
    await world.at(destination, 3)
    assert [number_of(call) for call in party.calls] == [1, 1, 1, 2]
    async with world.db.read() as conn:
        log = await destinations.fetch_log(conn, destination.id, state=None, before=None, limit=10)
    assert [(each.number, each.state.value, each.attempts) for each in log] == [
        (2, "delivered", 1),
        (1, "delivered", 3),
    ]


async def test_a_dead_destination_delays_no_other_and_alarm_hears_of_it(world: World, party: Receiver) -> None:
    async with receiver(lambda call: Say(fault="hang")) as dead:
        feed = await world.feed(max_rows=1)
        slow = await world.destination(feed, dead.url, timeout_s=60.0)
        quick = await world.destination(feed, party.url)
        world.start()
        for n in range(5):
            await world.say({"p": float(n)})
        await world.at(quick, 6)
        assert (await world.now(slow)).next_number == 1
    wrong = await world.destination(feed, "http://127.0.0.1:1/")
    await world.say({"p": 9.0})
    for failures in range(1, 6):
        await world.failed(wrong, failures)
        await world.advance(400.0)
    async with world.db.read() as conn, asyncio.timeout(40):
        query = "select value from outbox where topic = $1"
        while not (rows := await conn.fetch(query, topics.CONDITIONS)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    subjects = [json.loads(row["value"])["subject"] for row in rows]
    assert f"feed-destination/{wrong.id}" in subjects


async def test_a_redirection_inwards_is_not_followed_and_shows(world: World, party: Receiver) -> None:
    async with receiver() as inside:
        party.script = lambda _: Say(307, (("location", inside.url),))
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url)
        await world.say({"p": 1.0})
        world.start()
        found = await world.failed(destination, 1)
        assert (found.error, found.next_number) == ("it answered 307", 1)
        await world.advance(3.0)
        await world.failed(destination, 2)
        assert inside.connections == 0


async def test_two_processes_tell_each_batch_once_and_one_takes_over(world: World, party: Receiver) -> None:
    feed = await world.feed(max_rows=1)
    destination = await world.destination(feed, party.url)
    world.start("export-a")
    world.start("export-b")
    for n in range(10):
        await world.say({"p": float(n)})
    await world.at(destination, 11)
    await world.stop("export-a")
    await world.say({"p": 10.0})
    await world.at(destination, 12)
    await world.stop("export-b")
    world.start("export-c")
    await world.say({"p": 11.0})
    await world.at(destination, 13)
    assert [number_of(call) for call in party.calls] == list(range(1, 13))


class TestDoubleSend:
    """数据双送: two parties are told the same numbered batches, and both can check the day."""

    async def test_both_parties_have_the_same_and_each_can_tell(self, world: World, party: Receiver) -> None:
        async with receiver() as other:
            feed = await world.feed(max_rows=3)
            one = await world.destination(feed, party.url, party="key:esco")
            two = await world.destination(feed, other.url)
            world.start()
            for n in range(10):
                await world.say({"energy_active_import": 1000.1 + n, "power_active": n / 10})
            # Past midnight in Shanghai: the next civil day.
            await world.say({"power_active": 7.0}, at=datetime(2026, 3, 8, 16, 0, tzinfo=UTC))
            await world.at(one, 8)
            await world.at(two, 8)
            assert [call.body for call in party.calls] == [call.body for call in other.calls]
        statement = await world.administration.statement(feed.id, DAY, OWNER, through=None)
        document = statement.document()
        received = [line for call in party.calls for line in lines_of(call) if "2026-03-08T16" not in line]
        theirs = tally_of(received)
        assert (document["rows"], document["hash"]) == (20, theirs.hash)
        assert document["points"]["energy_active_import"] == {"rows": 10, "values": 10, "sum": "10046"}  # type: ignore[index]
        sides = {side.destination_id: side for side in statement.sides}
        assert [sides[each.id].tally for each in (one, two)] == [statement.whole, statement.whole]
        assert sides[one.id].document()["told"] == [[1, 7]]
        _, found = await world.administration.compare(
            feed.id, one.id, DAY, PARTY, theirs=theirs, with_points=True, their_hashes=None, through=None
        )
        assert found.agrees

    async def test_a_day_is_written_down_when_it_is_over(self, world: World, party: Receiver) -> None:
        feed = await world.feed(max_rows=1)
        place = await world.destination(feed, party.url, party="key:esco")
        await world.destination(feed, party.url)
        yesterday = (world.clock.now() - timedelta(hours=2)).astimezone(DAY_ZONE).date() - timedelta(days=1)
        await world.say({"p": 1.0}, at=datetime.combine(yesterday, time(12), DAY_ZONE))
        world.start()
        await world.at(place, 2)
        await world.advance(61.0)
        async with asyncio.timeout(40):
            written = partial(world.administration.written, feed.id, before=None, limit=5)
            while not (found := await written(PARTY)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        shown = WrittenStatementView.model_validate(found[0])
        assert (shown.day, shown.rows) == (yesterday, 1)  # written at the first turn, perhaps before anybody is told
        assert [side["destination"] for side in found[0]["destinations"]] == [place.id]
        assert len((await world.administration.written(feed.id, OWNER, before=None, limit=5))[0]["destinations"]) == 2
        with pytest.raises(NotFound):
            await world.administration.written(feed.id, STRANGER, before=None, limit=5)

    async def test_what_a_party_has_lost_is_named_and_told_again(self, world: World, party: Receiver) -> None:
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url, party="key:esco")
        world.start()
        for n in range(5):
            await world.say({"p": float(n)})
        await world.at(destination, 6)
        kept = [call for call in party.calls if number_of(call) not in (2, 4)]
        theirs = tally_of([line for call in kept for line in lines_of(call)])
        _, found = await world.administration.compare(
            feed.id, destination.id, DAY, PARTY, theirs=theirs, with_points=True,
            their_hashes={number_of(call): call.headers["wattring-hash"] for call in kept}, through=None,
        )  # fmt: skip
        assert not found.agrees
        assert found.wrong == (2, 4)
        assert {each.what for each in found.differences} == {"rows", "points/p/rows", "points/p/values", "points/p/sum",
                                                             "hash"}  # fmt: skip
        noted = await world.administration.again_for_party(feed.id, destination.id, found.wrong, PARTY)
        assert noted == [2, 4]
        await party.has(7)
        assert [number_of(call) for call in party.calls[5:]] == [2, 4]
        assert party.calls[5].body == party.calls[1].body

    async def test_what_was_not_acknowledged_shows_as_missing(self, world: World, party: Receiver) -> None:
        party.script = lambda call: Say(400) if number_of(call) == 2 else Say()
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url)
        world.start()
        for n in range(3):
            await world.say({"p": float(n)})
        await world.failed(destination, 1)
        (side,) = (await world.administration.statement(feed.id, DAY, OWNER, through=None)).sides
        assert (side.told, side.missing) == ((1,), (2, 3))
        with pytest.raises(Conflict):
            await world.administration.leave_out(feed.id, destination.id, 3, OWNER)
        await world.administration.leave_out(feed.id, destination.id, 2, OWNER)
        await world.at(destination, 4)
        (side,) = (await world.administration.statement(feed.id, DAY, OWNER, through=None)).sides
        assert (side.told, side.missing) == ((1, 3), (2,))

    async def test_statements_are_for_the_owner_and_for_parties_their_own_side(
        self, world: World, party: Receiver
    ) -> None:
        feed = await world.feed()
        one = await world.destination(feed, party.url, party="key:esco")
        await world.destination(feed, party.url)
        statement = await world.administration.statement(feed.id, DAY, PARTY, through=None)
        assert [side.destination_id for side in statement.sides] == [one.id]
        assert len((await world.administration.statement(feed.id, DAY, OWNER, through=None)).sides) == 2
        with pytest.raises(NotFound):
            await world.administration.statement(feed.id, DAY, STRANGER, through=None)
        with pytest.raises(NotFound):
            await world.administration.again_for_party(feed.id, one.id, [1], STRANGER)
        with pytest.raises(NotFound):
            await world.administration.remove(feed.id, PARTY)


class TestPeople:
    async def test_a_paused_destination_waits_and_goes_on(self, world: World, party: Receiver) -> None:
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url)
        await world.administration.set_state(feed.id, destination.id, DestinationState.PAUSED, OWNER)
        world.start()
        await world.say({"p": 1.0})
        tried = await world.administration.attempt(feed.id, destination.id, OWNER, dry=False)
        assert tried.outcome is not None
        assert tried.outcome.verdict is Verdict.DELIVERED
        assert number_of(party.calls[0]) == 0
        dry = await world.administration.attempt(feed.id, destination.id, OWNER, dry=True)
        assert (dry.outcome, json.loads(dry.body)["batch"], len(party.calls)) == (None, 0, 1)
        await world.administration.set_state(feed.id, destination.id, DestinationState.ACTIVE, OWNER)
        await world.at(destination, 2)

    async def test_secrets_do_not_follow_to_another_address(self, world: World, party: Receiver) -> None:
        feed = await world.feed()
        wish = replace(world.wish(party.url, auth="bearer"), secrets={"token": "t"})
        destination = await world.administration.add(feed.id, wish, OWNER, from_batch=None)
        kept = replace(wish, secrets=None, name="new name")
        await world.administration.change_destination(feed.id, destination.id, kept, OWNER)
        elsewhere = replace(kept, address={**wish.address, "url": "http://127.0.0.1:1/"})
        with pytest.raises(InvalidInput, match=r"secrets\.token"):
            await world.administration.change_destination(feed.id, destination.id, elsewhere, OWNER)

    async def test_rows_that_everybody_has_go_after_their_time(self, world: World, party: Receiver) -> None:
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url)
        world.start()
        await world.say({"p": 1.0})
        await world.at(destination, 2)
        later = world.clock.now() + timedelta(hours=2)
        async with world.db.write() as conn:
            assert await batches.forget_rows(conn, world.clock.now(), limit=10) == 0
            assert await batches.forget_rows(conn, later, limit=10) == 1
            assert await batches.fetch_batch(conn, feed.id, 1) is None
            assert await conn.fetchval("select count(*) from feed_chunks") == 0
        assert await world.administration.again(feed.id, destination.id, [1], OWNER) == []
        assert (await world.administration.statement(feed.id, DAY, OWNER, through=None)).whole.rows == 1
        with pytest.raises(InvalidInput, match="from_batch"):
            await world.administration.add(feed.id, world.wish(party.url), OWNER, from_batch=1)


class TestOwners:
    async def said(self, world: World, action: str, after: dict[str, object] | None = None) -> None:
        """Hand what the gateway says of the owner to the handler."""
        now = world.clock.now() + timedelta(seconds=1)
        event = AuditEvent(actor="user:admin", door="api", action=action, subject="user:li", at=now, after=after)
        message = envelope.message(topics.AUDIT, "user:admin", event, source="gateway", time=now)
        received = Received(topics.AUDIT, 0, 1, message.key, message.value, message.headers, now)
        async with world.db.effects() as conn:
            await CallbackOwners(world.clock, changed=world.wake).handle(conn, [received])

    async def test_an_owner_who_is_no_more_tells_nobody(self, world: World, party: Receiver) -> None:
        feed = await world.feed(max_rows=1)
        destination = await world.destination(feed, party.url)
        other = await world.feed(caller=STRANGER, max_rows=1)
        await self.said(world, "user.change", {"sites": None, "disabled": True})
        found = await world.now(destination)
        assert (found.state, found.error) == (DestinationState.PAUSED, "the account of its owner was closed")
        await self.said(world, "user.change", {"sites": ["s-2"], "disabled": False})
        async with world.db.read() as conn:
            mine, theirs = await batches.fetch(conn, feed.id), await batches.fetch(conn, other.id)
        assert mine is not None and theirs is not None  # noqa: PT018
        assert (mine.limits, theirs.limits) == (("s-2",), None)
        await world.say({"p": 1.0})
        await world.say({"p": 2.0}, site="s-2")
        async with world.db.read() as conn:
            batch = await batches.fetch_batch(conn, feed.id, 1)
            assert batch is not None
            assert [line.split("\t")[4] for line in batch.lines] == ["2"]
            assert await batches.fetch_batch(conn, feed.id, 2) is None


async def test_what_a_feed_holds_too_much_goes_and_is_missing(world: World, party: Receiver) -> None:
    feed = await world.feed(max_rows=1)
    destination = await world.destination(feed, party.url)
    for n in range(4):
        await world.say({"p": float(n)})
    async with world.db.write() as conn:
        size = await conn.fetchval("select max(bytes) from feed_batches")
        assert await batches.forget_excess(conn, max_bytes=10 * size, limit=10) == 0
        assert await batches.forget_excess(conn, max_bytes=2 * size, limit=10) == 2
    world.start()
    await world.at(destination, 5)
    assert [number_of(call) for call in party.calls] == [3, 4]
    (side,) = (await world.administration.statement(feed.id, DAY, OWNER, through=None)).sides
    assert (side.told, side.missing) == ((3, 4), (1, 2))


async def test_chunks_are_canonical_lines_compressed(world: World) -> None:
    feed = await world.feed(max_rows=100)
    await world.say({"p": 1.5})
    await world.say({"p": None})
    async with world.db.read() as conn:
        rows = await conn.fetch("select number, body, tallies from feed_chunks where feed_id = $1 order by id", feed.id)
    assert [zlib.decompress(row["body"]).decode() for row in rows] == [
        "s-1\tm-1\tp\t2026-03-08T06:00:01.000000Z\t1.5\t",
        "s-1\tm-1\tp\t2026-03-08T06:00:02.000000Z\t\t",
    ]
    assert Tally.of_document(rows[0]["tallies"]["2026-03-08"]).points["p"].values == 1
