"""What people order and what explains alarms, on a real database: each thing once, whatever crashes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from libs.common.bus import outbox, topics
from libs.common.bus.port import Bus, Received
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent, Condition, ConditionKind, EndReason, MaintenanceWindow
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Phase
from libs.common.db import WriteConn
from libs.common.runtime import Health, Platform
from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from services.alarm.api import build_router
from services.alarm.bus import audit_message
from services.alarm.usecases.alarms import Alarms
from services.alarm.usecases.maintenance import Maintenance
from services.alarm.usecases.rulemaking import RuleMaking
from services.alarm.usecases.rules import Rules
from services.alarm.usecases.tables import Tables
from services.alarm.usecases.thresholds import Thresholds
from tests.integration.alarm.alarm_world import CLASSES, FAILURE, LOW, SITE, World, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


class Desk:
    """Alarms and windows as people handle them over HTTP; their orders reach the judge as by the bus."""

    def __init__(self, world: World, client: httpx.AsyncClient, keys: KeyRing) -> None:
        self.world = world
        self._client = client
        self._keys = keys
        self._passed = 0

    async def ask(
        self, method: str, path: str, body: object = None, *, status: int = 200, sites: Any = None, **params: Any
    ) -> Any:
        token = self._keys.sign_token(
            "gateway", subject="wang", kind="user", audience="alarm", scopes=("alarm:read", "alarm:write"), sites=sites
        )
        reply = await self._client.request(
            method, f"/api/v1{path}", json=body, params=params, headers={"authorization": f"Bearer {token}"}
        )
        assert reply.status_code == status, reply.text
        return reply.json() if reply.content else None

    async def raised(self, device_id: str = "m-1", second: float = 0) -> AlarmEvent:
        await self.world.take(
            self.world.volts(second, 150, device_id=device_id), self.world.volts(second + 3, 150, device_id=device_id)
        )
        return (await self.world.events())[-1]

    async def ordered(self) -> list[Received]:
        """What the outbox holds for the judge and was not passed on yet."""
        async with self.world.db.read() as conn:
            rows = await conn.fetch(
                "select id, topic, key, value from outbox where topic = any($1::text[]) and id > $2 order by id",
                [topics.ALARM_ORDERS, topics.MAINTENANCE],
                self._passed,
            )
        self._passed = max((row["id"] for row in rows), default=self._passed)
        return [Received(row["topic"], 0, row["id"], row["key"], row["value"], (), datetime.now(UTC)) for row in rows]

    async def deliver(self) -> None:
        await self.world.take(*await self.ordered())

    async def audits(self) -> list[AuditEvent]:
        async with self.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.AUDIT)
        return [AuditEvent.from_json(row["value"]) for row in rows]


@pytest.fixture
async def desk(world: World, tmp_path: Path) -> AsyncIterator[Desk]:
    clock = SystemClock()
    KeyRing.create(tmp_path / "keys")
    keys = KeyRing.open(tmp_path / "keys", clock)
    bus: Bus = None  # type: ignore[assignment]  # nothing here publishes but by the outbox
    health = Health(clock)
    health.starting = None

    async def audit(conn: WriteConn, event: AuditEvent) -> None:
        await outbox.put(conn, [audit_message(event)])

    world.registry.add("m-2")
    world.registry.add("m-9", site_id="site-2")
    await world.short_delays(LOW, FAILURE)
    parts: Any = {"db": world.db, "directory": world.registry, "clock": clock, "audit": audit}
    rules = Rules(**parts, class_map=CLASSES)
    app = create_app("alarm", Platform(CommonSettings(), clock, bus, keys), health, title="alarm")
    app.include_router(
        build_router(
            rules=rules,
            making=RuleMaking(**parts, class_map=CLASSES),
            thresholds=Thresholds(**parts, class_map=CLASSES, rules=rules),
            tables=Tables(**parts, class_map=CLASSES),
            alarms=Alarms(**parts, longest_shelf=timedelta(days=7)),
            maintenance=Maintenance(**parts, longest=timedelta(days=30)),
        )
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://alarm") as client:
        yield Desk(world, client, keys)


class TestClearing:
    async def test_a_cleared_alarm_ends_once_and_arms_when_its_condition_was_false(self, desk: Desk) -> None:
        alarm = await desk.raised()
        path = f"/alarms/{alarm.alarm_id}/clear"
        assert (await desk.ask("POST", path, {"reason": "已现场确认"}, status=202))["state"] == "active"
        orders = await desk.ordered()
        await desk.world.fail(*orders)
        assert len(await desk.world.events()) == 1, "rolled back"
        await desk.world.take(*orders)
        await desk.world.take(*orders)
        _, end = await desk.world.events()
        assert (end.phase, end.end_reason, end.actor, end.note) == (
            *(Phase.END, EndReason.MANUAL, "user:wang"),
            "已现场确认",
        )
        await desk.world.restart()
        assert await desk.world.states() == {("m-1", LOW): "DISMISSED"}
        await desk.raised(second=10)
        assert len(await desk.world.events()) == 2, "the condition has not been false"
        await desk.world.take(desk.world.volts(20, 230))
        await desk.raised(second=30)
        assert len(await desk.world.events()) == 3
        shown = await desk.ask("GET", f"/alarms/{alarm.alarm_id}")
        assert (shown["state"], shown["end_reason"], shown["notes"][0]["note"]) == ("ended", "manual", "已现场确认")

    async def test_what_has_ended_cannot_be_cleared_or_shelved(self, desk: Desk) -> None:
        alarm = await desk.raised()
        await desk.world.take(desk.world.volts(10, 230), desk.world.volts(13, 230))
        refused = await desk.ask("POST", f"/alarms/{alarm.alarm_id}/clear", {"reason": "x"}, status=409)
        assert refused["code"] == "alarm_is_over"
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        await desk.ask("POST", f"/alarms/{alarm.alarm_id}/shelve", {"until": until, "reason": "x"}, status=409)
        await desk.ask("POST", "/alarms/nobody/clear", {"reason": "x"}, status=404)
        await desk.ask("POST", f"/alarms/{alarm.alarm_id}/clear", {"reason": "x"}, status=404, sites=["site-2"])
        assert await desk.ordered() == []

    async def test_a_finding_that_was_cleared_comes_back_after_its_own_end_only(self, desk: Desk) -> None:
        def finding(phase: Phase, second: float) -> Received:
            condition = Condition.model_validate(
                {"site_id": SITE, "source": "control", "kind": ConditionKind.WAKE_UP_OVERDUE.value, "subject": "aau-1",
                 "phase": phase, "detail": "not confirmed", "at": at(second)}
            )  # fmt: skip
            return desk.world.condition(condition, second)

        await desk.world.take(finding(Phase.BEGIN, 0))
        [begin] = await desk.world.events()
        await desk.ask("POST", f"/alarms/{begin.alarm_id}/clear", {"reason": "switched by hand"}, status=202)
        await desk.deliver()
        await desk.world.restart()
        await desk.world.take(finding(Phase.BEGIN, 5))
        events = await desk.world.events()
        assert [(event.phase, event.end_reason) for event in events] == [
            (Phase.BEGIN, None),
            (Phase.END, EndReason.MANUAL),
        ]
        later = (datetime.now(UTC) - at(0)).total_seconds() + 10
        await desk.world.take(finding(Phase.END, 6), finding(Phase.BEGIN, later))
        assert [event.phase for event in await desk.world.events()] == [Phase.BEGIN, Phase.END, Phase.BEGIN]


class TestAssigningAndShelving:
    async def test_an_alarm_is_given_to_somebody(self, desk: Desk) -> None:
        alarm = await desk.raised()
        shown = await desk.ask("POST", f"/alarms/{alarm.alarm_id}/assign", {"to": "li", "note": "please look"})
        assert (shown["assigned_to"], shown["notes"][0]["note"]) == ("li", "please look")
        assert len((await desk.ask("GET", "/alarms", assigned_to="li"))["items"]) == 1
        await desk.ask("POST", f"/alarms/{alarm.alarm_id}/assign", {"to": None})
        assert (await desk.ask("GET", "/alarms", assigned_to="li"))["items"] == []
        first, second = await desk.audits()
        assert (first.after, second.before, second.after) == (
            {"assigned_to": "li"},
            {"assigned_to": "li"},
            {"assigned_to": None},
        )

    async def test_a_shelf_survives_a_crash_and_is_taken_back(self, desk: Desk) -> None:
        alarm = await desk.raised()
        path = f"/alarms/{alarm.alarm_id}"
        until = (datetime.now(UTC) + timedelta(days=2)).isoformat()
        shown = await desk.ask("POST", f"{path}/shelve", {"until": until, "reason": "sensor on order"}, status=202)
        assert shown["shelved_by"] == "user:wang"
        await desk.deliver()
        assert (await desk.world.events())[-1].inhibited_by == f"shelf:{alarm.alarm_id}"
        await desk.world.restart()
        await desk.world.take(desk.world.heartbeat(10))
        assert len(await desk.world.events()) == 2
        await desk.ask("DELETE", f"{path}/shelf", status=202)
        await desk.deliver()
        events = await desk.world.events()
        assert [(event.phase, event.inhibited_by) for event in events[2:]] == [(Phase.UPDATE, None)]
        assert (await desk.ask("GET", path))["shelved_until"] is None

    @pytest.mark.parametrize("days", [-1, 8])
    async def test_a_shelf_ends_within_a_week(self, desk: Desk, days: int) -> None:
        alarm = await desk.raised()
        until = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        refused = await desk.ask(
            "POST", f"/alarms/{alarm.alarm_id}/shelve", {"until": until, "reason": "x"}, status=400
        )
        assert refused["code"] == "invalid_shelf"
        assert "until" in refused["detail"]


class TestWindows:
    def body(self, from_h: float = 0, to_h: float = 1, **more: object) -> dict[str, object]:
        now = datetime.now(UTC)
        times = {"from": (now + timedelta(hours=from_h)).isoformat(), "to": (now + timedelta(hours=to_h)).isoformat()}
        return {"site_id": SITE, "reason": "更换电表", **times, **more}

    async def test_a_window_is_published_changed_and_called_off(self, desk: Desk) -> None:
        window = await desk.ask("POST", "/maintenance-windows", self.body(device_ids=["m-2", "m-1"]), status=201)
        assert (window["owner"], window["device_ids"]) == ("user:wang", ["m-1", "m-2"])
        path = f"/maintenance-windows/{window['window_id']}"
        changed = await desk.ask("PUT", path, {**self.body(to_h=2, owner="li"), "from": window["from"]})
        assert (changed["device_ids"], changed["owner"]) == (None, "li")
        assert [item["window_id"] for item in (await desk.ask("GET", "/maintenance-windows", site=SITE))["items"]] == [
            window["window_id"]
        ]
        now = datetime.now(UTC).isoformat()
        assert len((await desk.ask("GET", "/maintenance-windows", at=now))["items"]) == 1
        assert (await desk.ask("DELETE", path))["called_off_at"] is not None
        assert (await desk.ask("GET", "/maintenance-windows", at=now))["items"] == []
        refused = await desk.ask("DELETE", path, status=409)
        assert refused["code"] == "window_is_over"
        first, second, tombstone = await desk.ordered()
        assert first.value is not None
        assert second.value is not None
        assert MaintenanceWindow.from_json(first.value).scope.device_ids == ("m-1", "m-2")
        assert orjson.loads(second.value)["owner"] == "li"
        assert (tombstone.key, tombstone.value) == (window["window_id"], None)
        assert [event.action.split(".")[1] for event in await desk.audits()] == ["open", "change", "call_off"]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"site_id": "nowhere"}, "site_id"),
            ({"device_ids": ["m-9"]}, "device_ids"),
            ({"device_ids": []}, "device_ids"),
            ({"to_h": -0.5, "from_h": -1}, "to"),
            ({"to_h": 0.5, "from_h": 1}, "to"),
            ({"from_h": -2}, "from"),
            ({"to_h": 24 * 31}, "to"),
        ],
    )
    async def test_what_makes_no_sense_is_refused_by_name(
        self, desk: Desk, changes: dict[str, Any], field: str
    ) -> None:
        refused = await desk.ask("POST", "/maintenance-windows", self.body(**changes), status=400)
        assert (refused["code"], refused["facts"]["problems"][0]["field"]) == ("invalid_window", field)
        assert await desk.ordered() == []

    async def test_who_is_limited_to_sites_has_their_windows_only(self, desk: Desk) -> None:
        window = await desk.ask("POST", "/maintenance-windows", self.body(), status=201)
        path = f"/maintenance-windows/{window['window_id']}"
        await desk.ask("GET", path, status=404, sites=["site-2"])
        await desk.ask("DELETE", path, status=404, sites=["site-2"])
        await desk.ask("POST", "/maintenance-windows", self.body(), status=400, sites=["site-2"])
        assert (await desk.ask("GET", "/maintenance-windows", sites=["site-2"]))["items"] == []

    async def test_what_is_raised_in_it_waits_for_its_end(self, desk: Desk) -> None:
        scope = {"site_id": SITE}
        window = MaintenanceWindow.model_validate({"window_id": "w-1", "scope": scope, "from": at(0), "to": at(60)})
        world = desk.world
        await world.take(world.received(topics.MAINTENANCE, window, at(0)))
        assert (await desk.raised(second=5)).inhibited_by == "window:w-1"
        await world.take(world.heartbeat(59))
        await world.take(world.heartbeat(61))
        assert [event.inhibited_by for event in await world.events()] == ["window:w-1", None]


async def test_a_feed_that_is_lost_explains_the_meters_behind_it(desk: Desk) -> None:
    world = desk.world
    world.registry.supplied_by["m-2"] = [frozenset({"m-1"})]
    await world.take(world.volts(0, 0), world.volts(3, 0))
    feed = {event.rule_id: event for event in await world.events()}
    assert {event.inhibited_by for event in feed.values()} == {None}
    await world.restart()
    await world.take(world.volts(5, 0, device_id="m-2"), world.volts(8, 0, device_id="m-2"))
    behind = (await world.events())[2:]
    assert {event.inhibited_by for event in behind} == {f"alarm:{feed[FAILURE].alarm_id}"}
    await world.take(world.volts(20, 230), world.volts(23, 230))
    await world.take(world.heartbeat(82))
    assert all(event.phase is Phase.END for event in (await world.events())[4:])
    await world.take(world.heartbeat(83))
    late = (await world.events())[6:]
    assert {(event.device_id, event.phase, event.inhibited_by) for event in late} == {("m-2", Phase.UPDATE, None)}


async def test_a_storm_is_one_alarm_and_loses_none(desk: Desk) -> None:
    world = desk.world
    names = [f"d-{number}" for number in range(40)]
    for name in names:
        world.registry.add(name)
    for first in (0, 20):
        batch = names[first : first + 20] if first else names[:30]
        second = float(first)
        await world.take(*(world.volts(second, 150, device_id=name) for name in batch))
        await world.take(*(world.volts(second + 3, 150, device_id=name) for name in batch))
    await world.restart()
    await world.take(*(world.volts(25, 150, device_id=name) for name in names[30:]))
    await world.take(*(world.volts(28, 150, device_id=name) for name in names[30:]))
    events = await world.events()
    [storm] = [event for event in events if event.signal == "wattring.condition.alarm_storm"]
    begun = [event for event in events if event.phase is Phase.BEGIN and event.device_id is not None]
    assert len(begun) == 40, "none is lost"
    under = {event.device_id for event in begun if event.inhibited_by == f"alarm:{storm.alarm_id}"}
    assert under == set(names[30:])
    await world.take(world.heartbeat(400))
    await world.take(world.heartbeat(401))
    after = (await world.events())[len(events) :]
    assert [event.signal for event in after if event.phase is Phase.END] == ["wattring.condition.alarm_storm"]
    assert {event.device_id for event in after if event.phase is Phase.UPDATE} == under
