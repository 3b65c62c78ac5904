"""Setting something inside devices, on a real database: orders, answers, crashes, and the API."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from libs.common.bus import topics
from libs.common.contracts.control import Command, CommandAction, ControlEvent, Evidence, Priority, Result, Stage
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from libs.common.profiles import Control, DeviceProfile, ProfileCatalogue
from libs.common.tokens import canonical
from services.control.directory import DeviceInfo
from services.control.domain.adjusting import Adjustment
from services.control.store import adjustments as store
from services.control.usecases.adjusting import Adjusting, BeingAdjusted, NotAdjustable
from services.control.usecases.orders import SwitchOrder
from services.control.usecases.ports import SteadyClock
from tests.integration.control.control_world import World, received

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
            return await self.adjusting.order(
                conn, self.device, point=point, value=value, unit=unit, actor="user:li", door="api", note=None,
                valid_for=timedelta(hours=1),
            )  # fmt: skip

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
