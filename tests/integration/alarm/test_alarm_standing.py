"""Each alarm with where it stands with each centre and where its diagnosis stands, over HTTP."""

from datetime import datetime

import pytest

from libs.common.contracts.delivery import DeliveryEvent
from services.alarm.store import deliveries as deliveries_store
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import SITE, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def deliver(door: Door, alarm_id: str, centre: str, step: str, state: str, second: float) -> None:
    sequence = {"begin": 1, "end": 2}[step]
    event = DeliveryEvent.model_validate(
        {"destination": centre, "item": f"{alarm_id}:{sequence}", "state": state, "attempts": 1, "at": at(second),
         "item_kind": f"alarm_{step}", "alarm_id": alarm_id}
    )  # fmt: skip
    async with door.world.db.write() as conn:
        await deliveries_store.put_deliveries(conn, [(alarm_id, event)])


async def diagnose(
    door: Door, number: int, *, began: float, ended: float | None = None, alarm: str | None = None
) -> None:
    async with door.world.db.write() as conn:
        await conn.execute(
            """
            insert into diagnoses (diagnosis_id, device_id, site_id, cause, common_cause, confidence, evidence,
                                   unreachable, also_possible, card, began_at, changed_at, looked_at, ended_at,
                                   sequence, alarm_id, told)
            values ($1, 'm-1', $2, 'sim_suspended', 'c', 'high', '[]', '[]', '{}', '{}', $3, $3, $3, $4, 1, $5, true)
            """,
            f"d-{number}",
            SITE,
            at(began),
            None if ended is None else at(ended),
            alarm,
        )


async def test_an_alarm_that_nobody_was_told_of_and_nobody_looked_at(door: Door) -> None:
    await door.raise_alarm()
    (alarm,) = (await door.ask("GET", "/alarms"))["items"]
    assert (alarm["report_state"], alarm["reports"], alarm["diagnosis"]["state"]) == ("none", [], "none")


async def test_each_centre_says_when_it_took_begin_and_end(door: Door) -> None:
    alarm_id = await door.raise_alarm()
    await deliver(door, alarm_id, "sc-1", "begin", "retrying", 181)
    assert (await door.ask("GET", f"/alarms/{alarm_id}"))["report_state"] == "waiting"
    await deliver(door, alarm_id, "sc-1", "begin", "delivered", 182)
    await deliver(door, alarm_id, "sc-1", "end", "delivered", 300)
    await deliver(door, alarm_id, "sc-2", "begin", "delivered", 185)
    found = await door.ask("GET", f"/alarms/{alarm_id}")
    assert found["report_state"] == "reported"
    assert [
        (one["destination"], *(_time(one[name]) for name in ("begin_reported_at", "end_reported_at")))
        for one in found["reports"]
    ] == [("sc-1", at(182), at(300)), ("sc-2", at(185), None)]


async def test_the_diagnosis_of_its_time_is_the_alarms(door: Door) -> None:
    alarm_id = await door.raise_alarm()
    await diagnose(door, 1, began=-500, ended=-10)
    assert (await door.ask("GET", f"/alarms/{alarm_id}"))["diagnosis"]["state"] == "none"
    async with door.world.db.write() as conn:
        await conn.execute("insert into diagnosis_wanted (device_id, due_at) values ('m-1', now())")
    assert (await door.ask("GET", f"/alarms/{alarm_id}"))["diagnosis"]["state"] == "waiting"
    await diagnose(door, 2, began=200)
    (listed,) = (await door.ask("GET", "/alarms"))["items"]
    found = listed["diagnosis"]
    assert (found["state"], found["diagnosis_id"], found["cause"]) == ("found", "d-2", "sim_suspended")
    async with door.world.db.write() as conn:
        await conn.execute("update diagnoses set ended_at = $1 where diagnosis_id = 'd-2'", at(400))
    assert (await door.ask("GET", f"/alarms/{alarm_id}"))["diagnosis"]["state"] == "closed"


async def test_the_diagnosis_that_was_made_for_it_comes_first(door: Door) -> None:
    alarm_id = await door.raise_alarm()
    await diagnose(door, 1, began=10, ended=20, alarm=alarm_id)
    await diagnose(door, 2, began=200)
    assert (await door.ask("GET", f"/alarms/{alarm_id}"))["diagnosis"]["diagnosis_id"] == "d-1"


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
