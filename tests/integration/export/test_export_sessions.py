"""The life of a unit towards its centre: let in, refused, lost, moved, removed."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.export.dialects.messages import DeviceRef, UnitFacts, UnitRef
from services.export.domain.connection import Connection, ConnectionId, Phase
from services.export.domain.mapping import MappedDevice, Mapping
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store
from tests.integration.export.conftest import Answer, Export, Heard, Kit, ScriptedCentre

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_a_refused_unit_asks_again_no_sooner_than_the_interval(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    answers = iter([kit.login_no, kit.login_no])

    async def reluctant(heard: Heard) -> Answer:
        return next(answers, kit.login_ok) if heard.name == "LOGIN" else await kit.obedient(heard)

    centre.script = reluctant
    await export.connect(centre, login_interval_s=0.5)
    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _phase(export, "refused"))
    assert "right 0" in (await export.unit())["error"]
    assert centre.named("SEND_ALARM") == []
    await kit.until(lambda: _phase(export, "registered"))

    times = [login.at for login in centre.named("LOGIN")]
    assert len(times) == 3
    assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(times))
    await kit.until(lambda: _acknowledged(centre, 1))


async def test_a_registered_unit_does_not_log_in_again_because_the_process_stops_and_starts(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre, login_interval_s=180)
    await kit.until(lambda: _phase(export, "registered"))
    await export.stop()
    assert centre.named("LOGOUT") == [], "a stopped process comes back; the unit has not gone"
    await export.start()
    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _acknowledged(centre, 1))
    assert len(centre.named("LOGIN")) == 1


async def test_a_login_under_way_is_not_cut_off_by_a_stop(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    asked = asyncio.Event()

    async def slow(heard: Heard) -> Answer:
        asked.set()
        await asyncio.sleep(0.4)
        return await kit.obedient(heard)

    centre.script = slow
    await export.connect(centre, login_interval_s=180)
    await asked.wait()
    await export.stop()
    await export.start()
    assert (await export.unit())["phase"] == "registered"
    assert len(centre.named("LOGIN")) == 1


async def test_nobody_listening_is_tried_again_soon_and_said(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await centre.stop()
    await export.connect(centre, login_interval_s=180)
    await export.publish(kit.begin("a-1"))

    async def said() -> bool:
        return "cannot connect" in ((await export.unit())["error"] or "")

    await kit.until(said)
    await centre.start()
    await kit.until(lambda: _acknowledged(centre, 1))
    assert len(centre.named("LOGIN")) == 1


async def test_a_centre_that_was_away_gets_what_it_missed(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre, failures_to_lost=2)
    await kit.until(lambda: _phase(export, "registered"))
    await centre.stop()
    await export.publish(kit.begin("a-1"), kit.end("a-1"))
    await kit.until(lambda: _phase(export, "lost"))
    [condition] = await _conditions(export)
    assert (condition["kind"], condition["phase"], condition["subject"]) == (
        "sc_unreachable",
        "begin",
        f"gd/{kit.fsu}",
    )
    await centre.start()
    await kit.until(lambda: _acknowledged(centre, 2))

    assert kit.flags(centre.acknowledged) == [("0000000001", "BEGIN"), ("0000000001", "END")]
    await kit.until(lambda: _phase(export, "registered"))

    async def ended() -> bool:
        return [each["phase"] for each in await _conditions(export)] == ["begin", "end"]

    await kit.until(ended)


@pytest.mark.sql
async def test_events_follow_the_address_that_the_centre_assigns(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    from dataclasses import replace

    collector = replace(centre, heard=[], acknowledged=[], port=0, _server=None, _tasks=set())
    await collector.start()
    moved = kit.login_ok.replace("127.0.0.1", f"127.0.0.1:{collector.port}")

    async def registrar(heard: Heard) -> Answer:
        return moved if heard.name == "LOGIN" else await kit.obedient(heard)

    centre.script = registrar
    try:
        await export.connect(centre)
        await export.publish(kit.begin("a-1"))
        await kit.until(lambda: _acknowledged(collector, 1))
        assert [heard.name for heard in centre.heard] == ["LOGIN"]
        assert (await export.unit())["events_to"].endswith(f":{collector.port}/services/SCService")
    finally:
        await collector.stop()


async def test_silence_of_the_centre_makes_the_unit_log_in_again(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    await export.connect(centre, silence_s=0.4, login_interval_s=0.2)

    async def twice() -> bool:
        return len(centre.named("LOGIN")) >= 3

    await kit.until(twice)
    assert (await export.unit())["phase"] in ("registered", "lost")


@pytest.mark.sql
async def test_a_removed_unit_logs_out_and_what_waits_for_it_is_given_up(
    export: Export, centre: ScriptedCentre, kit: Kit
) -> None:
    async def deaf_to_alarms(heard: Heard) -> Answer:
        return kit.alarm_no if heard.name == "SEND_ALARM" else await kit.obedient(heard)

    centre.script = deaf_to_alarms
    await export.connect(centre)
    await export.publish(kit.begin("a-1"))
    await kit.until(lambda: _told(centre, "SEND_ALARM"))
    await export.api("DELETE", "/sc-connections/gd")
    await kit.until(lambda: _told(centre, "LOGOUT"))

    [logout] = centre.named("LOGOUT")
    assert [(child.tag, child.text) for child in logout.info] == [("FsuId", kit.fsu)]
    assert [row["state"] for row in await export.deliveries()] == ["given_up"]
    assert await export.api("GET", "/sc-connections") == []
    before = len(centre.heard)
    await export.publish(kit.begin("a-2"))
    await asyncio.sleep(0.5)
    assert len(centre.heard) == before


async def test_a_changed_device_list_is_told_by_another_login(export: Export, centre: ScriptedCentre, kit: Kit) -> None:
    await export.connect(centre)
    await kit.until(lambda: _phase(export, "registered"))
    mapping = kit.mapping()
    mapping["devices"].append({"device_id": "44010641900001", "name": "监控设备"})
    await export.api("PUT", f"/mappings/gd/{kit.fsu}", mapping)

    async def twice() -> bool:
        return len(centre.named("LOGIN")) == 2

    await kit.until(twice)
    listed = [device.get("Id") for device in centre.heard[-1].info.iter("Device")]
    assert listed == [kit.fsu, kit.meter, "44010641900001"]


@pytest.mark.sql
async def test_two_replicas_do_not_both_log_in(postgres_url: str) -> None:
    """The claim decides, whatever the replicas believe; and it is kept in the database over every restart."""
    now = datetime(2026, 3, 8, tzinfo=UTC)
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="export", role="wattring_export")
    await db.open()
    try:
        async with db.write() as conn:
            connection = Connection(id=ConnectionId("gd"), name="x", dialect="T", url="http://127.0.0.1/")
            await connection_store.put_connection(conn, connection, credentials=None, keep_credentials=True, now=now)
            ref = UnitRef("44010643800017", "44010643800017")
            key = await unit_store.put_unit(conn, "gd", ref, name="x", sites=["s-1"], facts=UnitFacts())
            await mapping_store.put_mapping(
                conn, key, Mapping(devices=(MappedDevice(ref=DeviceRef("4" * 14, "4" * 14)),))
            )

        async def claim(at: datetime) -> bool:
            async with db.write() as conn:
                return await session_store.claim_login(conn, key, now=at, interval_s=180)

        async def waiting(at: datetime) -> int:
            async with db.read() as conn:
                found = await session_store.units_to_log_in(
                    conn, "gd", slots=range(16), slot_count=16, now=at, interval_s=180, limit=5
                )
                return len(found)

        first = await asyncio.gather(claim(now), claim(now), claim(now + timedelta(seconds=1)))
        assert sorted(first) == [False, False, True]
        assert await waiting(now + timedelta(seconds=178)) == 0
        assert not await claim(now + timedelta(seconds=178))
        assert not await claim(now - timedelta(seconds=5)), "another replica's clock may be behind"
        assert await claim(now - timedelta(days=1)), "a clock that was put back holds nobody up"
        later = now + timedelta(seconds=182)
        assert await waiting(later) == 1
        assert await claim(later)
        async with db.write() as conn:
            await unit_store.leave_units(conn, "gd")
            assert await unit_store.put_unit(conn, "gd", ref, name="x", sites=[], facts=UnitFacts()) == key
            back = await unit_store.fetch_unit_by_key(conn, key)
        assert back is not None
        assert (back.phase, back.last_login_at) == (Phase.NEW, later), "the interval holds for a unit that comes back"
    finally:
        await db.close()


async def _phase(export: Export, phase: str) -> bool:
    return bool((await export.unit())["phase"] == phase)


async def _acknowledged(centre: ScriptedCentre, count: int) -> bool:
    return len(centre.acknowledged) >= count


async def _told(centre: ScriptedCentre, name: str) -> bool:
    return bool(centre.named(name))


async def _conditions(export: Export) -> list[dict[str, object]]:
    """Return the findings about centres."""
    import orjson

    from libs.common.bus import topics
    from libs.common.bus.port import StartAt

    async with export.bus.tail([topics.CONDITIONS], StartAt(beginning=True)) as tail:
        found: list[dict[str, object]] = []
        while batch := await tail.fetch(max_messages=1000, timeout_s=0.5):
            for each in batch:
                assert each.value is not None
                found.append(orjson.loads(each.value))
    return [one for one in found if one["subject"] != "export"]  # what is said of the service itself
