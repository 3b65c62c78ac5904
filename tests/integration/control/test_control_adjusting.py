"""Setting something inside devices, on a real database: orders for one and for many, answers, rules, crashes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.control import Command, CommandAction, ControlEvent, Evidence, Priority, Result, Stage
from libs.common.errors import Conflict, NotFound
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from libs.common.profiles import Control, DeviceProfile, ProfileCatalogue
from libs.common.tokens import canonical
from services.control.directory import DeviceInfo
from services.control.domain.adjusting import Adjustment, action_of
from services.control.domain.setpoints import SetpointScope
from services.control.store import adjustments as store
from services.control.store import audit as audit_store
from services.control.store import places
from services.control.usecases.adjusting import (
    Adjusting,
    BeingAdjusted,
    GroupState,
    NotAdjustable,
    SetpointRefused,
    SettingOrder,
)
from services.control.usecases.isolations import IsolationRequest, SamePerson
from services.control.usecases.orders import Group, SwitchOrder
from services.control.usecases.ports import SteadyClock
from services.control.usecases.setpoints import SetpointPolicies
from tests.integration.control.control_world import World, received
from tests.integration.control.fake_ingest import until
from tests.integration.control.test_control_rules import plan_in

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

POINT = "setting_overvoltage"


def model(folder: Path) -> DeviceProfile:
    shipped = files("libs.common").joinpath("data", "device_profiles", "lx47le_125.yaml").read_text(encoding="utf-8")
    control = (
        "  - {name: set_overvoltage, function: write_single_register, area: holding, addr: 0x0002, value: null,"
        " min: 230, max: 300, read_back: {points: [setting_overvoltage]}}\n"
    )
    (folder / "settable.yaml").write_text(shipped.replace("feedback:\n", control + "feedback:\n", 1), encoding="utf-8")
    return ProfileCatalogue.load([folder]).get("settable")


def setting(
    point: str | None, value: float | None, unit: str | None = None, action: CommandAction | None = None
) -> SettingOrder:
    return SettingOrder(
        action=action or action_of(point or ""), point=point, value=value, unit=unit, actor="user:li", door="api",
        note=None, valid_for=timedelta(hours=1),
    )  # fmt: skip


@dataclass
class Desk:
    """The use case over a world, with a device."""

    world: World
    device: DeviceInfo
    adjusting: Adjusting
    taken: int = 0
    offsets: list[int] = field(default_factory=list)

    async def order(self, value: float = 265.0, *, unit: str | None = "V", point: str = POINT) -> Adjustment:
        async with self.world.db.write() as conn:
            return await self.adjusting.order(conn, self.device, setting(point, value, unit))

    async def turn(self, by_s: float = 0.0) -> list[Command]:
        """Let time pass, tick, and return what was sent."""
        await self.world.clock.advance(by_s)
        await self.adjusting.tick()
        return await self.sent()

    async def sent(self) -> list[Command]:
        async with self.world.db.read() as conn:
            rows = await conn.fetch(
                "select id, value from outbox where topic = $1 and id > $2 order by id", topics.COMMANDS, self.taken
            )
        self.taken = max((row["id"] for row in rows), default=self.taken)
        return [Command.from_json(row["value"]) for row in rows]

    async def answer(self, wire_id: str, stage: Stage, found: float | None = None, reason: str | None = None) -> None:
        result = Result(
            command_id=CommandId(wire_id),
            site_id=self.device.site_id,
            stage=stage,
            evidence=Evidence(feedback_point=POINT, feedback_value=found),
            epoch=1,
            at=self.world.clock.now(),
            reason=reason,
        )
        self.offsets.append(len(self.offsets))
        async with self.world.db.effects() as conn:
            await self.adjusting.handle(conn, [received(result, len(self.offsets))])
        self.adjusting.committed()

    async def state(self, one: Adjustment) -> tuple[str, str, float | None]:
        async with self.world.db.read() as conn:
            now = await store.fetch(conn, one.adjustment_id)
        assert now is not None
        return now.state.value, now.reason, now.found

    async def ends(self) -> list[dict[str, Any]]:
        """Return what the audit says of the ends of orders, in the order in which it was written."""
        async with self.world.db.read() as conn:
            found = await audit_store.fetch_page(
                conn, start=None, end=None, actor=None, subject=None, action="device.set.end", succeeded=None,
                before=None, limit=100,
            )  # fmt: skip
        return [dict(one.entry) for one in reversed(found)]

    async def events(self) -> Sequence[ControlEvent]:
        async with self.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONTROL_EVENTS)
        return [ControlEvent.from_json(row["value"]) for row in rows]


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Desk:
    device = DeviceInfo("breaker-1", SiteId("site-1"), LineId("line-1"), "settable", model(tmp_path))
    adjusting = Adjusting(db=world.db, clock=SteadyClock(world.clock), keys=world.keys, wake=lambda: None)
    return Desk(world, device, adjusting)


async def test_an_order_is_signed_sent_verified_and_told(desk: Desk) -> None:
    made = await desk.order()
    (command,) = await desk.turn()
    assert (command.action.value, dict(command.arguments)) == ("set_threshold", {"point": POINT, "value": 265.0})
    assert desk.world.keys.verify_bytes("control", canonical(command.signing_payload()), command.signature)
    await desk.answer(command.command_id, Stage.ACCEPTED)
    await desk.answer(command.command_id, Stage.VERIFIED, 265.0)
    await desk.answer(command.command_id, Stage.VERIFIED, 265.0)
    assert await desk.state(made) == ("succeeded", "", 265.0)
    told = await desk.events()
    assert [event.state.value for event in told] == ["scheduled", "dispatched", "accepted", "succeeded"]
    last = told[-1]
    assert (last.device_id, last.load_id, last.point, last.value) == ("breaker-1", None, POINT, 265.0)
    assert last.evidence is not None
    assert last.evidence.feedback_value == 265.0
    assert await desk.turn(3600) == []


async def test_silence_is_looked_after_and_sent_again_only_when_it_reads_otherwise(desk: Desk) -> None:
    made = await desk.order()
    (first,) = await desk.turn()
    await desk.answer(first.command_id, Stage.UNKNOWN, reason="no_answer")
    (look,) = await desk.turn()
    assert (look.action.value, dict(look.arguments)) == ("read_back", {"point": POINT})
    await desk.answer(look.command_id, Stage.VERIFIED, 275.0)
    (second,) = await desk.turn(20)
    assert (second.command_id, second.action.value) == (f"{made.adjustment_id}.2", "set_threshold")
    await desk.answer(second.command_id, Stage.VERIFIED, 265.0)
    assert await desk.state(made) == ("succeeded", "", 265.0)


async def test_a_crash_between_sending_and_commit_sends_once(desk: Desk) -> None:
    await desk.order()
    await desk.world.clock.advance(1)
    with suppress(InterruptedError):
        async with desk.world.db.write() as conn:
            await store.lock_due(conn, desk.world.clock.now(), 10)
            raise InterruptedError
    assert len(await desk.turn()) == 1
    assert await desk.turn() == []


async def test_a_second_order_waits_replaces_or_is_refused(desk: Desk) -> None:
    first = await desk.order(260.0)
    second = await desk.order(262.0)
    assert (await desk.state(first))[0] == "superseded"
    (command,) = await desk.turn()
    assert command.arguments["value"] == 262.0
    with pytest.raises(BeingAdjusted, match="wait"):
        await desk.order(264.0)
    await desk.answer(command.command_id, Stage.VERIFIED, 262.0)
    assert (await desk.state(second))[0] == "succeeded"
    assert (await desk.order(264.0)).value == 264.0


async def test_settings_wait_for_switching_and_no_switching_waits_for_a_setting(desk: Desk) -> None:
    world = desk.world
    breaker = world.add_load("a", device_id=DeviceId("breaker-1"))

    async def switch(action: CommandAction) -> None:
        restore_at = world.clock.now() + timedelta(hours=1) if action is CommandAction.OPEN else None
        order = SwitchOrder(action, ("a",), "user:duty", "api", Priority.OPERATOR, restore_at=restore_at)
        async with world.db.write() as conn:
            await world.orders.switch(conn, order)

    async def sent_by_the_scheduler() -> list[str]:
        await world.tick()
        await world.tick()
        return [command.action.value for command in await desk.sent()]

    await switch(CommandAction.OPEN)
    assert await sent_by_the_scheduler() == ["open"]
    made = await desk.order()
    assert await desk.turn() == []
    assert (await desk.state(made))[:2] == ("scheduled", "device_busy")
    # Nobody has taken the OFF: it is in doubt, and still the first.
    breaker.reachable = False
    await world.clock.advance(14)
    assert await sent_by_the_scheduler() == ["read_back"]
    assert await desk.turn(2) == []
    # The wake-up is sent while the setting waits, and again while it is in flight.
    await switch(CommandAction.CLOSE)
    await world.clock.advance(61)
    assert "close" in await sent_by_the_scheduler()
    # Nobody has taken the wake-up: until it is sent again it is due and not in flight.
    await world.clock.advance(12.5)
    await world.tick()
    assert (await world.states("a"))[-1] == ("close", "scheduled", "not_accepted")
    made = await desk.order()
    assert await desk.turn() == []
    await world.clock.advance(2)
    assert await sent_by_the_scheduler() == ["close"]
    breaker.reachable = True
    await world.relay()
    world.deliver()
    await world.answer()
    (setting,) = await desk.turn(16)
    assert setting.action is CommandAction.SET_THRESHOLD
    await switch(CommandAction.CLOSE)
    assert await sent_by_the_scheduler() == ["close"]
    assert (await desk.state(made))[0] == "dispatched"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 500.0}, "230 to 300 V"),
        ({"unit": "kV"}, "expected V"),
        ({"point": "setting_undervoltage"}, "no control that writes"),
        ({"point": "setting_unheard_of"}, "no control that writes"),
    ],
)
async def test_what_the_device_cannot_do_is_refused_at_once(desk: Desk, change: dict[str, object], said: str) -> None:
    with pytest.raises(NotAdjustable, match=said) as refused:
        await desk.order(**change)  # type: ignore[arg-type]
    assert refused.value.message_zh
    assert await desk.turn() == []


async def test_a_device_without_a_line_and_a_set_point_of_another_kind_are_refused(desk: Desk) -> None:
    desk.device = DeviceInfo("breaker-1", SiteId("site-1"), None, "settable", desk.device.model)
    with pytest.raises(NotAdjustable, match="hangs on no line"):
        await desk.order()
    assert isinstance(desk.device.control_of(POINT), Control)


def air_conditioner(number: int, *, site_kind: str = "business_hall", line: str | None = "line-2") -> DeviceInfo:
    profile = ProfileCatalogue.load().get("gree_umatch_ac")
    return DeviceInfo(
        f"ac-{number}", SiteId("site-1"), None if line is None else LineId(line), "gree_umatch_ac", profile,
        kind="ac_unit", site_kind=site_kind, region_ids=("440100",),
    )  # fmt: skip


async def many(desk: Desk, devices: Sequence[DeviceInfo], order: SettingOrder) -> GroupState:
    async with desk.world.db.write() as conn:
        return await desk.adjusting.order_many(conn, devices, order, {"site_id": "site-1"})


async def group(desk: Desk, group_id: str) -> GroupState:
    async with desk.world.db.read() as conn:
        return await desk.adjusting.group(conn, group_id)


async def test_many_are_set_and_those_that_cannot_be_are_listed_with_the_reason(desk: Desk) -> None:
    devices = [
        *(air_conditioner(number, site_kind="idc") for number in range(3)), desk.device,
        air_conditioner(9, site_kind="idc", line=None),
    ]  # fmt: skip
    made = await many(desk, devices, setting("temperature_setpoint", 24.0, "degC"))
    assert [one.device_id for one in made.members] == ["ac-0", "ac-1", "ac-2"]
    assert [(one["device_id"], one["guard"]) for one in made.group.refused] == [
        ("breaker-1", "no_control"), ("ac-9", "no_line"),
    ]  # fmt: skip
    assert all(one["message"] and one["message_zh"] for one in made.group.refused)
    sent = await desk.turn()
    assert {command.device_id for command in sent} == {"ac-0", "ac-1", "ac-2"}
    assert {command.action.value for command in sent} == {"set_point"}
    assert (await group(desk, made.group.group_id)).by_state == {"dispatched": 3}
    for command in sent[:2]:
        await desk.answer(command.command_id, Stage.VERIFIED, 24.0)
    await desk.answer(sent[2].command_id, Stage.REFUSED, reason="no_control")
    over = await group(desk, made.group.group_id)
    assert (over.state.value, over.by_state, over.expected_by) == ("partial", {"succeeded": 2, "rejected": 1}, None)
    told = [one for one in await desk.events() if one.group_id == made.group.group_id]
    assert sorted(one.state.value for one in told[-3:]) == ["rejected", "succeeded", "succeeded"]


async def test_a_public_room_is_not_cooled_below_the_rule_and_nothing_is_clamped(desk: Desk) -> None:
    await desk.world.clock.advance((datetime(2026, 7, 15, 4, tzinfo=UTC) - desk.world.clock.now()).total_seconds())
    desk.device = air_conditioner(1)
    with pytest.raises(SetpointRefused, match=r"public_building_summer: not below 26 degC") as refused:
        await desk.order(24.0, unit=None, point="temperature_setpoint")
    assert refused.value.facts["limit"] == {"min": 26.0}
    assert "国办发〔2007〕42号" in refused.value.facts["source_zh"]
    assert await desk.turn() == []
    assert (await desk.order(26.0, unit=None, point="temperature_setpoint")).value == 26.0
    (sent,) = await desk.turn()
    assert sent.arguments["value"] == 26.0


async def test_a_policy_may_ask_for_a_second_person_instead(desk: Desk) -> None:
    policies = SetpointPolicies(db=desk.world.db, clock=SteadyClock(desk.world.clock))
    rule = {"point": "temperature_setpoint", "min": 26, "from": "01-01", "to": "12-31", "effect": "approve",
            "source": "order 7"}  # fmt: skip
    await policies.put(SetpointScope.SITE, "site-1", {"house": rule}, "order 7", "user:li", "api")
    made = await many(desk, [air_conditioner(1), air_conditioner(2)], setting("temperature_setpoint", 20.0))
    assert (made.state.value, made.members[0].reason, made.expected_by) == ("approval", "rule_house", None)
    assert await desk.turn(60) == []
    # Whoever keeps what devices are to be set to does not hear of a value yet.
    assert {one.value for one in await desk.events()} == {None}
    async with desk.world.db.write() as conn:
        with pytest.raises(SamePerson):
            await desk.adjusting.approve(conn, "user:li", "api", group_id=made.group.group_id)
    async with desk.world.db.write() as conn:
        await desk.adjusting.decline(conn, "user:li", "api", "no", adjustment_id=made.members[1].adjustment_id)
        await desk.adjusting.approve(conn, "user:wang", "api", group_id=made.group.group_id)
    assert [command.device_id for command in await desk.turn()] == ["ac-1"]
    assert (await group(desk, made.group.group_id)).by_state == {"dispatched": 1, "cancelled": 1}
    assert {one.device_id: one.value for one in await desk.events()} == {"ac-1": 20.0, "ac-2": None}
    async with desk.world.db.write() as conn:
        with pytest.raises(Conflict, match="nothing waits"):
            await desk.adjusting.approve(conn, "user:wang", "api", group_id=made.group.group_id)
    dropped = await policies.drop(SetpointScope.SITE, "site-1", "over", "user:li", "api")
    assert dropped.rules is None
    with pytest.raises(NotFound):
        await policies.drop(SetpointScope.SITE, "site-1", "over", "user:li", "api")
    assert [row.revision for row in await policies.versions(SetpointScope.SITE, "site-1", 10)] == [2, 1]


async def test_what_nobody_agrees_to_ends_unsent(desk: Desk) -> None:
    policies = SetpointPolicies(db=desk.world.db, clock=SteadyClock(desk.world.clock))
    rule = {"point": "temperature_setpoint", "min": 26, "from": "01-01", "to": "12-31", "effect": "approve",
            "source": "order 7"}  # fmt: skip
    await policies.put(SetpointScope.DEVICE, "ac-1", {"house": rule}, "order 7", "user:li", "api")
    desk.device = air_conditioner(1)
    made = await desk.order(20.0, unit=None, point="temperature_setpoint")
    assert await desk.turn(3601) == []
    assert (await desk.state(made))[:2] == ("expired", "not_approved")
    (ended,) = await desk.ends()
    assert (ended["before"], ended["after"]["state"], ended["after"]["reason"]) == (
        {"state": "approval"}, "expired", "not_approved",
    )  # fmt: skip
    assert (ended["actor"], ended["door"], ended["succeeded"]) == ("user:li", "api", False)


async def test_what_becomes_of_an_order_is_on_record_once_with_the_door_that_it_came_through(desk: Desk) -> None:
    first = await desk.order(260.0)
    second = await desk.order(262.0)  # replaces it, which is in the record of this order
    (command,) = await desk.turn()
    await desk.answer(command.command_id, Stage.ACCEPTED)
    assert await desk.ends() == []
    await desk.answer(command.command_id, Stage.VERIFIED, 262.0)
    await desk.answer(command.command_id, Stage.VERIFIED, 262.0)
    await desk.order(270.0)
    (command,) = await desk.turn()
    await desk.answer(command.command_id, Stage.REFUSED, reason="no_control")
    done, refused = await desk.ends()
    assert (done["subject"], done["after"]["adjustment_id"]) == ("device:breaker-1", second.adjustment_id)
    assert first.adjustment_id != second.adjustment_id
    assert (done["before"], done["after"]["state"]) == ({"state": "accepted"}, "succeeded")
    assert (done["door"], done["succeeded"], done["after"]["found"]) == ("api", True, 262.0)
    assert (refused["before"], refused["after"]["state"], refused["after"]["reason"]) == (
        {"state": "dispatched"}, "rejected", "no_control",
    )  # fmt: skip
    assert not refused["succeeded"]


async def test_a_value_between_two_steps_of_the_device_is_refused_and_not_rounded(desk: Desk) -> None:
    desk.device = air_conditioner(1)
    with pytest.raises(NotAdjustable, match=r"steps of 1 degC, found 26\.5") as refused:
        await desk.order(26.5, unit=None, point="temperature_setpoint")
    assert refused.value.facts["guard"] == "device_step"


async def test_the_position_of_a_switch_is_no_setting(desk: Desk) -> None:
    desk.device = air_conditioner(1)
    with pytest.raises(NotAdjustable, match="moved by switching alone"):
        await desk.order(1.0, unit=None, point="ac_power_state")


async def test_how_often_the_platform_asks_is_said_to_be_the_registrys_matter(desk: Desk) -> None:
    with pytest.raises(NotAdjustable, match="period_s of the device in the registry") as refused:
        await desk.order(60.0, unit=None, point="setting_report_period")
    assert refused.value.facts["guard"] == "polled_by_platform"


async def off(desk: Desk, device_id: str) -> str:
    """Order an OFF of a load behind a device, and return the command."""
    world = desk.world
    world.add_load("aau-1", device_id=DeviceId(device_id))
    restore_at = world.clock.now() + timedelta(hours=1)
    order = SwitchOrder(CommandAction.OPEN, ("aau-1",), "user:duty", "api", Priority.OPERATOR, restore_at=restore_at)
    async with world.db.write() as conn:
        found = await world.orders.switch(conn, order)
    return next(one.command_id for one in found.commands if one.is_off)


def station(number: int) -> DeviceInfo:
    profile = ProfileCatalogue.load().get("iec60870_breaker_example")
    return DeviceInfo(f"feeder-{number}", SiteId("site-1"), LineId("line-104"), profile.name, profile)


class Line104:
    """Two feeders on a line."""

    def stopped_with(self, device_id: str) -> list[str]:
        return ["feeder-1", "feeder-2"] if device_id.startswith("feeder") else [device_id]


@pytest.mark.parametrize("asleep", ["feeder-1", "feeder-2"])
async def test_no_restart_while_a_load_behind_the_station_is_off(desk: Desk, asleep: str) -> None:
    desk.adjusting = Adjusting(
        db=desk.world.db, clock=SteadyClock(desk.world.clock), keys=desk.world.keys, wake=lambda: None,
        neighbours=Line104(),
    )  # fmt: skip
    restart = setting(None, None, action=CommandAction.RESTART)
    made = await many(desk, [station(1)], restart)
    assert made.by_state == {"scheduled": 1}
    off_id = await off(desk, asleep)
    # It was taken before the load went off, and is looked at again.
    assert await desk.turn(1) == []
    assert (await group(desk, made.group.group_id)).by_state == {"rejected": 1}
    again = await many(desk, [station(1)], restart)
    (refused,) = again.group.refused
    assert (again.members, refused["guard"], refused["value"]) == ((), "load_off", "aau-1")
    # A clock disturbs nobody.
    clock = await many(desk, [station(1), desk.device], setting(None, None, action=CommandAction.SET_CLOCK))
    assert [one.device_id for one in clock.members] == ["feeder-1"]
    assert clock.group.refused[0]["guard"] == "unsupported"
    await desk.world.orders.cancel(off_id, "enough", "user:duty", "api")
    assert (await many(desk, [station(1)], restart)).by_state == {"scheduled": 1}
    sent = await desk.turn()
    # One thing at a time.
    assert [(one.action.value, dict(one.arguments)) for one in sent] == [("set_clock", {"within_s": 10.0})]
    await desk.answer(sent[0].command_id, Stage.VERIFIED)
    assert [(one.action.value, dict(one.arguments)) for one in await desk.turn(20)] == [("restart", {})]


async def switch(desk: Desk, action: CommandAction, load_id: str, **changes: Any) -> Group:
    world = desk.world
    restore_at = world.clock.now() + timedelta(hours=1) if action is CommandAction.OPEN else None
    order = SwitchOrder(
        action, (load_id,), "user:duty", "api", Priority.OPERATOR, restore_at=restore_at, **changes
    )  # fmt: skip
    async with world.db.write() as conn:
        return await world.orders.switch(conn, order)


async def restarting(desk: Desk) -> Command:
    """Have the first of two feeders of a station restarted, with a load behind each; return what was sent."""
    world = desk.world
    together = Line104()
    world.neighbours = together
    world.start()
    desk.adjusting = Adjusting(
        db=world.db, clock=world.steady, keys=world.keys, wake=lambda: None, neighbours=together
    )  # fmt: skip
    for number in (1, 2):
        world.add_load(f"aau-{number}", device_id=DeviceId(f"feeder-{number}"))
    await many(desk, [station(1)], setting(None, None, action=CommandAction.RESTART))
    (command,) = await desk.turn()
    assert command.action is CommandAction.RESTART
    return command


class TestWhileADeviceIsRestarted:
    @pytest.mark.parametrize("load_id", ["aau-1", "aau-2"])
    async def test_an_off_of_it_or_of_its_station_is_refused_with_the_order(self, desk: Desk, load_id: str) -> None:
        command = await restarting(desk)
        (refused,) = (await switch(desk, CommandAction.OPEN, load_id)).refused
        assert (refused["guard"], refused["value"], refused["limit"]) == ("restarting", command.command_id, 240.0)
        assert command.command_id in str(refused["message"])
        assert "重启" in str(refused["message_zh"])
        assert desk.world.field.breakers[load_id].closed

    async def test_another_device_is_switched(self, desk: Desk) -> None:
        await restarting(desk)
        desk.world.add_load("b")
        assert (await switch(desk, CommandAction.OPEN, "b")).refused == ()
        await desk.world.run(5)
        assert not desk.world.field.breakers["b"].closed

    @pytest.mark.parametrize("stage", [None, Stage.ACCEPTED, Stage.EXECUTED])
    async def test_an_off_that_may_wait_does_until_its_time_is_over(self, desk: Desk, stage: Stage | None) -> None:
        world, command = desk.world, await restarting(desk)
        if stage is not None:
            await desk.answer(command.command_id, stage)
        await switch(desk, CommandAction.OPEN, "aau-1", not_after=world.clock.now() + timedelta(seconds=60))
        for _ in range(7):
            await desk.adjusting.tick()
            await world.run(10)
        assert (await world.states("aau-1"))[0] == ("open", "expired", "restarting")
        assert world.field.breakers["aau-1"].switched == 0
        evidence: Any = await world.value("select evidence from command_history where state = 'expired'")
        assert (evidence["guard"], evidence["value"]) == ("restarting", command.command_id)

    async def test_it_is_sent_when_the_device_has_answered_again(self, desk: Desk) -> None:
        world, command = desk.world, await restarting(desk)
        await switch(desk, CommandAction.OPEN, "aau-2", not_after=world.clock.now() + timedelta(seconds=300))
        await desk.answer(command.command_id, Stage.ACCEPTED)
        await world.run(100, step_s=5)
        assert (await world.states("aau-2"))[0] == ("open", "scheduled", "restarting")
        await desk.answer(command.command_id, Stage.VERIFIED)
        await world.run(5)
        assert (await world.states("aau-2"))[0][:2] == ("open", "succeeded")

    async def test_a_restart_that_was_given_up_without_a_word_holds_for_its_time(self, desk: Desk) -> None:
        world, command = desk.world, await restarting(desk)
        await desk.answer(command.command_id, Stage.UNKNOWN)
        await world.run(248, step_s=4)
        assert (await switch(desk, CommandAction.OPEN, "aau-1")).refused[0]["guard"] == "restarting"
        await world.run(4)
        assert (await switch(desk, CommandAction.OPEN, "aau-1")).refused == ()

    async def test_one_that_the_line_has_refused_holds_up_nothing(self, desk: Desk) -> None:
        command = await restarting(desk)
        await desk.answer(command.command_id, Stage.REFUSED, reason="unsupported")
        assert (await switch(desk, CommandAction.OPEN, "aau-1")).refused == ()

    async def test_a_plan_and_an_isolation_wait_too(self, desk: Desk) -> None:
        world, command = desk.world, await restarting(desk)
        await plan_in(world, "aau-1", off_in_s=40, off_for_s=3600)
        expires_at = world.clock.now() + timedelta(hours=1)
        wanted = IsolationRequest(world.loads.loads["aau-2"], "li", "P-7", "cabling", expires_at)
        isolation = await world.isolations.request(wanted, "user:a", "console")
        await world.isolations.approve(isolation.isolation_id, "user:b", "console")
        await desk.answer(command.command_id, Stage.ACCEPTED)
        await world.run(100, step_s=5)
        for load_id in ("aau-1", "aau-2"):
            assert (await world.states(load_id))[0] == ("open", "scheduled", "restarting")
        await desk.answer(command.command_id, Stage.VERIFIED)
        await world.run(5)
        for load_id in ("aau-1", "aau-2"):
            assert not world.field.breakers[load_id].closed

    async def test_an_on_is_sent_at_once(self, desk: Desk) -> None:
        world = desk.world
        await restarting(desk)
        await switch(desk, CommandAction.CLOSE, "aau-1")
        await world.tick()
        assert [(one.action.value, one.load_id) for one in await desk.sent()] == [("close", "aau-1")]

    async def test_an_off_is_not_let_pass_while_one_is_being_sent(self, desk: Desk) -> None:
        world = desk.world
        for load_id in ("a", "isolated"):
            world.add_load(load_id)
        await switch(desk, CommandAction.OPEN, "a")
        expires_at = world.clock.now() + timedelta(hours=1)
        wanted = IsolationRequest(world.loads.loads["isolated"], "li", "P-7", "cabling", expires_at)
        isolation = await world.isolations.request(wanted, "user:a", "console")
        await world.isolations.approve(isolation.isolation_id, "user:b", "console")
        async with world.db.write() as conn:
            await places.close_gate(conn)  # as the turn does that is about to send one
            await world.tick()
            assert (await world.states("a"))[0] == ("open", "scheduled", "guards_unknown")
            assert (await world.states("isolated"))[0] == ("open", "scheduled", "restarting")
        await world.run(5)
        assert not world.field.breakers["a"].closed
        assert not world.field.breakers["isolated"].closed

    async def test_the_turn_that_sends_one_waits_for_whoever_lets_an_off_pass(self, desk: Desk) -> None:
        world = desk.world
        desk.device = station(1)
        world.add_load("aau-1", device_id=DeviceId("feeder-1"))
        made = await many(desk, [station(1)], setting(None, None, action=CommandAction.RESTART))
        order = SwitchOrder(
            CommandAction.OPEN, ("aau-1",), "user:duty", "api", Priority.OPERATOR,
            restore_at=world.clock.now() + timedelta(hours=1),
        )  # fmt: skip
        async with world.db.write() as conn:
            assert (await world.orders.switch(conn, order)).refused == ()
            turn = asyncio.create_task(desk.adjusting.tick())
            waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"

            async def is_waiting() -> bool:
                return bool(await world.value(waits))

            await until(is_waiting, "the turn waits")
        await turn
        assert (await group(desk, made.group.group_id)).by_state == {"rejected": 1}
        assert await desk.sent() == []


async def test_two_orders_at_once_for_one_point_are_one_after_the_other(desk: Desk) -> None:
    async with asyncio.TaskGroup() as tasks:
        for value in (260.0, 262.0, 264.0):
            tasks.create_task(desk.order(value))
    assert len(await desk.turn()) == 1
