"""Plans of set points on a real database: begun, set back, refused, held up, over a crash at every step."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.contracts.control import Command, Stage
from libs.common.errors import Conflict, Forbidden, NotFound
from libs.common.ids import DeviceId
from services.control.directory import DeviceInfo
from services.control.domain.plans import InvalidPlan, PlanState, PlanTransitionRefused, Schedule, Window
from services.control.domain.setpointplans import SetpointWindow
from services.control.domain.setpoints import SetpointScope
from services.control.files.calendar_file import write_setpoint_plan
from services.control.store import audit as audit_store
from services.control.store import setpointplans as store
from services.control.usecases.adjusting import Adjusting
from services.control.usecases.orders import WakeOrder
from services.control.usecases.setpointplans import SetAlready, SetpointPlans, Wish
from services.control.usecases.setpoints import SetpointPolicies
from tests.integration.control.control_world import World
from tests.integration.control.mortal import Fate, Fuse, Killed, Mortal
from tests.integration.control.test_control_adjusting import Desk, air_conditioner, model, setting

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

POINT = "temperature_setpoint"
SUMMER = datetime(2026, 7, 1, 4, tzinfo=UTC)  # noon in Shanghai
NIGHT = Window(time(22), time(6))
BEGIN = datetime(2026, 7, 1, 14, tzinfo=UTC)
END = datetime(2026, 7, 1, 22, tzinfo=UTC)


class Hall:
    """Devices in a dict."""

    def __init__(self, *devices: DeviceInfo) -> None:
        self.devices = {device.device_id: device for device in devices}
        self.is_ready = True

    def get(self, device_id: str) -> DeviceInfo | None:
        return self.devices.get(device_id)

    def at_site(self, site_id: str) -> list[DeviceInfo]:
        return [device for device in self.devices.values() if device.site_id == site_id]

    def in_region(self, region_id: str) -> list[DeviceInfo]:
        return [device for device in self.devices.values() if region_id in device.region_ids]

    def tagged(self, tag: str) -> list[DeviceInfo]:
        return [device for device in self.devices.values() if tag in device.tags]


@dataclass
class Office(Desk):
    """A desk with plans over a hall."""

    hall: Hall = None  # type: ignore[assignment]
    plans: SetpointPlans = None  # type: ignore[assignment]

    def start(self, **changes: Any) -> None:
        """Make new objects, as a process that starts does."""
        world = self.world
        db = changes.get("db", world.db)
        self.adjusting = Adjusting(db=db, clock=world.steady, keys=world.keys, wake=lambda: None)
        self.plans = SetpointPlans(
            db=db, clock=world.steady, adjusting=self.adjusting, devices=self.hall, loads=world.loads, two_persons=False
        )

    async def plan(self, by: str = "user:b", **changes: Any) -> str:
        """Draft and approve a plan."""
        plan, _ = await self.plans.draft(wish(**changes), "user:a", "console")
        await self.plans.approve(plan.plan_id, by, "console")
        return plan.plan_id

    async def at(self, when: datetime) -> list[tuple[str, float]]:
        """Let it be that time and everything have its turn; return what was sent: device and value."""
        await self.world.clock.advance((when - self.world.clock.now()).total_seconds())
        while await self.plans.tick():
            pass
        return [(str(one.device_id), float(one.arguments["value"])) for one in await self.turn()]

    async def all_follow(self) -> None:
        """Let the devices do what was sent last."""
        async with self.world.db.read() as conn:
            rows = await conn.fetch("select adjustment_id, value from adjustments where state = 'dispatched'")
        for row in rows:
            await self.answer(row["adjustment_id"], Stage.VERIFIED, row["value"])

    async def window(self, plan_id: str) -> SetpointWindow:
        """Return the first window of a plan."""
        async with self.world.db.read() as conn:
            return (await store.fetch_windows(conn, plan_id, after=None, limit=1))[0][0]

    async def put_rule(self, effect: str = "refuse", *, low: float = 26, target: str = "site-1") -> None:
        """Let no room be cooler than this."""
        policies = SetpointPolicies(db=self.world.db, clock=self.world.steady)
        rule = {"point": POINT, "min": low, "from": "01-01", "to": "12-31", "effect": effect, "source": "order 7"}
        await policies.put(SetpointScope.SITE, target, {"house": rule}, "order 7", "user:m", "console")

    async def audit(self, action: str) -> list[dict[str, Any]]:
        """Return what is on record of that kind, in the order in which it was written."""
        async with self.world.db.read() as conn:
            found = await audit_store.fetch_page(
                conn, start=None, end=None, actor=None, subject=None, action=action, succeeded=None, before=None,
                limit=100,
            )  # fmt: skip
        return [dict(one.entry) for one in reversed(found)]


def wish(**changes: Any) -> Wish:
    schedule = Schedule(date(2026, 7, 1), date(2026, 7, 3), (NIGHT,), "Asia/Shanghai")
    usual = Wish(
        name="cool nights", target={"site_id": "site-1", "kind": "ac_unit"}, point=POINT, value=28.0, value_after=26.0,
        unit="degC", schedule=schedule, calendar_ids=(),
    )  # fmt: skip
    return replace(usual, **changes)


@pytest.fixture
async def office(world: World, tmp_path: Path) -> Office:
    world.clock.set_wall(SUMMER)
    world.start()
    breaker = DeviceInfo("breaker-1", air_conditioner(1).site_id, None, "settable", model(tmp_path))
    hall = Hall(air_conditioner(1), air_conditioner(2), breaker)
    found = Office(world, breaker, None, hall=hall)  # type: ignore[arg-type]
    found.start()
    return found


async def test_a_night_is_begun_and_set_back_in_every_device_and_on_record(office: Office) -> None:
    plan_id = await office.plan()
    assert await office.at(BEGIN - timedelta(seconds=1)) == []
    assert await office.at(BEGIN) == [("ac-1", 28.0), ("ac-2", 28.0)]
    await office.all_follow()
    assert await office.at(END - timedelta(seconds=1)) == []
    window = await office.window(plan_id)
    assert (window.state.value, window.set_in, len(window.begin_groups)) == ("begun", ("ac-1", "ac-2"), 1)
    assert await office.at(END) == [("ac-1", 26.0), ("ac-2", 26.0)]
    await office.all_follow()
    window = await office.window(plan_id)
    assert (window.state.value, len(window.end_groups), window.next_at) == ("done", 1, None)
    assert await office.at(BEGIN + timedelta(days=1)) == [("ac-1", 28.0), ("ac-2", 28.0)]
    await office.all_follow()
    await office.at(END + timedelta(days=1))
    await office.all_follow()
    await office.at(BEGIN + timedelta(days=2))
    await office.all_follow()
    await office.at(END + timedelta(days=2))
    await office.all_follow()
    await office.at(END + timedelta(days=3))
    begun, ended = await office.audit("setpoint_plan.activate"), await office.audit("setpoint_plan.end")
    assert [(one["actor"], one["before"]["state"], one["after"]["state"]) for one in (*begun, *ended)] == [
        ("service:control", "approved", "active"), ("service:control", "active", "ended"),
    ]  # fmt: skip
    (approve,) = await office.audit("setpoint_plan.approve")
    assert (approve["actor"], approve["after"]["devices"]) == ("user:b", ["ac-1", "ac-2"])
    orders = await office.audit("device.set")
    assert {(one["actor"], one["door"]) for one in orders} == {(f"plan:{plan_id}", "plan")}
    assert len(orders) == len(await office.audit("device.set.end")) == 2 * 2 * 3


async def test_nothing_is_switched_and_the_switching_plans_know_nothing_of_it(office: Office) -> None:
    world = office.world
    world.add_load("hall", device_id=DeviceId("ac-1"))
    await office.plan()
    await office.at(BEGIN)
    await world.run(60, step_s=10)
    assert world.field.breakers["hall"].switched == 0
    assert await world.value("select count(*) from commands") == 0
    assert await world.value("select count(*) from plans") == 0


async def test_a_begin_that_is_too_late_is_dropped_and_an_end_never(office: Office) -> None:
    plan_id = await office.plan()
    assert await office.at(BEGIN + timedelta(seconds=601)) == []
    window = await office.window(plan_id)
    assert (window.state.value, window.reason, window.begin_groups) == ("skipped", "too_late", ())
    (skipped,) = await office.audit("setpoint_plan.skip")
    assert (skipped["actor"], skipped["succeeded"], skipped["reason"]) == (f"plan:{plan_id}", False, "too_late")
    assert await office.at(END) == []
    assert len(await office.at(BEGIN + timedelta(days=1, seconds=599))) == 2
    await office.all_follow()
    assert await office.at(END + timedelta(days=5)) == [("ac-1", 26.0), ("ac-2", 26.0)]


@pytest.mark.parametrize("how", [Fate.DIES_BEFORE, Fate.DIES_AFTER])
async def test_a_crash_at_any_step_orders_nothing_twice_and_forgets_nothing(office: Office, how: Fate) -> None:
    await office.plan(schedule=Schedule(date(2026, 7, 1), date(2026, 7, 1), (NIGHT,), "Asia/Shanghai"))
    sent: list[tuple[str, float]] = []
    deaths = 0
    for when in (BEGIN, END):  # each time three steps: the plan's state, the window, what is sent
        await office.world.clock.advance((when - office.world.clock.now()).total_seconds())
        for step in (0, 1, 1) if how is Fate.DIES_BEFORE else (0, 0, 0):
            fuse = Fuse()
            fuse.how, fuse.steps = how, step
            mortal = Mortal(office.world.db)
            mortal.fate = fuse
            office.start(db=mortal)
            try:
                while await office.plans.tick():
                    pass
                await office.adjusting.tick()
            except Killed:
                deaths += 1
        office.start()
        sent += await office.at(office.world.clock.now())
        await office.all_follow()
    assert deaths == 6
    assert sent == [("ac-1", 28.0), ("ac-2", 28.0), ("ac-1", 26.0), ("ac-2", 26.0)]


class TestLimits:
    async def test_a_value_that_the_public_building_rule_forbids_refuses_the_plan_and_lists_every_device(
        self, office: Office
    ) -> None:
        for values in ({"value": 24.0}, {"value_after": 24.0}):
            with pytest.raises(InvalidPlan, match=r"public_building_summer: not below 26 degC") as refused:
                await office.plans.draft(wish(**values), "user:a", "console")
            devices: Any = refused.value.facts["devices"]
            assert [(one["device_id"], one["limit"]) for one in devices] == [
                ("ac-1", {"min": 26.0}), ("ac-2", {"min": 26.0}),
            ]  # fmt: skip
        # What holds on the days of the windows counts, not what holds today.
        autumn = Schedule(date(2026, 10, 10), date(2026, 10, 12), (NIGHT,), "Asia/Shanghai")
        _, found = await office.plans.draft(wish(value=24.0, schedule=autumn), "user:a", "console")
        assert found.preview.count == 3

    async def test_a_device_that_cannot_be_set_so_refuses_it_too(self, office: Office) -> None:
        for target, guard in (({"site_id": "site-1"}, "no_control"), ({"device_ids": ["ac-9"]}, "no_line")):
            office.hall.devices["ac-9"] = replace(air_conditioner(9), line_id=None, site_id="site-9")  # type: ignore[arg-type]
            with pytest.raises(InvalidPlan) as refused:
                await office.plans.preview(wish(target=target))
            devices: Any = refused.value.facts["devices"]
            assert devices[0]["guard"] == guard
        with pytest.raises(InvalidPlan, match="steps of 1 degC"):
            await office.plans.preview(wish(value=27.5))
        with pytest.raises(InvalidPlan, match="expected degC"):
            await office.plans.preview(wish(unit="K"))
        with pytest.raises(NotFound, match="no device"):
            await office.plans.preview(wish(target={"site_id": "site-1", "kind": "lamp"}))

    @pytest.mark.parametrize(("changes", "field"), [
        ({"point": "setting_overvoltage"}, "point"),
        ({"schedule": Schedule(date(2026, 6, 1), date(2026, 6, 3), (NIGHT,), "Asia/Shanghai")}, "last_date"),
        ({"schedule": Schedule(date(2026, 7, 1), date(2026, 7, 1), (Window(time(1), time(1, 9)),), "UTC")}, "windows"),
        ({"schedule": Schedule(date(2026, 7, 1), date(2026, 7, 1),
                               (Window(time(1), time(2)), Window(time(2, 9), time(3))), "UTC")}, "windows"),
        ({"schedule": Schedule(date(2026, 7, 4), date(2026, 7, 4), (NIGHT,), "UTC", frozenset({1}))}, "exceptions"),
    ])  # fmt: skip
    async def test_what_cannot_be_followed_is_refused_with_its_field(
        self, office: Office, changes: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidPlan) as refused:
            await office.plans.draft(wish(**changes), "user:a", "console")
        assert refused.value.facts["field"] == field
        assert refused.value.message_zh

    async def test_a_rule_that_came_after_the_approval_is_asked_when_it_is_sent(self, office: Office) -> None:
        plan_id = await office.plan()
        await office.put_rule(low=29)
        assert await office.at(BEGIN) == []
        window = await office.window(plan_id)
        assert (window.state.value, window.reason) == ("skipped", "house")
        async with office.world.db.read() as conn:
            found = await office.adjusting.group(conn, window.begin_groups[0])
        assert [(one["device_id"], one["guard"], one["source"]) for one in found.group.refused] == [
            ("ac-1", "house", "order 7"), ("ac-2", "house", "order 7"),
        ]  # fmt: skip
        assert await office.at(END) == []

    async def test_a_rule_that_asks_for_a_second_person_asks_for_it_once(self, office: Office) -> None:
        await office.put_rule("approve", low=30)
        with pytest.raises(Forbidden, match="rule house asks that somebody else"):
            await office.plan("user:a")
        found = await office.plans.preview(wish())
        assert found.rule is not None
        assert (found.rule.name, found.rule_value) == ("house", 28.0)
        await office.plan("user:b")
        assert await office.at(BEGIN) == [("ac-1", 28.0), ("ac-2", 28.0)]

    async def test_nobody_agrees_to_a_value_whose_window_is_over(self, office: Office) -> None:
        plan_id = await office.plan("user:a", value=27.0, value_after=28.0)
        await office.put_rule("approve", low=28)
        window = (await office.at(BEGIN), await office.window(plan_id))[1]
        assert window.state.value == "begun"
        states = "select array_agg(state order by created_at, device_id) from adjustments"
        assert await office.world.value(states) == ["approval", "approval"]
        await office.world.clock.advance((END - office.world.clock.now()).total_seconds())
        while await office.plans.tick():
            pass
        assert await office.world.value(states) == ["cancelled", "cancelled", "scheduled", "scheduled"]
        with pytest.raises(Conflict, match="nothing waits"):
            async with office.world.db.write() as conn:
                await office.adjusting.approve(conn, "user:b", "api", group_id=window.begin_groups[0])

    async def test_rules_that_cannot_be_read_put_it_off_and_hold_up_nobody(self, office: Office) -> None:
        plan_id = await office.plan()
        await office.put_rule(low=20)
        async with office.world.db.write() as conn:  # as a newer release may have written it
            await conn.execute("update setpoint_policies set rules = jsonb_set(rules, '{house,effect}', '\"ask\"')")
        assert await office.at(BEGIN) == []
        window = await office.window(plan_id)
        assert (window.state.value, window.reason) == ("planned", "invalid_setpoint_policy")
        async with office.world.db.write() as conn:
            await conn.execute("update setpoint_policies set rules = jsonb_set(rules, '{house,effect}', '\"refuse\"')")
        assert await office.at(BEGIN + timedelta(seconds=59)) == []
        assert len(await office.at(BEGIN + timedelta(seconds=60))) == 2


class TestOthers:
    @pytest.mark.parametrize("scope", ["loads", "device", "site", "region", "all"])
    async def test_one_key_lets_it_rest_and_what_has_begun_is_set_back(self, office: Office, scope: str) -> None:
        world = office.world
        world.add_load("hall", device_id=DeviceId("ac-1"))
        plan_id = await office.plan()
        target = {"device": "ac-1", "site": "site-1", "region": "440100"}.get(scope, "")
        order = WakeOrder(scope, target, (world.loads.loads["hall"],), "user:duty", "api", "storm", True)
        async with world.db.write() as conn:
            wake_up_id = (await world.orders.wake(conn, order)).order.wake_up_id
        await world.run(30, step_s=5)  # until the load is proven on: settings wait for that
        sent = await office.at(BEGIN)
        window = await office.window(plan_id)
        async with world.db.read() as conn:
            refused = (await office.adjusting.group(conn, window.begin_groups[0])).group.refused
        assert {(one["guard"], one["value"]) for one in refused} == {("emergency", wake_up_id)}
        if scope in ("loads", "device"):  # another device is none of its business
            assert sent == [("ac-2", 28.0)]
            await office.all_follow()
            assert await office.at(END) == [("ac-2", 26.0)]
        else:
            assert (sent, window.state.value, window.reason) == ([], "skipped", "emergency")
            assert await office.at(END) == []
        await world.orders.release(wake_up_id, "user:duty", "api")
        await office.all_follow()
        assert len(await office.at(BEGIN + timedelta(days=1))) == 2

    async def test_a_key_that_was_pressed_since_does_not_keep_it_from_being_set_back(self, office: Office) -> None:
        world = office.world
        await office.plan()
        await office.at(BEGIN)
        await office.all_follow()
        async with world.db.write() as conn:
            await world.orders.wake(conn, WakeOrder("all", "", (), "user:duty", "api", "storm", True))
        assert len(await office.at(END)) == 2

    async def test_a_plan_that_is_ended_sets_back_what_has_begun_and_begins_no_more(self, office: Office) -> None:
        plan_id = await office.plan()
        await office.at(BEGIN)
        await office.all_follow()
        ended = await office.plans.end(plan_id, "not wanted", "user:a", "console")
        assert ended.state is PlanState.ENDED
        with pytest.raises(PlanTransitionRefused):
            await office.plans.end(plan_id, "again", "user:a", "console")
        assert await office.at(END) == [("ac-1", 26.0), ("ac-2", 26.0)]
        await office.all_follow()
        assert await office.at(BEGIN + timedelta(days=1)) == []
        async with office.world.db.read() as conn:
            found = await store.fetch_windows(conn, plan_id, after=None, limit=10)
        assert [one.state.value for one, _ in found] == ["done", "called_off", "called_off"]

    async def test_one_that_is_ended_while_a_begin_waits_sets_back_what_was_set(self, office: Office) -> None:
        plan_id = await office.plan()
        await office.at(BEGIN - timedelta(seconds=5))
        async with office.world.db.write() as conn:
            await office.adjusting.order(conn, air_conditioner(1), setting(POINT, 27.0, "degC"))
        await office.turn()
        assert await office.at(BEGIN) == [("ac-2", 28.0)]
        await office.all_follow()
        await office.plans.end(plan_id, "not wanted", "user:a", "console")
        assert await office.at(BEGIN + timedelta(seconds=15)) == []
        assert await office.at(END) == [("ac-2", 26.0)]

    async def test_a_device_that_is_being_set_is_waited_for_at_both_ends(self, office: Office) -> None:
        async def by_hand(value: float) -> Command:
            async with office.world.db.write() as conn:
                await office.adjusting.order(conn, air_conditioner(1), setting(POINT, value, "degC"))
            (command,) = await office.turn()
            return command

        plan_id = await office.plan()
        await office.at(BEGIN - timedelta(seconds=5))
        first = await by_hand(27.0)
        assert await office.at(BEGIN) == [("ac-2", 28.0)]
        window = await office.window(plan_id)
        assert (window.state.value, window.reason, window.left) == ("planned", "being_adjusted", ("ac-1",))
        await office.answer(first.command_id, Stage.VERIFIED, 27.0)
        await office.all_follow()
        assert await office.at(BEGIN + timedelta(seconds=15)) == [("ac-1", 28.0)]
        await office.all_follow()
        assert (await office.window(plan_id)).set_in == ("ac-2", "ac-1")
        await office.at(END - timedelta(seconds=5))
        second = await by_hand(29.0)
        assert await office.at(END) == [("ac-2", 26.0)]
        await office.answer(second.command_id, Stage.VERIFIED, 29.0)
        await office.all_follow()
        assert await office.at(END + timedelta(seconds=15)) == [("ac-1", 26.0)]
        assert (await office.window(plan_id)).state.value == "done"

    async def test_one_that_stays_busy_is_left_out_and_the_others_go_on(self, office: Office) -> None:
        plan_id = await office.plan()
        await office.at(BEGIN - timedelta(seconds=5))
        busy = replace(setting(POINT, 27.0, "degC"), valid_for=timedelta(days=2))
        async with office.world.db.write() as conn:
            await office.adjusting.order(conn, air_conditioner(1), busy)
        (command,) = await office.turn()
        await office.answer(command.command_id, Stage.UNKNOWN)
        for seconds in range(0, 620, 15):
            await office.world.clock.advance((BEGIN - office.world.clock.now()).total_seconds() + seconds)
            while await office.plans.tick():
                pass
        window = await office.window(plan_id)
        assert (window.state.value, window.set_in) == ("begun", ("ac-2",))

    async def test_two_plans_do_not_set_one_device_at_the_same_time(self, office: Office) -> None:
        first = await office.plan()
        other = wish(name="other", target={"device_ids": ["ac-2"]}, value=27.0)
        second, found = await office.plans.draft(other, "user:a", "console")
        assert found.rival == (first, "cool nights")
        with pytest.raises(SetAlready, match="cool nights"):
            await office.plans.approve(second.plan_id, "user:b", "console")
        noon = Schedule(date(2026, 7, 1), date(2026, 7, 3), (Window(time(13), time(14)),), "Asia/Shanghai")
        await office.plan(target={"device_ids": ["ac-2"]}, schedule=noon)
        await office.plans.end(first, "", "user:a", "console")
        await office.plans.approve(second.plan_id, "user:b", "console")

    async def test_a_calendar_that_it_uses_stays_as_it_is(self, office: Office) -> None:
        await office.world.plans.put_calendar("c", "C", "notice", {date(2026, 7, 2): "x"}, "user:m", "console")
        plan_id = await office.plan(calendar_ids=("c",))
        with pytest.raises(Conflict, match=plan_id):
            await office.world.plans.put_calendar("c", "C", "notice", {}, "user:m", "console")
        _, windows = await office.plans.export(plan_id)
        assert [one.start_local.day for one in windows] == [1, 3]

    async def test_devices_are_settled_at_the_approval(self, office: Office) -> None:
        plan, found = await office.plans.draft(wish(), "user:a", "console")
        assert found.device_ids == ("ac-1", "ac-2")
        office.hall.devices["ac-3"] = air_conditioner(3)
        approved = await office.plans.approve(plan.plan_id, "user:b", "console")
        assert approved.device_ids == ("ac-1", "ac-2", "ac-3")
        del office.hall.devices["ac-2"]
        assert await office.at(BEGIN) == [("ac-1", 28.0), ("ac-3", 28.0)]

    async def test_nothing_is_begun_before_the_registry_was_read(self, office: Office) -> None:
        await office.plan()
        office.hall.is_ready = False
        assert await office.at(BEGIN) == []
        office.hall.is_ready = True
        assert len(await office.at(BEGIN + timedelta(seconds=60))) == 2


async def test_its_calendar_file_shows_what_is_set(office: Office) -> None:
    plan_id = await office.plan()
    plan, windows = await office.plans.export(plan_id)
    text = write_setpoint_plan(plan, windows, SUMMER).decode()
    assert text.count("BEGIN:VEVENT") == 3
    assert "DTSTART:20260701T140000Z" in text
    assert "设定 SET: cool nights: temperature_setpoint 28 → 26 (2)" in text.replace("\r\n ", "")
