"""Set points and clocks of many devices with one order, through whole control and whole ingest to simulated devices."""

from datetime import timedelta
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


async def test_a_plan_sets_a_hall_at_the_begin_of_its_window_and_sets_it_back_at_the_end(house: House) -> None:
    plans = "/api/v1/plans/setpoints"
    start = house.field.clock.now() + timedelta(hours=8, seconds=-60)
    end = start + timedelta(seconds=1200)
    wish = {
        "point": "temperature_setpoint", "unit": "degC", "site_id": "site-1", "kind": "ac_unit",
        "profile": "gree_umatch_ac", "value": 28.0, "value_after": 26.0,
        "first_date": start.date().isoformat(), "last_date": start.date().isoformat(),
        "windows": [{"start": start.strftime("%H:%M:%S"), "end": end.strftime("%H:%M:%S")}],
    }  # fmt: skip
    preview = await house.ok("control", "POST", f"{plans}/preview", wish)
    assert (preview["count"], preview["device_ids"], preview["forbidden_by"]) == (1, ["ac-1"], None)
    refused = await house.call("control", "POST", plans, {**wish, "name": "all", "profile": None})
    assert refused.status_code == 400
    assert [(one["device_id"], one["guard"]) for one in refused.json()["facts"]["devices"]] == [("ac-2", "no_control")]
    plan_id = (await house.ok("control", "POST", plans, {**wish, "name": "night"}))["plan_id"]
    await house.ok("control", "POST", f"{plans}/{plan_id}/approve")

    async def shows(value: float) -> bool:
        found = house.field.devices["ac-1"].values(house.field.clock.now().timestamp())
        return found["temperature_setpoint"] == value

    await until(lambda: shows(28), "the window has begun", within_s=60)
    (window,) = (await house.ok("control", "GET", f"{plans}/{plan_id}/windows"))["items"]
    assert (window["state"], window["set_in"]) == ("begun", ["ac-1"])
    begun = await over(house, {"group_id": window["begin_group_ids"][0]})
    assert [(one["state"], one["found"], one["actor"]) for one in begun["settings"]] == [
        ("succeeded", 28.0, f"plan:{plan_id}")
    ]
    file = await house.call("control", "GET", f"{plans}/{plan_id}/calendar.ics")
    assert file.headers["content-type"].startswith("text/calendar")
    assert "night" in file.text
    house.clock.ahead = timedelta(seconds=1260)
    await until(lambda: shows(26), "it is set back", within_s=60)
    (window,) = (await house.ok("control", "GET", f"{plans}/{plan_id}/windows"))["items"]
    assert (window["state"], len(window["end_group_ids"])) == ("done", 1)
    listed = (await house.ok("control", "GET", plans))["items"]
    assert [(one["plan_id"], one["name"]) for one in listed] == [(plan_id, "night")]
    assert (await house.call("control", "GET", f"/api/v1/plans/{plan_id}")).status_code == 404  # it switches nothing
    assert (await house.call("control", "GET", f"{plans}/nowhere")).status_code == 404
    assert house.states() == dict.fromkeys(LOADS, True)
