"""Two processes that both believe to be a unit's: what its centre is told comes from one of them at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.clock import SystemClock
from libs.common.contracts.delivery import DeliveryState
from libs.common.db import Database
from libs.common.ids import new_id
from libs.common.settings import DatabaseSettings
from services.export.dialects import Dialects
from services.export.dialects.messages import DeviceRef, UnitFacts, UnitRef
from services.export.domain.connection import Connection, ConnectionId, ConnectionOptions, Phase, UnitKey
from services.export.domain.delivery import Delivery, Step
from services.export.domain.latest import LatestReadings
from services.export.domain.mapping import MappedDevice, Mapping
from services.export.secrets import Secrets
from services.export.store import connections as connection_store
from services.export.store import deliveries as delivery_store
from services.export.store import mappings as mapping_store
from services.export.store import queues as queue_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store
from services.export.worker import centre_runner
from services.export.worker.centre_logins import SLOTS
from services.export.worker.centre_runner import CentreRunner
from tests.integration.export.conftest import FSU, METER, Answer, Heard, Kit, ScriptedCentre, ack, until

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

NOW = datetime(2026, 3, 8, tzinfo=UTC)
LOOKS = 4
"""A runner that looks at its queue for the fourth time has long been able to send what it saw at the first."""


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Database]:
    db = Database(DatabaseSettings(url=SecretStr(url)), schema="export", role="wattring_export")
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def registered_units(db: Database, url: str, count: int) -> tuple[Connection, list[UnitKey]]:
    """Return a connection with units that have been let in long ago."""
    options = ConnectionOptions(timeout_s=30, retry_first_s=0.1, retry_cap_s=0.2)
    connection = Connection(id=ConnectionId("gd"), name="SC", dialect="T", url=url, options=options)
    keys = []
    async with db.write() as conn:
        await connection_store.put_connection(conn, connection, credentials=None, keep_credentials=True, now=NOW)
        for number in range(count):
            ref = UnitRef(str(int(FSU) + number), str(int(FSU) + number))
            key = await unit_store.put_unit(conn, "gd", ref, name="x", sites=["s-1"], facts=UnitFacts())
            await mapping_store.put_mapping(conn, key, Mapping(devices=(MappedDevice(ref=DeviceRef(METER, METER)),)))
            unit = await unit_store.lock_unit(conn, key)
            assert unit is not None
            await session_store.save_session(
                conn, replace(unit, phase=Phase.REGISTERED, logged_in_at=NOW, heard_at=NOW)
            )
            keys.append(key)
    return connection, keys


def queued(key: UnitKey, step: Step) -> Delivery:
    return Delivery(
        id=new_id(), connection_id=ConnectionId("gd"), unit_key=key, alarm_id="a-1", event_id=f"e-{step.value}",
        site_id="s-1", device_id="m-1", step=step, serial=1, sc_device=DeviceRef(METER, METER), point_id="0416001001",
        level=3, at=NOW, began_at=NOW, text="停电", value=0.0, state=DeliveryState.QUEUED, queued_at=NOW,
    )  # fmt: skip


class Replica:
    """The runner of one process, which believes that every slot is its own, as after a lapse that it has not seen."""

    def __init__(self, name: str, connection: Connection, db: Database, folder: Path, *, poll_s: float = 0.02) -> None:
        self.looks = 0
        self.runner = CentreRunner(
            connection, db=db, clock=SystemClock(), secrets=Secrets.open(Fernet.generate_key().decode(), folder),
            latest=LatestReadings(), dialect=Dialects.shipped().named("T"), owner=name, slots=self._slots,
            poll_s=poll_s, committed=lambda: None,
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    def _slots(self) -> Sequence[int]:
        self.looks += 1
        return range(SLOTS)

    def start(self) -> None:
        self._task = asyncio.create_task(self.runner.run(), name="replica")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


@pytest.mark.sql
async def test_the_new_holder_of_a_lapsed_lease_waits_for_the_call_of_the_old_one(
    postgres_url: str, centre: ScriptedCentre, kit: Kit, tmp_path: Path
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow_at_first(heard: Heard) -> Answer:
        if heard.name == "SEND_ALARM" and not asked.is_set():
            asked.set()
            await answer.wait()
        return await kit.obedient(heard)

    centre.script = slow_at_first
    async with database(postgres_url) as db:
        connection, [key] = await registered_units(db, centre.url, 1)
        async with db.write() as conn:
            await delivery_store.insert_deliveries(conn, [queued(key, Step.BEGIN), queued(key, Step.END)])
        old, new = (Replica(name, connection, db, tmp_path) for name in ("export-a", "export-b"))
        try:
            old.start()
            await asked.wait()  # the BEGIN is at the centre, and nothing is heard of it yet
            new.start()

            async def looked() -> bool:
                return new.looks >= LOOKS

            await until(looked)
            assert len(centre.named("SEND_ALARM")) == 1
            answer.set()

            async def both_told() -> bool:
                return len(centre.acknowledged) >= 2

            await until(both_told)
        finally:
            answer.set()
            await old.stop()
            await new.stop()
    told = [kit.flags(heard.alarms()) for heard in centre.named("SEND_ALARM")]
    assert told == [[("0000000001", "BEGIN")], [("0000000001", "END")]]
    assert centre.too_early == []


@pytest.mark.sql
async def test_a_unit_is_its_senders_until_the_call_has_ended_one_way_or_the_other(postgres_url: str) -> None:
    async with database(postgres_url) as db:
        _, [key] = await registered_units(db, "http://127.0.0.1/", 1)

        async def claim(owner: str) -> bool:
            async with db.write() as conn:
                return set(await queue_store.claim_sending(conn, [key], owner, hold_s=3600)) == {key}

        first = await asyncio.gather(*(claim(owner) for owner in ("a", "b", "c")))
        assert sorted(first) == [False, False, True]
        mine = "abc"[first.index(True)]
        other, third = (owner for owner in "abc" if owner != mine)
        assert not await claim(other)
        assert await claim(mine), "what was started again under its name goes on"
        async with db.write() as conn:
            await queue_store.release_sending(conn, [key], other)
        assert not await claim(other), "only its holder gives it free"
        async with db.write() as conn:
            await queue_store.release_sending(conn, [key], mine)
        assert await claim(other)
        async with db.write() as conn:
            await conn.execute("update units set sending_until = clock_timestamp() where key = $1", key)
        assert await claim(third), "a holder that never comes back is waited for as long as its call might last"


@pytest.mark.sql
async def test_many_units_are_told_of_at_once_each_in_its_own_order(
    postgres_url: str, centre: ScriptedCentre, kit: Kit, tmp_path: Path
) -> None:
    refused: set[str | None] = set()

    async def no_to_some_at_first(heard: Heard) -> Answer:
        unit = heard.info.findtext(".//FsuId")
        if heard.name == "SEND_ALARM" and int(unit or 0) % 3 == 0 and unit not in refused:
            refused.add(unit)
            return ack("SEND_ALARM", 501, "<Result>0</Result>")
        return await kit.obedient(heard)

    centre.script = no_to_some_at_first
    async with database(postgres_url) as db:
        connection, keys = await registered_units(db, centre.url, 30)
        async with db.write() as conn:
            for key in keys:
                await delivery_store.insert_deliveries(conn, [queued(key, Step.BEGIN), queued(key, Step.END)])
        sender = Replica("export-a", connection, db, tmp_path)
        try:
            sender.start()

            async def all_written() -> bool:
                async with db.read() as conn:
                    done = await conn.fetchval("select count(*) from deliveries where state = 'delivered'")
                    return bool(done == 2 * len(keys))

            await until(all_written)
        finally:
            await sender.stop()
        async with db.read() as conn:
            assert await conn.fetchval("select count(*) from units where sending_by is not null") == 0
    flags: dict[str | None, list[str | None]] = {}
    for alarm in centre.acknowledged:
        flags.setdefault(alarm["FsuId"], []).append(alarm["AlarmFlag"])
    assert len(flags) == len(keys)
    assert set(map(tuple, flags.values())) == {("BEGIN", "END")}
    assert len(refused) == 10


async def told_of_each(centre: ScriptedCentre, count: int) -> None:
    """Wait until the centre has said yes to so many alarms."""

    async def all_told() -> bool:
        return len(centre.acknowledged) >= count

    await until(all_told)


@pytest.mark.sql
async def test_a_queue_that_is_named_is_emptied_without_a_look_through_all(
    postgres_url: str, centre: ScriptedCentre, kit: Kit, tmp_path: Path
) -> None:
    async with database(postgres_url) as db:
        connection, keys = await registered_units(db, centre.url, 3)
        sender = Replica("export-a", connection, db, tmp_path, poll_s=3600)

        async def queue(key: UnitKey) -> None:
            async with db.write() as conn:
                await delivery_store.insert_deliveries(conn, [queued(key, Step.BEGIN), queued(key, Step.END)])

        await queue(keys[0])
        try:
            sender.start()
            await told_of_each(centre, 2)  # found by the one look through all queues, which is over now
            await queue(keys[1])
            await queue(keys[2])
            sender.runner.look_at([keys[1]])
            await told_of_each(centre, 4)
            assert {alarm["FsuId"] for alarm in centre.acknowledged} == {FSU, str(int(FSU) + 1)}
            sender.runner.look_at([keys[2]])
            await told_of_each(centre, 6)
        finally:
            await sender.stop()
    assert centre.too_early == []


@pytest.mark.sql
async def test_one_look_through_all_queues_leads_to_every_unit_however_many_it_remembers(
    postgres_url: str, centre: ScriptedCentre, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centre_runner, "LOOK", 2)
    async with database(postgres_url) as db:
        connection, keys = await registered_units(db, centre.url, 7)
        async with db.write() as conn:
            for key in keys:
                await delivery_store.insert_deliveries(conn, [queued(key, Step.BEGIN), queued(key, Step.END)])
        sender = Replica("export-a", connection, db, tmp_path, poll_s=3600)
        try:
            sender.start()
            await told_of_each(centre, 2 * len(keys))
        finally:
            await sender.stop()
    assert centre.too_early == []


@pytest.mark.sql
async def test_an_outcome_is_written_only_to_what_is_still_open(postgres_url: str) -> None:
    async with database(postgres_url) as db:
        _, [key, idle] = await registered_units(db, "http://127.0.0.1/", 2)
        begin, end = queued(key, Step.BEGIN), queued(key, Step.END)
        async with db.write() as conn:
            await delivery_store.insert_deliveries(conn, [begin, end, begin])
            assert await queue_store.units_with_more(conn, [key, idle], NOW) == [key]
            given_up = replace(begin, state=DeliveryState.GIVEN_UP, finished_at=NOW, error="by a person")
            assert await delivery_store.save_attempts(conn, [given_up]) == {begin.id}
            late = [
                replace(begin, state=DeliveryState.DELIVERED, attempts=1, finished_at=NOW),
                replace(end, state=DeliveryState.RETRYING, attempts=1, next_attempt_at=NOW + timedelta(seconds=9)),
            ]
            assert await delivery_store.save_attempts(conn, late) == {end.id}
            assert await queue_store.units_with_more(conn, [key, idle], NOW) == []
            assert await queue_store.units_with_more(conn, [key, idle], NOW + timedelta(seconds=9)) == [key]
            states = await conn.fetch("select step, state, attempts, error from deliveries order by seq")
    assert [tuple(row) for row in states] == [("begin", "given_up", 0, "by a person"), ("end", "retrying", 1, None)]
