"""A province loses its power: nothing is lost, nothing doubled by crashes, all of it can be asked for."""

from datetime import UTC, datetime
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.bus.port import Received
from libs.common.contracts.base import Phase
from libs.common.contracts.telemetry import Reading
from libs.common.ids import DeviceId, SiteId
from services.alarm.domain import engine
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, PHASES, World, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

METERS = 500
SITES = 20
BATCH = 100


def dark(world: World, number: int, second: float) -> Received:
    payload = Reading(
        device_id=DeviceId(f"p-{number}"),
        site_id=SiteId(f"ps-{number % SITES}"),
        source_time=at(second),
        received_at=at(second),
        driver="modbus",
        points=dict.fromkeys(PHASES, 0.0),
    )
    return world.received(topics.READINGS, payload, at(second))


async def test_every_meter_of_a_province_without_power_has_one_alarm_that_can_be_found(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BEGINS_KEPT", 50)  # as if there were a thousand times as many
    world = door.world
    for number in range(METERS):
        world.registry.add(f"p-{number}", site_id=f"ps-{number % SITES}")
    await world.restart()
    batches = [
        [dark(world, number, number / 10) for number in range(first, first + BATCH)]
        for first in range(0, METERS, BATCH)
    ]
    for batch in batches:
        await world.fail(*batch)
        await world.take(*batch)
    await world.restart()
    for batch in batches:
        await world.take(*batch)  # the same once more
    for second in range(60, 400, 20):
        await world.take(world.heartbeat(second))
    begun = [event for event in await world.events() if event.phase is Phase.BEGIN and event.signal == FAILURE]
    assert len(begun) == len({event.alarm_id for event in begun}) == METERS
    assert {event.device_id for event in begun} == {f"p-{number}" for number in range(METERS)}
    assert all(event.began_at == at(int(str(event.device_id)[2:]) / 10) for event in begun)

    listed: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await door.ask("GET", "/alarms", signal=FAILURE, state="active", limit=100, **cursor)
        listed += [alarm["alarm_id"] for alarm in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(listed) == METERS
    assert set(listed) == {event.alarm_id for event in begun}
    some = await door.ask("GET", "/alarms", signal=FAILURE, site="ps-7", limit=1000)
    assert len(some["items"]) == METERS // SITES
    assert datetime.fromisoformat(some["items"][0]["began_at"]).tzinfo == UTC
