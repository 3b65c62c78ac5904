"""Set points and clocks of many devices with one order, through whole control and whole ingest to simulated devices."""

from typing import Any

import pytest

from tests.integration.control.test_control_load_kinds import LOADS, House, house
from tests.integration.ingest.conftest import until

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(240)]
__all__ = ["house"]

MANY = "/api/v1/commands/settings/groups"


async def over(house: House, group: Any) -> Any:
    """Return an order for many once all of it has ended."""

    async def ended() -> Any:
        found = await house.ok("control", "GET", f"{MANY}/{group['group_id']}")
        return found if found["progress"]["done"] == found["progress"]["total"] else None

    return await until(ended, "all devices have answered", within_s=60)


async def test_a_hall_is_set_with_one_order_and_nothing_in_it_is_switched(house: House) -> None:
    degrees = {"point": "temperature_setpoint", "unit": "degC", "site_id": "site-1", "kind": "ac_unit"}
    group = await house.ok("control", "POST", MANY, {**degrees, "value": 27.0})
    assert group["expected_by"] is not None
    warmer = await over(house, group)
    assert [(one["device_id"], one["state"], one["found"]) for one in warmer["settings"]] == [
        ("ac-1", "succeeded", 27.0)
    ]
    assert [(one["device_id"], one["guard"]) for one in warmer["refused"]] == [("ac-2", "no_control")]
    shown = house.field.devices["ac-1"].values(house.field.clock.now().timestamp())
    assert shown["temperature_setpoint"] == 27

    # A rule of the house for the whole year, since the season of the one that ships comes and goes.
    rule = {"point": "temperature_setpoint", "min": 26, "from": "01-01", "to": "12-31", "source": "house order 7"}
    policy = "/api/v1/guards/setpoints/policies/site_kind/business_hall"
    await house.ok("control", "PUT", policy, {"rules": {"house": rule}, "source": "the landlord"})
    refused = await house.call("control", "POST", MANY, {**degrees, "value": 22.0})
    assert refused.status_code == 400
    first = refused.json()["facts"]["refused"][0]
    assert (first["device_id"], first["guard"], first["limit"]) == ("ac-1", "house", {"min": 26.0})
    assert first["source"] == "house order 7"

    # Of all devices of the hall one has a clock that its protocol sets.
    clocks = await over(house, await house.ok("control", "POST", MANY, {"action": "set_clock", "site_id": "site-1"}))
    (set_,) = clocks["settings"]
    assert (set_["device_id"], set_["state"], abs(set_["found"]) < 10) == ("ac-2", "succeeded", True)
    assert {one["device_id"] for one in clocks["refused"]} == {"ac-1", "board-1", "socket-1"}
    assert {one["guard"] for one in clocks["refused"]} == {"unsupported"}
    assert house.states() == dict.fromkeys(LOADS, True)
    shown = house.field.devices["ac-1"].values(house.field.clock.now().timestamp())
    assert shown["temperature_setpoint"] == 27
