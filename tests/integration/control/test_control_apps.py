"""Upstream apps: nothing without limits, everything within them, opt-outs are answers, and each sees its own."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.control import CommandAction, Priority
from libs.common.errors import InvalidInput
from libs.common.tokens import Principal
from services.control.domain.apps import AppAction, AppLimits
from services.control.domain.plans import Schedule, Window
from services.control.usecases.apps import Apps, NotAllowedToApp, TooManyOrders
from services.control.usecases.orders import Group, SwitchOrder
from tests.integration.control.control_world import SITE, World, local
from tests.integration.control.fake_ingest import until
from tests.integration.control.test_control_process import Installation, installation, plan_body
from tests.integration.control.test_control_rules import switch

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

APP = "key:blue"
LIMITS = AppLimits(actions=frozenset(AppAction), tags=frozenset({"blue"}), orders_per_hour=20)


def apps_of(world: World) -> Apps:
    return Apps(db=world.db, clock=world.steady, loads=world.loads)


async def allow(world: World, limits: AppLimits = LIMITS) -> None:
    await apps_of(world).put_limits(APP, limits, "contract 7", "user:m", "console")


async def opt_out(world: World, site: str = SITE, *, from_s: float = 0, until_s: float = 86400) -> str:
    now = world.clock.now()
    start, until = now + timedelta(seconds=from_s), now + timedelta(seconds=until_s)
    return (await apps_of(world).opt_out(site, start, until, "exam", "user:site", "console")).opt_out_id


async def order(world: World, *load_ids: str, action: str = "open", for_s: float = 3600, in_s: float = 0) -> Group:
    start = world.clock.now() + timedelta(seconds=in_s)
    is_off = action == "open"
    wanted = SwitchOrder(
        action=CommandAction(action), load_ids=load_ids, actor=APP, door="upstream_app", by_app=True,
        priority=Priority.UPSTREAM_APP, not_before=start if in_s else None,
        restore_at=start + timedelta(seconds=for_s) if is_off else None,
    )  # fmt: skip
    async with world.db.write() as conn:
        return await world.orders.switch(conn, wanted)


def guards(group: Group) -> list[tuple[object, object]]:
    return [(one["load_id"], one["guard"]) for one in group.refused]


async def plan_of_app(world: World, *load_ids: str, off_in_s: float = 60, off_for_s: float = 600) -> str:
    start, end = local(world.clock, off_in_s), local(world.clock, off_in_s + off_for_s)
    schedule = Schedule(start.date(), start.date(), (Window(start.time(), end.time()),), "Asia/Shanghai")
    plan, _ = await world.plans.draft("night", load_ids, schedule, (), None, APP, "upstream_app", app=APP)
    return plan.plan_id


class TestOrders:
    async def test_without_limits_nothing_may_be_switched(self, world: World) -> None:
        world.add_load("a", tags=("blue",))
        for action in ("open", "close"):
            with pytest.raises(NotAllowedToApp, match="no limits are set for key:blue") as caught:
                await order(world, "a", action=action)
            assert caught.value.facts["guard"] == "app_no_limits"
        with pytest.raises(NotAllowedToApp, match="no limits"):
            await plan_of_app(world, "a")
        await allow(world, AppLimits(actions=frozenset(AppAction)))
        assert guards(await order(world, "a")) == [("a", "app_load")]

    async def test_actions_loads_lengths_and_windows(self, world: World) -> None:
        world.add_load("a", tags=("blue",))
        world.add_load("b")
        await allow(world, replace(LIMITS, actions=frozenset({AppAction.OFF}), longest_off_s=7200))
        with pytest.raises(NotAllowedToApp, match="may not order on, only off"):
            await order(world, "a", action="close")
        assert guards(await order(world, "a", "b", "nowhere", for_s=8000)) == [
            ("a", "app_longest_off"), ("b", "app_load"), ("nowhere", "app_load"),
        ]  # fmt: skip
        night = (Window(local(world.clock, 600).time(), local(world.clock, 9000).time()),)
        await allow(world, replace(LIMITS, windows=night))
        assert guards(await order(world, "a")) == [("a", "app_window")]
        group = await order(world, "a", in_s=900)
        assert (group.refused, group.commands[0].priority) == ((), Priority.UPSTREAM_APP)

    async def test_the_whole_way_says_whose_it_is(self, world: World) -> None:
        breaker = world.add_load("a", tags=("blue",))
        await allow(world)
        group = await order(world, "a", for_s=600)
        await world.run(20, step_s=5)
        assert not breaker.closed
        await world.run(620, step_s=10)
        assert breaker.closed
        events = [one for one in world.events(topics.CONTROL_EVENTS) if one.get("command_id")]
        assert {(one["actor"], one["group_id"]) for one in events} == {(APP, group.group_id)}

    async def test_no_more_loads_off_at_once_than_its_limit(self, world: World) -> None:
        for name in "abcd":
            world.add_load(name, tags=("blue",))
        await allow(world, replace(LIMITS, max_off=2))
        first = await order(world, "a", "b", "c")
        assert guards(first) == [("c", "app_max_off")]
        assert (first.refused[0]["value"], first.refused[0]["limit"]) == (3, 2)
        assert guards(await order(world, "d")) == [("d", "app_max_off")]
        await switch(world, "close", "a")
        await world.run(30, step_s=5)
        assert guards(await order(world, "d")) == []

    async def test_orders_at_the_same_moment_are_counted_one_after_the_other(self, world: World) -> None:
        for name in "abcd":
            world.add_load(name, tags=("blue",))
        await allow(world, replace(LIMITS, max_off=2))
        groups = await asyncio.gather(*(order(world, name) for name in "abcd"))
        assert sum(bool(group.commands) for group in groups) == 2

    async def test_who_orders_too_often_hears_when_to_come_again(self, world: World) -> None:
        world.add_load("a", tags=("blue",))
        await allow(world, replace(LIMITS, orders_per_hour=2, orders_per_day=3))
        await order(world, "a", action="close")
        await world.clock.advance(600)
        await order(world, "a", action="close")
        with pytest.raises(TooManyOrders, match="orders_per_hour") as caught:
            await order(world, "a", action="close")
        assert caught.value.facts["retry_after_s"] == pytest.approx(3000)
        await world.clock.advance(3001)
        await order(world, "a", action="close")
        with pytest.raises(TooManyOrders, match=r"orders_per_(day|hour)"):
            await order(world, "a", action="close")
        await world.clock.advance(3600)
        with pytest.raises(TooManyOrders, match="orders_per_day") as caught:
            await order(world, "a", action="close")
        assert caught.value.facts["retry_after_s"] == pytest.approx(86400 - 600 - 3001 - 3600)

    async def test_limits_that_are_taken_away_stop_what_was_not_sent_and_wake_nothing_less(self, world: World) -> None:
        off, waiting = world.add_load("a", tags=("blue",)), world.add_load("b", tags=("blue",))
        await allow(world)
        await order(world, "a", for_s=900)
        await world.run(20, step_s=5)
        await order(world, "b", in_s=60, for_s=900)
        await apps_of(world).drop_limits(APP, "misuse", "user:m", "console")
        await world.run(60, step_s=5)
        assert not off.closed
        assert waiting.closed
        assert ("open", "rejected", "app_no_limits") in await world.states("b")
        await world.run(900, step_s=30)
        assert off.closed


class TestOptOuts:
    async def test_all_of_them_opted_out_is_an_answer(self, world: World) -> None:
        world.add_load("a", tags=("blue",))
        world.add_load("b", tags=("blue",), site_id="site-2")
        await allow(world)
        one = await opt_out(world)
        group = await order(world, "a", "b")
        assert guards(group) == [("a", "opted_out")]
        assert group.refused[0]["value"] == one
        assert len(group.commands) == 1
        none = await order(world, "a")
        assert none.opted_out
        assert none.commands == ()
        entry = next(one for one in world.events(topics.AUDIT)) if await world.relay() else {}
        assert entry["action"] == "app_limits.set"
        told = [one for one in world.events(topics.AUDIT) if one["action"] == "command.open"]
        assert [one.get("succeeded") for one in told] == [None, None]

    async def test_it_touches_no_on_and_no_order_of_people(self, world: World) -> None:
        breaker = world.add_load("a", tags=("blue",))
        await allow(world)
        await order(world, "a", for_s=600)
        await world.run(20, step_s=5)
        await opt_out(world)
        assert guards(await order(world, "a", action="close")) == []
        await world.run(30, step_s=5)
        assert breaker.closed
        await world.clock.advance(600)
        assert guards(await switch(world, "open", "a")) == []

    async def test_one_that_begins_before_the_off_is_sent_stops_it(self, world: World) -> None:
        breaker = world.add_load("a", tags=("blue",))
        await allow(world)
        await order(world, "a", in_s=120)
        ended = await opt_out(world)
        await world.run(130, step_s=10)
        assert breaker.closed
        assert ("open", "rejected", "opted_out") in await world.states("a")
        done = await apps_of(world).end_opt_out(ended, "over", "user:site", "console")
        assert done.ended_by == "user:site"
        assert guards(await order(world, "a")) == []

    async def test_what_has_no_length_or_no_site_is_refused(self, world: World) -> None:
        world.add_load("a")
        for site, from_s, until_s in (("nowhere", 0, 60), (SITE, 60, 60), (SITE, -100, -50), (SITE, 0, 86400 * 400)):
            with pytest.raises(InvalidInput):
                await opt_out(world, site, from_s=from_s, until_s=until_s)


class TestPlans:
    async def test_a_night_of_an_apps_plan(self, world: World) -> None:
        breaker = world.add_load("a", tags=("blue",))
        opted = world.add_load("b", tags=("blue",), site_id="site-2")
        await allow(world)
        await opt_out(world, "site-2", until_s=3600)
        plan_id = await plan_of_app(world, "a", "b")
        assert (await world.plans.approve(plan_id, "user:operator", "console")).rank == 100
        await world.run(70, step_s=5)
        assert not breaker.closed
        assert opted.closed
        await world.run(620, step_s=10)
        assert breaker.closed
        assert sorted(await world.occurrence_states()) == ["awake", "skipped"]
        events = world.events(topics.CONTROL_EVENTS)
        assert {one["actor"] for one in events} == {APP}
        assert {one["priority"] for one in events if "priority" in one} == {int(Priority.UPSTREAM_APP)}
        (skipped,) = [one for one in events if one["state"] == "skipped"]
        assert (skipped["load_id"], skipped["reason"], skipped["plan_id"]) == ("b", "opted_out", plan_id)

    async def test_its_count_and_its_windows_hold_for_plans_too(self, world: World) -> None:
        for name in "abc":
            world.add_load(name, tags=("blue",))
        await allow(world, replace(LIMITS, max_off=2))
        plan_id = await plan_of_app(world, "a", "b", "c")
        await world.plans.approve(plan_id, "user:operator", "console")
        await world.run(70, step_s=5)
        assert sorted(await world.occurrence_states()) == ["shut_down", "shut_down", "skipped"]
        await allow(world, replace(LIMITS, longest_off_s=300))
        with pytest.raises(NotAllowedToApp, match="600 s"):
            await plan_of_app(world, "a")


async def test_over_http(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False) as found:
        await an_app_by_http(found)


def as_app(found: Installation, name: str = "blue", *more: str) -> dict[str, str]:
    token = found.platform.keys.sign_token(
        "gateway", audience="control", subject=name, kind="key", scopes=("control:app", *more)
    )
    return {"authorization": f"Bearer {token}"}


async def an_app_by_http(found: Installation) -> None:
    app, other = as_app(found), as_app(found, "other")

    async def call(method: str, path: str, body: Any = None, **headers: str) -> Any:
        return await found.call(method, f"/api/v1/{path}", body, **(headers or app))

    def off(*load_ids: str) -> dict[str, Any]:
        later: datetime = found.platform.clock.now() + timedelta(seconds=600)
        return {"action": "open", "load_ids": list(load_ids), "restore_at": later.isoformat(), "priority": "operator"}

    assert (await call("GET", "guards/apps/me")).json() == {"caller": APP, "limits": None}
    answer = await call("POST", "commands", off("aau-1"))
    assert (answer.status_code, answer.json()["code"], answer.json()["facts"]["guard"]) == (
        403, "app_limit", "app_no_limits",
    )  # fmt: skip
    # An app is never more than an app, whatever else its key says.
    for method, path, body in (
        ("POST", "wake-ups", {"scope": "all"}),
        ("PUT", f"guards/apps/{APP}", {"limits": {"actions": ["off"]}, "source": "x"}),
        ("POST", "guards/emergencies", {"scope": "all", "reason": "x"}),
        ("GET", "commands/isolations", None),
        ("GET", "guards/apps", None),
    ):
        assert (await call(method, path, body, **as_app(found, "blue", "control:*"))).status_code == 403, path
    people = found.headers()
    limits = {"actions": ["off", "on", "plans"], "load_ids": ["aau-1", "aau-2"], "orders_per_hour": 5}
    put = await call("PUT", f"guards/apps/{APP}", {"limits": limits, "source": "contract 7"}, **people)
    assert put.status_code == 200, put.text
    assert put.json()["limits"]["max_off"] == 100
    wrong = {"limits": {**limits, "zone": "Asia/Guangzhou"}, "source": "x"}
    assert (await call("PUT", f"guards/apps/{APP}", wrong, **people)).status_code == 422
    assert (await call("GET", "guards/apps/me")).json()["limits"]["load_ids"] == ["aau-1", "aau-2"]
    # Of a place it reaches its own loads; the priority is its own too.
    whole = {name: value for name, value in off().items() if name != "load_ids"} | {"site_id": "site-1"}
    group = (await call("POST", "commands", whole)).json()
    assert sorted(one["load_id"] for one in group["commands"]) == ["aau-1", "aau-2"]
    assert {one["priority"] for one in group["commands"]} == {"upstream_app"}
    assert group["refused"] == []
    await until(lambda: not found.field.breakers["aau-1"].closed, "off")
    # Each sees its own.
    command_id = group["commands"][0]["command_id"]
    for path in (f"commands/{command_id}", f"commands/groups/{group['group_id']}"):
        assert (await call("GET", path)).status_code == 200
        assert (await call("GET", path, **other)).status_code == 404
    assert (await call("GET", "commands", **other)).json()["items"] == []
    assert {one["actor"] for one in (await call("GET", "commands")).json()["items"]} == {APP}
    assert (await call("POST", f"commands/{command_id}/cancel", {}, **other)).status_code == 404
    # A site opts out: an answer, also when it is all of them.
    body = {"site_id": "site-1", "until": (found.platform.clock.now() + timedelta(hours=1)).isoformat(), "reason": "x"}
    out = (await call("POST", "guards/opt-outs", body, **people)).json()
    answer = await call("POST", "commands", off("aau-1", "hospital"))
    assert answer.status_code == 202
    assert [(one["load_id"], one["state"], one["guard"]) for one in answer.json()["refused"]] == [
        ("aau-1", "opted_out", "opted_out"), ("hospital", "refused", "app_load"),
    ]  # fmt: skip
    listed = (await call("GET", "guards/opt-outs?site=site-1", None, **people)).json()["items"]
    assert [(one["opt_out_id"], one["ended_at"]) for one in listed] == [(out["opt_out_id"], None)]
    ended = await call("POST", f"guards/opt-outs/{out['opt_out_id']}/end", {"reason": "over"}, **people)
    assert ended.json()["ended_by"] == "user:duty"
    # Plans: its own loads, an operator's word, nobody else's eyes.
    refused = await call("POST", "plans", plan_body(found, "aau-1", "aau-3", start_in_s=3600, length_s=60))
    assert (refused.status_code, refused.json()["facts"]["guard"]) == (403, "app_load")
    plan = (await call("POST", "plans", plan_body(found, "aau-1", start_in_s=3600, length_s=60))).json()
    assert plan["created_by"] == APP
    refused = await call("POST", f"plans/{plan['plan_id']}/approve")
    assert (refused.status_code, refused.json()["facts"]["guard"]) == (403, "app_plan_approval")
    assert (await call("POST", f"plans/{plan['plan_id']}/approve", None, **people)).json()["state"] == "approved"
    assert [one["plan_id"] for one in (await call("GET", "plans")).json()["items"]] == [plan["plan_id"]]
    assert (await call("GET", "plans", **other)).json()["items"] == []
    assert (await call("GET", f"plans/{plan['plan_id']}", **other)).status_code == 404
    assert len((await call("GET", f"occurrences?plan={plan['plan_id']}")).json()["items"]) == 1
    assert (await call("GET", "occurrences")).status_code == 400
    assert (await call("POST", f"plans/{plan['plan_id']}/end", {})).json()["state"] == "ended"
    # Too often.
    while (answer := await call("POST", "commands", {"action": "close", "load_ids": ["aau-1"]})).status_code == 202:
        pass
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert answer.json()["facts"]["limit_name"] == "orders_per_hour"
    entries = (await call("GET", f"commands/audit?actor={APP}", None, **people)).json()["items"]
    assert {one["door"] for one in entries if not one["action"].startswith("load.")} == {"upstream_app"}


def test_an_administrator_is_no_app() -> None:
    assert Principal("root", "user", frozenset({"*:*"})).may("control:app")
