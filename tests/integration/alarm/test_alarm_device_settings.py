"""What devices are set to beside what the platform has ordered: the mark, over crashes, reports and orders."""

from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, Evidence
from libs.common.contracts.telemetry import Quality
from libs.common.ids import CommandId, DeviceId, SiteId
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import SITE, World, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

POINT = "setting_overvoltage"


def told(
    world: World,
    second: float,
    state: CommandState,
    *,
    value: float = 265.0,
    found: float | None = None,
    order: str = "o-1",
) -> Received:
    evidence = None
    if found is not None:
        evidence = Evidence(feedback_point=POINT, feedback_value=found, feedback_at=at(second))
    event = ControlEvent(
        site_id=SiteId(SITE), state=state, at=at(second), reason="", command_id=CommandId(order),
        device_id=DeviceId("m-1"), action=CommandAction.SET_THRESHOLD, point=POINT, value=value, evidence=evidence,
    )  # fmt: skip
    return world.received(topics.CONTROL_EVENTS, event, at(second))


async def shown(door: Door, **query: Any) -> list[tuple[float | None, float | None, bool | None, str]]:
    page = await door.ask("GET", "/alarm-rules/device-settings", **query)
    return [(one["wanted"], one["found"], one["differs"], one["state"]) for one in page["items"]]


async def test_an_order_that_is_done_is_the_same_until_the_device_says_otherwise(door: Door) -> None:
    world = door.world
    await world.take(told(world, 0, CommandState.SCHEDULED))
    assert await shown(door) == [(265.0, None, None, "scheduled")]
    await world.take(told(world, 5, CommandState.SUCCEEDED, found=265.0))
    assert await shown(door) == [(265.0, 265.0, False, "succeeded")]
    await world.restart()
    await world.take(world.reading(60, {POINT: 280.0, "voltage_a": 230.0}))
    assert await shown(door) == [(265.0, 280.0, True, "succeeded")]
    assert await shown(door, differs=False) == []
    assert await shown(door, differs=True, device="m-1") == [(265.0, 280.0, True, "succeeded")]
    await world.take(world.reading(120, {POINT: 265.0}))
    assert await shown(door) == [(265.0, 265.0, False, "succeeded")]


async def test_bad_missing_and_older_values_change_nothing(door: Door) -> None:
    world = door.world
    await world.take(told(world, 100, CommandState.SUCCEEDED, found=265.0))
    await world.take(
        world.reading(110, {POINT: 1.0}, quality={POINT: Quality.INVALID}), world.reading(120, {"voltage_a": 230.0}),
        world.reading(130, {POINT: None}), world.reading(50, {POINT: 280.0}),
    )  # fmt: skip
    assert await shown(door) == [(265.0, 265.0, False, "succeeded")]


async def test_a_device_that_does_not_follow_or_is_not_reached_differs(door: Door) -> None:
    world = door.world
    await world.take(told(world, 0, CommandState.DISPATCHED), told(world, 9, CommandState.FAILED, found=275.0))
    assert await shown(door) == [(265.0, 275.0, True, "failed")]
    await world.take(told(world, 20, CommandState.EXPIRED, value=270.0, order="o-2"))
    assert await shown(door) == [(270.0, 275.0, True, "expired")]


async def test_a_refused_order_is_not_what_the_platform_wants(door: Door) -> None:
    world = door.world
    await world.take(told(world, 0, CommandState.SUCCEEDED, found=265.0))
    await world.take(told(world, 10, CommandState.REJECTED, value=999.0, order="o-2"))
    assert await shown(door) == [(265.0, 265.0, False, "rejected")]


async def test_a_crash_before_the_commit_and_the_same_again_change_nothing(door: Door) -> None:
    world = door.world
    done = told(world, 5, CommandState.SUCCEEDED, found=265.0)
    await world.fail(done)
    assert await shown(door) == []
    await world.take(done)
    await world.take(done)
    assert await shown(door) == [(265.0, 265.0, False, "succeeded")]


async def test_who_is_limited_to_sites_sees_theirs_only(door: Door) -> None:
    await door.world.take(told(door.world, 0, CommandState.SUCCEEDED, found=265.0))
    assert len(await shown(door, sites=(SITE,))) == 1
    assert await shown(door, sites=("site-2",)) == []
