"""Alarms, maintenance windows, emergency mode and the second person, on a real database."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, MaintenanceWindow
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from services.control.domain.policies import Scope
from services.control.store import places as store
from services.control.usecases.guardrules import EmergencyInForce
from services.control.usecases.isolations import SamePerson
from services.control.usecases.places import PlaceHandler
from tests.integration.control.control_world import SITE, World
from tests.integration.control.fake_ingest import until
from tests.integration.control.test_control_guard_counts import add_units, rules, say
from tests.integration.control.test_control_rules import conditions, plan_in, switch

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def tell(world: World, *messages: Received) -> None:
    async with world.db.effects() as conn:
        await PlaceHandler(clock=world.steady).handle(conn, messages)


def alarm(world: World, sequence: int = 1, phase: str = "begin", **changes: Any) -> Received:
    now = world.clock.now()
    event: dict[str, Any] = {
        "alarm_id": "al-1", "site_id": SITE, "sequence": sequence, "phase": phase, "level": 1,
        "signal": "0s18002001", "began_at": now, **changes,
    }  # fmt: skip
    if phase == "end":
        event |= {"ended_at": now, "end_reason": "recovered"}
    payload = AlarmEvent.model_validate(event)
    return Received(topics.ALARM_EVENTS, 0, sequence, SITE, payload.to_json(), (), now)


def window(world: World, from_s: float, to_s: float, *, devices: Sequence[str] | None = None) -> Received:
    now = world.clock.now()
    payload = MaintenanceWindow.model_validate(
        {"window_id": "w-1", "scope": {"site_id": SITE, "device_ids": devices},
         "from": now + timedelta(seconds=from_s), "to": now + timedelta(seconds=to_s)}
    )  # fmt: skip
    return Received(topics.MAINTENANCE, 0, 0, "w-1", payload.to_json(), (), now)


async def refused_by(world: World, load_id: str = "a") -> object:
    refused = (await switch(world, "open", load_id)).refused
    return refused[0]["guard"] if refused else None


class TestAlarms:
    async def test_one_that_stands_forbids_the_off_and_not_the_on(self, world: World) -> None:
        add_units(world, "a")
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        await tell(world, alarm(world))
        await world.run(405, step_s=5)
        assert world.field.breakers["a"].closed
        await world.clock.advance(301)
        refused = (await switch(world, "open", "a")).refused[0]
        assert refused["guard"] == "active_alarm"
        assert "0s18002001 level 1" in str(refused["value"])
        await tell(world, alarm(world, 2, "end"))
        assert await refused_by(world) is None

    async def test_one_that_begins_after_the_order_is_seen_right_before_the_write(self, world: World) -> None:
        add_units(world, "a")
        await plan_in(world, "a", off_in_s=60, off_for_s=3600)
        await world.turn(by_s=31)
        await tell(world, alarm(world))
        await world.run(60, step_s=5)
        assert (await world.states("a"))[0] == ("open", "scheduled", "active_alarm")
        await world.run(640, step_s=10)
        assert (await world.states("a"))[0] == ("open", "expired", "active_alarm")
        evidence: Any = await world.value("select evidence from command_history where state = 'expired'")
        assert "0s18002001" in evidence["value"]
        assert evidence["message"]
        assert evidence["message_zh"]

    @pytest.mark.parametrize("changes", [{"level": 2}, {"inhibited_by": "occurrence:1"}, {"historical": True}])
    async def test_what_does_not_count(self, world: World, changes: dict[str, Any]) -> None:
        add_units(world, "a")
        await tell(world, alarm(world, **changes))
        assert await refused_by(world) is None

    async def test_an_older_step_that_comes_again_changes_nothing(self, world: World) -> None:
        add_units(world, "a")
        await tell(world, alarm(world), alarm(world, 2, "end"))
        await tell(world, alarm(world))
        assert await refused_by(world) is None

    async def test_battery_and_generator(self, world: World) -> None:
        add_units(world, "a")
        await tell(world, alarm(world, level=3, signal="0s06005001"))
        assert await refused_by(world) == "backup_power"
        await say(world, "site", SITE, backup_power_signals=[])
        assert await refused_by(world) is None

    async def test_rubbish_is_put_aside(self, world: World) -> None:
        for topic in (topics.ALARM_EVENTS, topics.MAINTENANCE):
            with pytest.raises(PoisonMessage):
                await tell(world, Received(topic, 0, 0, "x", b"{", (), world.clock.now()))


class TestMaintenance:
    async def test_a_window_forbids_the_off_until_it_ends_or_is_called_off(self, world: World) -> None:
        add_units(world, "a")
        await tell(world, window(world, -10, 100))
        assert await refused_by(world) == "maintenance"
        await tell(world, Received(topics.MAINTENANCE, 0, 1, "w-1", None, (), world.clock.now()))
        assert await refused_by(world) is None

    async def test_it_is_judged_at_the_time_of_the_write(self, world: World) -> None:
        add_units(world, "a", "b")
        await tell(world, window(world, 50, 200, devices=["brk-a"]))
        await plan_in(world, "a", "b", off_in_s=60, off_for_s=3600)
        await world.run(100, step_s=5)
        assert (world.field.breakers["a"].closed, world.field.breakers["b"].closed) == (True, False)
        assert (await world.states("a"))[0] == ("open", "scheduled", "maintenance")
        await world.run(120, step_s=5)
        assert not world.field.breakers["a"].closed


class TestEmergencyMode:
    async def test_no_off_until_a_person_ends_it_and_every_on(self, world: World) -> None:
        add_units(world, "a", "b")
        await switch(world, "open", "a", restore_in_s=400)
        await world.run(5)
        await plan_in(world, "b", off_in_s=60, off_for_s=3600)
        await world.turn(by_s=31)
        mode = await rules(world).declare("region", "440100", "typhoon", "user:a", "api")
        await world.run(405, step_s=5)
        assert world.field.breakers["a"].closed
        assert (await world.states("b"))[0] == ("open", "rejected", "emergency_mode")
        assert world.field.breakers["b"].switched == 0
        await world.clock.advance(301)
        refused = (await switch(world, "open", "a")).refused[0]
        assert (refused["guard"], mode.emergency_id in str(refused["value"])) == ("emergency_mode", True)
        ended = await rules(world).end_emergency(mode.emergency_id, "over", "user:b", "api")
        assert ended.ended_by == "user:b"
        assert await refused_by(world) is None

    async def test_a_place_has_one_and_has_to_exist(self, world: World) -> None:
        add_units(world, "a")
        await rules(world).declare("site", SITE, "fire", "user:a", "api")
        with pytest.raises(EmergencyInForce):
            await rules(world).declare("site", SITE, "fire", "user:a", "api")
        with pytest.raises(InvalidInput):
            await rules(world).declare("site", "nowhere", "fire", "user:a", "api")
        with pytest.raises(NotFound):
            await rules(world).end_emergency("nothing", "", "user:a", "api")

    async def test_whoever_is_letting_an_off_pass_is_waited_for(self, world: World) -> None:
        add_units(world, "a")
        async with world.db.write() as conn:
            await store.enter(conn, wait=True)
            declaring = asyncio.create_task(rules(world).declare("all", "", "storm", "user:a", "api"))
            await until(lambda: declaring.done() or _waits(world), "the declaration waits")
            assert not declaring.done()
            # The scheduler does not queue behind it: its OFFs look again.
            async with world.db.write() as other:
                assert not await store.enter(other, wait=False)
        await declaring
        assert await refused_by(world) == "emergency_mode"


class TestSecondPerson:
    async def test_an_order_waits_for_another_person(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "default", "-", two_persons_above=1)
        group = await switch(world, "open", "a", "b")
        assert {command.state.value for command in group.commands} == {"approval"}
        await world.run(20)
        assert world.field.breakers["a"].closed
        assert await world.value("select count(*) from off_leases") == 0
        with pytest.raises(SamePerson):
            await world.orders.approve(group.group_id, "user:duty", "api")
        await world.orders.approve(group.group_id, "user:chief", "api")
        await world.run(5)
        assert not world.field.breakers["a"].closed
        # The end stays where it was, also as a length.
        length_s: Any = await world.value("select max(off_at_most_s) from commands where load_id = 'a'")
        assert length_s == pytest.approx(3580, abs=2)
        with pytest.raises(Conflict):
            await world.orders.approve(group.group_id, "user:chief", "api")
        assert conditions(world, "a") == []

    async def test_the_guards_are_asked_again_and_the_others_go_on(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "load_kind", "aau", two_persons=True)
        group = await switch(world, "open", "a", "b")
        await say(world, "load", "b", coverage_layer_stays=True)
        add_units(world, "b", keeps_coverage=True)
        await world.orders.approve(group.group_id, "user:chief", "api")
        assert (await world.states("a"))[0][1] == "scheduled"
        assert await world.states("b") == [
            ("open", "rejected", "coverage_layer"),
            ("close", "cancelled", "off_not_sent"),
        ]

    async def test_what_nobody_agrees_to_goes_away(self, world: World) -> None:
        add_units(world, "a", "b")
        await say(world, "site", SITE, two_persons=True)
        await switch(world, "open", "a", restore_in_s=7200)
        declined = await switch(world, "open", "b", restore_in_s=7200)
        await world.orders.decline(declined.group_id, "no", "user:duty", "api")
        assert (await world.states("b"))[0] == ("open", "cancelled", "no")
        await world.run(3700, step_s=100)
        assert await world.states("a") == [("open", "expired", "not_approved"), ("close", "cancelled", "off_not_sent")]
        assert world.field.breakers["a"].switched == 0

    async def test_a_plan_over_such_loads_needs_another_person_than_its_author(self, world: World) -> None:
        add_units(world, "a")
        await say(world, "load_kind", "aau", two_persons=True)
        plan_id = await plan_in(world, "a")
        assert await world.value("select approved_by from plans where plan_id = $1", plan_id) == "user:b"
        other: Any = await world.value("select created_by from plans where plan_id = $1", plan_id)
        async with world.db.write() as conn:
            await conn.execute("update plans set state = 'draft' where plan_id = $1", plan_id)
        with pytest.raises(Forbidden):
            await world.plans.approve(plan_id, other, "api")


class TestExplaining:
    async def test_one_load_with_values_and_who_says_so(self, world: World) -> None:
        add_units(world, "a", "b", keeps_coverage=True)
        await say(world, "site", SITE, max_off_site=1)
        await tell(world, alarm(world))
        load = world.loads.get("a")
        assert load is not None
        found = await rules(world).explain(load)
        assert [one.guard for one in found.refusals] == ["coverage_layer", "active_alarm"]
        assert (found.values["max_off_site"], found.values["stale_data"]) == (1, 0.0)
        assert found.effective.said_by == {"max_off_site": f"site:{SITE}"}

    async def test_policies_have_versions_and_go_away(self, world: World) -> None:
        add_units(world, "a")
        await say(world, "site", SITE, max_off_site=0)
        assert await refused_by(world) == "max_off_site"
        await say(world, "site", SITE, max_off_site=1)
        await rules(world).drop_policy(*_site(), "not needed", "user:a", "api")
        assert await refused_by(world) is None
        versions = await rules(world).versions(*_site(), 10)
        assert [row.limits for row in versions] == [None, {"max_off_site": 1}, {"max_off_site": 0}]
        with pytest.raises(NotFound):
            await rules(world).drop_policy(*_site(), "again", "user:a", "api")
        await world.relay()
        audited = [
            one["action"] for one in world.events(topics.AUDIT) if str(one["subject"]).startswith("guard_policy")
        ]
        assert audited == ["guard_policy.set", "guard_policy.set", "guard_policy.remove"]

    async def test_a_policy_of_a_newer_release_stops_offs_and_no_on(self, world: World) -> None:
        add_units(world, "a", "b")
        await switch(world, "open", "b", restore_in_s=400)
        await world.run(5)
        async with world.db.write() as conn:
            await conn.execute(
                """
                insert into guard_policies (scope, target, limits, source, changed_by, changed_at)
                values ('default', '-', '{"phase_of_the_moon": 1}', 'x', 'x', now())
                """
            )
        assert await refused_by(world) == "guards_unknown"
        await world.run(405, step_s=5)
        assert world.field.breakers["b"].closed


def _site() -> tuple[Any, str]:

    return Scope.SITE, str(SITE)


async def _waits(world: World) -> bool:
    return bool(
        await world.value(
            """
            select exists (select from pg_locks l join pg_stat_activity a using (pid)
                            where not l.granted and a.datname = current_database())
            """
        )
    )
